"""Long generated videos over their length: the distance of each chunk to real clips, and what the frames themselves show.

Letters: n videos, N real clips, t frames, k chunks, d features, r runs. A video is cut into chunks of 16 frames that do not
overlap; the i-th chunks of all videos are one set, whose FVD and KVD are taken against the same real clips of 16 frames, as LVDM
measures its long videos. A curve that rises is quality lost; its slope, per 100 frames, says how fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lvdm.evaluation.long.frame_curves import TITLES
from lvdm.evaluation.results.curves import Curves, mean_curves, stacked_curves, write_chart, write_csv

CHUNK = 16  # frames over which curves are summarised without a protocol


@dataclass(frozen=True)
class Slope:
    """The slope of a straight line through a curve; None if there are too few points."""

    per_100_frames: float | None
    standard_error: float | None


def slope(values: np.ndarray, frames: np.ndarray) -> Slope:
    """Return the least-squares line of the values at these frames, without the NaN; its error is that of scattered points."""
    known = np.isfinite(values)
    x, y = frames[known] / 100, values[known]
    if len(x) < 2:
        return Slope(None, None)
    x = x - x.mean()
    steep = float(x @ y / (x @ x))
    residual = y - y.mean() - steep * x
    return Slope(steep, float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x))) if len(x) > 2 else None)


def mean_slope(curves: np.ndarray) -> Slope:
    """Return the mean slope of curves (n, t), and its error over the videos, because frames of one video are correlated."""
    found = [slope(curve, np.arange(len(curve))).per_100_frames for curve in curves]
    slopes = np.array([one for one in found if one is not None])
    if len(slopes) == 0:
        return Slope(None, None)
    return Slope(float(slopes.mean()), float(slopes.std(ddof=1) / np.sqrt(len(slopes))) if len(slopes) > 1 else None)


def distance_over_time(
    distance: Callable[[np.ndarray, np.ndarray], float], real: Sequence[np.ndarray], chunks: Sequence[np.ndarray]
) -> np.ndarray:
    """Return distances (r, k) of the real clips (N, d) of every run and the i-th chunks (n, d) of all videos."""
    return np.array([[distance(clips, chunk) for chunk in chunks] for clips in real]).reshape(len(real), len(chunks))


@dataclass(frozen=True)
class Summary:
    """A curve in a few numbers: its mean, its means over the first and the last chunk, and its slope."""

    mean: float | None
    first: float | None
    last: float | None
    per_100_frames: float | None
    standard_error: float | None  # of the slope


@dataclass(frozen=True)
class DistanceOverTime:
    """Distances of the chunks by the names under which they may be published, such as fvd_n512.

    Args:
        chunk: frames from one chunk to the next.
        runs: (r, k) of each.
        about: text of a chart after the name.
    """

    chunk: int
    runs: Mapping[str, np.ndarray]
    about: str = ""

    def starts(self) -> np.ndarray:
        """Return (k,) first frames of the chunks."""
        return self.chunk * np.arange(next(iter(self.runs.values())).shape[1])

    def summary(self) -> dict[str, Summary]:
        """Return the summary of the mean over runs. The chunks are of the same videos, so the slope's error is a rough one."""
        found = {}
        for name, runs in self.runs.items():
            mean = runs.mean(axis=0)
            line = slope(mean, self.starts())
            found[name] = Summary(float(mean.mean()), float(mean[0]), float(mean[-1]), line.per_100_frames, line.standard_error)
        return found

    def curves(self, frames: int) -> dict[str, np.ndarray]:
        """Return the mean over runs at each of `frames` frames, and the deviation of several; NaN after the last chunk."""
        found = {name: runs.mean(axis=0) for name, runs in self.runs.items()}
        found |= {f"{name}_std": runs.std(axis=0) for name, runs in self.runs.items() if len(runs) > 1}
        return {name: _to(np.repeat(values, self.chunk), frames) for name, values in found.items()}

    def titles(self) -> dict[str, str]:
        """Return what a chart calls each distance."""
        return {name: f"{name} of {self.chunk} frames{self.about}" for name in self.runs}


@dataclass(frozen=True)
class LongVideoReport:
    """All videos' curves by name, of `frame_curves`, and the distance over time where features were taken."""

    videos: Mapping[str, Curves]
    over_time: DistanceOverTime | None = None

    def summary(self) -> dict[str, Summary]:
        """Return the summaries of the distances and of each curve, the mean over videos, each over its own length."""
        found = self.over_time.summary() if self.over_time else {}
        for name, rows in stacked_curves(self.videos).items():
            lines = [curves[name] for curves in self.videos.values()]
            line = mean_slope(rows)
            parts = (lines, [one[:CHUNK] for one in lines], [one[-CHUNK:] for one in lines])
            whole, first, last = map(_mean_of_means, parts)
            found[name] = Summary(whole, first, last, line.per_100_frames, line.standard_error)
        return found

    def write(self, folder: Path) -> list[Path]:
        """Write `over_time.csv`, a row per video and chunk, the mean with the distances last, and `over_time.png`."""
        chunk = self.over_time.chunk if self.over_time else CHUNK
        table, chart = folder / "over_time.csv", folder / "over_time.png"
        write_csv(table, self._with_distances(self.videos), frames_per_bin=chunk)
        titles = {**(self.over_time.titles() if self.over_time else {}), **TITLES}
        write_chart(chart, self._with_distances(_spread(self.videos)), show=titles, frames_per_bin=chunk)
        return [table, chart]

    def _with_distances(self, videos: Mapping[str, Curves]) -> dict[str, Curves]:
        """Return the curves with the distances, which are of all videos together and so belong to their mean."""
        mean = mean_curves(self.videos)
        frames = len(next(iter(mean.values())))
        distances = self.over_time.curves(frames) if self.over_time else {}
        nowhere = {name: np.full(frames, np.nan) for name in distances}
        lines = {video: {**nowhere, **_all_to(curves, frames)} for video, curves in videos.items()}
        return {**lines, "mean": {**distances, **mean}}


def _spread(videos: Mapping[str, Curves]) -> dict[str, Curves]:
    """Return the curves below and above which a tenth of the videos lie; nothing for one video."""
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


def _all_to(curves: Curves, frames: int) -> dict[str, np.ndarray]:
    return {name: _to(curve, frames) for name, curve in curves.items()}


def _to(curve: np.ndarray, frames: int) -> np.ndarray:
    return np.concatenate([curve, np.full(frames - len(curve), np.nan)])


def _mean_of_means(curves: Sequence[np.ndarray]) -> float | None:
    """Return the mean over curves of what could be measured; None if nothing could."""
    means = [np.nanmean(curve) for curve in curves if np.isfinite(curve).any()]
    return float(np.mean(means)) if means else None
