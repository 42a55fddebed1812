"""Videos into batches: which frames, reading, resizing, folders, captions, broken files, and what may change the draws."""

import json
import logging
from pathlib import Path

import imageio
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as tvf

from lvdm.data import Draw, VideoData, VideoFolder
from lvdm.data.clips import all_clips, clip_frames, last_start, random_clip, spread_clip
from lvdm.data.draws import generator
from lvdm.data.frames import flip_half, resize_and_crop, to_float, to_uint8
from lvdm.data.loading import EpochSampler
from lvdm.data.readers import decoding_start, natural_key, open_video
from lvdm.types import ABSENT, UserError

STEP, LENGTH, SIDE = 10, 24, 32  # frame t of a test video is grey of level 10 t


def grey(frame: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), STEP * frame, np.uint8)


def write_video(path: Path, length: int = LENGTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"duration": 1000 / 12} if path.suffix == ".gif" else {"fps": 12, "macro_block_size": 1}
    if path.suffix == ".webm":
        options["codec"] = "libvpx-vp9"
    with imageio.get_writer(path, **options) as writer:
        for frame in range(length):
            writer.append_data(grey(frame))


def write_images(folder: Path, length: int = LENGTH) -> None:
    folder.mkdir(parents=True)
    for frame in range(length):
        Image.fromarray(grey(frame)).save(folder / f"frame{frame}.png")


def frames_seen(video: torch.Tensor) -> list[int]:
    """Which frames of a test video these are, told from their grey; (3, t, h, w) or uint8 (t, h, w, 3)."""
    levels = (video.mean(dim=(0, 2, 3)) + 1) * 127.5 if video.is_floating_point() else video.float().mean(dim=(1, 2, 3))
    return (levels / STEP).round().int().tolist()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos in folders, and things that are none."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("b/1.mp4", "b/0.mp4", "a.mp4", "c.avi", ".hidden.mp4", "d/deep/2.mp4"):
        write_video(root / name)
    write_images(root / "images" / "clip")
    (root / "notes.txt").write_text("not a video")
    return root


NAMES = ["a.mp4", "b/0.mp4", "b/1.mp4", "c.avi", "d/deep/2.mp4", "images/clip"]


# which frames


clips = st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5))  # length, num_frames, stride


def every_clip(length: int, num_frames: int, stride: int) -> list[list[int]]:
    tried = [[start + i * stride for i in range(num_frames)] for start in range(length)]
    return [clip for clip in tried if clip[-1] < length]


@given(clips, st.integers(0, 1000))
def test_clips_are_those_of_a_slow_enumeration(sizes: tuple[int, int, int], seed: int) -> None:
    possible = every_clip(*sizes)
    if not possible:
        with pytest.raises(UserError, match="lower num_frames or stride"):
            last_start(*sizes)
        return
    assert [list(clip_frames(start, *sizes[1:])) for start in range(last_start(*sizes) + 1)] == possible
    assert list(random_clip(*sizes, generator(seed))) in possible
    taken = [list(clip) for clip in all_clips(*sizes)]
    assert all(clip in possible for clip in taken)
    assert [frame for clip in taken for frame in clip] == list(range(0, sizes[2] * sizes[1] * len(taken), sizes[2]))
    after_last = taken[-1][-1] + sizes[2]
    assert after_last + (sizes[1] - 1) * sizes[2] >= sizes[0]  # no further clip would fit


@given(clips, st.integers(1, 5))
def test_the_only_spread_clip_is_centred_and_more_keep_their_order(sizes: tuple[int, int, int], parts: int) -> None:
    if not every_clip(*sizes):
        return
    centre = spread_clip(*sizes)
    before, behind = centre[0], sizes[0] - 1 - centre[-1]
    assert 0 <= behind - before <= 1
    starts = [spread_clip(*sizes, part, parts)[0] for part in range(parts)]
    assert starts == sorted(starts) and all(0 <= start <= last_start(*sizes) for start in starts)


def test_random_starts_are_uniform() -> None:
    rng = generator(0)
    counts = np.bincount([random_clip(12, 3, 2, rng)[0] for _ in range(8000)])
    assert len(counts) == 8
    assert ((counts - 1000) ** 2 / 1000).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = .001


def test_a_short_video_is_told_with_what_it_has_and_what_is_needed() -> None:
    with pytest.raises(UserError, match="clip needs 16 frames, a.mp4 has 7; lower num_frames"):
        last_start(7, 16, name="a.mp4")


# frames


@pytest.mark.parametrize("have", [(48, 80), (80, 48), (33, 47), (20, 31)])
@pytest.mark.parametrize("want", [(32, 32), (24, 40)])
def test_resize_and_crop_match_torchvision(have: tuple[int, int], want: tuple[int, int]) -> None:
    frames = torch.randint(0, 256, (3, *have, 3), dtype=torch.uint8)
    scale = max(want[0] / have[0], want[1] / have[1])
    cover = [max(w, int(h * scale + 1e-9)) for w, h in zip(want, have, strict=True)]
    x = tvf.resize(frames.permute(0, 3, 1, 2).float(), cover, antialias=True)
    expected = tvf.center_crop(x, list(want)).permute(0, 2, 3, 1)
    got = resize_and_crop(frames, want)
    assert got.dtype == torch.uint8
    assert (got.float() - expected).abs().max() <= 1.1  # rounded to whole levels once along each axis


def test_resize_matches_pil_on_a_photo_like_image() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 9), size=(60, 90), mode="bicubic").clamp(0, 1)
    image = (smooth[0].permute(1, 2, 0) * 255).byte()
    expected = Image.fromarray(image.numpy()).resize((48, 32), Image.Resampling.BILINEAR).crop((8, 0, 40, 32))
    got = resize_and_crop(image[None], (32, 32))[0]
    assert (got.int() - torch.from_numpy(np.array(expected)).int()).abs().max() <= 1


def test_frames_that_fit_are_left_as_they_are() -> None:
    frames = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    assert resize_and_crop(frames, (16, 16)) is frames


def test_levels_survive_the_way_to_floats_and_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16, 1).repeat(1, 1, 1, 3)
    video = to_float(frames)
    assert video.shape == (3, 2, 8, 16) and video.min() == -1 and video.max() == 1 and video.is_contiguous()
    assert torch.equal(to_uint8(video), frames)
    assert torch.equal(to_uint8(torch.stack([video * 3, video])), torch.stack([to_uint8((video * 3).clamp(-1, 1)), frames]))


def test_a_flip_mirrors_half_of_the_clips_and_all_frames_of_a_clip() -> None:
    frames = torch.arange(8, dtype=torch.uint8).repeat(3, 2, 1)[..., None]  # (t, h, w, 1)
    flips = [flip_half(frames, generator(0, i)) for i in range(200)]
    mirrored = [torch.equal(clip, frames.flip(2)) for clip in flips]
    assert all(is_flipped or torch.equal(clip, frames) for clip, is_flipped in zip(flips, mirrored, strict=True))
    assert 70 < sum(mirrored) < 130


# reading


@pytest.mark.parametrize("name", ["video.mp4", "video.avi", "video.webm", "video.mkv", "video.mov", "video.gif", "images"])
def test_every_kind_of_video_gives_the_frames_that_were_asked(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_video(path) if path.suffix else write_images(path)
    video = open_video(path, image_fps=7.0)
    assert video.num_frames == LENGTH
    assert video.fps == pytest.approx(12 if path.suffix else 7, rel=0.05)  # a gif's frame lasts whole hundredths of a second
    for wanted in ([5, 6, 7], [20, 2, 11], range(3, 24, 4)):
        frames = torch.from_numpy(open_video(path, image_fps=7.0).read(wanted))
        assert frames.shape == (len(wanted), SIDE, SIDE, 3) and frames.dtype == torch.uint8
        assert frames_seen(frames) == list(wanted)


CODECS = {  # with open groups of pictures (B frames shown before their key frame), where seeking in decord goes wrong by itself
    "closed.mp4": {"codec": "libx264", "output_params": ["-g", "30", "-bf", "3"]},
    "open.mp4": {"codec": "libx264", "output_params": ["-g", "30", "-bf", "3", "-x264-params", "open-gop=1"]},
    "open.mkv": {"codec": "libx265", "output_params": ["-g", "30", "-x265-params", "log-level=none"]},
    "mpeg4.mp4": {"codec": "mpeg4", "output_params": ["-g", "40", "-bf", "2", "-sc_threshold", "1000000000"]},
    "xvid.avi": {"codec": "mpeg4", "output_params": ["-g", "40", "-bf", "2", "-sc_threshold", "1000000000"]},
    "x264.avi": {"codec": "libx264", "output_params": ["-g", "30", "-bf", "3"]},
    "vp9.webm": {"codec": "libvpx-vp9", "output_params": ["-g", "30"]},
}


@pytest.mark.parametrize("name", CODECS)
def test_reading_from_the_middle_equals_decoding_from_the_start(name: str, tmp_path: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 99, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    with imageio.get_writer(tmp_path / name, fps=25, macro_block_size=1, **CODECS[name]) as writer:
        for frame in range(130):
            writer.append_data((np.roll(texture, frame, 1) + frame).astype(np.uint8))
    every = open_video(tmp_path / name, image_fps=1).read(range(130))
    means = every.mean(axis=(1, 2, 3))
    assert np.abs(means - means[0] - np.arange(130)).max() < 2.5  # one level brighter each frame, up to the codec's noise
    for first in range(0, 127, 3):
        assert np.array_equal(open_video(tmp_path / name, image_fps=1).read([first, first + 3]), every[[first, first + 3]])
    one = open_video(tmp_path / name, image_fps=1)
    for wanted in (range(33, 41), range(59, 60), range(60, 130), range(7, 57, 7), range(80, 100)):
        assert np.array_equal(one.read(wanted), every[wanted])


def test_decoding_starts_where_it_must() -> None:
    assert decoding_start([0, 30, 60], 59) == 59
    assert decoding_start([0, 30, 60], 30) == 29  # one frame more than a plain seek would decode
    assert decoding_start([0, 30, 60], 45) == 29 and decoding_start([0, 30, 60], 46) == 46
    assert decoding_start([0, 4, 8, 12], 14) == 0 == decoding_start([], 14)


def test_images_sort_by_their_numbers() -> None:
    assert sorted(["f10.png", "f9.png", "f010b.png", "f1.png"], key=natural_key) == ["f1.png", "f9.png", "f10.png", "f010b.png"]


@pytest.mark.parametrize("name", ["broken.mp4", "broken.gif"])
def test_a_file_that_is_no_video_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\0" * 5000)
    with pytest.raises(UserError, match=f"cannot read .*{name}") as error:
        open_video(tmp_path / name, image_fps=1).read([0])
    assert "\n" not in str(error.value)


def test_images_of_different_sizes_are_no_video(tmp_path: Path) -> None:
    write_images(tmp_path / "clip", length=2)
    Image.new("RGB", (8, 8)).save(tmp_path / "clip" / "frame2.png")
    with pytest.raises(UserError, match="differ in size"):
        open_video(tmp_path / "clip", image_fps=1).read([1, 2])


# folders


def test_items_are_clips_of_all_videos_in_sorted_order(root: Path) -> None:
    data = VideoFolder(root, num_frames=4, size=16, stride=3, random_clip=False)
    assert data.names == NAMES and len(data) == 6
    items = [data[i] for i in range(6)]
    for index, item in enumerate(items):
        assert item["video"].shape == (3, 4, 16, 16) and item["video"].dtype == torch.float32
        assert item["index"] == index and set(item) == {"video", "index", "fps"}
        assert frames_seen(item["video"]) == [7, 10, 13, 16]  # 10 frames in the middle of 24
    assert [item["fps"].item() for item in items] == pytest.approx([4.0] * 5 + [25 / 3])


def test_constructing_does_not_look_at_the_disk_and_a_missing_folder_names_its_nearest_parent(tmp_path: Path) -> None:
    data = VideoFolder(tmp_path / "there" / "not", num_frames=4, size=16)
    with pytest.raises(UserError, match=f"the nearest folder that does is {tmp_path}\\)"):
        VideoData(data, batch_size=1).setup("fit")
    (tmp_path / "there" / "not").mkdir(parents=True)
    with pytest.raises(UserError, match="no videos under"):
        data.prepare()


def test_draws_depend_on_seed_epoch_and_sample_only(root: Path) -> None:
    def starts(epoch: int, seed: int = 0) -> list[int]:
        data = VideoFolder(root, num_frames=2, size=8, clips_per_video=2, seed=seed)
        return [frames_seen(data[Draw(epoch, i)]["video"])[0] for i in reversed(range(12))]

    assert starts(3) == starts(3)
    assert starts(3) != starts(4) and starts(3) != starts(3, seed=1)
    assert starts(0)[:6] != starts(0)[6:]  # a video's two clips are drawn apart


def test_whole_videos_can_be_read_at_the_stride(root: Path) -> None:
    data = VideoFolder(root, num_frames=4, size=16, stride=5)
    assert data.frame_count(0) == 5
    assert frames_seen(data.read(0)["video"]) == [0, 5, 10, 15, 20]
    assert frames_seen(data.read(0, range(2, 4))["video"]) == [10, 15]


def test_videos_held_in_memory_give_the_same_items(root: Path) -> None:
    draws = [Draw(epoch, index) for epoch in range(2) for index in range(6)]
    options = {"num_frames": 3, "size": 16, "stride": 2, "flip": True}
    read, held = VideoFolder(root, **options), VideoFolder(root, in_memory=True, **options)
    for draw in draws:
        assert torch.equal(read[draw]["video"], held[draw]["video"]) and read[draw]["fps"] == held[draw]["fps"]
    item = held[draws[0]]["video"]
    expected = item.clone()
    item.zero_()
    assert torch.equal(held[draws[0]]["video"], expected)


def test_the_fingerprint_follows_names_sizes_captions_and_view_but_not_the_place(tmp_path: Path, root: Path) -> None:
    def taken(folder: Path, **options: int) -> str:
        return VideoFolder(folder, **{"num_frames": 2, "size": 8, **options}).fingerprint()

    copy = tmp_path / "copy"
    write_video(copy / "x.mp4")
    first = taken(copy)
    copy.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert taken(moved) == first == taken(moved, num_frames=3)
    assert first not in {taken(moved, size=16), taken(moved, stride=2), taken(root)}
    (moved / "metadata.jsonl").write_text('{"file": "x.mp4", "caption": "grey"}\n')
    captioned = taken(moved)
    write_video(moved / "x.mp4", length=9)
    assert len({first, captioned, taken(moved)}) == 3


# captions and classes


def write_metadata(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_captions_and_classes_find_their_videos(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [{"file": name, "caption": f"video {name}", "label": i, "fps": 99} for i, name in enumerate(NAMES) if i != 2]
    path = write_metadata(tmp_path / "m.jsonl", *reversed(lines), {"file": "gone.mp4", "caption": "x"})
    data = VideoFolder(root, num_frames=2, size=8, metadata=path)
    with caplog.at_level(logging.WARNING):
        items = [data[i] for i in range(6)]
    assert [item["caption"] for item in items] == ["" if i == 2 else f"video {name}" for i, name in enumerate(NAMES)]
    assert [item["label"] for item in items] == [0, 1, ABSENT, 3, 4, 5]
    assert "1 of 6 files" in caplog.text and "1 of 6 videos have no caption" in caplog.text
    batch = next(iter(VideoData(data, batch_size=6).train_dataloader()))
    assert batch["label"].dtype == torch.int64 and batch["fps"].dtype == torch.float32 and len(batch["caption"]) == 6


def test_metadata_beside_the_videos_is_read_by_itself(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4")
    write_metadata(tmp_path / "metadata.jsonl", {"file": "x.mp4", "label": 3})
    item = VideoFolder(tmp_path, num_frames=2, size=8)[0]
    assert item["label"] == 3 and "caption" not in item


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file": "a.mp4", "label": "cat"}', "the label is 'cat'"),
        ('{"caption": "x"}', "line 1 .* has no file"),
        ("{", "line 1 .* is not JSON"),
        ('{"file": "other.mp4"}', "none of the 1 files .* it says other.mp4, the folder has a.mp4"),
    ],
)
def test_metadata_that_cannot_be_meant_is_refused(root: Path, tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "m.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=said):
        VideoFolder(root, num_frames=2, size=8, metadata=tmp_path / "m.jsonl").prepare()


# broken videos


def with_broken(root: Path, good: int, broken: int) -> Path:
    """Videos in sorted order: the broken ones last; half of them cut short, half with too few frames."""
    write_video(root / "0000.mp4")
    for i in range(1, good):
        (root / f"{i:04d}.mp4").write_bytes((root / "0000.mp4").read_bytes())
    for i in range(good, good + broken):
        if i % 2:
            write_video(root / f"{i:04d}.mp4", length=3)
        else:
            (root / f"{i:04d}.mp4").write_bytes((root / "0000.mp4").read_bytes()[:1000])
    return root


def test_broken_videos_are_skipped_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = with_broken(tmp_path, good=18, broken=2)
    data = VideoFolder(root, num_frames=8, size=8)
    with caplog.at_level(logging.WARNING):
        items = [data[Draw(1, i)] for i in range(20)]
    assert all(item["index"] < 18 for item in items)
    assert caplog.text.count("skipped a video") == 2
    assert "cannot read" in caplog.text and "0018.mp4" in caplog.text
    assert "needs 8 frames" in caplog.text and "0019.mp4 has 3" in caplog.text
    again = VideoFolder(root, num_frames=8, size=8)
    assert all(torch.equal(again[Draw(1, i)]["video"], items[i]["video"]) for i in reversed(range(20)))


def test_too_many_broken_videos_stop_before_training(tmp_path: Path) -> None:
    root = with_broken(tmp_path, good=10, broken=6)
    with pytest.raises(UserError, match=r"of \d+ videos opened under .* more than max_broken=0.1 .* raise max_broken"):
        VideoData(VideoFolder(root, num_frames=8, size=8), batch_size=2).setup("fit")
    assert len([*VideoFolder(root, num_frames=8, size=8, max_broken=0.5)]) == 16


def test_a_set_of_broken_videos_only_ends(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 videos"):
        VideoFolder(with_broken(tmp_path, good=0, broken=1), num_frames=50, size=8, max_broken=1).prepare()


def test_an_error_in_a_worker_is_still_one_sentence(tmp_path: Path) -> None:
    root = with_broken(tmp_path, good=20, broken=0)
    data = VideoFolder(root, num_frames=8, size=8)
    module = VideoData(data, batch_size=2, num_workers=1)
    module.setup("fit")
    for i in range(1, 20):
        (root / f"{i:04d}.mp4").write_bytes(b"gone")
    with pytest.raises(UserError, match="raise max_broken") as error:
        list(module.train_dataloader())
    assert "\n" not in str(error.value)


# loaders


class Numbers:
    """A data set whose items tell their draw."""

    def __init__(self, length: int) -> None:
        self.length = length

    def prepare(self) -> None:
        pass

    def fingerprint(self) -> str:
        return "numbers"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int | Draw) -> dict[str, int]:
        assert isinstance(key, Draw)
        return {"epoch": key.epoch, "index": key.index}


def batches(loader: object, epoch: int) -> list[tuple[int, ...]]:
    loader.sampler.set_epoch(epoch)
    return [(*batch["epoch"].tolist(), *batch["index"].tolist()) for batch in loader]


def test_workers_change_no_clip(root: Path) -> None:
    def clips_with(workers: int) -> list[torch.Tensor]:
        data = VideoFolder(root, num_frames=2, size=8, flip=True, clips_per_video=2)
        loader = VideoData(data, batch_size=3, num_workers=workers).train_dataloader()
        seen = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            seen += [batch["video"] for batch in loader]
        return seen

    alone, helped = clips_with(0), clips_with(2)
    assert len(alone) == 8 and all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert not torch.equal(torch.cat(alone[:4]), torch.cat(alone[4:]))


def test_training_takes_each_sample_once_an_epoch_in_new_order_and_validation_always_the_same() -> None:
    module = VideoData(Numbers(11), Numbers(5), batch_size=3, val_batch_size=2)
    train, val = module.train_dataloader(), module.val_dataloader()
    first, second = batches(train, 0), batches(train, 1)
    for epoch, seen in enumerate((first, second)):
        assert [batch[:3] for batch in seen] == [(epoch,) * 3] * 3
        assert len({index for batch in seen for index in batch[3:]}) == 9
    assert [batch[3:] for batch in first] != [batch[3:] for batch in second]
    assert batches(val, 0) == batches(val, 7) == [(0, 0, 0, 1), (0, 0, 2, 3), (0, 4)]


def test_processes_share_the_batches_that_one_process_would_see() -> None:
    def order(world_size: int, rank: int) -> list[int]:
        sampler = EpochSampler(Numbers(26), seed=5, shuffle=True, processes=(world_size, rank))
        sampler.set_epoch(2)
        return [draw.index for draw in sampler]

    alone, ranks = order(1, 0), [order(4, rank) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [6] * 4
    for step in range(3):  # batches of 2 in 4 processes are the batch of 8 in one
        together = {index for rank in ranks for index in rank[2 * step : 2 * step + 2]}
        assert together == set(alone[8 * step : 8 * step + 8])
    val = [list(EpochSampler(Numbers(6), seed=0, shuffle=False, processes=(4, rank))) for rank in range(4)]
    assert [[draw.index for draw in rank] for rank in val] == [[0, 4], [1, 5], [2, 0], [3, 1]]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="3 samples .* fewer than a batch of 4"):
        VideoData(Numbers(3), batch_size=4).train_dataloader()
    with pytest.raises(UserError, match="prefetch_factor=4 has no effect"):
        VideoData(Numbers(3), batch_size=1, prefetch_factor=4)
    with pytest.raises(UserError, match="val_batch_size=4 has no effect"):
        VideoData(Numbers(3), batch_size=1, val_batch_size=4)
    with pytest.raises(UserError, match="expected a fraction"):
        VideoFolder("x", num_frames=1, size=8, max_broken=5)
    with pytest.raises(UserError, match=r"size is \[8, 8, 3\], expected"):
        VideoFolder("x", num_frames=1, size=[8, 8, 3])


class Witness(pl.LightningModule):
    """Remembers the batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch: dict, _: int) -> torch.Tensor:
        self.seen.append((*batch["epoch"].tolist(), *batch["index"].tolist()))
        return self.weight.sum()

    def validation_step(self, batch: dict, _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("workers", "limit"), [(0, 1.0), (0, 3), (1, 1.0)])
def test_a_run_resumed_within_an_epoch_sees_the_batches_it_would_have_seen(tmp_path: Path, workers: int, limit: float) -> None:
    def seen(steps: int, start: Path | None = None) -> list[tuple[int, ...]]:
        saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(
            max_steps=steps, max_epochs=-1, callbacks=[saving], limit_train_batches=limit, val_check_interval=2, **quiet
        )
        module = Witness()
        data = VideoData(Numbers(11), Numbers(5), batch_size=2, num_workers=workers)
        trainer.fit(module, datamodule=data, ckpt_path=start, **({"weights_only": True} if start else {}))
        return module.seen

    whole = seen(12)
    for step in (2, 5, 7, 10) if workers == 0 else (7,):
        assert seen(12, tmp_path / f"step={step}.ckpt") == whole[step:]


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 4))
def test_every_epoch_shuffles_all_samples(length: int, epoch: int) -> None:
    sampler = EpochSampler(Numbers(length), seed=0, shuffle=True, processes=(1, 0))
    sampler.set_epoch(epoch)
    assert sorted(draw.index for draw in sampler) == list(range(length))
