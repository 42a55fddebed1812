"""Scores a video of `discs`: one orange and one cyan disc in each frame, moving as they should, on a ground that stays.

Letters: t frames, x across, y down, all in pixels. A frame is ok when each colour has one blob, its area and the colour of its
heart are right, and nothing else stands out from the ground. Speed at a frame: over the six frames before and the six after,
the faster of the two, since a disc that has just bounced went straight on one side of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lvdm.toys.curves import FIRST, ToyCurves, checked
from lvdm.toys.discs import COLORS, RADIUS, SPEED

SPEED_SLACK = (0.5, 1.35)  # times that range
LAG = 6  # frames over which speed is measured: real discs move one to two pixels, a blurred disc's centre trembles by a tenth
AREA_SLACK = (0.75, 1.25)  # times a whole disc's area
COLOR_SLACK = 0.13  # of a channel, for the mean colour of a blob's heart
SPECK = 0.06  # a blob smaller than this part of a disc is nothing
EXTRA_SLACK = 0.006  # part of the frame that may stand out from the ground away from the discs
STANDS_OUT = 0.18  # of a channel
DRIFT_LIMIT = 0.06  # two scenes differ by about .09

_LABELS_IN_FRAME = ndimage.generate_binary_structure(2, 1)[None] & np.array([False, True, False])[:, None, None]


@dataclass(frozen=True)
class Blob:
    """A disc of one colour through the video: the largest blob of each frame, and whether it is the only one and a right one."""

    right: np.ndarray  # (t,) bool
    center: np.ndarray  # (t, 2) x, y; NaN if there is none


def score_discs(video: np.ndarray) -> ToyCurves:
    """Return the curves of a uint8 video (t, size, size, 3)."""
    image = checked(video, least=LAG + 1).astype(np.float32) / 255
    blobs = {name: _blob(image, np.array(color)) for name, color in COLORS.items()}
    ok = np.all([blob.right for blob in blobs.values()], axis=0)
    ok &= _extra(image, [blob.center for blob in blobs.values()]) <= EXTRA_SLACK
    speeds = np.stack([_speed(blob.center) for blob in blobs.values()])  # (disc, t)
    low, high = (slack * limit * image.shape[2] for slack, limit in zip(SPEED_SLACK, SPEED, strict=True))
    return ToyCurves(
        ok=ok,
        moving=((speeds >= low) & (speeds <= high)).all(axis=0),
        speed=speeds.mean(axis=0),
        drift=_drift(image),
        drift_limit=DRIFT_LIMIT,
        more={f"speed_{name}": speed for name, speed in zip(blobs, speeds, strict=True)},
    )


def _colorful(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return (t, h, w) bool: bright, and on the side of `color` between red and blue; exact to half an edge pixel."""
    lean = image[..., 0] - image[..., 2]
    side = np.sign(color[0] - color[2])
    return (_largest(image) > 0.6) & (lean * side > 0.3)


def _largest(image: np.ndarray) -> np.ndarray:
    """Return the maximum of the three channels; many times quicker than `max(-1)`."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def _blob(image: np.ndarray, color: np.ndarray) -> Blob:
    mask = _colorful(image, color)
    frames, height, width = mask.shape
    labels, count = ndimage.label(mask, structure=_LABELS_IN_FRAME)
    index = np.arange(1, count + 1)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    whole = np.pi * (RADIUS * width) ** 2
    first = np.array([part[0].start for part in ndimage.find_objects(labels)], dtype=int)  # the frame of each blob
    big = area >= SPECK * whole
    right, center = np.zeros(frames, dtype=bool), np.full((frames, 2), np.nan)
    if not big.any():
        return Blob(right, center)
    count_in_frame = np.bincount(first[big], minlength=frames)
    order = np.argsort(area, kind="stable")  # the largest is written last and stays
    order = order[area[order] >= 0.5 * whole]
    middle = np.array(ndimage.center_of_mass(mask, labels, index)).reshape(count, 3)
    center[first[order]] = middle[order][:, [2, 1]] + 0.5
    largest = np.zeros(frames)
    largest[first[order]] = area[order]
    right = (count_in_frame == 1) & (largest >= AREA_SLACK[0] * whole) & (largest <= AREA_SLACK[1] * whole)
    return Blob(right & _right_heart(image, center, color), center)


def _right_heart(image: np.ndarray, center: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return (t,) bool: within two thirds of the radius the mean colour is the disc's."""
    heart = _distance(image, center) < RADIUS * image.shape[2] * 2 / 3
    total = np.einsum("thw,thwc->tc", heart.astype(np.float32), image)
    mean = total / np.maximum(heart.sum((1, 2)), 1)[:, None]
    return (np.abs(mean - color) <= COLOR_SLACK).all(-1)


def _distance(image: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the distance (t, h, w) from `center` (t, 2); infinite if there is none."""
    height, width = image.shape[1:3]
    x, y = (np.nan_to_num(center[:, axis], nan=np.inf).astype(np.float32)[:, None, None] for axis in (0, 1))
    across, down = (np.arange(length, dtype=np.float32) + np.float32(0.5) for length in (width, height))
    return np.sqrt((across[None, None] - x) ** 2 + (down[None, :, None] - y) ** 2)


def _extra(image: np.ndarray, centers: list[np.ndarray]) -> np.ndarray:
    """Return (t,) the part of the frame that stands out from its row's median, away from the discs."""
    away = np.all([_distance(image, center) > RADIUS * image.shape[2] + 2.5 for center in centers], axis=0)
    ground = _row_median(image, away)
    return ((_largest(np.abs(image - ground)) > STANDS_OUT) & away).mean((1, 2))


def _row_median(image: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return the median (t, h, 1, 3) of each row's counted pixels; the others are sorted to the end."""
    ordered = np.sort(np.where(counted[..., None], image, np.float32(2)), axis=2)
    middle = np.maximum(counted.sum(2) - 1, 0)[:, :, None, None] // 2
    return np.take_along_axis(ordered, middle, axis=2)


def _speed(center: np.ndarray) -> np.ndarray:
    """Return (t,) pixels a frame; NaN if the disc is missing here or at both ends."""
    hop = np.linalg.norm(center[LAG:] - center[:-LAG], axis=-1) / LAG
    missing = np.full(LAG, np.nan)
    return np.fmax(np.concatenate([missing, hop]), np.concatenate([hop, missing]))


def _drift(image: np.ndarray) -> np.ndarray:
    """Return (t,) the mean absolute difference from the ground of the first frames, away from all discs."""
    ground = ndimage.maximum_filter(_largest(image), size=(1, 5, 5)) <= 0.45  # dark, and two pixels from what is not
    shown = ground[:FIRST].sum(0)
    reference = np.einsum("thwc,thw->hwc", image[:FIRST], ground[:FIRST]) / np.maximum(shown, 1)[..., None]
    both = ground & (shown > 0)
    change = np.einsum("thwc,thw->t", np.abs(image - reference.astype(np.float32)), both) / 3
    return np.where(both.any((1, 2)), change / np.maximum(both.sum((1, 2)), 1), 1.0)
