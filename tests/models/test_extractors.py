"""Extractors by name: what they refuse, what changes their numbers and what does not, random ones see motion, TorchScript."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features import c3d, i3d, videomae
from lvdm.models.features.c3d import C3D
from lvdm.models.features.extractors import EXTRACTORS, make_extractor
from lvdm.models.features.i3d import I3D
from lvdm.models.features.random_networks import random_c3d, random_i3d
from lvdm.models.features.torchscript import Scripted
from lvdm.models.features.videomae import WIDTH, VideoMAE
from lvdm.models.features.weights import KNOWN, sha256_of
from lvdm.types import UserError

NARROW = 1 / 16
RECORDS = {name: record for name, record in EXTRACTORS.items() if "inception" not in name}  # of frames: test_frames.py
RANDOM = {name for name, record in RECORDS.items() if record.is_random}
PINNED = {  # sha256 of the published files, as they were downloaded: protocol-facts.md
    "i3d_torchscript.pt": "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    "i3d_pretrained_400.pt": "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
    "vit_g_hybrid_pt_1200e_ssv2_ft.pth": "5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
}
TRAINED = {name for name, record in RECORDS.items() if record.weights}


def clips(count: int = 2, frames: int = 16, height: int = 20, width: int = 28) -> Tensor:
    return torch.randint(0, 256, (count, frames, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class ScriptedLogits(nn.Module):
    """Stands in StyleGAN-V's I3D file: the call of its contract, an answer that shows what was asked."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        scale = 1.0 if rescale and resize and return_features else 0.0
        return scale * x.float().mean([1, 2, 3, 4])[:, None].expand(-1, 400)


class ScriptedProbabilities(nn.Module):
    """Stands in StyleGAN-V's C3D file."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.float().mean([2, 3, 4]) @ torch.linspace(-0.02, 0.02, 303).view(3, 101)).softmax(1)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small files under the published names, and networks of their size."""
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    torch.save(random_i3d(0, width=NARROW).state_dict(), tmp_path / "i3d_pretrained_400.pt")
    kinds = {"weight": "W", "bias": "b"}
    state = random_c3d(0, width=NARROW).state_dict()
    arrays = {f"{name.split('.')[0]}/{kinds[name.split('.')[1]]}": value.numpy() for name, value in state.items()}
    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **arrays)
    np.savez(tmp_path / "mean2.npz", mean=np.full((3, 16, 128, 171), 90, np.float32))
    torch.jit.script(ScriptedLogits()).save(tmp_path / "i3d_torchscript.pt")
    torch.jit.script(ScriptedProbabilities()).save(tmp_path / "c3d_ucf101.pt")
    monkeypatch.setenv("LVDM_TRUST_TORCHSCRIPT", sha256_of(tmp_path / "c3d_ucf101.pt"))  # no hash of it is known
    small = {"depth": 1, "heads": 2, "hidden": 8, "width": WIDTH}
    with_head = {**VideoMAE(**small).state_dict(), "head.weight": torch.zeros(174, WIDTH), "head.bias": torch.zeros(174)}
    torch.save({"module": with_head}, tmp_path / "vit_g_hybrid_pt_1200e_ssv2_ft.pth")
    for name in PINNED:
        monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], sha256=sha256_of(tmp_path / name)))
    monkeypatch.setattr(videomae, "VideoMAE", partial(VideoMAE, **small))
    monkeypatch.setattr(i3d, "I3D", partial(I3D, width=NARROW))
    monkeypatch.setattr(c3d, "C3D", partial(C3D, width=NARROW))
    return tmp_path


def test_every_extractor_gives_what_it_says_and_no_two_share_a_name(folder):
    made = {name: make_extractor(name, width=NARROW) if name in RANDOM else make_extractor(name) for name in RECORDS}
    assert len({extractor.name for extractor in made.values()}) == len(RECORDS)
    for name, extractor in made.items():
        features = extractor(clips())
        assert features.shape == (2, extractor.dim) and features.dtype == torch.float32 and not features.requires_grad
        assert extractor.is_comparable == (name not in RANDOM) and (extractor.weights is not None) == (name in TRAINED)
        if name in TRAINED:
            files = extractor.weights.split(" + ")
            assert extractor.sha256 == " + ".join(sha256_of(folder / file) for file in files)
        if extractor.dim == 101:
            torch.testing.assert_close(features.sum(1), torch.ones(2))
    assert made["i3d"].name == "i3d eps 1e-05 stretch224" and made["random-i3d"].name == "random-i3d seed 0 width 0.0625"


def test_preparations_in_front_of_the_networks(folder):
    """Frames resized, then scaled to [-1, 1]; what differs between the names is the eps and the resize alone."""
    video = clips().permute(0, 4, 1, 2, 3).double()
    for name, eps, resize in (
        ("i3d", 1e-5, i3d.stretched),
        ("i3d-cover", 1e-5, i3d.covered),
        ("i3d-eps1e-3", 1e-3, i3d.stretched),
        ("i3d-tf1", 1e-3, i3d.tensorflow_stretched),
    ):
        network = i3d.load_i3d(folder / "i3d_pretrained_400.pt", eps=eps)
        expected = network((resize(video) / 127.5 - 1).float())
        torch.testing.assert_close(make_extractor(name)(clips()), expected, rtol=1e-4, atol=1e-4)
    network = c3d.load_c3d(folder / "conv3d_deepnetA_ucf.npz")
    frames = F.interpolate(video.transpose(1, 2).flatten(0, 1) / 255, (112, 112), mode="bilinear", align_corners=True)
    shown = 256 * frames.unflatten(0, (2, 16)).transpose(1, 2)[:, [2, 1, 0]] - 90
    torch.testing.assert_close(make_extractor("c3d")(clips()), network(shown.float()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_a_random_extractor_is_a_function_of_its_seed_and_of_nothing_else(name):
    torch.manual_seed(5)
    one = make_extractor(name, seed=3, width=NARROW)
    state = torch.get_rng_state()
    again, other = make_extractor(name, seed=3, width=NARROW), make_extractor(name, seed=4, width=NARROW)
    assert torch.equal(torch.get_rng_state(), state), "the surrounding randomness is left as found"
    assert torch.equal(one(clips()), again(clips())) and not torch.allclose(one(clips()), other(clips()), rtol=0.1)
    assert not one.is_comparable and one.sha256 is None and "seed 3" in one.name
    both = torch.cat([one(clip[None]) for clip in clips()])
    torch.testing.assert_close(one(clips()), both, rtol=1e-4, atol=1e-5)


def test_random_features_see_the_order_of_frames():
    """A disc on its way, against the same frames in another order: far more than two discs on their ways differ."""
    torch.manual_seed(0)
    extractor = make_extractor("random-i3d", width=1 / 8)

    def discs(count: int) -> Tensor:
        grid = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij"))
        places = torch.rand(count, 1, 2) * 12 + torch.arange(16.0).view(1, -1, 1) * torch.tensor([0.4, 0.6])
        inside = (grid - places[..., None, None]).square().sum(2) < 16  # (n, t, h, w)
        return (inside[..., None] * torch.tensor([200, 40, 60])).byte()

    real, fake = discs(12), discs(12)
    order = torch.randperm(16)
    features = {name: extractor(each).double() for name, each in {"real": real, "fake": fake, "shuffled": fake[:, order]}.items()}
    distance = {name: (value.mean(0) - features["real"].mean(0)).norm() for name, value in features.items()}
    assert distance["shuffled"] > 2 * distance["fake"]


def test_features_are_full_float32_within_autocast():
    extractor = make_extractor("random-i3d", width=NARROW)
    plain = extractor(clips(1))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(extractor(clips(1)), plain)
        assert torch.get_float32_matmul_precision() == "medium", "put back"
    finally:
        torch.set_float32_matmul_precision("highest")


# Refusals -----------------------------------------------------------------------------------------------------------------


def test_clips_that_do_not_fit_are_refused_in_a_sentence():
    of_i3d, of_c3d = (make_extractor(name, width=NARROW) for name in ("random-i3d", "random-c3d"))
    with pytest.raises(UserError, match="random-i3d seed 0 .* takes clips of 9 or more frames, not 8; choose"):
        of_i3d(clips(frames=8))
    for frames in (15, 17):
        with pytest.raises(UserError, match=f"takes clips of 16 frames, not {frames}"):
            of_c3d(clips(frames=frames))
    said = r"takes clips as uint8 or float32 levels \(b, t, h, w, 3\), not float64 \(2, 16, 20, 28, 3\)"
    with pytest.raises(UserError, match=said):
        of_i3d(clips().double())
    with pytest.raises(UserError, match=r"not uint8 \(2, 3, 16, 20, 28\)"):
        of_i3d(clips().permute(0, 4, 1, 2, 3))


def test_names_and_options_without_effect_are_refused(folder):
    with pytest.raises(UserError, match="no extractor 'i3d-eps'; did you mean i3d-eps1e-3"):
        make_extractor("i3d-eps")
    with pytest.raises(UserError, match="the weights of i3d are given, so seed 1 and width 1 have no effect"):
        make_extractor("i3d", seed=1)
    with pytest.raises(UserError, match="width 2: a random extractor has more than 0 and at most 1"):
        make_extractor("random-i3d", width=2)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_without_weights_each_names_its_file_and_the_way_without(name, monkeypatch, tmp_path):
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    with pytest.raises(UserError, match=r"is not there and LVDM_OFFLINE=1 .*LVDM_WEIGHTS, or take random features"):
        make_extractor(name)


def test_torchscript_runs_only_if_its_hash_is_known_or_named(folder, monkeypatch):
    monkeypatch.delenv("LVDM_TRUST_TORCHSCRIPT")
    assert make_extractor("i3d-torchscript").is_comparable, "the published file needs no trust"
    monkeypatch.setattr(torch.jit, "load", lambda *a, **o: pytest.fail("code of the file was loaded"))
    digest = sha256_of(folder / "c3d_ucf101.pt")
    with pytest.raises(UserError, match=rf"runs code .*set LVDM_TRUST_TORCHSCRIPT={digest}, or take the extractor c3d"):
        make_extractor("c3d-torchscript")
    torch.save({}, folder / "mine.pt")
    with pytest.raises(UserError, match=r"mine.pt is TorchScript, which runs code"):
        make_extractor("i3d-torchscript", weights=[folder / "mine.pt"])


def test_torchscript_gets_the_clips_as_they_are(folder, monkeypatch):
    expected = clips().float().mean((1, 2, 3, 4))
    torch.testing.assert_close(make_extractor("i3d-torchscript")(clips())[:, 7], expected)
    (folder / "c3d_ucf101.pt").write_bytes(b"not TorchScript")
    monkeypatch.setenv("LVDM_TRUST_TORCHSCRIPT", sha256_of(folder / "c3d_ucf101.pt"))
    with pytest.raises(UserError, match="c3d_ucf101.pt cannot be read as TorchScript"):
        make_extractor("c3d-torchscript")


class Particular(nn.Module):
    """A network as strict as a scripted one can be: contiguous clips, no fuser, and a squeeze that drops the axis of one clip."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.is_contiguous() and not torch._C._jit_texpr_fuser_enabled()
        return x.float().mean((2, 3, 4), keepdim=True).squeeze()


def test_torchscript_gets_contiguous_clips_without_a_fuser_and_gives_a_row_each():
    fuser = torch._C._jit_texpr_fuser_enabled()
    for count in (1, 2):
        video = clips(count).permute(0, 4, 1, 2, 3)
        torch.testing.assert_close(Scripted(Particular(), {})(video), video.float().mean((2, 3, 4)))
    assert torch._C._jit_texpr_fuser_enabled() == fuser, "put back"


# Weights under published names ---------------------------------------------------------------------------------------------


def test_the_known_hashes_are_those_of_the_published_files():
    assert {name: KNOWN[name].sha256 for name in PINNED} == PINNED


@pytest.mark.parametrize("name", sorted(PINNED))
def test_other_weights_under_a_published_name_are_refused_and_as_ones_own_not_comparable(folder, monkeypatch, name):
    """As pytorch-i3d's rgb_imagenet.pt is: the same network, other weights."""
    extractor = next(each for each, record in EXTRACTORS.items() if name in record.weights)
    published = make_extractor(extractor)
    other = folder / "rgb_imagenet.pt"
    (folder / name).rename(other)
    if name.endswith("torchscript.pt"):
        monkeypatch.setenv("LVDM_TRUST_TORCHSCRIPT", sha256_of(other))
    monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], sha256=PINNED[name]))
    own = make_extractor(extractor, weights=[other])
    assert published.is_comparable and not own.is_comparable
    assert (own.weights, own.sha256) == ("rgb_imagenet.pt", sha256_of(other)) and own.name == f"{published.name} own weights"
    assert torch.equal(own(clips()), published(clips()))
    other.rename(folder / name)
    with pytest.raises(UserError, match=f"not the published {name}: .* begins with {PINNED[name][:12]}; .*weights of your own"):
        make_extractor(extractor)


def test_own_weights_are_one_file_for_each_published_one(folder):
    files = [folder / "conv3d_deepnetA_ucf.npz", folder / "mean2.npz"]
    assert make_extractor("c3d", weights=files).weights == "conv3d_deepnetA_ucf.npz + mean2.npz"
    for name, given, sentence in (
        ("c3d", files[:1], r"weights has 1 files for c3d, but it reads conv3d_deepnetA_ucf.npz and mean2.npz; give one for each"),
        ("random-i3d", files[:1], "weights has 1 files for random-i3d, but it reads no file"),
        ("i3d", [folder / "none.pt"], "there is no file .*none.pt of weights"),
    ):
        with pytest.raises(UserError, match=sentence):
            make_extractor(name, weights=given)


def test_other_arrays_in_the_files_of_c3d_are_not_read(folder):
    plain = make_extractor("c3d")(clips())
    for file in ("conv3d_deepnetA_ucf.npz", "mean2.npz"):
        with np.load(folder / file) as arrays:
            np.savez(folder / file, **{**arrays, "conv5c/W": np.zeros((2, 2), np.float32), "iteration": np.array(7)})
    assert torch.equal(make_extractor("c3d")(clips()), plain)
