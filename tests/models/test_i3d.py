"""I3D: the recorded logits, the published names and shapes, padding and resizing against slow versions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features.i3d import (
    BRANCHES,
    I3D,
    MIN_FRAMES,
    SamePool,
    Unit,
    covered,
    load_i3d,
    pad_same,
    published_name,
    stretched,
    tensorflow_stretched,
)
from lvdm.types import UserError


def fill(network: nn.Module) -> None:
    """The recorded numbers' weights: a function of each tensor's place in the sorted state dict, of its shape and its kind."""
    trained = dict(network.named_parameters())
    for k, (name, value) in enumerate(sorted(network.state_dict().items())):
        i = np.arange(value.numel(), dtype=np.float64)
        turns = np.sin(12.9898 * i + 78.233 * k) * 43758.5453
        u = 2 * (turns - np.floor(turns)) - 1
        if name.endswith("running_mean"):
            u = 0.1 * np.sin(0.11 * i)
        elif name.endswith("running_var"):
            u = 0.5 + 0.1 * np.cos(0.11 * i)
        elif name not in trained:
            continue
        elif value.ndim == 1:
            u = 1 + 0.1 * u if name.endswith("weight") else 0.1 * u
        else:
            u = u * math.sqrt(3 / math.prod(value.shape[1:]))
        value.copy_(torch.from_numpy(u).view_as(value))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A state dict with the recorded weights, without what batch norms count."""
    network = I3D()
    with torch.no_grad():
        fill(network)
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(("eps", "recorded"), [(1e-5, "i3d_eps1e-5"), (1e-3, "i3d_eps1e-3")])
def test_logits_are_the_recorded_ones_of_the_official_network(parity, published, tmp_path, eps, recorded):
    golden = json.loads(parity("pvdm_golden.json").read_text())[recorded]["logits"]
    torch.save(published, tmp_path / "i3d.pt")
    video = torch.sin(0.0071 * torch.arange(3 * 16 * 224 * 224, dtype=torch.float64)).float().view(1, 3, 16, 224, 224)
    logits = load_i3d(tmp_path / "i3d.pt", eps=eps)(video)
    assert list(logits.shape) == golden["shape"]
    assert logits[0, :4].tolist() == pytest.approx(golden["first"], abs=1e-4)
    assert logits[0, -4:].tolist() == pytest.approx(golden["last"], abs=1e-4)
    assert float(logits.mean()) == pytest.approx(golden["mean"], abs=1e-5)
    assert float(logits.std(correction=0)) == pytest.approx(golden["std"], abs=1e-5)


def test_names_and_shapes_are_the_published_287(parity):
    keys = parity("pvdm_golden.json").parents[1] / "reference" / "i3d_keys.json"
    if not keys.exists():
        pytest.skip("no list of the published names beside the parity files")
    with torch.device("meta"):
        built = {name: list(value.shape) for name, value in I3D().state_dict().items()}
    assert len(built) == 344
    assert {name: shape for name, shape in built.items() if not name.endswith("num_batches_tracked")} == json.loads(
        keys.read_text()
    )


def older_name(name: str) -> str:
    """The way back from the names here to the older ones."""
    older = {branch: f"branch_{place}" for place, branch in BRANCHES.items()}
    parts = [older.get(part, part) for part in name.replace("logits", "conv3d_0c_1x1").replace(".bn.", ".batch3d.").split(".")]
    return ".".join([parts[0][0].lower() + parts[0][1:], *parts[1:]])


def test_files_with_287_and_344_tensors_and_with_the_older_names_are_the_same_network(published, tmp_path):
    counted = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(3) for name in published if "running_mean" in name
    }
    older = {older_name(name): value for name, value in published.items()}
    assert older_name("Mixed_3b.b1a.bn.bias") == "mixed_3b.branch_1.0.batch3d.bias" and len(older) == len(published) == 287
    assert [published_name(name) for name in older] == list(published)
    for tensors in ({**published, **counted}, older):
        torch.save(tensors, tmp_path / "i3d.pt")
        loaded = load_i3d(tmp_path / "i3d.pt", eps=1e-5).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in published.items())
    torch.save({name: value for name, value in published.items() if name != "logits.conv3d.bias"}, tmp_path / "i3d.pt")
    with pytest.raises(UserError, match="i3d.pt does not hold I3D for Kinetics-400: logits.conv3d.bias is missing"):
        load_i3d(tmp_path / "i3d.pt", eps=1e-5)


def test_nine_frames_are_the_fewest():
    network = I3D(width=1 / 16).eval()
    assert network(torch.zeros(2, 3, MIN_FRAMES, 224, 224)).shape == (2, 400)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, MIN_FRAMES - 1, 224, 224))


# Padding ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_padding_fits_one_window_for_each_stride_begun_and_puts_the_odd_zero_last(size, kernel, stride):
    padded = pad_same(torch.ones(1, 1, size, size, size), (kernel,) * 3, (stride,) * 3)
    assert (padded.shape[2] - kernel) // stride + 1 == math.ceil(size / stride)
    zeros = (padded[0, 0, :, padded.shape[3] // 2, padded.shape[4] // 2] == 0).tolist()
    before, after = zeros.index(False), zeros[::-1].index(False)
    assert after - before in (0, 1) and padded.shape[2] == size + before + after


@pytest.mark.parametrize(
    ("kernel", "stride"), [((3, 3, 3), (2, 2, 2)), ((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (2, 2, 2))]
)
@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 8, 8)])
def test_a_pool_is_pytorchs_after_the_same_zeros(kernel, stride, shape):
    x = torch.rand(2, 3, *shape)
    assert torch.equal(SamePool(kernel, stride)(x), F.max_pool3d(pad_same(x, kernel, stride), kernel, stride))


def test_a_unit_is_convolution_norm_and_relu():
    unit = Unit(2, 3, kernel=3, eps=1e-3).eval()
    with torch.no_grad():
        unit.bn.running_var.fill_(0.5)
        unit.bn.running_mean.fill_(0.1)
    x = torch.randn(1, 2, 4, 5, 6)
    expected = F.relu((F.conv3d(x, unit.conv3d.weight, padding=1) - 0.1) / math.sqrt(0.5 + 1e-3))
    torch.testing.assert_close(unit(x), expected)


# Resizing -----------------------------------------------------------------------------------------------------------------


def slow_bilinear(image: np.ndarray, size: tuple[int, int], *, half_pixel: bool) -> np.ndarray:
    """Pixel by pixel from the definition; half_pixel puts samples at the middles of their shares."""
    out = np.zeros(size)
    for place in np.ndindex(*size):
        corners = []
        for i, length, target in zip(place, image.shape, size, strict=True):
            at = max((i + 0.5) * length / target - 0.5, 0) if half_pixel else i * length / target
            low = min(int(at), length - 1)
            corners.append([(low, 1 - (at - low)), (min(low + 1, length - 1), at - low)])
        out[place] = sum(a * b * image[row, column] for row, a in corners[0] for column, b in corners[1])
    return out


@pytest.mark.parametrize("shape", [(9, 12), (12, 9), (20, 13), (14, 14)])
def test_each_way_of_resizing_is_its_definition(shape):
    side = 14
    image = np.random.default_rng(0).random(shape)
    video = torch.from_numpy(image).expand(1, 2, 3, *shape).contiguous()
    stretch = slow_bilinear(image, (side, side), half_pixel=True)
    tall, wide = (math.ceil(length * side / min(shape)) for length in shape)
    cover = slow_bilinear(image, (tall, wide), half_pixel=True)
    cover = cover[(tall - side) // 2 :, (wide - side) // 2 :][:side, :side]
    legacy = slow_bilinear(image, (side, side), half_pixel=False)
    for resized, expected in ((stretched, stretch), (covered, cover), (tensorflow_stretched, legacy)):
        got = resized(video, side=side)
        assert got.shape == (1, 2, 3, side, side)
        np.testing.assert_allclose(got[0, 1, 2], expected, atol=1e-12)
