"""Half-finished sampling is resumed by the same model only, and completes what is missing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_sample_commands import write_model
from torch import Tensor, nn

import lvdm
from lvdm.checkpoints.model_file import read_model, save_model
from lvdm.cli import sample_long, sample_short
from lvdm.diffusion.objectives import VObjective, X0Objective
from lvdm.diffusion.schedules import Cosine, Linear
from lvdm.sampling.kept_settings import compare_settings
from lvdm.sampling.trained import Trained
from lvdm.types import UserError


@pytest.mark.parametrize("command", [sample_short, sample_long])
def test_resuming_tells_models_apart_by_content_and_not_by_path_or_size(
    command: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    first, moved = write_model(tmp_path / "model.safetensors"), tmp_path / "moved.safetensors"

    def sampled(model: Path, num: int) -> int:
        models = [str(model)] if command is sample_short else ["--predict", str(model), "--frames", "20"]
        return command.main([*models, "--steps", "2", "--format", "npz", "--num", str(num), "--out", "out", "--resume"])

    assert sampled(first, 1) == 0
    info, tensors = read_model(first)
    moved.write_bytes(first.read_bytes())
    tensors["denoiser.out.2.bias"] = tensors["denoiser.out.2.bias"] + 1
    save_model(first, tensors, info)
    assert first.stat().st_size == moved.stat().st_size
    assert sampled(first, 2) == 2
    assert "started with other settings: " in (said := capsys.readouterr().err) and "(content " in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["seed0-00000.npz", "seed0-settings.json"]
    assert sampled(moved, 2) == 0


def test_a_video_of_which_one_format_is_missing_is_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "2", "--num", "2", "--format", "npz,mp4", "--out", "out", "--resume"]
    model = str(write_model(tmp_path / "model.safetensors"))
    assert sample_short.main([model, *options]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "seed0-00001.mp4").unlink()  # as if killed between the two
    assert sample_short.main([model, *options]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


class Half(nn.Module):
    """The same weights as the denoiser of a model, under the same names, and another answer."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.inputs = network.inputs
        for name, part in network.named_children():
            setattr(self, name, part)
        self.network = [network]

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.network[0](x, t, cond) / 2


@pytest.mark.parametrize("part", ["schedule", "steps", "objective", "denoiser", "trained"])
def test_a_model_in_memory_with_another_part_does_not_resume(part: str, tmp_path: Path) -> None:
    model = lvdm.load(write_model(tmp_path / "model.safetensors"))
    others = {
        "schedule": {"schedule": Linear()},
        "steps": {"schedule": Cosine(num_steps=900)},
        "objective": {"objective": X0Objective()},
        "denoiser": {"denoiser": Half(model.denoiser)},
        "trained": {"trained": Trained(labels=[1])},
    }
    out = lvdm.Output(tmp_path / "out", ["npz"], resume=True)
    assert lvdm.sample(model, 1, steps=2, out=out).numbers == [0]
    assert lvdm.sample(replace(model, schedule=Cosine(), objective=VObjective()), 2, steps=2, out=out).numbers == [1]
    with pytest.raises(UserError, match="started with other settings: model"):
        lvdm.sample(replace(model, **others[part]), 3, steps=2, out=out)


def test_a_denoiser_whose_content_is_unknown_does_not_resume(tmp_path: Path) -> None:
    model = lvdm.load(write_model(tmp_path / "model.safetensors"))

    class Own:
        inputs = model.denoiser.inputs

        def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return x

    own = replace(model, denoiser=Own())
    with pytest.raises(UserError, match="is a Own, whose content cannot be compared .* sample without resume"):
        lvdm.sample(own, 1, steps=1, out=lvdm.Output(tmp_path / "out", ["npz"], resume=True))
    assert lvdm.sample(own, 1, steps=1, out=lvdm.Output(tmp_path / "out", ["npz"])).numbers == [0]


def test_videos_of_any_number_made_without_resume_are_seen(tmp_path: Path) -> None:
    """Numbers of more than five digits have no leading zero."""
    model = write_model(tmp_path / "model.safetensors")
    lvdm.sample(model, 1, steps=1, videos=[10_000], out=lvdm.Output(tmp_path / "out", ["npz"]))
    resumed = lvdm.Output(tmp_path / "out", ["npz"], resume=True)
    with pytest.raises(UserError, match="videos of seed 0 that were made without resume"):
        lvdm.sample(model, 1, steps=1, videos=[10_001], out=resumed)
    assert lvdm.sample(model, 1, steps=1, seed=1, out=resumed).numbers == [0], "those of another seed do not matter"


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, None])
def test_damaged_settings_are_one_sentence(text: str | None, tmp_path: Path) -> None:
    kept = tmp_path / "seed0-settings.json"
    kept.mkdir() if text is None else kept.write_text(text)
    with pytest.raises(UserError, match="seed0-settings.json (is damaged|holds no settings).* remove it") as refused:
        compare_settings(tmp_path, 0, {})
    assert len(str(refused.value)) < 400
