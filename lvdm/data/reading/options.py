"""How a video is read: one frozen record of options that every video carries, and what an open video is.

An option that selects or changes frames takes effect in `ReadingOptions.view`, which everything that reads videos goes through:
data sets, evaluation, encoding, benchmarks, and the probe that measures lengths before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lvdm.rules import number, optional, require
from lvdm.types import UserError

Frames = NDArray[np.uint8]  # (t, h, w, 3)
LARGEST_DENOMINATOR = 10**6  # of a rate as a fraction; 29.97 is 30000/1001


class Reader(Protocol):
    """An open video."""

    num_frames: int
    fps: float

    def read(self, frames: Sequence[int]) -> Frames: ...


@dataclass(frozen=True)
class ReadingOptions:
    """Options of reading the frames of a video.

    Args:
        image_fps: frames per second of folders of images, which do not state it.
        time_limit: seconds to open a video, or to read a clip of it.
        fps: resample every video to this rate: each time shows the frame that the video shows then. Slower videos repeat
            frames. Null keeps each video's own rate.
    """

    image_fps: float = 25.0
    time_limit: float = 60.0
    fps: float | None = None

    def __post_init__(self) -> None:
        rate = number(1e-3, 1e6)
        require(rate, time_limit=self.time_limit, image_fps=self.image_fps)
        require(optional(rate), fps=self.fps)

    def view(self, video: Reader) -> Reader:
        """Return the video as these options show it; the probe passes one whose frames cannot be read."""
        return video if self.fps is None else ResampledVideo(video, self.fps)

    def changes(self) -> dict[str, Any]:
        """Return the options that differ from the defaults and change what is read; fingerprints contain them."""
        changed = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default}
        changed.pop("time_limit", None)
        kind = type(self)
        return changed if kind is ReadingOptions else {**changed, "class": f"{kind.__module__}.{kind.__qualname__}"}


class ResampledVideo:
    """A video at another rate: frame k is the one that is shown k / fps seconds after the start."""

    def __init__(self, video: Reader, fps: float) -> None:
        if not 0 < video.fps < float("inf"):
            raise UserError(f"its header gives no frame rate, so it cannot be resampled to {fps:g} frames per second")
        self.video, self.fps = video, fps
        rates = [Fraction(rate).limit_denominator(LARGEST_DENOMINATOR) for rate in (video.fps, fps)]
        self._ratio = rates[0] / rates[1]
        self.num_frames = ceil(video.num_frames / self._ratio)

    def read(self, frames: Sequence[int]) -> Frames:
        return self.video.read([int(frame * self._ratio) for frame in frames])
