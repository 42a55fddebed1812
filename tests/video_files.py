"""Test videos whose frames say which they are: frame t is grey of level 10 t."""

from pathlib import Path

import imageio
import numpy as np
import torch
from PIL import Image

STEP, LENGTH, SIDE = 10, 24, 32


def grey(frame: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), STEP * frame, np.uint8)


def write_video(path: Path, length: int = LENGTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"duration": 1000 / 12} if path.suffix == ".gif" else {"fps": 12, "macro_block_size": 1}
    if path.suffix == ".webm":
        options["codec"] = "libvpx-vp9"
    with imageio.get_writer(path, **options) as writer:
        for frame in range(length):
            writer.append_data(grey(frame))


def write_images(folder: Path, length: int = LENGTH) -> None:
    folder.mkdir(parents=True)
    for frame in range(length):
        Image.fromarray(grey(frame)).save(folder / f"frame{frame}.png")


def frames_seen(video: torch.Tensor) -> list[int]:
    """Which frames of a test video these are, told from their grey; (3, t, h, w) or uint8 (t, h, w, 3)."""
    levels = (video.mean(dim=(0, 2, 3)) + 1) * 127.5 if video.is_floating_point() else video.float().mean(dim=(1, 2, 3))
    return (levels / STEP).round().int().tolist()
