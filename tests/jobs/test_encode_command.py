"""scripts/encode.py: latents equal to those of whole videos, an interrupted run finished, what cannot be encoded told."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import AUTOENCODER, CODEC, Config, latent_set, video_set, write_config, write_videos

import lvdm
from lvdm.checkpoints.model_file import ModelInfo, read_model, save_model
from lvdm.cli import encode
from lvdm.config import instantiate, with_defaults
from lvdm.data import LatentClips, VideoFolder
from lvdm.jobs import encode as encode_job
from lvdm.jobs import encode_batches
from lvdm.jobs.encode import EncodeConfig, EncodeSettings
from lvdm.jobs.encode_batches import encode_pieces
from lvdm.jobs.settings import read_settings
from lvdm.models.autoencoders import VAE3D
from lvdm.models.codec import Codec

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "lvdm"
HALO = 12  # frames on each side that can reach into a latent of this autoencoder, and more


def write_model(path: Path, *, scale: float = 0.5, **params: Any) -> Path:
    torch.manual_seed(0)
    node = {**AUTOENCODER, "params": {**AUTOENCODER["params"], **params}}
    tensors = {f"codec.{name}": tensor for name, tensor in instantiate(node).state_dict().items()}
    save_model(path, tensors, ModelInfo(kind="autoencoder", autoencoder=node, scale=scale, shift=0.1))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 40 and one of 43 frames, with captions, and a model file."""
    folder = tmp_path_factory.mktemp("made")
    videos = write_videos(folder / "videos", count=3)
    write_videos(folder / "more", count=1, frames=43)
    (folder / "more" / "0.mp4").rename(videos / "long.mp4")
    lines = [{"file": f"{name}.mp4", "caption": f"video {name}", "label": i} for i, name in enumerate(["0", "1", "2", "long"])]
    (videos / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_model(folder / "model.safetensors")
    return folder


def config(made: Path, folder: Path, **changed: Any) -> Config:
    weights = str(made / "model.safetensors")
    data = {"train": video_set(made / "videos")}
    return {"codec": CODEC, "data": data, "codec_weights": weights, "out": str(folder), "dtype": "float32", **changed}


def run(tmp_path: Path, settings: Config, *arguments: str) -> int:
    return encode.main([write_config(tmp_path / "encode.yaml", settings), *arguments])


def latents(folder: Path) -> dict[str, torch.Tensor]:
    """Every video's latent, whole."""
    index = json.loads((folder / "index.json").read_text())
    found = {}
    for entry in (entry for shard in index["shards"] for entry in shard["entries"]):
        clips = LatentClips(folder, num_latents=entry["shape"][1], random_clip=False)
        found[entry["name"]] = next(item["latent"] for item in map(clips.__getitem__, range(len(clips)))
                                    if clips.names[item["index"]] == entry["name"])  # fmt: skip
    return found


def exact(made: Path) -> dict[str, torch.Tensor]:
    """The codec on whole videos, by hand."""
    info, tensors = read_model(made / "model.safetensors")
    codec = Codec(instantiate(AUTOENCODER), scale=info.scale, shift=info.shift)
    codec.autoencoder.load_state_dict({name.removeprefix("codec."): tensor for name, tensor in tensors.items()})
    folder = VideoFolder(made / "videos", num_frames=8, size=16)
    whole = {name: folder.read(index)["video"] for index, name in enumerate(folder.names)}
    return {name: codec.encode(video[None, :, : video.shape[1] // 4 * 4])[0] for name, video in whole.items()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt_after(videos: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C when so many videos are encoded; the list counts them."""
    count, pieces = [0], encode_job.encode_pieces

    def counted(*arguments):
        if count[0] == videos:
            raise KeyboardInterrupt
        count[0] += 1
        return pieces(*arguments)

    patch.setattr(encode_job, "encode_pieces", counted)
    return count


@pytest.mark.parametrize("pieces", [{}, {"frames_at_once": 8, "context_frames": HALO}, {"frames_at_once": 16}])
def test_latents_are_those_of_the_whole_videos_whatever_the_pieces(pieces, made, tmp_path):
    assert run(tmp_path, config(made, tmp_path / "out", **pieces)) == 0
    found, expected = latents(tmp_path / "out" / "train"), exact(made)
    assert found.keys() == expected.keys() and found["long.mp4"].shape[1] == 10, "43 frames are ten latents"
    for name, latent in expected.items():
        torch.testing.assert_close(found[name], latent, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize(("norm", "clips", "warns"), [("clip", False, True), ("frame", False, False), ("clip", True, False)])
def test_pieces_of_a_clip_whose_norms_see_it_all_are_warned_of(norm, clips, warns, made, tmp_path, caplog):
    codec = Codec(VAE3D(channels=32, downsample=(2, 2, 2), latent_channels=2, norm=norm))
    videos = VideoFolder(made / "videos", num_frames=8, size=16, random_clip=False, clips_per_video="all")
    encode_job._warn_of_seams(videos, EncodeSettings(clips=clips, frames_at_once=16), codec)
    assert ("43 frames are encoded 16 at once" in caplog.text) == warns
    video = torch.randn(3, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    ((whole, _),) = encode_pieces([video], codec, 64, 64)
    ((pieces, _),) = encode_pieces([video], codec, 16, 16)
    assert ((pieces - whole).norm() > 0.01 * whole.norm()) == (norm == "clip"), "the seams that the warning is about"


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("encode_*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configs_encode_without_seams(path):
    """An autoencoder whose norms see the clip gets each clip whole, as in training on videos."""
    settings = with_defaults(read_settings(path, schema=EncodeConfig), EncodeConfig)
    clips = [instantiate(node).num_frames for node in settings.data.values()]
    if instantiate(settings.codec).autoencoder.decode_halo is None:
        assert settings.clips and max(clips) <= settings.frames_at_once


@pytest.mark.parametrize(("settings", "tolerance"), [({"dtype": "float16"}, 1e-3), ({"precision": "bfloat16"}, 3e-2)])
def test_less_precision_changes_little(settings, tolerance, made, tmp_path):
    assert run(tmp_path, config(made, tmp_path / "out", **settings)) == 0
    for name, latent in exact(made).items():
        error = latents(tmp_path / "out" / "train")[name] - latent
        assert 0 < error.norm() < tolerance * latent.norm()


def test_what_is_known_of_a_video_stays_with_its_latent(made, tmp_path):
    data = {"train": video_set(made / "videos"), "half": video_set(made / "videos", stride=2)}
    assert run(tmp_path, config(made, tmp_path / "out", data=data), "--json", str(tmp_path / "report.json")) == 0
    clips = instantiate(latent_set(tmp_path / "out" / "train"))
    item = clips[3]
    assert (item["caption"], int(item["label"]), float(item["fps"])) == ("video long", 3, 8.0)
    assert float(instantiate(latent_set(tmp_path / "out" / "half", num_latents=5))[0]["fps"]) == 4.0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["train"]["videos"] == report["half"]["videos"] == 4
    assert report["codec"] == clips.codec_fingerprint and clips.temporal_factor == 4


def test_an_interrupted_run_goes_on_where_it_stopped(made, tmp_path, monkeypatch):
    settings = {"shard_size": 1}
    assert run(tmp_path, config(made, tmp_path / "whole", **settings)) == 0
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        assert run(tmp_path, config(made, tmp_path / "parts", **settings)) == 130
    assert not (tmp_path / "parts" / "train" / "index.json").exists()
    with monkeypatch.context() as patch:
        count = interrupt_after(100, patch)
        assert run(tmp_path, config(made, tmp_path / "parts", **settings)) == 0
        assert count == [2], "what was there is not made again"
        assert run(tmp_path, config(made, tmp_path / "parts", **settings)) == 0
        assert count == [2]
    whole, parts = (latents(tmp_path / run / "train") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_videos_that_cannot_be_encoded_are_skipped_and_named(made, tmp_path, caplog):
    videos = write_videos(tmp_path / "videos", count=3)
    (videos / "1.mp4").write_bytes(b"not a video")
    iio.imwrite(videos / "short.mp4", np.zeros((3, 32, 32, 3), np.uint8), fps=8, plugin="FFMPEG", macro_block_size=1)
    data = {"train": video_set(videos, max_broken=0.5)}
    assert run(tmp_path, config(made, tmp_path / "out", data=data)) == 0
    assert latents(tmp_path / "out" / "train").keys() == {"0.mp4", "2.mp4"}
    assert "1.mp4" in caplog.text and "short.mp4" in caplog.text
    few = config(made, tmp_path / "few", data={"train": video_set(videos, max_broken=0.1)})
    assert run(tmp_path, few) == 2, "too many broken ones are an error"


def other_weights(made: Path, at: Path) -> Config:
    """A folder of latents of this model, and another one with the same sizes."""
    assert run(at, config(made, at / "out")) == 0
    return {"codec_weights": str(write_model(at / "other.safetensors", scale=0.25))}


def cut(made: Path, at: Path) -> Config:
    (at / "cut.safetensors").write_bytes((made / "model.safetensors").read_bytes()[:-50])
    return {"codec_weights": str(at / "cut.safetensors")}


def below_a_file(made: Path, at: Path) -> Config:
    (at / "file").write_text("")
    return {"out": str(at / "file" / "out")}


REFUSED = {
    "no weights": ("give its model file as codec_weights", {"codec_weights": None}),
    "no model file": ("there is no model file", {"codec_weights": "nothing.safetensors"}),
    "truncated": ("truncated or damaged", cut),
    "another size": ("do not fit", lambda made, at: {"codec_weights": str(write_model(at / "m.safetensors", channels=[8, 16]))}),
    "another autoencoder": ("holds latents with another codec_fingerprint", other_weights),
    "no videos": ("does not exist", {"data": {"train": video_set(Path("nowhere"))}}),
    "no data set": ("expected a target of kind VideoFolder", {"data": {"train": latent_set(Path("nowhere"))}}),
    "unknown key": ("shardsize is not a setting; did you mean shard_size?", {"shardsize": 3}),
    "pieces": ("must be multiples of the 4 frames", {"frames_at_once": 10}),
    "no pieces": ("frames_at_once is 0", {"frames_at_once": 0}),
    "context": ("context_frames is -4", {"context_frames": -4}),
    "precision": ("one of float32, bfloat16", {"precision": "float8"}),
    "dtype": ("dtype is 'int8'", {"dtype": "int8"}),
    "shards": ("shard_size is 0", {"shard_size": 0}),
    "device": ("there is no device gpu", {"device": "gpu"}),
    "folder": ("cannot make the folder", below_a_file),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_user_can_mend_is_one_sentence(case, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["encode.py"])
    words, changed = REFUSED[case]
    settings = config(made, tmp_path / "out", **(changed(made, tmp_path) if callable(changed) else changed))
    before = files(tmp_path)
    assert run(tmp_path, settings) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("encode.py: ")]
    assert len(said) == 1 and words in said[0], said
    assert {**files(tmp_path), "encode.yaml": b""} == {**before, "encode.yaml": b""}


def test_a_full_disk_leaves_whole_shards_only(made, tmp_path, capsys, monkeypatch):
    from lvdm.data.latents import format as latent_index

    save, count = latent_index.save_file, [0]

    def full_at_the_third(tensors, path, metadata):
        count[0] += 1
        if count[0] == 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata)

    monkeypatch.setattr(latent_index, "save_file", full_at_the_third)
    assert run(tmp_path, config(made, tmp_path / "out", shard_size=1)) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert files(tmp_path / "out").keys() == {"train/latents-00000.safetensors", "train/latents-00001.safetensors"}
    assert run(tmp_path, config(made, tmp_path / "out", shard_size=1)) == 0
    assert len(latents(tmp_path / "out" / "train")) == 4


@pytest.mark.parametrize("clips", [True, False])
def test_clips_that_are_encoded_together_have_the_same_latents(clips, made, tmp_path, monkeypatch):
    """As many at once as a GPU has memory for; on a CPU one by one."""
    settings = {"clips": clips, "flips": True, "std": True, "shard_size": 3}
    data = video_set(made / "videos")
    settings["data"] = {"train": {**data, "params": {**data["params"], "random_clip": False}}}
    assert run(tmp_path, config(made, tmp_path / "one", **settings)) == 0
    monkeypatch.setattr(encode_batches, "fitting", lambda pixels, device, **limits: 3)
    assert run(tmp_path, config(made, tmp_path / "three", **settings)) == 0
    one, three = (
        {path.name: load_file(path) for path in sorted((tmp_path / out).rglob("*.safetensors"))} for out in ("one", "three")
    )
    assert one.keys() == three.keys() and len(one) == 2
    for shard, tensors in one.items():
        assert tensors.keys() == three[shard].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(three[shard][name], tensor, atol=1e-5, rtol=1e-5)


def test_latents_are_in_the_recorded_precision_whatever_the_model_was_loaded_with(made, tmp_path):
    for name, dtype in (("exact", None), ("rough", torch.bfloat16)):
        model = lvdm.load(made / "model.safetensors", dtype=dtype)
        lvdm.encode(model, made / "videos", tmp_path / name, size=16, settings=lvdm.EncodeSettings(dtype="float32"))
        assert model.codec.compute_dtype == dtype
    assert files(tmp_path / "exact") == files(tmp_path / "rough")
