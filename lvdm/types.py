"""The words that every room shares: the batch's keys, the condition of a denoiser, the protocols.

Letters: b batch, c channels, t frames, h w; z latent; m mask (1 = the frame is given); s noise level of given frames.
A batch is a dict with some of these keys: `video` float in [-1, 1] (b, 3, t, h, w) or `latent` (b, c, t, h, w),
`caption` list of str or their features `context` (b, n, d), `label` (b,) long, `index` (b,) long (which sample of the data set),
`fps` (b,) float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Batch = dict[str, Any]
Predictor = Callable[[Tensor, Tensor, "Condition | None"], Tensor]  # (x_t, t, cond) -> x0
Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> x0, all that a sampler sees
Noise = Callable[[torch.Size], Tensor]  # shape (b, ...) -> standard normal, one stream per sample

ABSENT = -1  # in `frame_noise` and `label`: this sample has none


def clip_span(num_frames: int, stride: int = 1) -> int:
    """Return how many frames there are from the first to the last of a clip, both counted; the same for latents."""
    assert num_frames >= 1 and stride >= 1, f"a clip of {num_frames} frames at stride {stride}"
    return (num_frames - 1) * stride + 1


class UserError(ValueError):
    """What the user can mend: commands print its one sentence and exit with status 2."""


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


class VideoAutoencoder(Protocol):
    """Video (b, 3, t, h, w) in [-1, 1] <-> a posterior over latents; what a codec wraps."""

    temporal_factor: int
    spatial_factor: int
    latent_channels: int
    decode_halo: int | None  # latents on each side that make windowed decoding exact; None: no number does

    def encode(self, video: Tensor) -> Any: ...

    def decode(self, latent: Tensor) -> Tensor: ...


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


def check_contract(thing: object, protocol: type) -> None:
    """Refuse an object that lacks what the protocol names."""
    members = [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]
    missing = [name for name in (*protocol.__annotations__, *members) if not hasattr(thing, name)]
    if missing:
        lacking = ", ".join(missing)
        raise UserError(f"{type(thing).__name__} is no {protocol.__name__}, because it has no {lacking}; add what is missing")


@runtime_checkable
class TextEncoder(Protocol):
    """Frozen: captions to features (b, n, d). Equal fingerprints give equal features."""

    def __call__(self, captions: list[str]) -> Tensor: ...

    def fingerprint(self) -> str: ...

    def to(self, device: torch.device | str) -> TextEncoder: ...
