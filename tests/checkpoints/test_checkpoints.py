"""The model file: what is saved comes back, and what can be wrong with a file is told in a sentence."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lvdm.checkpoints import model_file
from lvdm.checkpoints.model_file import ModelInfo, load_weights, read_info, read_model, save_model
from lvdm.models.autoencoders import PatchVAE3D
from lvdm.types import UserError

INFO = ModelInfo(
    kind="autoencoder",
    autoencoder={"target": "lvdm.models.autoencoders.PatchVAE3D", "params": {"channels": [4, 8]}},
    scale=0.33422927,
    shift=1.4606637,
    sampling={"latent_shape": [4, 4, 8, 8], "key_stride": None},
    step=1234,
    config={"seed": 7, "name": "übung"},
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.safetensors"
    tensors = {f"codec.{name}": weight for name, weight in PatchVAE3D(channels=(4, 8)).state_dict().items()}
    save_model(path, tensors, INFO)
    return path


def with_metadata(path: Path, metadata: dict[str, str]) -> Path:
    save_file({"codec.x": torch.zeros(2)}, path, metadata)
    return path


def test_a_model_file_gives_back_what_was_saved(written):
    info, tensors = read_model(written)
    assert info == INFO == read_info(written)
    model = PatchVAE3D(channels=(4, 8))
    load_weights(model, tensors, "codec.", written)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, tensors[f"codec.{name}"])
    assert os.listdir(written.parent) == [written.name]


def test_transposed_and_shared_layouts_are_saved_as_they_read(tmp_path):
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    save_model(tmp_path / "m", {"denoiser.a": tensor, "denoiser.b": tensor.mT}, ModelInfo(kind="diffusion"))
    _, tensors = read_model(tmp_path / "m")
    assert torch.equal(tensors["denoiser.a"], tensor) and torch.equal(tensors["denoiser.b"], tensor.mT)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_called_truncated(written, keep):
    content = written.read_bytes()
    written.write_bytes(content[:keep])
    for read in (read_info, read_model):
        with pytest.raises(UserError, match="truncated or damaged model file"):
            read(written)


def test_what_is_not_a_model_file_is_told_apart(tmp_path, written):
    with pytest.raises(UserError, match="there is no model file"):
        read_model(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="is a folder; give the model file in it"):
        read_model(written.parent)
    torch.save({"state_dict": {}}, tmp_path / "some.ckpt")
    with pytest.raises(UserError, match="convert checkpoints of other codes first"):
        read_model(tmp_path / "some.ckpt")
    with pytest.raises(UserError, match="not one that lvdm wrote"):
        read_model(with_metadata(tmp_path / "foreign.safetensors", {"format": "pt"}))
    with pytest.raises(UserError, match="damaged description"):
        read_model(with_metadata(tmp_path / "odd.safetensors", {"lvdm": "{", "lvdm_format": "1"}))
    with pytest.raises(UserError, match="of kind 'poem'"):
        read_model(with_metadata(tmp_path / "kind.safetensors", {"lvdm": '{"kind": "poem"}', "lvdm_format": "1"}))


def test_a_file_of_a_newer_format_asks_for_an_upgrade(tmp_path):
    newer = {"lvdm": json.dumps({"kind": "diffusion", "version": "9.1"}), "lvdm_format": str(model_file.FORMAT + 1)}
    with pytest.raises(UserError, match=r"written by lvdm 9\.1 in format 2.*upgrade lvdm"):
        read_info(with_metadata(tmp_path / "newer.safetensors", newer))


def test_a_description_with_unknown_words_of_the_same_format_is_read(tmp_path):
    told = {"lvdm": json.dumps({"kind": "diffusion", "step": 3, "mood": "good"}), "lvdm_format": str(model_file.FORMAT)}
    assert read_info(with_metadata(tmp_path / "m.safetensors", told)).step == 3


@pytest.mark.parametrize("failing", ["save_file", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(written, monkeypatch, failing):
    before = written.read_bytes()

    def full(*args: object) -> None:
        if failing == "save_file":
            Path(str(args[1])).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_file if failing == "save_file" else os, failing, full)
    with pytest.raises(UserError, match="cannot write the model to .*: No space left on device"):
        save_model(written, {"codec.x": torch.zeros(3)}, INFO)
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_a_folder_that_cannot_be_made_is_an_error_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the model to"):
        save_model(tmp_path / "file" / "model.safetensors", {}, INFO)


def test_weights_of_another_size_name_the_first_that_differs(written):
    _, tensors = read_model(written)
    with pytest.raises(UserError) as other_width:
        load_weights(PatchVAE3D(channels=(8, 8)), tensors, "codec.", written)
    assert "of another shape (first down.0.patch.linear.weight, 4x96 in the file, 8x96 built)" in str(other_width.value)
    assert "config of another size" in str(other_width.value) and str(written) in str(other_width.value)
    with pytest.raises(UserError, match=r"32 missing \(first down.0.blocks.2.*"):
        load_weights(PatchVAE3D(channels=(4, 8), blocks=3), tensors, "codec.", written)
    with pytest.raises(UserError, match=r"unexpected \(first down.0.blocks.1"):
        load_weights(PatchVAE3D(channels=(4, 8), blocks=1), tensors, "codec.", written)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_model_file_may_be_read_by_whom_the_umask_says(mask: int, mode: int, tmp_path: Path):
    before = os.umask(mask)
    try:
        save_model(tmp_path / "model.safetensors", {"codec.w": torch.zeros(1)}, ModelInfo(kind="autoencoder"))
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode
