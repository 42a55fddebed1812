"""Encoders of transformers as extractors: tiny ones with random weights, against their own calls and their own preparation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from tiny_evaluation import result_of, saved, toys

import lvdm
from lvdm.models.features.encoders import TransformersEncoder
from lvdm.models.features.extractors import EXTRACTORS
from lvdm.models.features.weights import sha256_of
from lvdm.types import UserError

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 16,
    "patch_size": 8,
}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def written(folder: Path, name: str, **changes: object) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL | changes)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_an_image_encoder_sees_each_frame_in_its_own_colours(tmp_path: Path) -> None:
    folder = written(tmp_path / "clip", "CLIPVision")
    transformers.CLIPImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    model = transformers.CLIPVisionModel.from_pretrained(folder).eval()
    video = torch.from_numpy(toys(2, frames=3))
    frames = (video.flatten(0, 1).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        out = model(pixel_values=frames)
    rows = {"mean": out.last_hidden_state.mean(1), "first": out.last_hidden_state[:, 0], "pooled": out.pooler_output}
    for tokens, expected in rows.items():
        whole = TransformersEncoder(str(folder), tokens=tokens)
        each = TransformersEncoder(str(folder), tokens=tokens, over_time="frames")
        assert (whole.dim, whole.min_frames, whole.max_frames) == (8, 1, None)
        torch.testing.assert_close(each(video), expected.unflatten(0, (2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole(video), expected.unflatten(0, (2, 3)).mean(1), rtol=1e-4, atol=1e-5)
        files = ("model.safetensors", "config.json", "preprocessor_config.json")
        assert whole.sha256 == " + ".join(sha256_of(folder / name) for name in files) and whole.name != each.name


def test_a_video_encoder_sees_whole_clips(tmp_path: Path) -> None:
    folder = written(tmp_path / "mae", "VideoMAE", num_frames=4, tubelet_size=2)
    encoder = TransformersEncoder(str(folder))
    video = torch.from_numpy(toys(2, frames=4))
    model = transformers.VideoMAEModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model((video.permute(0, 1, 4, 2, 3) / 255 - 0.5) / 0.5).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder(video), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="takes clips of 4 frames, not 3"):
        encoder(video[:, :3])
    with pytest.raises(UserError, match="sees whole clips, so over_time: frames has no effect"):
        TransformersEncoder(str(folder), over_time="frames")


def test_larger_frames_are_resized_with_antialiasing(tmp_path: Path) -> None:
    encoder = TransformersEncoder(str(written(tmp_path / "dino", "Dinov2")))
    board = torch.from_numpy(np.indices((32, 32)).sum(0) % 2 * 255)  # a checkerboard, which becomes grey
    made = encoder.prepare(board.expand(1, 3, 1, 32, 32))
    assert made.shape == (1, 3, 1, 16, 16) and made[..., 2:-2, 2:-2].abs().max() < 0.01


def test_a_config_names_one_for_the_command_and_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = written(tmp_path / "dino", "Dinov2")
    node = {"target": "lvdm.models.features.encoders.TransformersEncoder", "params": {"model": "dino", "tokens": "first"}}
    Path("dino.yaml").write_text(yaml.safe_dump(node))
    sides = ["--real", saved(tmp_path / "real.npy", toys(3)), "--fake", saved(tmp_path / "fake.npy", toys(3, split="val"))]
    options = [
        "--protocol",
        "tats",
        "--metrics",
        "fvd",
        "--features",
        "dino.yaml",
        "--set",
        "frames=4",
        "--allow-fewer",
        "--no-cache",
    ]
    result = result_of(tmp_path / "it.json", *sides, *options, "--no-cache")
    hashes = [sha256_of(folder / name) for name in ("model.safetensors", "config.json")]
    assert result["extractor"]["sha256"] == " + ".join(hashes) and len(result["metrics"]) == 1
    assert result["extractor"]["name"] == "transformers Dinov2Model dino first mean 16"
    found = lvdm.features(toys(3), "dino.yaml", settings=lvdm.EvalSettings(device="cpu"))
    assert found.shape == (3, 8)
    node["params"] |= {"over_time": "frames"}
    Path("dino.yaml").write_text(yaml.safe_dump(node))
    of_frames = lvdm.evaluate(toys(3), toys(3, split="val"), "frames2048", num=3, features="dino.yaml",
                              settings=lvdm.EvalSettings(changes={"frames": 4}, is_cached=False))  # fmt: skip
    assert of_frames.values["fid"].value > 0 and of_frames.values["kid"].value > 0
    del EXTRACTORS["dino.yaml"]


def test_other_settings_of_the_folder_are_other_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached features and saved statistics are those of one network: its weights, its layers and its colours."""
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))
    folder, file = written(tmp_path / "dino", "Dinov2"), tmp_path / "own.yaml"
    transformers.CLIPImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    node = {"target": "lvdm.models.features.encoders.TransformersEncoder", "params": {"model": str(folder)}}
    file.write_text(yaml.safe_dump(node))
    real, fake = toys(3), toys(3, split="val")

    def fvd(real, *, is_cached: bool) -> float:
        settings = lvdm.EvalSettings(changes={"frames": 4, "runs": 1}, is_cached=is_cached, device="cpu")
        how = {"num": 3, "metrics": ["fvd"], "features": str(file), "settings": settings}
        return lvdm.evaluate(real, fake, **how).values["fvd"].value

    settings = lvdm.EvalSettings(changes={"frames": 4, "runs": 1}, device="cpu")
    for name, change in (("preprocessor_config.json", {"image_std": [0.05] * 3}), ("config.json", {"hidden_act": "relu"})):
        before = fvd(real, is_cached=True)
        known = lvdm.statistics(real, num=3, features=str(file), settings=settings)
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | change))
        assert fvd(real, is_cached=True) == fvd(real, is_cached=False) != before
        with pytest.raises(UserError, match="have two networks"):
            fvd(known, is_cached=False)
    del EXTRACTORS["own.yaml"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: "nobody/nothing", "nor has transformers downloaded a model of this name"),
        (lambda folder: str(written(folder, "Bert", vocab_size=9)), "which sees no images"),
        (lambda folder: str(damaged(written(folder, "Dinov2"))), "does not hold a whole model of transformers"),
        (lambda folder: str(sizeless(written(folder, "Dinov2"))), "does not hold a whole model of transformers .*image_size"),
        (lambda folder: "", "model is '', expected a path"),
    ],
)
def test_what_is_no_encoder_is_one_sentence(tmp_path: Path, make, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TransformersEncoder(make(tmp_path / "it"))


def test_a_size_is_a_number_of_pixels(tmp_path: Path) -> None:
    folder = written(tmp_path / "dino", "Dinov2")
    for size in (0, -3, "x"):
        with pytest.raises(UserError, match="size is .*, expected null or an integer from 1"):
            TransformersEncoder(str(folder), size=size)


def sizeless(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": None}))
    return folder


def damaged(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"nothing")
    return folder
