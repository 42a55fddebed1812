"""Foreign checkpoints, hostile ones too: tensors come out and nothing is run; the names of the published ones."""

import io
import json
import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.checkpoints.model_file import load_weights
from lvdm.checkpoints.published_lvdm import autoencoder_weights, averaged_name, denoiser_weights, ignored_names, state_dict
from lvdm.models.autoencoders import VAE3D
from lvdm.types import UserError


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
    read = read_checkpoint(tmp_path / "hostile.ckpt")
    made = lightning_like()["state_dict"]
    assert list(read["state_dict"]) == list(made) and read["callbacks"] == []
    for name, tensor in made.items():
        assert torch.equal(read["state_dict"][name], tensor) and read["state_dict"][name].dtype == tensor.dtype
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
        b'cbuiltins\neval\n(S\'open("TRAP", "w")\'\ntR.',
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
    with pytest.raises(UserError, match="not a PyTorch checkpoint"):
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
    raw, averaged, ignored = denoiser_weights(weights, averaged=False), denoiser_weights(weights), ignored_names(weights)
    assert set(raw) == set(averaged)
    assert not all(torch.equal(raw[name], averaged[name]) for name in raw)
    autoencoder = VAE3D(channels=16, downsample=(2, 4, 4))
    load_weights(autoencoder, autoencoder_weights(weights), "", name)
    stored_averages = sum(stored.startswith("model_ema.") for stored in weights) - 2  # decay and num_updates
    assert stored_averages == len(averaged)
    copies = sum(f"{stored.removesuffix('.weight')}.conv.weight" in weights for stored in weights if stored.endswith(".weight"))
    assert len(raw) + len(averaged) + len(autoencoder.state_dict()) + copies + len(ignored) == len(weights)
    assert "betas" in ignored and "model_ema.num_updates" in ignored


def doubled() -> dict[str, torch.Tensor]:
    weight = torch.ones(2)
    return {"encoder.a.weight": weight, "encoder.a.conv.weight": weight, "encoder.a.conv.bias": weight, "loss.logvar": weight}


def test_a_doubly_stored_convolution_is_taken_once():
    assert set(autoencoder_weights(doubled())) == {"encoder.a.conv.weight", "encoder.a.conv.bias"}
    assert ignored_names(doubled()) == ("loss.logvar",)


def test_two_copies_that_differ_are_refused():
    with pytest.raises(UserError, match="two different ones"):
        autoencoder_weights({**doubled(), "encoder.a.weight": torch.zeros(2)})


def test_absent_parts_are_named():
    with pytest.raises(UserError, match="no denoiser .* begin with encoder, loss"):
        denoiser_weights(doubled())
    with pytest.raises(UserError, match="no autoencoder"):
        autoencoder_weights({"model.diffusion_model.x": torch.zeros(1)})
    with pytest.raises(UserError, match=r"no averaged weight model_ema.diffusion_modelxweight.*with raw"):
        denoiser_weights({"model.diffusion_model.x.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="holds no weights, only epoch"):
        state_dict({"epoch": 3})
