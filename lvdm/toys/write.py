"""Toy videos as real files: OUT/{train,val}/{000000.mp4, ..., metadata.jsonl, truth/000000.npz} and OUT/dataset.json.

A line of metadata.jsonl: file, caption, label, fps, seed. The files are the same to the byte for a seed, whatever the number of
workers; an interrupted call is resumed, and a folder that holds anything else is left alone.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lvdm.files import write_whole
from lvdm.sampling.writers import Mp4Writer, VideoFiles
from lvdm.toys.clouds import clouds
from lvdm.toys.discs import discs
from lvdm.toys.scene import FPS, SPLITS, ToyVideo, video_generator
from lvdm.types import UserError

logger = logging.getLogger(__name__)

KINDS: dict[str, Callable[[np.random.Generator, int, int], ToyVideo]] = {"discs": discs, "clouds": clouds}
GENERATOR = 1  # raised whenever the same arguments would draw other videos
QUALITY = 12  # x264's crf; besides, the halved resolution of colour costs 31 dB on discs


@dataclass(frozen=True)
class ToyDataset:
    """The settings that determine every byte of the data set."""

    kind: str
    videos: int
    frames: int = 160
    size: int = 64
    val: int = 16
    seed: int = 0
    fps: int = FPS
    generator: int = GENERATOR

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"no toy named {self.kind}; there are {', '.join(KINDS)}")
        if self.size < 16 or self.size % 2:
            raise UserError(f"size is {self.size}, but mp4 needs an even side and discs need 16 pixels; try 64")
        if self.videos < 1 or self.val < 0 or self.frames < 1 or self.seed < 0:
            raise UserError(f"at least one video and one frame are needed, and no negative numbers; got {self}")

    def counts(self) -> dict[str, int]:
        return dict(zip(SPLITS, (self.videos, self.val), strict=True))

    def video(self, split: str, index: int) -> ToyVideo:
        return KINDS[self.kind](video_generator(self.seed, split, index), self.frames, self.size)


def write_dataset(out: str | Path, dataset: ToyDataset, *, workers: int | None = None) -> int:
    """Write the files that are missing; return the number of videos written, 0 if the data set was complete.

    Args:
        workers: videos at once; None is the number of cores.
    """
    out, workers = Path(out), workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise UserError(f"workers is {workers}, but at least 1 is needed")
    claim(out, dataset)
    if is_complete(out, dataset):
        return 0
    todo = [(split, index) for split, count in dataset.counts().items() for index in range(count)]
    for split in dataset.counts():
        (out / split / "truth").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:  # threads suffice: most of the time goes to one ffmpeg process per worker
        jobs = pool.map(lambda job: _write_one(out, dataset, *job), todo)
        try:
            lines = dict(zip(todo, tqdm(jobs, total=len(todo), unit="video", desc="toy", delay=1), strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one that failed is enough
            raise
    for split, count in dataset.counts().items():
        _write_lines(out / split / "metadata.jsonl", [lines[split, index] for index in range(count)])
    return len(todo)


def claim(out: Path, dataset: ToyDataset) -> None:
    """Write dataset.json into a new folder; refuse a folder that holds anything but this very data set."""
    facts = out / "dataset.json"
    if facts.exists():
        try:
            found = json.loads(facts.read_text())
        except json.JSONDecodeError:
            found = {}
        other = {key: found.get(key) for key, value in asdict(dataset).items() if found.get(key) != value}
        if other:
            wanted = {key: getattr(dataset, key) for key in other}
            raise UserError(f"{out} holds a data set with {other}, requested was {wanted}; choose another folder or remove it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty and holds no toy data set (no dataset.json); choose a new folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(facts, lambda path: path.write_text(json.dumps(asdict(dataset), indent=2) + "\n"))


def is_complete(out: Path, dataset: ToyDataset) -> bool:
    """Return whether all files exist; the metadata are written last, so only files removed since can be missing."""
    return all(
        (out / split / "metadata.jsonl").is_file() and all(_video_path(out, split, index).is_file() for index in range(count))
        for split, count in dataset.counts().items()
    )


def _video_path(out: Path, split: str, index: int) -> Path:
    return out / split / f"{index:06d}.mp4"


def _write_one(out: Path, dataset: ToyDataset, split: str, index: int) -> dict[str, Any]:
    path = _video_path(out, split, index)
    truth = path.parent / "truth" / f"{path.stem}.npz"
    video = dataset.video(split, index)
    if not (path.is_file() and truth.is_file()):
        write_whole(truth, lambda temporary: _write_truth(temporary, video.truth))
        write_mp4(path, video.frames, dataset.fps)
    return {"file": path.name, "caption": video.caption, "label": video.label, "fps": dataset.fps, "seed": dataset.seed}


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(path, lambda temporary: temporary.write_text(text))


def _write_truth(path: Path, truth: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **truth)


class _ReproducibleMp4(Mp4Writer):
    """An mp4 that is equal to the byte every time: one thread, no dates, no version."""

    def _encoding(self) -> list[str]:
        picture = ["-pix_fmt", "yuv420p", "-g", "32", "-threads", "1"]
        plain = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
        return ["-c:v", "libx264", "-preset", "veryfast", "-crf", str(QUALITY), *picture, *plain]


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write uint8 frames (t, h, w, 3) into an mp4 that is equal to the byte every time."""
    with VideoFiles([_ReproducibleMp4(path, fps=fps, overwrite=True)]) as file:
        file.write(frames)
