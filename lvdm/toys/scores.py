"""Scores of generated toy videos: each video's, their mean and spread, and curves over the frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import decord
import numpy as np
from tqdm import tqdm

from lvdm.evaluation import write_chart, write_csv
from lvdm.toys.clouds_score import score_clouds
from lvdm.toys.curves import ToyCurves
from lvdm.toys.discs_score import score_discs
from lvdm.types import UserError

SCORERS: dict[str, Callable[[np.ndarray], ToyCurves]] = {"discs": score_discs, "clouds": score_clouds}
PANELS = {
    "ok": "frames that show what they should (fraction)",
    "moving": "frames that move as real data do (fraction)",
    "speed": "speed (pixels a frame)",
    "drift": "drift of the scene from the first 16 frames",
}
FRAMES_PER_BIN = 20  # of the chart; the table of curves has every frame

Video = str | os.PathLike[str] | np.ndarray  # an mp4 file, a folder of them, or uint8 (t, h, w, 3)
Row = dict[str, float]


@dataclass(frozen=True)
class ToyScores:
    """The scores of some videos, by name."""

    kind: str
    last: int  # frames at the end that are scored alone too
    curves: Mapping[str, ToyCurves]

    @cached_property
    def videos(self) -> dict[str, Row]:
        return {name: curves.summary(self.last) for name, curves in self.curves.items()}

    @cached_property
    def columns(self) -> dict[str, list[float]]:
        """Return each score over the videos."""
        first = next(iter(self.videos.values()))
        return {key: [row[key] for row in self.videos.values()] for key in first}

    @property
    def mean(self) -> Row:
        return {key: float(np.mean(values)) for key, values in self.columns.items()}

    @property
    def spread(self) -> Row:
        """Return the standard deviation of one video, 0 for a single one."""
        return {key: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for key, values in self.columns.items()}

    def table(self) -> str:
        """Return a row for each video, then mean and spread."""
        rows = {**self.videos, "mean": self.mean, "+-": self.spread}
        width = max(len(name) for name in [*rows, "video"])
        head = f"{'video':{width}}" + "".join(f"{key:>12}" for key in self.columns)
        lines = [f"{name:{width}}" + "".join(f"{value:12.3f}" for value in row.values()) for name, row in rows.items()]
        return "\n".join([head, *lines])

    def write_curves(self, folder: Path) -> tuple[Path, Path]:
        """Write curves.csv and curves.png."""
        by_frame = {name: curves.curves() for name, curves in self.curves.items()}
        own = [name for name in next(iter(by_frame.values())) if name not in PANELS and name != "right"]
        panels = {**PANELS, **{name: name.replace("_", " ") for name in own}}
        table, chart = folder / "curves.csv", folder / "curves.png"
        write_csv(table, by_frame)
        write_chart(chart, by_frame, show=panels, frames_per_bin=FRAMES_PER_BIN)
        return table, chart


def score_videos(videos: Sequence[Video], kind: str = "discs", *, last: int = 300) -> ToyScores:
    """Score videos of a toy, and their last frames alone; real data score .99 or more."""
    if kind not in SCORERS:
        raise UserError(f"there is no toy {kind!r}; give {' or '.join(SCORERS)}")
    if last < 1:
        raise UserError(f"last is {last}, but at least 1 frame is needed")
    named = _named(videos)
    progress = tqdm(named.items(), unit="video", desc="score", delay=2)
    return ToyScores(kind, last, {name: SCORERS[kind](_frames(video)) for name, video in progress})


def _named(videos: Sequence[Video]) -> dict[str, Path | np.ndarray]:
    """Return the videos by short names: arrays by their numbers, files by their stems, with the folder if those are equal."""
    found: list[Path | np.ndarray] = []
    for video in videos:
        found += [video] if isinstance(video, np.ndarray) else _files(Path(video))
    names = [str(number) if isinstance(each, np.ndarray) else each.stem for number, each in enumerate(found)]
    if len(set(names)) < len(names):
        names = [str(number) if isinstance(each, np.ndarray) else str(each.with_suffix("")) for number, each in enumerate(found)]
    return dict(zip(names, found, strict=True))


def _files(path: Path) -> list[Path]:
    inside = sorted(path.glob("*.mp4")) if path.is_dir() else [path]
    if not inside or not inside[0].exists():
        raise UserError(f"{path} holds no mp4 file; give videos or a folder of them" if path.is_dir() else f"no file {path}")
    return inside


def _frames(video: Path | np.ndarray) -> np.ndarray:
    if isinstance(video, np.ndarray):
        return video
    try:
        return decord.VideoReader(str(video))[:].asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise UserError(f"{video} is not a video that decord can read; write it again or leave it out") from error
