"""Files of weights: the model file and what can be wrong with it; foreign checkpoints, hostile ones too; published names."""

import errno
import io
import json
import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lvdm.checkpoints import model_file
from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.checkpoints.model_file import ModelInfo, load_weights, read_info, read_model, save_model
from lvdm.checkpoints.published_lvdm import (
    autoencoder_weights,
    averaged_name,
    denoiser_weights,
    describe,
    state_dict,
)
from lvdm.models.autoencoders import VAE3D, PatchVAE3D
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


# The model file


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
    with pytest.raises(UserError, match="go through scripts/convert.py"):
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


# Foreign checkpoints


class Touch:
    """Unpickled the ordinary way, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


class Hyper(dict):
    """A dictionary of a class that the reader does not have, as Lightning's AttributeDict."""


def lightning_like(**more: object) -> dict[str, object]:
    weight = torch.arange(12.0).reshape(3, 4)
    weights = OrderedDict(
        whole=weight,
        part=weight[1:, ::2],
        turned=weight.T,
        parameter=nn.Parameter(torch.ones(2)),
        half=torch.ones(3, dtype=torch.bfloat16),
        counter=torch.tensor(5),
        empty=torch.empty(0, 3),
        flags=torch.tensor([True, False]),
    )
    hyper = Hyper(width=3)
    hyper.note = "attribute"
    return {"epoch": 3, "state_dict": weights, "callbacks": {Hyper: {"best": 1.5}}, "hyper_parameters": hyper, **more}


def test_tensors_come_out_of_a_checkpoint_that_holds_foreign_objects(tmp_path):
    made = lightning_like(list=[1, {"x": (2.5, "y")}])
    torch.save(made, tmp_path / "lightning.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "lightning.ckpt", weights_only=True)
    read = read_checkpoint(tmp_path / "lightning.ckpt")
    assert read["epoch"] == 3 and read["list"] == [1, {"x": (2.5, "y")}]
    assert read["callbacks"] == {} and "hyper_parameters" not in read
    assert list(read["state_dict"]) == list(made["state_dict"])
    for name, tensor in made["state_dict"].items():
        assert torch.equal(read["state_dict"][name], tensor) and read["state_dict"][name].dtype == tensor.dtype


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_checkpoint_runs_nothing(tmp_path, zipped):
    trap = tmp_path / "trap"
    torch.save(lightning_like(callbacks=[Touch(trap)]), tmp_path / "hostile.ckpt", _use_new_zipfile_serialization=zipped)
    if zipped:
        assert torch.equal(read_checkpoint(tmp_path / "hostile.ckpt")["state_dict"]["parameter"], torch.ones(2))
    else:
        with pytest.raises(UserError, match="holds more than tensors"):
            read_checkpoint(tmp_path / "hostile.ckpt")
    assert not trap.exists()
    torch.load(tmp_path / "hostile.ckpt", weights_only=False)
    assert trap.exists(), "the trap works when it is unpickled the ordinary way"


def archive_of(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\neval\n(S'open(\"TRAP\", \"w\")'\ntR.",
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch TRAP'\ntR.",
        b"(ios\nsystem\nS'touch TRAP'\n.",  # INST
        b"cos\nsystem\n)\x81}S'touch TRAP'\nK\x01sb.",  # NEWOBJ, BUILD
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR.",
        b"]q\x00h\x00a.",  # a list that holds itself
        b"",
    ],
)
def test_hand_made_pickles_end_in_a_sentence(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    path = archive_of(tmp_path / "x.ckpt", data.replace(b"TRAP", str(tmp_path / "trap").encode()))
    with pytest.raises(UserError):
        read_checkpoint(path)
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_damaged_and_missing_checkpoints_are_told_in_a_sentence(tmp_path):
    torch.save(lightning_like(), tmp_path / "whole.ckpt")
    content = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="truncated or damaged"):
        read_checkpoint(tmp_path / "cut.ckpt")
    (tmp_path / "text.ckpt").write_text("weights, honestly")
    with pytest.raises(UserError, match="is not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")
    (tmp_path / "empty.ckpt").touch()
    for path in (tmp_path / "empty.ckpt", tmp_path / "absent.ckpt", tmp_path):
        with pytest.raises(UserError):
            read_checkpoint(path)
    torch.save(torch.zeros(2), tmp_path / "tensor.ckpt")
    with pytest.raises(UserError, match="holds a Tensor"):
        read_checkpoint(tmp_path / "tensor.ckpt")


def test_a_storage_with_missing_bytes_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save(lightning_like(), buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(tmp_path / "short.ckpt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:-4] if name.endswith("data/0") else old.read(name))
    with pytest.raises(UserError, match="storage 0 has 44 bytes, not 48"):
        read_checkpoint(tmp_path / "short.ckpt")


# Published names


def test_every_averaged_name_of_the_published_models_belongs_to_one_weight(parity):
    names = parity("README.md").parent.parent / "reference" / "lvdm_keys.json"
    if not names.exists():
        pytest.skip("no list of published names beside the parity files")
    prefix = "model.diffusion_model."
    for published in json.loads(names.read_text()).values():
        short = Counter(averaged_name(name.removeprefix(prefix)) for name in published if name.startswith(prefix))
        assert len(short) > 600 and max(short.values()) == 1


@pytest.mark.parametrize("name", ["lvdm_short.ckpt", "lvdm_predict.ckpt", "lvdm_infill.ckpt"])
def test_a_published_checkpoint_splits_into_its_parts_and_nothing_is_lost(parity, name):
    weights = state_dict(read_checkpoint(parity(name)))
    parts = describe(weights)
    assert parts.has_autoencoder and parts.has_denoiser and parts.has_averaged
    raw, averaged = denoiser_weights(weights, averaged=False), denoiser_weights(weights)
    assert set(raw) == set(averaged)
    assert not all(torch.equal(raw[name], averaged[name]) for name in raw)
    autoencoder = VAE3D(channels=16, downsample=(2, 4, 4))
    load_weights(autoencoder, autoencoder_weights(weights), "", name)
    stored_averages = sum(stored.startswith("model_ema.") for stored in weights) - 2  # decay and num_updates
    assert stored_averages == len(averaged)
    copies = sum(f"{stored.removesuffix('.weight')}.conv.weight" in weights for stored in weights if stored.endswith(".weight"))
    assert len(raw) + len(averaged) + len(autoencoder.state_dict()) + copies + len(parts.ignored) == len(weights)
    assert "betas" in parts.ignored and "model_ema.num_updates" in parts.ignored


def doubled() -> dict[str, torch.Tensor]:
    weight = torch.ones(2)
    return {"encoder.a.weight": weight, "encoder.a.conv.weight": weight, "encoder.a.conv.bias": weight, "loss.logvar": weight}


def test_a_doubly_stored_convolution_is_taken_once():
    assert set(autoencoder_weights(doubled())) == {"encoder.a.conv.weight", "encoder.a.conv.bias"}
    assert describe(doubled()).ignored == ("loss.logvar",)


def test_two_copies_that_differ_are_refused():
    with pytest.raises(UserError, match="two different ones"):
        autoencoder_weights({**doubled(), "encoder.a.weight": torch.zeros(2)})


def test_absent_parts_are_named():
    with pytest.raises(UserError, match="no denoiser .* begin with encoder, loss"):
        denoiser_weights(doubled())
    with pytest.raises(UserError, match="no autoencoder"):
        autoencoder_weights({"model.diffusion_model.x": torch.zeros(1)})
    with pytest.raises(UserError, match=r"no averaged weight model_ema.diffusion_modelxweight.*--raw"):
        denoiser_weights({"model.diffusion_model.x.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="holds no weights, only epoch"):
        state_dict({"epoch": 3})
