"""Training from cached clips is training from pixels: the same draws, the same weights; and processes share the encoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_training import CODEC, Config, checkpoint, diffusion_config, latent_set, video_set, write_config

from lvdm.cli import encode, train
from lvdm.data import LatentClips
from lvdm.models.codec import Codec

CLIPS = {"num_frames": 28, "random_clip": False, "clips_per_video": 2}


def encode_config(made: Path, out: Path, **settings: object) -> Config:
    data = {"train": video_set(made / "videos", **CLIPS), "val": video_set(made / "videos", random_clip=False, num_frames=28)}
    weights = str(made / "autoencoder" / "model.safetensors")
    return {"codec": CODEC, "codec_weights": weights, "data": data, "out": str(out), "dtype": "float32", **settings}


def training_config(made: Path, out: Path, train_set: Config, val_set: Config, **model: object) -> Config:
    config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
    config["model"]["params"] |= model
    config["data"]["params"] |= {"train": train_set, "val": val_set}
    return config


@pytest.mark.parametrize(("samples", "flips"), [(False, False), (True, True)])
def test_training_from_cached_clips_is_training_from_pixels(samples: bool, flips: bool, made: Path, tmp_path: Path) -> None:
    settings = encode_config(made, tmp_path / "clips", clips=True, std=samples, flips=flips)
    assert encode.main([write_config(tmp_path / "encode.yaml", settings)]) == 0
    pixels = [video_set(made / "videos", **CLIPS, flip=flips), video_set(made / "videos", random_clip=False, num_frames=28)]
    cached = [
        latent_set(tmp_path / "clips" / part, random_clip=False, num_latents=7, **({"std": True} if samples else {}))
        for part in ("train", "val")
    ]
    cached[0]["params"]["flip"] = flips
    for name, (train_set, val_set) in {"pixels": pixels, "cached": cached}.items():
        config = training_config(made, tmp_path, train_set, val_set, sample_posterior=samples)
        written = write_config(tmp_path / f"{name}.yaml", config)
        assert train.main([written, "trainer.max_steps=5", "trainer.val_check_interval=5"]) == 0
    one, other = (checkpoint(tmp_path / name) for name in ("pixels", "cached"))
    for part in ("state_dict", "current_model_state"):
        for tensor, value in one[part].items():
            torch.testing.assert_close(other[part][tensor], value, atol=2e-5, rtol=1e-3, msg=f"{part}: {tensor}")
    losses = [[row for row in (tmp_path / name / "metrics.csv").read_text().splitlines()] for name in ("pixels", "cached")]
    assert len(losses[0]) == len(losses[1]) > 5


def test_samples_of_the_posterior_are_not_its_mean(made: Path, tmp_path: Path) -> None:
    losses = []
    for samples in (False, True):
        sets = [video_set(made / "videos", **CLIPS), video_set(made / "videos", random_clip=False, num_frames=28)]
        config = training_config(made, tmp_path, *sets, sample_posterior=samples)
        assert train.main([write_config(tmp_path / f"{samples}.yaml", config), "trainer.max_steps=1"]) == 0
        losses.append(checkpoint(tmp_path / str(samples))["state_dict"]["denoiser.out.2.weight"])
    assert not torch.equal(*losses)


def test_what_does_not_go_together_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [latent_set(made / "latents" / part) for part in ("train", "val")]
    config = training_config(made, tmp_path, *sets, sample_posterior=True)
    assert train.main([write_config(tmp_path / "samples.yaml", config)]) == 2
    assert "sample_posterior is True and data.params.train.params.std False" in capsys.readouterr().err
    settings = encode_config(made, tmp_path / "clips", clips=True)
    settings["data"]["train"]["params"]["random_clip"] = True
    assert encode.main([write_config(tmp_path / "encode.yaml", settings)]) == 2
    assert "set its random_clip: false" in capsys.readouterr().err
    for option, words in (("flip", "flips: true here, which stores both"), ("random_crop", "cannot follow")):
        settings = encode_config(made, tmp_path / "clips")
        settings["data"]["train"]["params"][option] = True
        assert encode.main([write_config(tmp_path / "encode.yaml", settings)]) == 2
        assert words in capsys.readouterr().err
    config = training_config(made, tmp_path, latent_set(made / "latents" / "train", flip=True), sets[1])
    assert train.main([write_config(tmp_path / "flips.yaml", config)]) == 2
    assert "holds no mirrored videos" in capsys.readouterr().err


def test_processes_share_the_encoding(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encode.main([write_config(tmp_path / "whole.yaml", encode_config(made, tmp_path / "whole", shard_size=1))]) == 0
    config = write_config(tmp_path / "shared.yaml", encode_config(made, tmp_path / "shared", shard_size=1))
    for rank in range(2):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))
        assert encode.main([config, "device=cpu", "--json", str(tmp_path / "report.json")]) == 0
    monkeypatch.undo()
    reports = [json.loads((tmp_path / name).read_text()) for name in ("report.json", "report-rank1.json")]
    assert [report["train"]["videos"] for report in reports] == [2, 2]
    for part in ("train", "val"):
        one, two = (LatentClips(tmp_path / name / part, num_latents=7, random_clip=False) for name in ("whole", "shared"))
        assert one.names == two.names and one.fingerprint() == two.fingerprint()
        assert all(torch.equal(one[index]["latent"], two[index]["latent"]) for index in range(len(one)))


def test_a_cache_with_a_fingerprint_of_version_1_is_read_with_a_note(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as old:
        old.setattr(Codec, "fingerprint", Codec.fingerprint_of_version_1)
        assert encode.main([write_config(tmp_path / "encode.yaml", encode_config(made, tmp_path / "old"))]) == 0
    sets = [latent_set(tmp_path / "old" / part, random_clip=False, num_latents=7) for part in ("train", "val")]
    assert train.main([write_config(tmp_path / "run.yaml", training_config(made, tmp_path, *sets))]) == 0
    assert "the cached latents of train are of lvdm 0.1, whose fingerprint does not cover" in caplog.text
