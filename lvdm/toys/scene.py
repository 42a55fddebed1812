"""A drawn toy video with its truth, and one stream of random numbers per video.

Letters: t frames, h w. A scene is drawn from a `numpy.random.Generator` alone, so video i of seed s is the same
whatever the number of videos, their order or the number of processes.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from lvdm.seeding import numpy_generator

FPS = 16  # ten seconds are 160 frames; slow motion still reads as motion
SPLITS = ("train", "val")


@dataclass(frozen=True)
class ToyVideo:
    """One video with its caption, class and ground truth."""

    frames: np.ndarray  # (t, h, w, 3) uint8
    caption: str
    label: int
    truth: dict[str, np.ndarray]


def video_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random numbers of one video; training and validation share none."""
    return numpy_generator([seed, SPLITS.index(split), index])


def vertical_gradient(top: np.ndarray, bottom: np.ndarray, size: int) -> np.ndarray:
    """Return (size, 3) colours, from `top` in the first row to `bottom` in the last."""
    down = np.linspace(0.0, 1.0, size)[:, None]
    return (1 - down) * top + down * bottom


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return an RGB colour in [0, 1]."""
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round [0, 1] to the nearest of 256 levels."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
