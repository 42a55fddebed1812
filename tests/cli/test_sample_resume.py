"""Half-finished sampling is resumed by the same model only, and completes what is missing."""

from pathlib import Path
from typing import Any

import pytest
from test_sample_commands import write_model

from lvdm.checkpoints.model_file import read_model, save_model
from lvdm.cli import sample_long, sample_short


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
