"""The curves that all scorers of toys return, one value a frame, and the few numbers that sum them up.

Letters: t frames. Each question has an answer known for real data: the fractions are .99 or more there, the drift nearly 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lvdm.types import UserError

FIRST = 16  # frames that define the scene


@dataclass(frozen=True)
class ToyCurves:
    """The curves of one video; beyond `drift_limit` the scene counts as another one."""

    ok: np.ndarray  # (t,) bool, the frame shows what it should
    moving: np.ndarray  # (t,) bool, it moves as real data do
    speed: np.ndarray  # (t,) pixels a frame, NaN if it cannot be measured
    drift: np.ndarray  # (t,) how far the scene has changed from the first frames, 0 to 1
    drift_limit: float
    more: dict[str, np.ndarray] = field(default_factory=dict)  # what only this toy has

    def right(self) -> np.ndarray:
        """Return (t,) bool: right in every respect."""
        return self.ok & self.moving & (self.drift <= self.drift_limit)

    def curves(self) -> dict[str, np.ndarray]:
        """Return all curves by name, as floats."""
        shared = {"ok": self.ok, "moving": self.moving, "speed": self.speed, "drift": self.drift, "right": self.right()}
        return {name: np.asarray(values, dtype=float) for name, values in {**shared, **self.more}.items()}

    def summary(self, last: int = 300) -> dict[str, float]:
        """Return fractions of frames, `score` being those right in every respect, `ok` of the last ones, and the mean drift."""
        return {
            "ok": float(self.ok.mean()),
            f"ok_last{last}": float(self.ok[-last:].mean()),
            "motion": float(self.moving.mean()),
            "drift": float(self.drift[FIRST:].mean()) if len(self.drift) > FIRST else 0.0,
            "score": float(self.right().mean()),
        }


def checked(video: np.ndarray, *, least: int) -> np.ndarray:
    """Return the video if it is uint8 (t, h, w, 3) with at least `least` frames."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise UserError(f"a video to score is uint8 (t, h, w, 3); got {video.dtype} {video.shape}")
    if min(video.shape[1:3]) < 16:
        raise UserError(f"the scorers need frames of 16 pixels or more a side; got {video.shape[2]}x{video.shape[1]}")
    if len(video) < least:
        raise UserError(f"motion is measured over {least} frames or more, but the video has {len(video)}")
    return video
