"""Curves over the length of a video: to CSV, a row per video and bin with the mean last, and to a PNG drawn with PIL alone.

Letters: t frames. A curve is one number a frame, NaN where it could not be measured; over a bin of frames it is their mean.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lvdm.evaluation.results.records import write_whole

Curves = Mapping[str, np.ndarray]  # curve's name -> (t,)

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#7f7f7f")  # told apart by everyone
INK, PALE, GRID = "#222222", "#666666", "#dddddd"
SCALE = 2  # drawn twice as large and shrunk: smooth lines
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 190, 64, 150, 30, 34  # of one panel, pixels


def binned(curve: np.ndarray, frames_per_bin: int) -> np.ndarray:
    """Means over bins of frames, without the NaN; the last bin may be shorter."""
    padding = -len(curve) % frames_per_bin
    rows = np.concatenate([np.asarray(curve, dtype=float), np.full(padding, np.nan)]).reshape(-1, frames_per_bin)
    return _nanmean(rows, axis=1)


def stacked_curves(videos: Mapping[str, Curves]) -> dict[str, np.ndarray]:
    """Each curve of all videos (n, t), NaN behind the end of a shorter one."""
    names = next(iter(videos.values())).keys()
    length = max(len(curve) for curves in videos.values() for curve in curves.values())
    return {name: np.stack([_padded(curves[name], length) for curves in videos.values()]) for name in names}


def mean_curves(videos: Mapping[str, Curves]) -> dict[str, np.ndarray]:
    """The mean of each curve over the videos that are long enough and have it measured."""
    return {name: _nanmean(rows, axis=0) for name, rows in stacked_curves(videos).items()}


def _with_mean(videos: Mapping[str, Curves]) -> dict[str, Curves]:
    """The videos and their mean, the last; one given as `mean` stays as it is."""
    others = {name: curves for name, curves in videos.items() if name != "mean"}
    return {**others, "mean": videos["mean"] if "mean" in videos else mean_curves(videos)}


def _padded(curve: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([np.asarray(curve, dtype=float), np.full(length - len(curve), np.nan)])


def _nanmean(rows: np.ndarray, *, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing measured: NaN is the answer
        return np.nanmean(rows, axis=axis)


def write_csv(path: Path, videos: Mapping[str, Curves], *, frames_per_bin: int = 1) -> None:
    """Columns video, frame (the bin's first), then the curves; the rows of `mean` come last. Empty where not measured.

    A video named `mean` is taken for the mean, here and in the chart; otherwise it is made.
    """
    names = list(next(iter(videos.values())))
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["video", "frame", *names])
    for video, curves in _with_mean(videos).items():
        for i, row in enumerate(zip(*(binned(curves[name], frames_per_bin) for name in names), strict=True)):
            writer.writerow([video, i * frames_per_bin, *("" if math.isnan(value) else f"{value:.6g}" for value in row)])
    write_whole(path, file.getvalue())


def write_chart(path: Path, videos: Mapping[str, Curves], *, show: Mapping[str, str], frames_per_bin: int = 20) -> None:
    """One panel for each curve in `show` (name -> title): every video a thin line, their mean a thick one."""
    shown = videos if len(videos) == 1 else _with_mean(videos)
    length = max(len(curve) for curves in shown.values() for curve in curves.values())
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE * len(show)), "white")
    draw = ImageDraw.Draw(image)
    for panel, (name, title) in enumerate(show.items()):
        lines = {video: binned(curves[name], frames_per_bin) for video, curves in shown.items()}
        _panel(draw, HEIGHT * panel, title, lines, frames_per_bin, length)
    picture = io.BytesIO()
    image.resize((WIDTH, HEIGHT * len(show)), Image.Resampling.LANCZOS).save(picture, format="png")
    write_whole(path, picture.getvalue())


def _panel(draw: ImageDraw.ImageDraw, y0: int, title: str, lines: Curves, frames_per_bin: int, length: int) -> None:
    low, high, step = _axis(lines)
    box = (LEFT, y0 + TOP, WIDTH - RIGHT, y0 + HEIGHT - BOTTOM)
    x_step = _round_step(length / 8)

    def at(frame: float, value: float) -> tuple[float, float]:
        across, up = frame / max(length, 1), (value - low) / (high - low)
        return SCALE * (box[0] + across * (box[2] - box[0])), SCALE * (box[3] - up * (box[3] - box[1]))

    _text(draw, box[0], y0 + 8, title, INK, size=13)
    for value in np.arange(low, high + step / 2, step):
        draw.line([at(0, value), at(length, value)], fill=GRID, width=SCALE)
        _text(draw, box[0] - 6, at(0, value)[1] / SCALE, f"{value:.6g}", PALE, anchor="rm")
    for frame in np.arange(0, length + 1, x_step):
        x, y = at(float(frame), low)
        draw.line([(x, y), (x, y + 4 * SCALE)], fill=PALE, width=SCALE)
        _text(draw, x / SCALE, y / SCALE + 6, f"{frame:g}", PALE, anchor="mt")
    _text(draw, box[2] + 16, box[3] + 6, "frame", PALE)
    measured = [name for name, values in lines.items() if np.isfinite(values).any()]
    for i, (name, values) in enumerate(lines.items()):
        if name not in measured:
            continue
        is_mean = name == "mean"
        color, thick = (INK, 3 * SCALE) if is_mean else (PALETTE[i % len(PALETTE)], SCALE)
        centres = (np.arange(len(values)) + 0.5) * frames_per_bin
        _line(draw, [at(min(x, length), value) for x, value in zip(centres, values, strict=True)], color, thick)
        _legend(draw, box, measured.index(name), len(measured), name, color, thick)


def _legend(draw: ImageDraw.ImageDraw, box: tuple, i: int, count: int, name: str, color: str, thick: int) -> None:
    room = (box[3] - box[1]) // 13
    row = i if count <= room or i < room - 2 else room - 1 if i == count - 1 else None  # the mean stays, what is too much goes
    if row is None:
        return
    x, y = box[2] + 12, box[1] + 4 + 13 * row
    draw.line([(x * SCALE, y * SCALE), ((x + 16) * SCALE, y * SCALE)], fill=color, width=thick)
    _text(draw, x + 22, y, name if len(name) <= 16 else f"{name[:7]}…{name[-8:]}", INK, anchor="lm")


def _line(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], color: str, thick: int) -> None:
    """A line with gaps where the value is NaN; a lone point is a dot."""
    run: list[tuple[float, float]] = []
    for point in [*points, (0.0, math.nan)]:
        if not math.isnan(point[1]):
            run.append(point)
        elif run:
            draw.line(run, fill=color, width=thick, joint="curve")
            if len(run) == 1:
                x, y = run[0]
                draw.ellipse([x - thick, y - thick, x + thick, y + thick], fill=color)
            run = []


def _text(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, color: str, *, size: int = 10, anchor: str = "la") -> None:
    draw.text((x * SCALE, y * SCALE), text, fill=color, font=ImageFont.load_default(size * SCALE), anchor=anchor)


def _axis(lines: Curves) -> tuple[float, float, float]:
    """From 0 (or below) to a round number above every value, with about four marks."""
    values = np.concatenate([np.asarray(line, dtype=float) for line in lines.values()])
    values = values[np.isfinite(values)]
    top, bottom = (float(values.max()), float(values.min())) if len(values) else (1.0, 0.0)
    step = _round_step(max(max(top, 0.0) - min(bottom, 0.0), 1e-6) / 4)
    low, high = math.floor(min(bottom, 0.0) / step + 1e-9) * step, math.ceil(max(top, 0.0) / step - 1e-9) * step
    return low, max(high, low + step), step


def _round_step(rough: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-12)))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
