"""What a long video shows frame by frame, without any network: flicker, motion, drift, and how far it keeps its scene.

Letters: t frames, I the grey of a frame, 0 to 255. A curve is one number a frame, NaN if it cannot be measured (the first
frame has none before it; a frame of one colour has neither edges nor a layout). Frames are read one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from lvdm.types import UserError

FIRST = 16  # frames that say what brightness and colours the video began with
COARSE = 16  # blocks across and down, in which the layout of a frame is seen

TITLES = {  # what a chart shows and calls them; VBench's flicker is the change, turned round
    "change": "change from frame to frame, of 255",
    "motion": "motion, pixels a frame (normal flow)",
    "brightness_drift": "brightness against the first frames, of 255",
    "color_drift": "mean colour away from the first frames, of 255",
    "pixel_consistency": "consistency by VBench's formula, on pixels",
    "pixel_cosine_first": "likeness to the first frame, cosine of pixels",
}


@dataclass(frozen=True)
class FrameFacts:
    """Measurements of each frame, from which curves are computed; those of pieces are joined."""

    change: np.ndarray  # (t,)
    motion: np.ndarray  # (t,)
    colors: np.ndarray  # (t, 3) mean of the frame
    layouts: np.ndarray  # (t, 768)

    @staticmethod
    def joined(pieces: Sequence[FrameFacts]) -> FrameFacts:
        """Return the facts of pieces in their order."""
        return FrameFacts(*(np.concatenate([getattr(one, f.name) for one in pieces]) for f in fields(FrameFacts)))

    def curves(self) -> dict[str, np.ndarray]:
        """Return every curve by name, (t,) each, if the facts begin with the video."""
        color = drift(self.colors)
        return {
            "change": self.change,
            "vbench_flicker": (255 - self.change) / 255,
            "motion": self.motion,
            "brightness_drift": color.mean(axis=1),
            "color_drift": np.abs(color).mean(axis=1),
            "pixel_consistency": consistency(self.layouts),
            "pixel_cosine_first": cosines(self.layouts),
        }


def frame_facts(frames: Iterable[np.ndarray], *, before: np.ndarray | None = None) -> FrameFacts:
    """Return the facts of the uint8 frames (h, w, 3) of a video, or of a piece of it that comes after the frame `before`."""
    change, motion, colors, layouts = [], [], [], []
    for number, frame in enumerate(frames):
        _check(frame, number, before)
        change.append(np.nan if before is None else frame_change(before, frame))
        motion.append(np.nan if before is None else normal_flow(before, frame))
        colors.append(frame.reshape(-1, 3).mean(axis=0))
        layouts.append(layout(frame))
        before = frame
    if not colors:
        raise UserError("a video without a frame has no curves; give one of a frame or more")
    return FrameFacts(np.array(change), np.array(motion), np.stack(colors), np.stack(layouts))


def frame_curves(frames: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return every curve, (t,) each, of the uint8 frames (h, w, 3) of one video: an array (t, h, w, 3) or an iterator."""
    return frame_facts(frames).curves()


def frame_change(before: np.ndarray, after: np.ndarray) -> float:
    """Return the mean absolute difference, of 255. (255 - it) / 255 is VBench's temporal flickering, meant for still scenes."""
    return float(np.abs(after.astype(np.int16) - before).mean())


def normal_flow(before: np.ndarray, after: np.ndarray) -> float:
    """Return how far edges must have moved, in pixels: mean |dI/dt| over mean |grad I| (Horn and Schunck 1981, eq. 1).

    The change alone would grow with contrast; this does not, nor with a change of the whole frame's brightness, which is taken
    off. It sees motion across edges only, a lower bound of speed, and no more than about the size of what moves; where nothing is
    but noise, it reads about two pixels.
    """
    first, second = before.mean(axis=-1, dtype=np.float32), after.mean(axis=-1, dtype=np.float32)
    step, middle = second - first, (first + second) / 2
    across, down = (middle[1:-1, 2:] - middle[1:-1, :-2]) / 2, (middle[2:, 1:-1] - middle[:-2, 1:-1]) / 2
    slope = float(np.sqrt(across**2 + down**2).mean())
    inner = step[1:-1, 1:-1]
    return float(np.abs(inner - inner.mean()).mean()) / slope if slope > 0 else np.nan


def layout(frame: np.ndarray) -> np.ndarray:
    """Return (768,) means of 16x16 blocks, less the frame's mean colour: what is where, whatever the tint."""
    rows, columns = (np.linspace(0, size, COARSE + 1).astype(int) for size in frame.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(frame, rows[:-1], axis=0, dtype=np.int64), columns[:-1], axis=1)
    blocks = sums / np.outer(np.diff(rows), np.diff(columns))[..., None]
    return (blocks - blocks.mean(axis=(0, 1))).ravel()


def drift(values: np.ndarray) -> np.ndarray:
    """Return (t, c), how far values (t, c) are from their mean over the first frames."""
    return values - values[:FIRST].mean(axis=0)


def cosines(features: np.ndarray, *, to_previous: bool = False) -> np.ndarray:
    """Return (t,) cosines of each row of features (t, d) with the first or the previous one; NaN if either has no length."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.full(features.shape, np.nan), where=length > 1e-6)
    if not to_previous:
        return unit @ unit[0]
    return np.concatenate([[np.nan], (unit[1:] * unit[:-1]).sum(axis=1)])


def consistency(features: np.ndarray) -> np.ndarray:
    """Return (t,) VBench's formula for subject and background, on any features (t, d): the mean of the cosines, 0 at least, with
    the previous frame and with the first. VBench takes DINO's and CLIP's; numbers of others are not comparable with its own."""
    return (np.maximum(cosines(features, to_previous=True), 0) + np.maximum(cosines(features), 0)) / 2


def _check(frame: np.ndarray, number: int, before: np.ndarray | None) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise UserError(f"frames of a video to measure are uint8 (h, w, 3); frame {number} is {frame.dtype} {frame.shape}")
    if min(frame.shape[:2]) < COARSE:
        raise UserError(f"frames to measure have {COARSE} pixels or more a side; got {frame.shape[1]}x{frame.shape[0]}")
    if before is not None and frame.shape != before.shape:
        raise UserError(f"frame {number} is {frame.shape}, those before it {before.shape}; frames of one video have one size")
