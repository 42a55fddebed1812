"""What is worse scores worse, and what is the same scores near zero, by scripts/eval.py on toy videos with random features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_evaluation import NARROW, result_of, saved, toys, values_of

from lvdm.models.features import EXTRACTORS, Frozen

CLIPS = 24


def worse(clean: np.ndarray) -> dict[str, np.ndarray]:
    """The same videos, each spoilt in one way."""
    rng = np.random.default_rng(1)
    frames = clean.shape[1]
    ramp = np.linspace(0, 60, frames)[:, None, None, None] * np.array([1, 0, -1])  # towards red, from blue
    spoilt = {
        "shuffled": np.stack([video[rng.permutation(frames)] for video in clean]),
        "frozen": np.repeat(clean[:, :1], frames, axis=1),
        "noise": clean + rng.normal(0, 25, clean.shape),
        "colour drift": clean + ramp,
    }
    return {name: np.clip(videos, 0, 255).astype(np.uint8) for name, videos in spoilt.items()}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """FVD and KVD against 24 clean videos: of 24 others, of those spoilt, and of the real ones themselves."""
    folder = tmp_path_factory.mktemp("ordering")
    clean, held_out = (toys(CLIPS, frames=16, size=32, split=split) for split in ("val", "train"))
    real = saved(folder / "real.npy", held_out)
    arguments = ["--real", real, "--protocol", "tats", *NARROW, "--allow-fewer"]
    sets = {"clean": clean, "itself": held_out, **worse(clean)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LVDM_CACHE", str(folder / "cache"))
        return {
            name: values_of(folder / "it.json", *arguments, "--fake", saved(folder / f"{name}.npy", videos))
            for name, videos in sets.items()
        }


@pytest.mark.parametrize("metric", ["fvd_n24", "kvd_n24"])
@pytest.mark.parametrize("spoilt", ["shuffled", "frozen", "noise", "colour drift"])
def test_what_is_spoilt_scores_worse_than_what_is_clean(spoilt: str, metric: str, scored: dict[str, dict[str, float]]) -> None:
    assert scored[spoilt][metric] > scored["clean"][metric] + 0.05 * abs(scored["clean"][metric])


def test_a_set_against_itself_scores_nothing(scored: dict[str, dict[str, float]]) -> None:
    """FVD is 0 but for rounding; KVD, which leaves a clip's likeness to itself out on one side alone, falls below 0."""
    assert scored["itself"]["fvd_n24"] < 1e-3 * scored["clean"]["fvd_n24"]
    assert scored["itself"]["kvd_n24"] < min(0, scored["clean"]["kvd_n24"])


class ProjectedPixels(torch.nn.Module):
    """Twelve fixed random views of a clip's pixels and of how they change: features in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(2, 3 * 16 * 16, 12, generator=torch.Generator().manual_seed(0)) / 40

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        x = video.transpose(1, 2).flatten(2)  # (b, t, c h w)
        return x.mean(1) @ self.weight[0] + (x[:, -1] - x[:, 0]) @ self.weight[1]


def test_a_data_set_against_itself_scores_near_zero_at_2048_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two draws of a clip from each of 2048 videos, in a protocol's full numbers. I3D would take minutes, so here the features
    are cheap ones."""
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path))
    cheap = Frozen(ProjectedPixels(), lambda video: video / 127.5 - 1)
    record = replace(EXTRACTORS["random-i3d"], load=lambda seed, width: cheap, dim=12, min_frames=2)
    monkeypatch.setitem(EXTRACTORS, "random-i3d", record)
    data = toys(2048, frames=8)
    plain = ["runs=1", "frames=4", "resolution=null", "resize=none", "antialias=true", "fake_clips=one random a video"]
    arguments = ["--real", saved(tmp_path / "real.npy", data), "--protocol", "lvdm-fvd2048", "--features", "random"]
    itself = result_of(tmp_path / "a.json", *arguments, "--fake", str(tmp_path / "real.npy"), "--set", *plain)
    drifting = saved(tmp_path / "drifting.npy", worse(data)["colour drift"])
    spoilt = result_of(tmp_path / "b.json", *arguments, "--fake", drifting, "--set", *plain)
    assert (itself["num_real"], itself["num_fake"], list(itself["metrics"])) == (2048, 2048, ["fvd", "kvd"])
    for metric in ("fvd", "kvd"):
        near, far = (abs(one["metrics"][metric]["value"]) for one in (itself, spoilt))
        assert 0 < near < 0.02 * far, (metric, near, far)
    x = record.make()(torch.from_numpy(data[:, :4]))
    assert itself["metrics"]["fvd"]["value"] < 1e-3 * float(x.var(0).sum())
