"""Types that every room shares: the batch's keys, the condition and inputs of a denoiser, the protocols.

Letters: b batch, c channels, t frames, h w; z latent; m mask (1 = the frame is given); s noise level of given frames.
A batch is a dict with some of these keys: `video` float in [-1, 1] (b, 3, t, h, w), `latent` (b, c, t, h, w) or planes (b, c, l),
`caption` list of str or their features `context` (b, n, d), `label` (b,) long, `index` (b,) long (which sample of the data set),
`fps` (b,) float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
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
    """A mistake that the user can correct: commands print its message and exit with status 2."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, whose other lines are advice to programmers."""
    return str(error).strip().partition("\n")[0]


@dataclass(frozen=True)
class DenoiserInputs:
    """The inputs of a network besides the noisy latent and the time. By default there are none."""

    mask: bool = False  # which frames are given: `cond.mask`
    noise_level: str | None = None  # of given frames, taken as an "embedding" (published), as their own "time", or not at all
    num_noise_levels: int | None = None  # with "embedding": the levels are 0 to num_noise_levels - 1
    num_labels: int = 0  # classes
    context_dim: int | None = None  # width of the text features; None: no text
    fps: bool = False
    previous: bool = False  # the latent of the clip before

    def __post_init__(self) -> None:
        if self.noise_level not in (None, "embedding", "time"):
            raise UserError(f"noise_level is {self.noise_level!r:.99}, expected null or one of embedding, time")
        if self.noise_level is not None and not self.mask:
            raise UserError(f"noise_level {self.noise_level!r} is the level of given frames; it needs a mask (mask_channel)")
        if (self.noise_level == "embedding") != (self.num_noise_levels is not None):
            raise UserError("num_noise_levels belongs to noise_level 'embedding'; give both or neither")


@dataclass(frozen=True)
class Condition:
    """The inputs of a denoiser besides the noisy latent and the time; None if absent."""

    frames: Tensor | None = None  # (b, c, t, h, w) latents, read where mask is 1
    mask: Tensor | None = None  # (b, 1, t, 1, 1), 1 = given
    frame_noise: Tensor | None = None  # (b,) long, noise level s of the given frames; ABSENT = unknown
    context: Tensor | None = None  # (b, n, d) text features
    label: Tensor | None = None  # (b,) long class; ABSENT = no class
    fps: Tensor | None = None  # (b,) float, frames per second of the clip as the network sees it
    previous: Tensor | None = None  # (b, ...) latent of the clip before (PVDM)

    @property
    def given(self) -> set[str]:
        """Return the names of the parts that are not None."""
        return {f.name for f in fields(self) if getattr(self, f.name) is not None}

    def to(self, device: torch.device | str) -> Condition:
        """Return the same condition on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.given})

    @staticmethod
    def join(first: Condition, second: Condition) -> Condition:
        """Concatenate two conditions along the batch, for guidance. A part that one of them lacks gets its 'absent' value."""
        return Condition(**{f.name: _join(f.name, getattr(first, f.name), getattr(second, f.name)) for f in fields(Condition)})

    def without_frames(self) -> Condition:
        """Return the condition without given frames and their noise level: the unconditional pass of guidance."""
        return replace(self, frames=None, mask=None, frame_noise=None, previous=None)

    def taken_by(self, inputs: DenoiserInputs) -> Condition:
        """Return the parts that a network with these inputs takes."""
        return replace(self, **dict.fromkeys(self.given - _taken(inputs)))

    def frame_times(self, t: Tensor) -> Tensor:
        """Return each frame's own time (b, t): its level if the frame is given with one, else `t`, (b,) or (b, t).

        Without given frames or levels that is `t` itself.
        """
        if self.mask is None or self.frame_noise is None:
            return t
        mask = self.mask[:, 0]  # (b, t, ...), constant over a frame
        is_given = mask.reshape(*mask.shape[:2], -1)[..., 0] > 0.5  # (b, t)
        level = self.frame_noise[:, None].to(t.dtype)  # (b, 1)
        return torch.where(is_given & (level >= 0), level, t if t.ndim == 2 else t[:, None])


def _taken(inputs: DenoiserInputs) -> set[str]:
    """Return the names of the parts of a condition that a network takes."""
    takes = {
        **dict.fromkeys(("frames", "mask"), inputs.mask),
        "frame_noise": inputs.noise_level is not None,
        "context": inputs.context_dim is not None,
        "label": inputs.num_labels > 0,
        "fps": inputs.fps,
        "previous": inputs.previous,
    }
    return {name for name, is_taken in takes.items() if is_taken}


_NOT_TAKEN = {  # what the user gave, and what the network would need to take it; the other parts are dropped silently
    "mask": "takes no mask of given frames; give one with a mask channel (mask_channel: true), or give no frames",
    "frames": "takes no mask of given frames; give one with a mask channel (mask_channel: true), or give no frames",
    "label": "has no classes; leave the label out, or give one with num_labels",
    "context": "takes no text; leave it out, or give one with a context_dim",
    "previous": "takes no previous clip; leave it out",
}


def check_inputs(given: Iterable[str], inputs: DenoiserInputs, *, network: str = "this network") -> None:
    """Refuse parts of a condition, by name, that a network does not take."""
    refused = [name for name in _NOT_TAKEN if name in given and name not in _taken(inputs)]
    if refused:
        raise UserError(f"{network} {_NOT_TAKEN[refused[0]]}")


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse classes that a network does not have, such as its embedding could not look up."""
    if len(labels) and int(labels.max()) >= classes:
        raise UserError(f"a label is {int(labels.max())}, and the network knows classes 0 to {classes - 1}; raise num_labels")


_FILL = {"frames": 0, "mask": 0, "frame_noise": ABSENT, "label": ABSENT, "previous": 0}


def _join(name: str, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    given = second if first is None else first
    if given is None:
        return None
    if (first is None or second is None) and name not in _FILL:
        raise UserError(f"guidance needs {name} in both passes or in neither; give the unconditional one too")
    return torch.cat([torch.full_like(given, _FILL[name]) if part is None else part for part in (first, second)])


class VideoAutoencoder(Protocol):
    """Video (b, 3, t, h, w) in [-1, 1] <-> a posterior over latents; what a codec wraps.

    The last three attributes may be left out: the values here are their defaults.
    """

    temporal_factor: int  # frames of one latent
    spatial_factor: int  # height and width in pixels of one latent
    latent_channels: int
    decode_halo: int | None  # latents on each side that make windowed decoding exact; None: no number does
    first_frame_alone: bool = False  # the first latent is the first frame alone: n f + 1 frames <-> n + 1 latents
    settings: Mapping[str, Any] = MappingProxyType({})  # settings that change latents and leave the shapes of weights alone
    planes: Any = None  # a lvdm.planes.Planes, if a latent is the three planes (b, c, l) of a clip of `temporal_factor` frames

    def encode(self, video: Tensor) -> Any: ...

    def decode(self, latent: Tensor) -> Tensor: ...


@runtime_checkable
class VideoCodec(Protocol):
    """A frozen codec: video (b, 3, t, h, w) in [-1, 1] <-> normalised latent (b, c, latents_of(t), h/f_s, w/f_s)."""

    @property
    def temporal_factor(self) -> int: ...

    @property
    def spatial_factor(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    def encode(self, video: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...

    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]: ...

    def latents_of(self, num_frames: int) -> int: ...

    def frames_of(self, num_latents: int) -> int: ...

    def fingerprint(self) -> str: ...


def video_shape(codec: VideoCodec, latent_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return frames, height and width of the video that a latent (c, n, h, w), or planes (c, l), decodes to."""
    planes = getattr(codec, "planes", None)
    _, latents, height, width = latent_shape if planes is None else (0, 1, planes.height, planes.width)
    return codec.frames_of(latents), height * codec.spatial_factor, width * codec.spatial_factor


def check_decoded(video: Any, shape: Sequence[int | None], decoder: object) -> Tensor:
    """Return what a decoder returned; refuse all but floats of this shape (b, 3, t, h, w), in which None is any number."""
    is_fitting = isinstance(video, Tensor) and video.is_floating_point() and video.ndim == len(shape)
    if is_fitting and all(each is None or each == side for each, side in zip(shape, video.shape, strict=True)):
        return video
    came = f"{video.dtype} {tuple(video.shape)}" if hasattr(video, "shape") else type(video).__name__
    expected = ", ".join("t" if side is None else str(side) for side in shape)
    name = type(decoder).__name__
    raise UserError(f"{name} decodes to {came}, and its factors say floats of shape ({expected}); correct its decode, or them")


@runtime_checkable
class Denoiser(Protocol):
    """A network on (x_t, t, cond); t is (b,) or per frame (b, t). `inputs` says what it takes of the condition."""

    @property
    def inputs(self) -> DenoiserInputs: ...

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor: ...


def check_contract(thing: object, protocol: type) -> None:
    """Refuse an object that lacks what the protocol names; attributes with a default may be absent."""
    required = [name for name in protocol.__annotations__ if name not in vars(protocol)]
    required += [name for name, member in vars(protocol).items() if _is_required(name, member)]
    missing = [name for name in required if not hasattr(thing, name)]
    if missing:
        raise UserError(f"{type(thing).__name__} is no {protocol.__name__}: it lacks {', '.join(missing)}; add what is missing")


def _is_required(name: str, member: object) -> bool:
    return (callable(member) or isinstance(member, property)) and (name == "__call__" or name[0] != "_")


def check_autoencoder(network: object) -> None:
    """Refuse a network that a codec cannot wrap."""
    check_contract(network, VideoAutoencoder)


def check_codec(codec: object, name: str) -> None:
    """Refuse a model that has no codec, or a codec that lacks what sampling needs."""
    if codec is None:
        raise UserError(f"{name} has no codec to decode its latents; give the VideoModel one, such as an lvdm.models.codec.Codec")
    check_contract(codec, VideoCodec)


def check_denoiser(network: object) -> None:
    """Refuse a network that does not say what it takes."""
    if not isinstance(getattr(network, "inputs", None), DenoiserInputs):
        raise UserError(
            f"{type(network).__name__} does not say what it takes; give it `inputs = lvdm.types.DenoiserInputs()` if that is the "
            "noisy latent and the time alone, else with what else it takes, such as DenoiserInputs(mask=True)"
        )
    check_contract(network, Denoiser)


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen network from captions to features (b, n, d). Equal fingerprints give equal features."""

    def __call__(self, captions: list[str]) -> Tensor: ...

    def fingerprint(self) -> str: ...

    def to(self, device: torch.device | str) -> TextEncoder: ...
