"""One video to one file, from an array or from an iterator of frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lvdm.rules import FLAG, PATH, number, require
from lvdm.sampling.writers import FORMATS, open_writers
from lvdm.types import UserError

AT_ONCE = 64  # frames that are collected before they are written


def save_video(
    frames: np.ndarray | Iterable[np.ndarray], path: str | Path, *, fps: float = 8.0, quality: float = 8, overwrite: bool = False
) -> Path:
    """Write uint8 frames (t, h, w, 3), or an iterator of frames (h, w, 3), and return the path.

        lvdm.save_video(lvdm.sample_long(model, model, frames=1000), "long.mp4", fps=16)

    Args:
        path: its suffix is the format: .mp4, .gif or .npz; without a suffix it is a folder of PNG files.
        fps: frames per second of mp4 and gif.
        quality: of mp4, 1 to 10.
        overwrite: replace a file that exists.
    """
    require(PATH, path=path)
    require(number(1e-3, 1e6), fps=fps)
    require(number(1, 10), quality=quality)
    require(FLAG, overwrite=overwrite)
    if isinstance(frames, str) or not isinstance(frames, Iterable):
        raise UserError(f"frames is {frames!r:.99}, expected uint8 (t, h, w, 3) or an iterator of frames (h, w, 3)")
    path = Path(path)
    kind = path.suffix.removeprefix(".") or "frames"
    if kind not in FORMATS:
        raise UserError(f"{path} ends in {path.suffix}; write .mp4, .gif or .npz, or no suffix for a folder of PNG files")
    if path.exists() and not overwrite:  # before frames are sampled
        raise UserError(f"{path} exists and is kept; choose another name, or give overwrite=True")
    with open_writers({kind: path}, fps=fps, quality=quality, overwrite=overwrite) as files:
        for chunk in _chunks(frames):
            files.write(chunk)
    return path


def _chunks(frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield uint8 (t, h, w, 3), some frames at a time."""
    rest = iter(frames)
    count = 0
    while chunk := list(itertools.islice(rest, AT_ONCE)):
        frames_here = [np.asarray(frame) for frame in chunk]
        shapes = {frame.shape for frame in frames_here}
        if len(shapes) > 1:
            raise UserError(f"frames have the shapes {sorted(shapes)}; all frames of a video have one")
        stacked = np.stack(frames_here)
        if stacked.dtype != np.uint8 or stacked.ndim != 4 or stacked.shape[3] != 3:
            raise UserError(f"frames are {stacked.dtype} {stacked.shape[1:]}, expected uint8 (h, w, 3) of one video")
        count += len(chunk)
        yield stacked
    if count == 0:
        raise UserError("there are no frames to write; give at least one")
