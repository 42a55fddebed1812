"""FID and KID of frames: the network against torchvision's, the distances against torchmetrics and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_evaluation import WIDTH, result_of, saved, toys
from torchvision.models import inception as published

import lvdm
from lvdm.evaluation import Moments, frechet_distance, polynomial_mmd
from lvdm.evaluation.metrics import frames
from lvdm.evaluation.metrics.frames import fid, kid
from lvdm.models.features.extractors import EXTRACTORS, ExtractorRecord, Frozen, make_extractor
from lvdm.models.features.inception import Inception, load_inception, prepared
from lvdm.types import UserError


def test_the_network_is_torchvisions_but_for_its_pools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With averages that leave the padding out; the pool of the last block, the largest there, is looked at below."""
    torch.manual_seed(0)
    theirs = published.inception_v3(weights=None, aux_logits=False, init_weights=False, num_classes=1008).eval()
    torch.save(theirs.state_dict(), tmp_path / "inception.pth")
    ours = load_inception(tmp_path / "inception.pth")
    assert set(ours.state_dict()) == {name for name in theirs.state_dict() if not name.startswith("fc.")}
    theirs.fc = torch.nn.Identity()
    ours.Mixed_7c.pool = "average"
    monkeypatch.setattr(published.F, "avg_pool2d", partial(F.avg_pool2d, count_include_pad=False))
    x = torch.rand(1, 3, 2, 107, 91) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], theirs(x[0].transpose(0, 1)), rtol=1e-4, atol=1e-5)


def test_the_last_block_takes_the_largest_and_frames_are_scaled_as_tensorflow_does() -> None:
    network = Inception(width=1 / 16)
    assert [network.get_submodule(f"Mixed_{name}").pool for name in ("5b", "6c", "7b", "7c")] == ["average"] * 3 + ["largest"]
    x = torch.zeros(1, 1, 3, 3)
    x[..., 1, 1] = 9
    assert network.Mixed_7c._pooled(x)[0, 0, 0, 0] == 9 and network.Mixed_7b._pooled(x)[0, 0, 0, 0] == 9 / 4
    levels = torch.tensor([0, 128, 255]).view(1, 3, 1, 1, 1).expand(1, 3, 2, 299, 299)
    torch.testing.assert_close(prepared(levels)[0, :, 0, 0, 0], torch.tensor([-1.0, 0.0, 127 / 128]))


def features(count: int, frames: int, *, seed: int, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(seed, 1 + seed, size=(count, frames, dim))


def test_every_frame_is_a_sample() -> None:
    x, y = features(9, 4, seed=0), features(7, 4, seed=1)
    rows = [each.reshape(-1, 6) for each in (x, y)]
    expected = frechet_distance(*map(Moments.of, rows), ddof=1)
    assert fid(x, y, ddof=1) == pytest.approx(expected) == pytest.approx(fid(Moments.of(rows[0]), y, ddof=1))
    mean, scale = np.square(rows[0].mean(0) - rows[1].mean(0)).sum(), 6 * (2 - 1) ** 2
    assert fid(features(4000, 5, seed=0), features(4000, 5, seed=1), ddof=1) == pytest.approx(6 + scale, rel=0.05) and mean > 0
    assert kid(features(9, 4, seed=0), features(9, 4, seed=1), seed=0) == pytest.approx(
        polynomial_mmd(x.reshape(-1, 6), features(9, 4, seed=1).reshape(-1, 6))
    )


def test_kid_over_subsets_has_the_mean_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "SUBSET", 60)
    x, y = features(40, 5, seed=0), features(50, 5, seed=1) / 2
    whole = polynomial_mmd(x.reshape(-1, 6), y.reshape(-1, 6))
    drawn = kid(x, y, seed=3)
    assert drawn == pytest.approx(whole, rel=0.1) and drawn != whole
    assert drawn == kid(x, y, seed=3) != kid(x, y, seed=4)


class Corners(torch.nn.Module):
    """Eight numbers of each frame: (b, 3, t, h, w) -> (b, t, 8)."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool3d(video.float().mean(1), (None, 2, 4)).flatten(2) / 255


@pytest.fixture
def corners() -> Iterator[None]:
    record = ExtractorRecord("corners", "a test's", lambda: Frozen(Corners()), dim=8, min_frames=1, metrics=("fid", "kid"))
    EXTRACTORS.add(record)
    yield
    del EXTRACTORS["corners"]


def test_frames_in_another_order_are_the_same_set(corners: None) -> None:
    real, fake = toys(6, frames=8, size=24), toys(6, frames=8, size=24, split="val")
    settings = lvdm.EvalSettings(changes={"frames": 8, "resolution": None, "resize": "none"}, is_cached=False, bootstrap=3)
    scores = {}
    for name, clips in {"fake": fake, "shuffled": fake[:, ::-1], "grey": np.full_like(fake, 128)}.items():
        found = lvdm.evaluate(real, clips, "frames2048", num=6, features="corners", settings=settings)
        scores[name] = [found.values[metric].value for metric in ("fid", "kid")]
        assert found.values["fid"].interval is not None and found.num_fake == 6, "clips are counted and resampled, not frames"
    assert scores["shuffled"] == pytest.approx(scores["fake"], rel=1e-6)
    assert all(grey > 3 * abs(other) for grey, other in zip(scores["grey"], scores["fake"], strict=True))
    x, y = (video.mean(-1).reshape(48, 2, 12, 4, 6).mean((2, 4)).reshape(48, 8) / 255 for video in (real, fake))
    assert scores["fake"][0] == pytest.approx(frechet_distance(Moments.of(x), Moments.of(y), ddof=1), rel=1e-4)
    known = lvdm.statistics(real, "frames2048", num=6, features="corners", settings=settings)
    once = replace(settings, bootstrap=0)
    by_statistics = lvdm.evaluate(known, fake, "frames2048", metrics=["fid"], num=6, features="corners", settings=once)
    assert by_statistics.values["fid"].value == pytest.approx(scores["fake"][0], rel=1e-6)


def test_the_command_measures_frames_with_a_labelled_stand_in(tmp_path: Path) -> None:
    sides = ["--real", saved(tmp_path / "real.npy", toys(2)), "--fake", saved(tmp_path / "fake.npy", toys(2, split="val"))]
    options = ["--protocol", "frames2048", "--features", "random", "--feature-width", str(WIDTH), "--allow-fewer"]
    changes = ["--set", "frames=2", "resolution=16", "--no-cache", "--device", "cpu", "--metrics", "kid"]
    result = result_of(tmp_path / "it.json", *sides, *options, *changes)
    assert result["metrics"]["kid_n2"]["label"] == "not comparable"
    assert result["extractor"]["name"] == "random-inception seed 0 width 0.03125" and result["extractor"]["dim"] == 2048


def test_features_of_frames_are_refused_by_metrics_of_clips() -> None:
    x = make_extractor("random-inception", width=WIDTH)(torch.zeros(2, 3, 8, 8, 3, dtype=torch.uint8)).numpy()
    assert x.shape == (2, 3, 2048)
    with pytest.raises(UserError, match=r"features of clips are \(n, d\), a row a clip; got \(2, 3, 2048\)"):
        Moments.of(x)
    with pytest.raises(UserError, match="fvd cannot use the extractor 'inception'"):
        lvdm.evaluate(toys(2), toys(2), "tats", metrics=["fvd"], features="inception")
