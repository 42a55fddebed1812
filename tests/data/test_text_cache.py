"""Captions in the cache of latents: each once, resumable, of one text encoder; training from them is training from text."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_text import CAPTIONS, CLIPS, TOKENS, WIDTH, cached, encode_config, text_config, write_captioned, write_clip
from tiny_training import Config, checkpoint, diffusion_config, latent_set, video_set, write_config

from lvdm.cli import encode, train
from lvdm.config import instantiate
from lvdm.data import LatentClips
from lvdm.models.text import ClipText


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("text") / "clip")


@pytest.fixture(scope="module")
def videos(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioned(made / "videos", tmp_path_factory.mktemp("captioned") / "videos")


def run(config: Config, at: Path) -> int:
    return encode.main([write_config(at / "encode.yaml", config), "device=cpu"])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_each_caption_is_stored_and_none_is_the_empty_one(dtype, made, videos, clip, tmp_path):
    assert run(encode_config(made, videos, clip, tmp_path / "out", dtype=dtype, clips=False), tmp_path) == 0
    folder, encoder = tmp_path / "out" / "train", ClipText(clip)
    stored = load_file(folder / "latents-00000.safetensors")
    for name in ("0.mp4", "1.mp4", "2.mp4", "3.mp4"):
        kept = stored[f"{name}.context"]
        assert kept.shape == (TOKENS, WIDTH) and kept.dtype == torch.float32, "whatever the latents are"
        torch.testing.assert_close(kept, encoder([CAPTIONS.get(name, "")])[0], atol=1e-6, rtol=1e-6)
    held, read = (instantiate(cached(folder, in_memory=in_memory)) for in_memory in (True, False))
    assert held.text_fingerprint == encoder.fingerprint()
    for one, other in zip(map(held.__getitem__, range(4)), map(read.__getitem__, range(4)), strict=True):
        assert one["context"].dtype == torch.float32 and torch.equal(one["context"], other["context"])
        assert torch.equal(one["context"], stored[f"{held.names[one['index']]}.context"].float())
    held[0]["context"].zero_()
    assert held[0]["context"].any(), "an item is the caller's own"
    assert "context" not in instantiate(latent_set(folder))[0]


def test_the_memory_that_is_asked_for_is_that_of_latents_and_captions(made, videos, clip, tmp_path, monkeypatch):
    assert run(encode_config(made, videos, clip, tmp_path / "out"), tmp_path) == 0
    asked, stored = [], load_file(tmp_path / "out" / "train" / "latents-00000.safetensors")
    monkeypatch.setattr("lvdm.data.latents.dataset.require_memory", lambda need, what: asked.append(need))
    for context in (True, False):
        instantiate(cached(tmp_path / "out" / "train", context=context)).prepare()
    everything = sum(tensor.nbytes for tensor in stored.values())
    captions = sum(tensor.nbytes for name, tensor in stored.items() if name.endswith(".context"))
    assert asked == [everything, everything - captions] and captions > 0


def test_an_interrupted_encoding_and_one_by_two_processes_give_the_same_bytes(made, videos, clip, tmp_path, monkeypatch):
    assert run(encode_config(made, videos, clip, tmp_path / "whole", shard_size=1), tmp_path) == 0
    parts = encode_config(made, videos, clip, tmp_path / "parts", shard_size=1)
    with monkeypatch.context() as patch:
        count, embed = [0], ClipText.__call__

        def interrupted(self: ClipText, captions: list[str]) -> torch.Tensor:
            count[0] += 1
            if count[0] == 3:
                raise KeyboardInterrupt
            return embed(self, captions)

        patch.setattr(ClipText, "__call__", interrupted)
        assert run(parts, tmp_path) == 130
        assert files(tmp_path / "parts").keys() == {f"train/latents-{k:05d}.safetensors" for k in range(2)}
        count[0] = 10
        assert run(parts, tmp_path) == 0
        assert count[0] == 10 + 2 + 4, "what was there is not made again"
    shared = encode_config(made, videos, clip, tmp_path / "shared", shard_size=1)
    for rank in range(2):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))
        assert run(shared, tmp_path) == 0
    assert files(tmp_path / "whole") == files(tmp_path / "parts") == files(tmp_path / "shared")


def test_a_cache_of_another_text_encoder_or_of_none_is_refused_by_name(made, videos, clip, tmp_path, capsys):
    assert run(encode_config(made, videos, clip, tmp_path / "out"), tmp_path) == 0
    other = write_clip(tmp_path / "other", seed=1)
    assert run(encode_config(made, videos, other, tmp_path / "out"), tmp_path) == 2
    assert "holds latents with another text_fingerprint" in capsys.readouterr().err
    assert run(encode_config(made, videos, clip, tmp_path / "out", text_encoder=None), tmp_path) == 2
    assert "holds latents with another text_fingerprint" in capsys.readouterr().err
    config = text_config(made, other, tmp_path / "runs", cached(tmp_path / "out" / "train"))
    assert train.main([write_config(tmp_path / "a.yaml", config)]) == 2
    assert "the cached captions of train were made by another text encoder" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_cache_from_before_there_was_text_is_read_and_gone_on_with(made, videos, clip, tmp_path, capsys):
    settings = encode_config(made, videos, clip, tmp_path / "out", text_encoder=None)
    assert run(settings, tmp_path) == 0
    folder = tmp_path / "out" / "train"
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as shard:
            header = json.loads(shard.metadata()["lvdm"])
        del header["facts"]["text_fingerprint"], header["hash"], header["tensor_hashes"]
        save_file(load_file(path), path, {"lvdm": json.dumps(header)})
    (folder / "index.json").unlink()
    before = files(folder)
    assert run(settings, tmp_path) == 0
    assert {**before, "index.json": b""} == {**files(folder), "index.json": b""}
    index = json.loads((folder / "index.json").read_text())
    del index["facts"]["text_fingerprint"], index["hash"]
    (folder / "index.json").write_text(json.dumps(index))
    assert len(LatentClips(folder, num_latents=7)) == 4
    config = text_config(made, clip, tmp_path / "runs", cached(folder))
    assert train.main([write_config(tmp_path / "a.yaml", config)]) == 2
    assert "holds no features of captions; run scripts/encode.py with a text_encoder" in capsys.readouterr().err


def test_videos_without_any_caption_are_told_of(made, clip, tmp_path, caplog):
    assert run(encode_config(made, made / "videos", clip, tmp_path / "out"), tmp_path) == 0
    assert "no video of data.train has a caption" in caplog.text


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(value) for row in csv.DictReader(file) for name, value in row.items() if "loss" in name and value]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 3e-3)])
def test_training_from_cached_captions_is_training_from_pixels_and_text(dtype, tolerance, made, videos, clip, tmp_path):
    settings = encode_config(made, videos, clip, tmp_path / "clips", dtype=dtype)
    assert run(settings, tmp_path) == 0
    folder = tmp_path / "clips" / "train"
    sets = {"pixels": video_set(videos, **CLIPS), "cached": cached(folder), "text": cached(folder, context=False)}
    for name, data in sets.items():
        config = text_config(made, clip, tmp_path, data, empty_caption=0.3)
        assert train.main([write_config(tmp_path / f"{name}.yaml", config), "trainer.max_steps=4"]) == 0
    expected = losses(tmp_path / "pixels")
    assert len(expected) >= 4 + 2
    assert losses(tmp_path / "cached") == pytest.approx(expected, rel=tolerance)
    assert losses(tmp_path / "text") == pytest.approx(expected, rel=tolerance)
    if dtype == "float32":
        one, other = (checkpoint(tmp_path / name)["state_dict"] for name in ("pixels", "cached"))
        for tensor, value in one.items():
            torch.testing.assert_close(other[tensor], value, atol=1e-3, rtol=1e-3, msg=tensor)


def test_a_run_that_lacks_its_text_leaves_no_file(made, videos, clip, tmp_path, capsys):
    def refused(config: Config, words: str) -> None:
        assert train.main([write_config(tmp_path / "a.yaml", config)]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()

    def reading(data: Config, **model: object) -> Config:
        return text_config(made, clip, tmp_path / "runs", data, **model)

    refused(reading(video_set(made / "videos", **CLIPS)), "the data of train has no captions")
    refused(reading(latent_set(made / "latents" / "train")), "the data of train has no captions")
    refused(reading(video_set(videos, **CLIPS), text_encoder=None), "give a text_encoder, or leave its context_dim out")
    narrow = reading(video_set(videos, **CLIPS))
    narrow["model"]["params"]["denoiser"]["params"] = {**narrow["model"]["params"]["denoiser"]["params"], "context_dim": 8}
    refused(narrow, "the text encoder gives 16 numbers a token and the denoiser reads 8; set context_dim: 16")
    assert run(encode_config(made, videos, clip, tmp_path / "clips"), tmp_path) == 0
    deaf = diffusion_config(made / "latents", tmp_path / "runs", made / "autoencoder" / "model.safetensors")
    deaf["data"]["params"]["train"] = cached(tmp_path / "clips" / "train")
    refused(deaf, "data.params.train.params.context has no effect on a denoiser that reads no text")


def test_a_resumed_run_with_another_text_encoder_is_told_so(made, videos, clip, tmp_path, capsys):
    folder = write_clip(tmp_path / "here" / "clip")
    written = write_config(tmp_path / "a.yaml", text_config(made, folder, tmp_path / "runs", video_set(videos, **CLIPS)))
    assert train.main([written]) == 0
    moved = f"model.params.text_encoder.params.folder={clip}"
    assert train.main([written, moved, "trainer.max_steps=3"]) == 0, "the same weights in another place"
    other = write_clip(tmp_path / "other", seed=1)
    assert train.main([written, f"model.params.text_encoder.params.folder={other}", "trainer.max_steps=4"]) == 2
    assert "text encoder (" in capsys.readouterr().err
