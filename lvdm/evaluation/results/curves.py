"""Write curves over the length of a video: as CSV, a row per video and bin with the mean last, and as a chart.

Letters: t frames. A curve is one number a frame, NaN if it could not be measured; over a bin of frames it is their mean.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lvdm.evaluation.results.records import write_content

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, np.ndarray]  # curve's name -> (t,)

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#7f7f7f")  # for colour-blind readers
WIDTH, HEIGHT, DPI = 760, 190, 100  # of one panel, pixels
NAMED = 8  # videos that a legend has room for


def binned(curve: np.ndarray, frames_per_bin: int) -> np.ndarray:
    """Return means over bins of frames, without the NaN; the last bin may be shorter."""
    padding = -len(curve) % frames_per_bin
    rows = np.concatenate([np.asarray(curve, dtype=float), np.full(padding, np.nan)]).reshape(-1, frames_per_bin)
    return _nanmean(rows, axis=1)


def stacked_curves(videos: Mapping[str, Curves]) -> dict[str, np.ndarray]:
    """Return each curve of all videos (n, t), NaN after the end of a shorter one."""
    names = next(iter(videos.values())).keys()
    length = max(len(curve) for curves in videos.values() for curve in curves.values())
    return {name: np.stack([_padded(curves[name], length) for curves in videos.values()]) for name in names}


def mean_curves(videos: Mapping[str, Curves]) -> dict[str, np.ndarray]:
    """Return the mean of each curve over the videos that are long enough and have it measured."""
    return {name: _nanmean(rows, axis=0) for name, rows in stacked_curves(videos).items()}


def _with_mean(videos: Mapping[str, Curves]) -> dict[str, Curves]:
    """Return the videos and, last, their mean; one that is passed as `mean` stays as it is."""
    others = {name: curves for name, curves in videos.items() if name != "mean"}
    return {**others, "mean": videos["mean"] if "mean" in videos else mean_curves(videos)}


def _padded(curve: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([np.asarray(curve, dtype=float), np.full(length - len(curve), np.nan)])


def _nanmean(rows: np.ndarray, *, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing measured: NaN is the answer
        return np.nanmean(rows, axis=axis)


def write_csv(path: Path, videos: Mapping[str, Curves], *, frames_per_bin: int = 1) -> None:
    """Write columns video, frame (the bin's first), then the curves; the rows of `mean` come last. A gap is an empty cell.

    A video named `mean` is taken for the mean, here and in the chart; otherwise it is computed.
    """
    names = list(next(iter(videos.values())))
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["video", "frame", *names])
    for video, curves in _with_mean(videos).items():
        for i, row in enumerate(zip(*(binned(curves[name], frames_per_bin) for name in names), strict=True)):
            writer.writerow([video, i * frames_per_bin, *("" if math.isnan(value) else f"{value:.6g}" for value in row)])
    write_content(path, file.getvalue())


def write_chart(path: Path, videos: Mapping[str, Curves], *, show: Mapping[str, str], frames_per_bin: int = 20) -> None:
    """Write a PNG with a panel for each curve in `show` (name -> title): every video a thin line, their mean a thick one."""
    from matplotlib.figure import Figure  # slow to import, and few need it

    shown = videos if len(videos) == 1 else _with_mean(videos)
    length = max(len(curve) for curves in shown.values() for curve in curves.values())
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI * len(show)), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(show), squeeze=False)[:, 0]
    for panel, (name, title) in zip(panels, show.items(), strict=True):
        _panel(panel, title, {video: binned(curves[name], frames_per_bin) for video, curves in shown.items()}, frames_per_bin)
        panel.set_xlim(0, length)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_content(path, picture.getvalue())


def _panel(panel: Axes, title: str, lines: Curves, frames_per_bin: int) -> None:
    panel.set_title(title, loc="left", fontsize="medium")
    panel.set_xlabel("frame")
    panel.grid(axis="y", alpha=0.4)
    measured = {name: values for name, values in lines.items() if np.isfinite(values).any()}
    for i, (name, values) in enumerate(measured.items()):
        is_mean, is_named = name == "mean", i < NAMED or i == len(measured) - 1  # the mean, which is last, is always named
        color, width = ("black", 2) if is_mean else (PALETTE[i % len(PALETTE)], 1)
        marker = "o" if np.isfinite(values).sum() == 1 else None
        centres = (np.arange(len(values)) + 0.5) * frames_per_bin
        panel.plot(centres, values, marker=marker, label=_short(name) if is_named else None, color=color, linewidth=width)
    if measured:
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)


def _short(name: str) -> str:
    return name.lstrip("_") if len(name) <= 16 else f"{name.lstrip('_')[:7]}…{name[-8:]}"  # matplotlib hides names with _ first
