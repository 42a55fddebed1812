"""The cache of latents: what goes in comes out, a killed writer resumes to the same bytes, and damage is one sentence."""

import copy
import json
import logging
import multiprocessing
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lvdm.data import CacheFacts, Draw, LatentClips, LatentWriter, VideoData
from lvdm.data.latents.format import find_shards
from lvdm.types import UserError

SHAPE = (2, 12, 3, 4)  # (c, t, h, w)


def latent(video: int, length: int = 12) -> Tensor:
    return torch.randn(2, length, 3, 4, generator=torch.Generator().manual_seed(video))


def writer(
    folder: Path,
    *,
    count: int = 8,
    shard_size: int = 3,
    dtype: str = "float32",
    codec: str = "codec",
    data: str = "data",
    share: tuple[int, int] = (0, 1),
    has_std: bool = False,
) -> LatentWriter:
    facts = CacheFacts(codec, data, temporal_factor=4, dtype=dtype, shard_size=shard_size, has_std=has_std)
    return LatentWriter(folder, facts, count, share=share)


def encode(folder: Path, *, kill_at: int | None = None, **options: object) -> list[str]:
    """What the encode command does; the names that it had to encode."""
    encoded = []
    with writer(folder, **options) as out:
        for video in out.todo():
            if video == kill_at:
                os._exit(9)  # nothing is flushed, no block is left: as a kill
            name = f"v/{video:03d}.mp4"
            further = {".std": latent(video).exp()} if options.get("has_std") else {}
            out.add(name, latent(video), further=further, fps=12.5, caption=f"video {video}", label=video % 3)
            encoded.append(name)
    return encoded


def encode_and_be_killed(folder: Path, at: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=encode, args=(folder,), kwargs={"kill_at": at})
    process.start()
    process.join()
    assert process.exitcode == 9


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    encode(tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("in_memory", [True, False])
def test_float32_latents_come_back_to_the_bit(cache: Path, in_memory: bool) -> None:
    data = LatentClips(cache, num_latents=12, in_memory=in_memory)
    assert len(data) == 8 and data.names == [f"v/{video:03d}.mp4" for video in range(8)]
    for video in range(8):
        item = data[video]
        assert torch.equal(item["latent"], latent(video)) and item["latent"].dtype == torch.float32
        assert (item["index"], item["fps"], item["caption"], item["label"]) == (video, 12.5, f"video {video}", video % 3)
    assert (data.codec_fingerprint, data.fingerprint(), data.temporal_factor, data.latent_shape) == ("codec", "data", 4, SHAPE)


def test_float16_rounds_once(tmp_path: Path) -> None:
    encode(tmp_path, dtype="float16")
    assert torch.equal(LatentClips(tmp_path, num_latents=12)[5]["latent"], latent(5).half().float())


@pytest.mark.parametrize("in_memory", [True, False])
def test_clips_are_where_the_draw_says(cache: Path, in_memory: bool) -> None:
    data = LatentClips(cache, num_latents=3, stride=2, clips_per_video=2, in_memory=in_memory)
    whole = [latent(video) for video in range(8)]
    starts = []
    for sample in range(len(data)):
        item = data[Draw(1, sample)]
        found = [s for s in range(8) if torch.equal(whole[sample % 8][:, s : s + 5 : 2], item["latent"])]
        assert len(found) == 1 and item["index"] == sample % 8 and item["fps"] == 6.25
        starts += found
    assert len(data) == 16 and len(set(starts)) > 3 and starts[:8] != starts[8:]
    centred = LatentClips(cache, num_latents=4, random_clip=False, in_memory=in_memory)
    assert all(torch.equal(centred[video]["latent"], whole[video][:, 4:8]) for video in range(8))


def test_workers_epochs_and_where_latents_lie_change_what_they_should(cache: Path) -> None:
    def seen(epoch: int, workers: int, in_memory: bool) -> Tensor:
        data = LatentClips(cache, num_latents=3, clips_per_video=2, in_memory=in_memory)
        loader = VideoData(data, batch_size=4, num_workers=workers).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([batch["latent"] for batch in loader])

    expected = seen(1, 0, True)
    assert torch.equal(seen(1, 0, False), expected) and torch.equal(seen(1, 2, False), expected)
    assert not torch.equal(seen(2, 0, True), expected)


def test_an_item_is_the_callers_own(cache: Path) -> None:
    data = LatentClips(cache, num_latents=12)
    data[3]["latent"].zero_()
    assert torch.equal(data[3]["latent"], latent(3))


def test_what_the_writer_was_given_may_change_afterwards(tmp_path: Path) -> None:
    given = latent(0)
    with writer(tmp_path, count=1) as out:
        for _ in out.todo():
            out.add("a", given, fps=1)
            given.zero_()
    item = LatentClips(tmp_path, num_latents=12)[0]
    assert torch.equal(item["latent"], latent(0)) and set(item) == {"latent", "index", "fps"}


@pytest.mark.parametrize("killed_at", [1, 3, 5, 7])
def test_a_killed_writer_resumes_to_the_same_bytes(tmp_path: Path, cache: Path, killed_at: int) -> None:
    folder = tmp_path / "killed"
    encode_and_be_killed(folder, killed_at)
    assert not (folder / "index.json").exists()
    with pytest.raises(UserError, match="encoding has not finished|no latents"):
        LatentClips(folder, num_latents=3).prepare()
    again = encode(folder)
    assert len(again) == 8 - killed_at // 3 * 3  # whole shards of 3 are kept
    assert contents(folder) == contents(cache)
    assert encode(folder) == [] and contents(folder) == contents(cache)


def test_an_error_in_between_leaves_whole_shards_and_no_index(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt), writer(folder) as out:
        for video in out.todo():
            if video == 5:
                raise KeyboardInterrupt
            out.add(f"v/{video:03d}.mp4", latent(video), fps=12.5, caption=f"video {video}", label=video % 3)
    assert list(contents(folder)) == ["latents-00000.safetensors"]
    encode(folder)
    assert contents(folder) == contents(cache)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_processes_write_each_their_shards_and_the_last_one_the_index(
    tmp_path: Path, cache: Path, order: tuple[int, int]
) -> None:
    folder = tmp_path / "shared"
    made = {}
    for rank in order:
        assert not (folder / "index.json").exists()
        made[rank] = encode(folder, share=(rank, 2))
    assert made[0] == [f"v/{video:03d}.mp4" for video in (0, 1, 2, 6, 7)] and len(made[1]) == 3
    assert contents(folder) == contents(cache), "the same bytes as of one process"


def test_what_two_processes_began_three_can_finish(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "shared"
    encode(folder, share=(1, 2))
    (folder / "latents-00001.safetensors").rename(folder / "kept")
    encode(folder, share=(2, 3))
    (folder / "kept").rename(folder / "latents-00001.safetensors")
    assert encode(folder, share=(1, 3)) == [] and not (folder / "index.json").exists()
    assert encode(folder, share=(0, 3)) == [f"v/{video:03d}.mp4" for video in (0, 1, 2)]
    assert contents(folder) == contents(cache)


@pytest.mark.parametrize("in_memory", [True, False])
def test_standard_deviations_are_there_where_they_are_asked_for(tmp_path: Path, cache: Path, in_memory: bool) -> None:
    encode(tmp_path / "std", has_std=True)
    data = LatentClips(tmp_path / "std", num_latents=4, random_clip=False, std=True, in_memory=in_memory)
    item = data[5]
    assert torch.equal(item["latent_std"], latent(5)[:, 4:8].exp()) and torch.equal(item["latent"], latent(5)[:, 4:8])
    assert "latent_std" not in LatentClips(tmp_path / "std", num_latents=4)[5]
    with pytest.raises(UserError, match="means alone; run scripts/encode.py with std=true"):
        LatentClips(cache, num_latents=4, std=True).prepare()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut_short, Path.unlink], ids=["cut short", "missing"])
def test_a_damaged_shard_is_named_and_made_anew(cache: Path, damage: object) -> None:
    whole, broken = contents(cache), cache / "latents-00001.safetensors"
    damage(broken)
    with pytest.raises(UserError, match="latents-00001.safetensors has .* bytes, index.json says .*encode.py") as error:
        LatentClips(cache, num_latents=3).prepare()
    assert "\n" not in str(error.value)
    assert encode(cache) == ["v/003.mp4", "v/004.mp4", "v/005.mp4"]
    assert contents(cache) == whole


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}', '{"format": 1, "facts": {"codec": 1}}'])
def test_a_foreign_or_damaged_index_is_one_sentence(cache: Path, text: str) -> None:
    (cache / "index.json").write_text(text)
    with pytest.raises(UserError, match="index.json is ") as error:
        LatentClips(cache, num_latents=3).prepare()
    assert "\n" not in str(error.value)


ODD = (None, "x", -1, 1e30, float("nan"), [], {}, [1, 2], True)
PLACES = [
    *[("facts", name) for name in ("dtype", "shard_size", "temporal_factor", "clip_frames", "codec_fingerprint", "has_std")],
    *[("shards", 0, name) for name in ("file", "size", "entries")],
    *[("shards", 0, "entries", 0, name) for name in ("name", "shape", "fps", "label")],
    ("shards", 0, "entries", 0, "shape", 1),
    ("facts",),
    ("shards",),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_an_index_of_odd_values_is_one_sentence_or_gives_the_latents(place: tuple, cache: Path) -> None:
    index = json.loads((cache / "index.json").read_text())
    index.pop("hash")
    for value in (*ODD, "../latents-00000.safetensors"):
        changed = copy.deepcopy(index)
        at = changed
        for part in place[:-1]:
            at = at[part]
        at[place[-1]] = value
        (cache / "index.json").write_text(json.dumps(changed))
        for in_memory in (True, False):
            try:
                found = LatentClips(cache, num_latents=2, in_memory=in_memory)
                assert len(found) > 0 and found[0]["latent"].shape[1] == 2
            except UserError as error:
                assert "\n" not in str(error)


def test_an_index_or_a_shard_that_is_a_pipe_or_nests_without_end_is_one_sentence(cache: Path) -> None:
    shard = cache / find_shards(cache)[0]
    size = shard.stat().st_size
    (cache / "index.json").rename(cache / "kept.json")
    (cache / "index.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="is damaged"):
        len(LatentClips(cache, num_latents=2))
    (cache / "index.json").unlink()
    os.mkfifo(cache / "index.json")
    with pytest.raises(UserError, match="no regular file"):
        len(LatentClips(cache, num_latents=2))
    (cache / "kept.json").replace(cache / "index.json")
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(UserError, match=f"0 bytes, index.json says {size}"):
        len(LatentClips(cache, num_latents=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"codec": "x"}, "another codec_fingerprint"),
        ({"data": "x", "dtype": "float16"}, "data_fingerprint and dtype"),
        ({"shard_size": 4, "has_std": True}, "shard_size and has_std"),
    ],
)
def test_latents_of_another_source_are_not_mixed(cache: Path, options: dict[str, str], said: str) -> None:
    before = contents(cache)
    with pytest.raises(UserError, match=f"{said}; choose another folder"), writer(cache, **options):
        pass
    assert contents(cache) == before


def test_anothers_file_is_not_overwritten(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "latents-00000.safetensors")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="is no cache of latents"), writer(tmp_path):
        pass
    assert contents(tmp_path) == before


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """A file that grows over 2,000 bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path, small_files_only: None) -> None:
    with pytest.raises(UserError, match="cannot write .*latents-00000.safetensors") as error:
        encode(tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert contents(tmp_path / "cache") == {}


def test_lengths_may_differ_and_short_videos_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with writer(tmp_path, count=4) as out:
        for video in out.todo():
            out.add(f"v{video}", latent(video, (12, 5, 9, 30)[video]), fps=10)
    data = LatentClips(tmp_path, num_latents=9)
    with caplog.at_level(logging.WARNING):
        assert data.names == ["v0", "v2", "v3"]
    assert "left out 1 of 4" in caplog.text and "v1" in caplog.text
    assert torch.equal(data[1]["latent"], latent(2, 9))
    with pytest.raises(UserError, match="clips need 31 latents, the longest of 4 videos .* has 30"):
        LatentClips(tmp_path, num_latents=16, stride=2).prepare()


def test_latents_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with writer(tmp_path, dtype="float16", count=1) as out:
        for _ in out.todo():
            out.add("a", latent(0), fps=1)
            with pytest.raises(UserError, match="latent of b is not finite in float16; try float32"):
                out.add("b", latent(1) * 1e6, fps=1)
            with pytest.raises(UserError, match="only the length may differ"):
                out.add("c", latent(1)[..., :2], fps=1)
    assert LatentClips(tmp_path, num_latents=12).names == ["a"]


def test_constructing_reads_nothing_and_a_missing_folder_names_its_nearest_parent(tmp_path: Path) -> None:
    data = LatentClips(tmp_path / "no" / "where", num_latents=3)
    with pytest.raises(UserError, match=f"the nearest folder that does is {tmp_path}\\)"):
        len(data)
    with pytest.raises(UserError, match="num_latents is 0, expected an integer from 1 to"):
        LatentClips(tmp_path, num_latents=0)


def test_the_index_is_plain_json_that_lists_every_shard(cache: Path) -> None:
    index = json.loads((cache / "index.json").read_text())
    assert [shard["file"] for shard in index["shards"]] == find_shards(cache)
    facts = {"codec_fingerprint": "codec", "data_fingerprint": "data", "temporal_factor": 4, "dtype": "float32"}
    absent = {"clip_frames": None, "has_std": False, "has_flips": False, "text_fingerprint": None}
    assert index["facts"] == {**facts, "shard_size": 3, **absent}
    assert index["shards"][2]["entries"][1]["caption"] == "video 7"
