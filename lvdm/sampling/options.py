"""How to sample: what a model file says is best for it, and what a user asks for instead.

Letters: c channels, t latents, h w; w guidance weight, s noise level of given latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import numpy as np

from lvdm.rules import TEXT, Rule, integer, listed, number, one_of, optional, require
from lvdm.sampling.samplers import SAMPLERS
from lvdm.sampling.timesteps import SPACINGS
from lvdm.types import UserError

MOST_ELEMENTS = 2**26  # of one window's latent: a video of 2048 pixels' side has a sixteenth of that
COUNT = integer(1, 10**6)
LEVEL = integer(0, 10**6)  # a time of the schedule; which ones there are depends on the model
VOLUME, PLANES = listed(integer(1, 2**16), 4, 4), listed(integer(1, 2**20), 2, 2)
SETTINGS = {
    "latent_shape": Rule(f"{VOLUME.words}, or 2 for planes", lambda shape: VOLUME.holds(shape) or PLANES.holds(shape)),
    "fps": optional(number(1e-6, 1e6)),
    "key_stride": COUNT,
    "overlap": integer(0, 2**16),
    "eta": number(0, 1),
    "steps": COUNT,
    "gap_steps": optional(COUNT),
    "spacing": one_of(*SPACINGS),
    "guidance": number(-1e6, 1e6),
    "condition_noise": LEVEL,
    "gap_noise": LEVEL,
    "lead_in": LEVEL,
}
OPTIONS = {  # of one sampling, each None or by its rule; a sampler's name is looked up when it is used
    "sampler": TEXT,
    "steps": COUNT,
    "eta": number(0, 1),
    "guidance": number(-1e6, 1e6),
    "gap_steps": COUNT,
    "condition_noise": LEVEL,
    "gap_noise": LEVEL,
    "overlap": integer(0, 2**16),
    "key_stride": COUNT,
    "lead_in": LEVEL,
}
GAP_BATCH = Rule("auto or a number of windows from 1 on", lambda value: value == "auto" or COUNT.holds(value))


@dataclass(frozen=True)
class SamplingSettings:
    """The sampling settings in a model file; commands take them as defaults."""

    latent_shape: Sequence[int]  # c, t, h, w of one window, or c, l of the planes of one clip
    fps: float | None = None  # frames per second of the training videos
    key_stride: int = 1  # latents from one key of a long video to the next
    overlap: int = 1  # keys that a window of a long video is given from the one before
    sampler: str = "ddim"
    eta: float = 0.0  # randomness of a step, 0 to 1
    steps: int = 50
    gap_steps: int | None = None  # in the gaps of a long video; None: as many as elsewhere
    spacing: str = "published"  # of the steps: published or trailing
    guidance: float = 0.0  # weight w
    condition_noise: int = 100  # level s of given keys
    gap_noise: int = 100  # level s of given keys when gaps are filled
    lead_in: int = 0  # frames of a long video that are sampled first and left out

    def __post_init__(self) -> None:
        for name, rule in {**SETTINGS, "sampler": one_of(*SAMPLERS)}.items():  # packages may have added samplers
            require(rule, **{f"sampling.{name}": getattr(self, name)})
        if np.prod(self.latent_shape, dtype=float) > MOST_ELEMENTS:
            raise UserError(f"sampling.latent_shape is {list(self.latent_shape)}, expected at most {MOST_ELEMENTS:,} elements")
        window = self.latent_shape[1] if len(self.latent_shape) == 4 else 1
        if self.overlap >= max(2, window):
            raise UserError(f"sampling.overlap is {self.overlap}, expected less than the {window} latents of a window")

    @staticmethod
    def read(stored: Mapping[str, Any]) -> SamplingSettings:
        """Return the settings in a model file; other versions of lvdm may say more there, which is not read."""
        if "latent_shape" not in stored:
            raise UserError("the model file does not say the shape of its latents (sampling.latent_shape: c, t, h, w)")
        known = {f.name for f in fields(SamplingSettings)}
        return SamplingSettings(**{name: value for name, value in stored.items() if name in known})


@dataclass(frozen=True)
class SampleOptions:
    """Options of any sampling; None takes the model's own setting.

    Args:
        sampler: a name in SAMPLERS.
        steps: sampling steps.
        eta: randomness of a step, 0 to 1; the model's own is that of its own sampler.
        guidance: weight w.
    """

    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        for name in (name for name in OPTIONS if hasattr(self, name)):
            require(optional(OPTIONS[name]), **{name: getattr(self, name)})

    def of_any(self) -> dict[str, Any]:
        """Return these four as keywords, without what a subclass adds."""
        return {each.name: getattr(self, each.name) for each in fields(SampleOptions)}


@dataclass(frozen=True)
class LongOptions(SampleOptions):
    """Options of a long video; None takes the model's own setting.

    Guidance by a label or prompt is against the pass without it. Without either it is against the pass that is given no frames.

    Args:
        frames: of the whole video, a start included.
        gap_steps: steps in gaps.
        condition_noise: level s of given keys, a time of the schedule; 0 leaves them clean. gap_noise: the same in gaps.
        overlap: keys that a window is given from the one before.
        key_stride: latents from one key to the next.
        gap_batch: gap windows filled at once, or "auto".
        label: class of the video. prompt: its text.
        lead_in: frames sampled before the first one and left out, because a video's beginning is its weakest part.
    """

    frames: int = 1000
    gap_steps: int | None = None
    condition_noise: int | None = None
    gap_noise: int | None = None
    overlap: int | None = None
    key_stride: int | None = None
    gap_batch: int | str = "auto"
    lead_in: int | None = None
    label: int | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(integer(1, 10**9), frames=self.frames)
        require(GAP_BATCH, gap_batch=self.gap_batch)
        require(optional(TEXT), prompt=self.prompt)

    def check(self, *, has_infill: bool, has_start: bool) -> None:
        """Refuse options that have no effect without an infill model or with a start."""
        of_gaps = ("gap_noise", "gap_steps", "key_stride", "gap_batch")
        idle = [name for name in of_gaps if not has_infill and getattr(self, name) != getattr(LongOptions, name)]
        if idle:
            raise UserError(f"{idle[0]} has no effect without an infill model; give one or leave the option out")
        if self.lead_in and has_start:
            raise UserError(f"lead_in is {self.lead_in} and has no effect on a video that continues a start; leave it out")


class LongKeywords(TypedDict, total=False):
    """The fields of `LongOptions` as keywords of a function."""

    sampler: str | None
    steps: int | None
    eta: float | None
    guidance: float | None
    frames: int
    gap_steps: int | None
    condition_noise: int | None
    gap_noise: int | None
    overlap: int | None
    key_stride: int | None
    gap_batch: int | str
    lead_in: int | None
    label: int | None
    prompt: str | None
