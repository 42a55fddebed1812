"""The words that every room shares: the batch's keys, the condition of a denoiser, three protocols, and rules for values.

Letters: b batch, c channels, t frames, h w; z latent; m mask (1 = the frame is given); s noise level of given frames.
A batch is a dict with some of these keys: `video` float in [-1, 1] (b, 3, t, h, w) or `latent` (b, c, t, h, w),
`caption` list of str or their features `context` (b, n, d), `label` (b,) long, `index` (b,) long (which sample of the data set),
`fps` (b,) float.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Batch = dict[str, Any]
Predictor = Callable[[Tensor, Tensor, "Condition | None"], Tensor]  # (x_t, t, cond) -> x0
Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> x0, all that a sampler sees
Noise = Callable[[torch.Size], Tensor]  # shape (b, ...) -> standard normal, one stream per sample

ABSENT = -1  # in `frame_noise` and `label`: this sample has none


class UserError(ValueError):
    """What the user can mend: commands print its one sentence and exit with status 2."""


@dataclass(frozen=True)
class Rule:
    """What a value that comes from a file or a config must be, and the words for it."""

    words: str
    holds: Callable[[Any], bool]


LARGEST = sys.float_info.max
MAPPING = Rule("a mapping", lambda value: isinstance(value, Mapping))
TEXT = Rule("text", lambda value: isinstance(value, str))


def integer(least: int, most: int | None = None) -> Rule:
    """An integer in a range; a bool is none."""
    words = f"an integer of {least} or more" if most is None else f"an integer from {least} to {most}"

    def holds(value: Any) -> bool:
        return _is_a(Integral, value) and least <= value and (most is None or value <= most)

    return Rule(words, holds)


def number(least: float = -LARGEST, most: float = LARGEST) -> Rule:
    """A finite number in a range; NaN and a bool are none."""
    words = f"a number from {least:g} to {most:g}" if most < LARGEST else f"a finite number of {least:g} or more"
    words = "a finite number" if (least, most) == (-LARGEST, LARGEST) else words
    return Rule(words, lambda value: _is_a(Real, value) and least <= value <= most)


def one_of(*choices: str) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def optional(rule: Rule) -> Rule:
    """The same, or None."""
    return Rule(f"null or {rule.words}", lambda value: value is None or rule.holds(value))


def listed(rule: Rule, shortest: int, longest: int) -> Rule:
    """A list whose items keep the rule."""
    count = str(shortest) if shortest == longest else f"{shortest} to {longest}"

    def holds(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and shortest <= len(value) <= longest and all(map(rule.holds, value))

    return Rule(f"a list of {count}, each {rule.words}", holds)


CHANNELS = integer(1, 2**16)  # no layer is wider: what is has a digit too many
LAYERS = integer(0, 1000)


def require(rule: Rule, /, **values: Any) -> None:
    """UserError for the first value that breaks the rule; it is named as the user named it."""
    for name, value in values.items():
        if not rule.holds(value):
            raise UserError(f"{name} is {_shown.repr(value)}, expected {rule.words}")


class _Short(reprlib.Repr):
    """A value in a few words, whatever its size."""

    def repr_int(self, value: int, level: int) -> str:
        return f"an integer of {value.bit_length()} bits" if value.bit_length() > 200 else repr(value)


_shown = _Short()


def _is_a(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told beside the noisy latent and the time; None where absent."""

    frames: Tensor | None = None  # (b, c, t, h, w) latents, read where mask is 1
    mask: Tensor | None = None  # (b, 1, t, 1, 1), 1 = given
    frame_noise: Tensor | None = None  # (b,) long, noise level s of the given frames; ABSENT = not told
    context: Tensor | None = None  # (b, n, d) text features
    label: Tensor | None = None  # (b,) long class; ABSENT = no class
    fps: Tensor | None = None  # (b,) float, frames per second of the clip as it is shown to the network
    previous: Tensor | None = None  # (b, ...) latent of the clip before (PVDM)

    def to(self, device: torch.device | str) -> Condition:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Condition(**{name: value if value is None else value.to(device) for name, value in moved.items()})

    @staticmethod
    def join(first: Condition, second: Condition) -> Condition:
        """Both along the batch, as guidance needs them; what only one of them has is filled with its 'absent' value."""
        return Condition(**{f.name: _join(f.name, getattr(first, f.name), getattr(second, f.name)) for f in fields(Condition)})

    def without_frames(self) -> Condition:
        """The same condition with no frame given and no noise level told: the unconditional pass of guidance."""
        return replace(self, frames=None, mask=None, frame_noise=None, previous=None)


_FILL = {"frames": 0, "mask": 0, "frame_noise": ABSENT, "label": ABSENT, "previous": 0}


def _join(name: str, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None and second is None:
        return None
    if first is None or second is None:
        if name not in _FILL:
            raise UserError(f"guidance needs {name} in both passes or in neither; give the unconditional one too")
        known = second if first is None else first
        filled = torch.full_like(known, _FILL[name])
        first, second = (filled, known) if first is None else (known, filled)
    return torch.cat([first, second])


@runtime_checkable
class VideoCodec(Protocol):
    """Frozen: video (b, 3, t, h, w) in [-1, 1] <-> normalised latent (b, c, t/f_t, h/f_s, w/f_s)."""

    temporal_factor: int
    spatial_factor: int
    latent_channels: int

    def encode(self, video: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """A network on (x_t, t, cond); t is (b,) or per frame (b, t). `noise_level` says how it learns the level of given
    frames: "embedding" (as published), "time" (the given frames' own time), or None (not at all)."""

    noise_level: str | None

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor: ...


@runtime_checkable
class TextEncoder(Protocol):
    """Frozen: captions to features (b, n, d). Equal fingerprints give equal features."""

    def __call__(self, captions: list[str]) -> Tensor: ...

    def fingerprint(self) -> str: ...

    def to(self, device: torch.device | str) -> TextEncoder: ...
