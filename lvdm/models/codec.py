"""The frozen autoencoder as diffusion sees it: video <-> normalised latent, whole or as a stream (LVDM, sec. 3.1).

latent = scale * (z + shift), with z the mode of the posterior; decoding inverts it. Scale and shift are Python floats in the
state dict's extra state, so that `.to(torch.bfloat16)` never rounds them.
Letters: b batch, c channels, n latents in time, t frames, h w; f_t, f_s frames and pixels of a latent; z raw latent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lvdm.batching import Batches, fitting
from lvdm.files import add_tensors
from lvdm.models.autoencoders.posterior import check_video_shape
from lvdm.models.decode_windows import Window, cut_windows
from lvdm.planes import Planes
from lvdm.rules import integer, require
from lvdm.types import UserError, VideoAutoencoder, check_autoencoder, check_decoded, video_shape

logger = logging.getLogger(__name__)

DECODE_WINDOW = 16  # latents
DECODE_BYTES = 2 << 10  # memory for a pixel of a decoded frame in VAE3D, with room to spare (1.4 KiB in float32)
DECODE_PIXELS = 2**22  # pixels decoded at once on a CPU, if they are of several videos
DEFAULT_HALO = 8  # latents on each side if no number is exact: enough for convolutions, norms still differ


class Codec(nn.Module):
    """A frozen autoencoder with its scale and shift. Latents and decoded videos have the dtype of its parameters.

    With a `compute_dtype` its matrix products run in that type, by autocast.

    Args:
        autoencoder: VAE3D, PatchVAE3D, TriplaneAE, DiffusersVAE, or any module that keeps `lvdm.types.VideoAutoencoder`.
        scale, shift: latent = scale * (z + shift).
        decode_window: latents decoded at once by `decode_stream`, without the halo on each side.
    """

    def __init__(
        self, autoencoder: nn.Module, *, scale: float = 1.0, shift: float = 0.0, decode_window: int = DECODE_WINDOW
    ) -> None:
        super().__init__()
        check_autoencoder(autoencoder)
        require(integer(1, 2**31), decode_window=decode_window)
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.set_scale(scale, shift)
        self.decode_window = decode_window
        self.compute_dtype: torch.dtype | None = None
        self._videos, self._latents = Batches("videos"), Batches("latents")  # decoded at once
        self._has_warned = False

    @property
    def temporal_factor(self) -> int:
        return self.autoencoder.temporal_factor

    @property
    def spatial_factor(self) -> int:
        return self.autoencoder.spatial_factor

    @property
    def latent_channels(self) -> int:
        return self.autoencoder.latent_channels

    @property
    def first_frame_alone(self) -> bool:
        """Return whether the first latent is the first frame alone, as in published video autoencoders of 4n + 1 frames."""
        return getattr(self.autoencoder, "first_frame_alone", VideoAutoencoder.first_frame_alone)

    @property
    def planes(self) -> Planes | None:
        """Return the sizes of the planes, if a latent is the three planes (b, c, l) of a whole clip."""
        return getattr(self.autoencoder, "planes", VideoAutoencoder.planes)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the autoencoder's settings that change latents and leave the shapes of weights alone."""
        return dict(getattr(self.autoencoder, "settings", VideoAutoencoder.settings))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.autoencoder.parameters()).dtype

    # Shapes ------------------------------------------------------------------------------------------------------------

    def latents_of(self, num_frames: int) -> int:
        """Return how many whole latents these frames make; frames that do not fill a latent at the end do not count."""
        alone = self.first_frame_alone and num_frames > 0
        return (num_frames + alone * (self.temporal_factor - 1)) // self.temporal_factor

    def frames_of(self, num_latents: int) -> int:
        """Return how many frames these latents, the first of a video, decode to."""
        alone = self.first_frame_alone and num_latents > 0
        return num_latents * self.temporal_factor - alone * (self.temporal_factor - 1)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        """Return (c, n, h, w) of the latent of such a video, or (c, l) of planes."""
        self._check((1, 3, frames, height, width))
        if self.planes is not None:
            return self.latent_channels, self.planes.length
        return self.latent_channels, self.latents_of(frames), height // self.spatial_factor, width // self.spatial_factor

    def _check(self, shape: Sequence[int]) -> None:
        factors: dict[str, Any] = {"temporal_factor": self.temporal_factor, "spatial_factor": self.spatial_factor}
        check_video_shape(shape, **factors, first_frame_alone=self.first_frame_alone, planes=self.planes)

    # Coding ------------------------------------------------------------------------------------------------------------

    def set_scale(self, scale: float, shift: float) -> None:
        """Set measured values: see `LatentMoments`."""
        if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
            raise UserError(f"the latent scale is {scale} and the shift {shift}; both must be finite and the scale positive")
        self.scale, self.shift = float(scale), float(shift)

    def train(self, mode: bool = True) -> Codec:
        """Stay in eval mode, because the autoencoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, video: Tensor | np.ndarray) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] -> normalised latent (b, c, n, h/f_s, w/f_s), or planes (b, c, l).

        uint8 frames, (t, h, w, 3) or (b, t, h, w, 3), are videos too. They are converted, and moved to the codec's device.
        """
        return self.moments(video)[0]

    @torch.no_grad()
    def moments(self, video: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the normalised latent's posterior; `encode` returns the mean."""
        video = _as_floats(video, next(self.autoencoder.parameters()).device)
        self._check(video.shape)
        with self._computing(video.device):
            posterior = self.autoencoder.encode(video.to(self.dtype))
        mean = self.scale * (_at_least_float32(posterior.mode()) + self.shift)
        if (shape := tuple(mean.shape[1:])) != (expected := self.latent_shape(*video.shape[2:])):
            name, letters = type(self.autoencoder).__name__, "(c, n, h, w)" if self.planes is None else "(c, l)"
            raise UserError(f"{name} makes latents {letters} of {shape}, its factors say {expected}; correct its attributes")
        std = self.scale * torch.exp(0.5 * _at_least_float32(posterior.logvar))
        return mean.to(self.dtype), std.to(self.dtype)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent -> video, whole; not clamped to [-1, 1]."""
        z = _at_least_float32(latent) / self.scale - self.shift
        with self._computing(latent.device):
            video = self.autoencoder.decode(z.to(self.dtype))
        frames, height, width = video_shape(self, z.shape[1:])
        known = None if self.first_frame_alone else frames  # such autoencoders decode some numbers of latents to more frames
        return check_decoded(video, (len(z), 3, known, height, width), self.autoencoder).to(self.dtype)

    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode chunks of latents (b, c, n, h, w), n free, in windows. Memory does not grow with the length of the video.

        The result equals decoding whole if the autoencoder's decode_halo is a number. If it is None, windows see DEFAULT_HALO
        neighbours, and the result is close but not equal. A single window is always exact. A chunk of planes (b, c, l) is a clip,
        which is decoded alone.
        """
        if self.planes is not None:
            yield from map(self.decode, latents)
            return
        halo = self.autoencoder.decode_halo
        context = DEFAULT_HALO if halo is None else halo
        if self.first_frame_alone:
            context = max(context, 1)  # the first latent of a window decodes to one frame, so it must not be one of its own
        for window in cut_windows(latents, size=self.decode_window, halo=context):
            if halo is None and not window.is_whole:
                self._warn_once(context)
            self._latents.shrinks = halo is not None  # else smaller windows would change the video
            yield from self._latents.over(window.stop - window.start, partial(self._decode_part, window, context))

    def _decode_part(self, window: Window, context: int, part: slice) -> Tensor:
        """Return the frames of a part of a window's own latents, of as many videos at once as fit the memory."""
        start, stop = window.start + part.start, window.start + part.stop
        first = max(0, start - context)
        latent, own = (
            window.latent[:, :, first : stop + context],
            slice(self.frames_of(start - first), self.frames_of(stop - first)),
        )
        pixels = self.frames_of(latent.shape[2]) * latent[0, 0, 0].numel() * self.spatial_factor**2
        most = fitting(pixels, latent.device, bytes_per_unit=DECODE_BYTES, units_on_cpu=DECODE_PIXELS)
        decoded = list(self._videos.over(len(latent), lambda rows: self.decode(latent[rows])[:, :, own], most))
        return decoded[0] if len(decoded) == 1 else torch.cat(decoded)

    def _computing(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.compute_dtype is None else torch.autocast(device.type, self.compute_dtype)

    # Identity ----------------------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Return a hash of class, settings, weights, scale and shift: latents of codecs with equal ones are interchangeable."""
        factors = [self.temporal_factor, self.spatial_factor, self.first_frame_alone]
        return self._hash(f"{type(self.autoencoder).__name__} {json.dumps([factors, self.settings], sort_keys=True)}")

    def fingerprint_of_version_1(self) -> str:
        """Return the hash of lvdm 0.1, which did not cover settings such as VAE3D's norm."""
        return self._hash(type(self.autoencoder).__name__)

    def _hash(self, description: str) -> str:
        digest = hashlib.sha256(f"{description} {self.scale!r} {self.shift!r}".encode())
        add_tensors(digest, self.autoencoder.state_dict())
        return digest.hexdigest()[:32]

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.scale, self.shift], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.set_scale(*state.tolist())

    def _warn_once(self, context: int) -> None:
        if not self._has_warned:
            logger.warning(
                "this autoencoder has no exact decode_halo: decoding in windows of %d latents with %d on each side is close to "
                "decoding whole but not equal; VAE3D has one with norm: frame",
                self.decode_window,
                context,
            )
            self._has_warned = True


def _as_floats(video: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Return a video (b, 3, t, h, w) in [-1, 1]: floats as they are, uint8 frames (t, h, w, 3) or (b, t, h, w, 3) converted."""
    came = f"{video.dtype} {tuple(video.shape)}" if isinstance(video, Tensor | np.ndarray) else f"{video!r:.99}"
    if isinstance(video, np.ndarray) and video.dtype in (np.uint8, np.float16, np.float32, np.float64):
        video = torch.from_numpy(np.ascontiguousarray(video)).to(device)
    if isinstance(video, Tensor) and video.is_floating_point():
        return video
    if isinstance(video, Tensor) and video.dtype == torch.uint8 and video.ndim in (4, 5) and video.shape[-1] == 3:
        frames = video.to(device) if video.ndim == 5 else video.to(device)[None]
        return frames.movedim(-1, 1).float() / 127.5 - 1
    raise UserError(
        f"a codec encodes floats in [-1, 1] (b, 3, t, h, w), or uint8 frames (t, h, w, 3) or (b, t, h, w, 3), not {came}"
    )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LatentScale(NamedTuple):
    scale: float
    shift: float


@dataclass(frozen=True)
class LatentMoments:
    """Sums over latents in float64, so that parts measured by several processes add up to the whole."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, z: Tensor) -> LatentMoments:
        """Return these sums with those of a raw latent added."""
        z = z.detach().double()
        return self.merge(LatentMoments(z.numel(), z.sum().item(), z.square().sum().item()))

    def merge(self, other: LatentMoments) -> LatentMoments:
        return LatentMoments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def latent_scale(self) -> LatentScale:
        """Return the scale and shift that give scale * (z + shift) zero mean and unit (population) standard deviation."""
        if self.count == 0:
            raise UserError("no latents to measure the scale and shift from; is the data set empty?")
        mean = self.total / self.count
        variance = self.squares / self.count - mean * mean
        if not (math.isfinite(variance) and variance > 1e-12 * mean * mean):
            what = f"the latents have mean {mean:g} and variance {variance:g}"
            raise UserError(f"{what}: this autoencoder gives all videos the same latent; train it longer, or check the data")
        return LatentScale(scale=variance**-0.5, shift=-mean)
