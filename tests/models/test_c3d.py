"""C3D: from files with the published names, its pools, its preparation and its network against slow versions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvdm.models.features import c3d
from lvdm.models.features.c3d import C3D, load_c3d, load_mean, prepared
from lvdm.types import UserError


def published_arrays(width: float = 1.0) -> dict[str, np.ndarray]:
    """TGANv2's names with small random values."""
    names = {".weight": "/W", ".bias": "/b"}
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        state = C3D(width=width).state_dict()
    arrays = {}
    for name, value in state.items():
        layer, kind = name.rsplit(".", 1)
        spread = (2 / np.prod(value.shape[1:])) ** 0.5 if value.ndim > 1 else 0.01
        arrays[layer + names[f".{kind}"]] = rng.standard_normal(tuple(value.shape), dtype=np.float32) * np.float32(spread)
    return arrays


def test_names_and_shapes_are_the_published_ones(parity):
    keys = parity("pvdm_golden.json").parents[1] / "reference" / "c3d_keys.json"
    if not keys.exists():
        pytest.skip("no list of the published names beside the parity files")
    with torch.device("meta"):
        built = {name: list(value.shape) for name, value in C3D().state_dict().items()}
    assert built == json.loads(keys.read_text())["suggested_torch_layout(one-to-one rename of the npz)"]


def slow_pool(x: np.ndarray, kernel: tuple[int, int, int]) -> np.ndarray:
    """The largest of each block; blocks at the far end may be smaller, and none is left out."""
    sizes = [-(-length // k) for length, k in zip(x.shape[1:], kernel, strict=True)]
    out = np.zeros((len(x), *sizes), x.dtype)
    for place in np.ndindex(*sizes):
        block = tuple(slice(i * k, (i + 1) * k) for i, k in zip(place, kernel, strict=True))
        out[(slice(None), *place)] = x[(slice(None), *block)].max((1, 2, 3))
    return out


def test_a_file_of_the_published_size_is_read_tensor_by_tensor(tmp_path):
    with torch.device("meta"):
        state = C3D().state_dict()
    names = [name.replace(".weight", "/W").replace(".bias", "/b") for name in state]
    shapes = [tuple(value.shape) for value in state.values()]
    zeros = {name: np.zeros(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
    for place, array in enumerate(zeros.values()):
        array.flat[-1] = place
    np.savez(tmp_path / "c3d.npz", **zeros)
    loaded = load_c3d(tmp_path / "c3d.npz")
    assert [float(value.flatten()[-1]) for value in loaded.state_dict().values()] == list(range(len(names)))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_network_is_its_description_layer_by_layer(tmp_path, monkeypatch):
    """At an eighth of the width: convolutions, pools block by block, linear layers, probabilities from exponentials."""
    monkeypatch.setattr(c3d, "C3D", lambda: C3D(width=1 / 8))
    arrays = published_arrays(width=1 / 8)
    np.savez(tmp_path / "c3d.npz", **arrays)
    clip = torch.randn(1, 3, 16, 112, 112)
    got = load_c3d(tmp_path / "c3d.npz")(clip)
    x = clip[0].numpy()
    pools = {"conv1a": (1, 2, 2), "conv2a": (2, 2, 2), "conv3b": (2, 2, 2), "conv4b": (2, 2, 2), "conv5b": (2, 2, 2)}
    shapes = []
    for name in ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"):
        weight, bias = (torch.from_numpy(arrays[f"{name}/{kind}"]) for kind in "Wb")
        x = F.conv3d(torch.from_numpy(x), weight, bias, padding=1).clamp(min=0).numpy()
        if name in pools:
            x = slow_pool(x, pools[name])
            shapes.append(x.shape[1:])
    assert shapes == [(16, 56, 56), (8, 28, 28), (4, 14, 14), (2, 7, 7), (1, 4, 4)]
    x = x.reshape(-1)  # channels, then time, rows, columns
    for name in ("fc6", "fc7"):
        x = np.maximum(arrays[f"{name}/W"] @ x + arrays[f"{name}/b"], 0)
    logits = (arrays["fc8/W"] @ x + arrays["fc8/b"]).astype(np.float64)
    np.testing.assert_allclose(got[0], np.exp(logits) / np.exp(logits).sum(), rtol=1e-3)
    assert float(got.sum()) == pytest.approx(1, abs=1e-6)


def test_preparation_pixel_by_pixel():
    """BGR, corners on corners, 128 x + 128 less the mean."""
    video = torch.rand(1, 3, 2, 5, 9, dtype=torch.float64) * 2 - 1
    mean = torch.rand(3, 2, 112, 112, dtype=torch.float64) * 255
    got = prepared(video, mean)
    for colour, frame, row, column in [(0, 0, 0, 0), (1, 1, 111, 111), (2, 0, 40, 71), (0, 1, 111, 3)]:
        (y, dy), (x, dx) = (divmod(at * (length - 1) / 111, 1) for at, length in ((row, 5), (column, 9)))
        image = video[0, 2 - colour, frame]
        corners = [(y, x, (1 - dy) * (1 - dx)), (y, x + 1, (1 - dy) * dx), (y + 1, x, dy * (1 - dx)), (y + 1, x + 1, dy * dx)]
        value = sum(share * image[int(a), int(b)] for a, b, share in corners if share > 0)
        assert float(got[0, colour, frame, row, column]) == pytest.approx(
            float(128 * value + 128 - mean[colour, frame, row, column])
        )


def test_the_mean_is_cut_off_centre_as_published(tmp_path):
    mean = np.arange(3 * 16 * 128 * 171, dtype=np.float32).reshape(3, 16, 128, 171)
    for array in (mean, mean[None]):
        np.savez(tmp_path / "mean2.npz", mean=array)
        np.testing.assert_array_equal(load_mean(tmp_path / "mean2.npz"), mean[:, :, 8:120, 8:120])
    np.savez(tmp_path / "mean2.npz", mean=mean[..., :128])
    with pytest.raises(UserError, match=r"mean2.npz does not hold C3D's mean clip: 'mean' is \(3, 16, 128, 128\)"):
        load_mean(tmp_path / "mean2.npz")


def test_a_file_of_another_c3d_is_refused_by_name_and_shape(tmp_path: Path):
    arrays = published_arrays(width=1 / 8)
    np.savez(tmp_path / "c3d.npz", **arrays)
    with pytest.raises(UserError, match=r"c3d.npz does not hold C3D for UCF-101: conv1a.weight is \(8, 3, 3, 3, 3\) in the file"):
        load_c3d(tmp_path / "c3d.npz")
    np.savez(tmp_path / "c3d.npz", **{name: value for name, value in arrays.items() if name != "conv1a/W"})
    with pytest.raises(UserError, match="conv1a.weight is missing"):
        load_c3d(tmp_path / "c3d.npz")
