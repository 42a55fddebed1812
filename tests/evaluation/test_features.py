"""Features of clips: passes of one size whatever the batches are, rows that are checked, random stand-ins that say so."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

import lvdm
from lvdm.evaluation import METRICS, Metric
from lvdm.evaluation.features import extract
from lvdm.evaluation.protocols.named import get_protocol
from lvdm.models.features import FrozenFeatures
from lvdm.models.features.extractors import make_extractor
from lvdm.types import UserError

NARROW = lvdm.EvalSettings(feature_width=1 / 16, device="cpu")


def clips(count: int, frames: int = 9, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, frames, size, size, 3), dtype=torch.uint8, generator=generator)


class Recorded(nn.Module):
    """Features that depend on the size of the pass, as the rounding of a GPU's kernels does."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[int] = []

    def forward(self, video: Tensor) -> Tensor:
        self.passes.append(len(video))
        return video.float().mean((2, 3, 4)) + 1e-3 * len(video)


class InPasses(FrozenFeatures):
    """An extractor that takes 4 clips of 9 frames at once, as one on a GPU takes more than one."""

    def clips_at_once(self, frames: int) -> int:
        return 36 // frames


def recorded() -> InPasses:
    return InPasses(Recorded(), lambda video: video, name="recorded", dim=3, min_frames=1)


def features_of(batches: list[Tensor], extractor: FrozenFeatures) -> np.ndarray:
    return extract(batches, extractor, total=sum(map(len, batches)), what="clips")


@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_networks_get_passes_of_one_size_whatever_the_batches_are(batch: int) -> None:
    extractor, video = recorded(), clips(7)
    found = features_of(list(video.split(batch)), extractor)
    assert extractor.network.passes == [4, 4], "the last one is padded"
    np.testing.assert_allclose(found, video.float().mean((1, 2, 3)) + 4e-3, rtol=1e-6)


def test_clips_of_other_sizes_begin_another_pass() -> None:
    extractor = recorded()
    parts = [clips(2), clips(1, frames=18), clips(5, frames=18, size=20)]
    found = features_of(parts, extractor)
    assert extractor.network.passes == [4, 2, 2, 2, 2]
    sizes = np.array([4] * 2 + [2] * 6)
    np.testing.assert_allclose(found, torch.cat([x.float().mean((1, 2, 3)) for x in parts]) + 1e-3 * sizes[:, None], rtol=1e-6)


def test_padding_and_position_change_no_bit_of_a_network() -> None:
    network = make_extractor("random-i3d", width=1 / 16)
    assert isinstance(network, FrozenFeatures)
    network.clips_at_once = lambda frames: 4  # type: ignore[method-assign]
    video = clips(5)
    found = features_of([video], network)
    np.testing.assert_array_equal(features_of([video[:2]], network), found[:2])
    np.testing.assert_array_equal(features_of([video.flip(0)], network), found[::-1])


# Rows of extractors, numbers of metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (
            lambda video: video.float().mean((0, 2, 3, 4))[None].expand(2, 3),
            r"own returned \(2, 3\) for 1 clips; expected finite",
        ),
        (lambda video: video.float().mean((2, 3, 4))[:, :2], r"own returned \(1, 2\) for 1 clips"),
        (lambda video: video.float().mean((2, 3, 4)).log() / 0, r"own returned numbers that are not finite for 1 clips"),
    ],
)
def test_what_an_own_extractor_returns_is_checked(network, sentence: str) -> None:
    class Own:
        name, dim, min_frames, max_frames, is_comparable, weights, sha256 = "own", 3, 1, None, True, None, None

        def __call__(self, videos: Tensor) -> Tensor:
            return network(videos.permute(0, 4, 1, 2, 3))

    with pytest.raises(UserError, match=sentence):
        extract([clips(2)], Own(), total=2, what="clips")


@pytest.fixture
def metrics() -> Iterator[None]:
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


@pytest.mark.parametrize("value", [float("nan"), np.zeros(2), "0.5 or so", None, torch.zeros(2)])
def test_what_an_own_metric_returns_is_one_finite_number(metrics: None, value: object) -> None:
    metric = METRICS.add(Metric("own", "a test's", "distance", lambda x, y: value, extractors=("i3d",)))
    with pytest.raises(UserError, match="the metric own returned .*; expected one finite number: mend its `compute`"):
        metric.under(get_protocol("tats"))(np.zeros((2, 3)), np.zeros((2, 3)))


def test_random_features_are_those_of_the_stand_in_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    video = clips(2).numpy()
    with caplog.at_level(logging.WARNING):
        found = lvdm.features(video, "random", settings=NARROW)
    assert "random-i3d seed 0 width 0.0625: they can be compared with nothing but themselves" in caplog.text
    np.testing.assert_array_equal(found, lvdm.features(video, "random-i3d", settings=NARROW))


def test_damaged_cached_features_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path))
    real, fake = clips(3).numpy(), clips(4).numpy()

    def fvd() -> float:
        settings = replace(NARROW, changes={"frames": 9, "resolution": 16})
        return lvdm.fvd(real, fake, features="random", settings=settings)

    expected = fvd()
    (path,) = (tmp_path / "features").iterdir()
    whole = path.read_bytes()
    tensors = load_file(path)
    for place in (-1, -50, len(whole) - tensors["features"].nbytes - 40):  # of features, of features, of the clips' hashes
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        assert fvd() == expected and path.read_bytes() == whole
    for content in ({"features": tensors["features"] + 1}, {"features": tensors["features"] * np.nan}):
        save_file(content, path, {"hashes": json.dumps(["0" * 64] * 3)})  # as earlier versions wrote it
        assert fvd() == expected and path.read_bytes() == whole
