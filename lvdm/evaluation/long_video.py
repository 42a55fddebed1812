"""Long generated videos over their length: the distance of each chunk to real clips, and what the frames themselves show.

Letters: n videos, t frames, k chunks, d features. A video is cut into chunks of 16 frames that do not overlap; the i-th chunks
of all videos are one set, whose FVD and KVD are taken against the same real clips of 16 frames, as LVDM measures its long
videos. A curve that rises is quality lost; its slope, per 100 frames, says how fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvdm.evaluation.curves import Curves, mean_curves, stacked_curves, write_chart, write_csv
from lvdm.evaluation.frame_curves import TITLES
from lvdm.evaluation.frechet import Moments, frechet_distance
from lvdm.evaluation.kernel import polynomial_mmd
from lvdm.types import UserError

CHUNK = 16  # frames


def chunk_starts(frames: int, *, chunk: int = CHUNK) -> list[int]:
    """First frames of the chunks; what is left over at the end is in none."""
    if frames < chunk:
        raise UserError(f"a video of {frames} frames has no chunk of {chunk}; give longer videos")
    return list(range(0, frames - chunk + 1, chunk))


def chunk_features(
    video: np.ndarray, extractor: Callable[[Tensor], Tensor], *, chunk: int = CHUNK, batch_size: int = 8
) -> np.ndarray:
    """(k, d) float32 features of every chunk of one uint8 video (t, h, w, 3)."""
    clips = np.stack([video[start : start + chunk] for start in chunk_starts(len(video), chunk=chunk)])
    batches = [torch.tensor(clips[i : i + batch_size]) for i in range(0, len(clips), batch_size)]
    return np.concatenate([extractor(batch).float().cpu().numpy() for batch in batches])


@dataclass(frozen=True)
class Slope:
    """Of a straight line through a curve; None where there are too few points to tell."""

    per_100_frames: float | None
    standard_error: float | None


def slope(values: np.ndarray, frames: np.ndarray) -> Slope:
    """Least squares of the values at these frames, without the NaN; the error is that of points scattered about the line."""
    known = np.isfinite(values)
    x, y = frames[known] / 100, values[known]
    if len(x) < 2:
        return Slope(None, None)
    x = x - x.mean()
    steep = float(x @ y / (x @ x))
    residual = y - y.mean() - steep * x
    return Slope(steep, float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x))) if len(x) > 2 else None)


def mean_slope(curves: np.ndarray) -> Slope:
    """Of curves (n, t): each video's slope, their mean, and its error over the videos, whose frames hang together."""
    found = [slope(curve, np.arange(len(curve))).per_100_frames for curve in curves]
    slopes = np.array([one for one in found if one is not None])
    if len(slopes) == 0:
        return Slope(None, None)
    return Slope(float(slopes.mean()), float(slopes.std(ddof=1) / np.sqrt(len(slopes))) if len(slopes) > 1 else None)


@dataclass(frozen=True)
class DistanceOverTime:
    chunk: int  # frames
    fvd: np.ndarray  # (k,)
    kvd: np.ndarray  # (k,)

    def summary(self) -> dict[str, float | None]:
        """First chunk, last chunk and slope of either. The chunks are of the same videos, so the slope's error is a rough one."""
        numbers: dict[str, float | None] = {}
        for name, values in (("fvd", self.fvd), ("kvd", self.kvd)):
            line = slope(values, np.arange(len(values)) * self.chunk)
            numbers |= {f"{name}_first": float(values[0]), f"{name}_last": float(values[-1]), **_named(name, line)}
        return numbers

    def curves(self, frames: int) -> dict[str, np.ndarray]:
        """FVD and KVD at each of `frames` frames, NaN behind the last chunk."""
        rest = np.full(frames - len(self.fvd) * self.chunk, np.nan)
        return {name: np.concatenate([np.repeat(getattr(self, name), self.chunk), rest]) for name in ("fvd", "kvd")}


def distance_over_time(
    real: np.ndarray, features: Mapping[str, np.ndarray], *, ddof: int, chunk: int = CHUNK
) -> DistanceOverTime:
    """Of real clips (N, d) and, by video, the features (k, d) of its chunks; all videos must have as many chunks."""
    counts = {video: len(one) for video, one in features.items()}
    if not counts or len(set(counts.values())) > 1:
        raise UserError(f"FVD over time needs videos of one length, their chunks are {_few(counts)}; cut them to the shortest")
    moments = Moments.of(real)
    by_chunk = np.stack(list(features.values()), axis=1)  # (k, n, d)
    return DistanceOverTime(
        chunk=chunk,
        fvd=np.array([frechet_distance(moments, Moments.of(one), ddof=ddof) for one in by_chunk]),
        kvd=np.array([polynomial_mmd(real, one) for one in by_chunk]),
    )


def _few(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{video}: {count}" for video, count in list(counts.items())[:3]) + (" ..." if len(counts) > 3 else "")


@dataclass(frozen=True)
class LongVideoReport:
    """All videos' curves by name, of `frame_curves`, and the distance over time where features were taken."""

    videos: Mapping[str, Curves]
    over_time: DistanceOverTime | None = None

    def summary(self) -> dict[str, float | None]:
        """Each curve's mean, its mean over the last chunk, and its slope; FVD and KVD of first and last chunk, and theirs."""
        numbers = self.over_time.summary() if self.over_time else {}
        mean = mean_curves(self.videos)
        for name, curves in stacked_curves(self.videos).items():
            numbers |= {name: _mean(mean[name]), f"{name}_last": _mean(mean[name][-CHUNK:]), **_named(name, mean_slope(curves))}
        return numbers

    def write(self, folder: Path) -> list[Path]:
        """`over_time.csv`, a row per video and chunk and the mean with FVD and KVD last; `over_time.png`, a panel a curve."""
        chunk = self.over_time.chunk if self.over_time else CHUNK
        table, chart = folder / "over_time.csv", folder / "over_time.png"
        write_csv(table, self._with_distances(self.videos), frames_per_bin=chunk)
        shown = self._with_distances(_spread(self.videos))
        distances = {"fvd": f"FVD of {chunk} frames", "kvd": f"KVD of {chunk} frames"} if self.over_time else {}
        write_chart(chart, shown, show={**distances, **TITLES}, frames_per_bin=chunk)
        return [table, chart]

    def _with_distances(self, videos: Mapping[str, Curves]) -> dict[str, Curves]:
        """FVD and KVD are of all videos together: they stand at the mean, and nowhere else."""
        mean = mean_curves(self.videos)
        frames = len(next(iter(mean.values())))
        distances = self.over_time.curves(frames) if self.over_time else {}
        nowhere = {name: np.full(frames, np.nan) for name in distances}
        lines = {video: {**nowhere, **_to(curves, frames)} for video, curves in videos.items()}
        return {**lines, "mean": {**distances, **mean}}


def _spread(videos: Mapping[str, Curves]) -> dict[str, Curves]:
    """Below and above which a tenth of the videos lie; nothing for one video."""
    if len(videos) < 2:
        return {}
    curves = stacked_curves(videos)
    return {
        title: {name: _quantile(rows, level) for name, rows in curves.items()}
        for title, level in (("lowest tenth", 0.1), ("highest tenth", 0.9))
    }


def _quantile(rows: np.ndarray, level: float) -> np.ndarray:
    measured = np.isfinite(rows).any(axis=0)
    found = np.full(rows.shape[1], np.nan)
    found[measured] = np.nanquantile(rows[:, measured], level, axis=0)
    return found


def _to(curves: Curves, frames: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([curve, np.full(frames - len(curve), np.nan)]) for name, curve in curves.items()}


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _named(name: str, line: Slope) -> dict[str, float | None]:
    return {f"{name}_per_100_frames": line.per_100_frames, f"{name}_per_100_frames_se": line.standard_error}
