"""The frozen autoencoder as diffusion sees it: video <-> normalised latent, whole or as a stream (LVDM, sec. 3.1).

latent = scale * (z + shift), with z the mode of the posterior; decoding undoes it. Scale and shift are Python floats kept in the
state dict's extra state, so that `.to(torch.bfloat16)` never rounds them.
Letters: b batch, c channels, n latents in time, t frames, h w; z raw latent.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lvdm.models.autoencoders.posterior import check_video_shape
from lvdm.rules import integer, require
from lvdm.types import UserError, VideoAutoencoder, check_contract

logger = logging.getLogger(__name__)

DECODE_WINDOW = 16  # latents
DEFAULT_HALO = 8  # latents on each side where no number is exact: enough for the convolutions, norms still differ


class Codec(nn.Module):
    """A frozen autoencoder with its scale and shift; takes and gives the dtype of its parameters.

    Args:
        autoencoder: VAE3D, PatchVAE3D, or another with encode, decode, its factors and decode_halo.
        scale, shift: latent = scale * (z + shift).
        decode_window: latents decoded at once by `decode_stream`, the halo on each side apart.
    """

    def __init__(
        self, autoencoder: nn.Module, *, scale: float = 1.0, shift: float = 0.0, decode_window: int = DECODE_WINDOW
    ) -> None:
        super().__init__()
        check_contract(autoencoder, VideoAutoencoder)
        require(integer(1, 2**31), decode_window=decode_window)
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.set_scale(scale, shift)
        self.decode_window = decode_window
        self._warned = False

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
    def dtype(self) -> torch.dtype:
        return next(self.autoencoder.parameters()).dtype

    def set_scale(self, scale: float, shift: float) -> None:
        """Take measured values: see `Moments`."""
        if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
            raise UserError(f"the latent scale is {scale} and the shift {shift}; both must be finite and the scale positive")
        self.scale, self.shift = float(scale), float(shift)

    def train(self, mode: bool = True) -> Codec:
        """Stays in eval mode: it is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] -> normalised latent (b, c, t/f_t, h/f_s, w/f_s)."""
        return self.moments(video)[0]

    @torch.no_grad()
    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the normalised latent's posterior; `encode` gives the mean."""
        check_video_shape(video.shape, temporal_factor=self.temporal_factor, spatial_factor=self.spatial_factor)
        posterior = self.autoencoder.encode(video.to(self.dtype))
        mean = self.scale * (_at_least_float32(posterior.mode()) + self.shift)
        std = self.scale * torch.exp(0.5 * _at_least_float32(posterior.logvar))
        return mean.to(self.dtype), std.to(self.dtype)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent -> video, whole; not clamped to [-1, 1]."""
        z = _at_least_float32(latent) / self.scale - self.shift
        return self.autoencoder.decode(z.to(self.dtype)).to(self.dtype)

    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """Chunks of latents (b, c, n, h, w), n free -> chunks of video, in windows: memory does not grow with length.

        Equal to decoding whole where the autoencoder's decode_halo is a number. Where it is None (norms over the whole clip)
        windows see DEFAULT_HALO neighbours, and the result is close but not equal; a single window is always exact.
        """
        halo = self.autoencoder.decode_halo
        context = DEFAULT_HALO if halo is None else halo
        for window in _windows(latents, size=self.decode_window, halo=context):
            if halo is None and not window.is_whole:
                self._warn_once(context)
            first, last = window.start * self.temporal_factor, window.stop * self.temporal_factor
            yield self.decode(window.latent)[:, :, first:last]

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(c, t, h, w) of the latent of such a video."""
        shape = (1, 3, frames, height, width)
        check_video_shape(shape, temporal_factor=self.temporal_factor, spatial_factor=self.spatial_factor)
        f_t, f_s = self.temporal_factor, self.spatial_factor
        return self.latent_channels, frames // f_t, height // f_s, width // f_s

    def fingerprint(self) -> str:
        """Hash of weights, scale and shift: latents made by equal fingerprints are interchangeable."""
        digest = hashlib.sha256(f"{type(self.autoencoder).__name__} {self.scale!r} {self.shift!r}".encode())
        for name, weight in sorted(self.autoencoder.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.scale, self.shift], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.set_scale(*state.tolist())

    def _warn_once(self, context: int) -> None:
        if not self._warned:
            logger.warning(
                "this autoencoder's norms see the whole clip, so decoding in windows of %d latents with %d on each side is "
                "close to decoding whole but not equal; norm: frame makes them equal",
                self.decode_window,
                context,
            )
            self._warned = True


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class _Window:
    latent: Tensor  # (b, c, halo + n + halo, h, w), less at the ends of the video
    start: int  # its own latents, without the halo: [start, stop) of `latent`
    stop: int
    is_whole: bool  # nothing of the video lies outside


def _windows(latents: Iterable[Tensor], *, size: int, halo: int) -> Iterator[_Window]:
    """Cut a stream into windows of `size` latents, each with up to `halo` neighbours on each side."""
    source = iter(latents)
    held: Tensor | None = None  # latents still needed; held[:, :, 0] is latent number `first` of the video
    first = done = 0
    ended = False
    while True:
        end = 0 if held is None else first + held.shape[2]
        if not ended and end < done + size + halo + 1:  # one more than needed: to know whether the window is the last
            chunk = next(source, None)
            ended = chunk is None
            if chunk is not None:
                held = chunk if held is None else torch.cat([held, chunk], dim=2)
            continue
        if held is None or done == end:
            return
        stop = min(done + size, end)
        reach = min(stop + halo, end)
        yield _Window(held[:, :, : reach - first], done - first, stop - first, is_whole=first == 0 and ended and reach == end)
        done = stop
        drop = max(done - halo, first)
        held, first = held[:, :, drop - first :], drop


class LatentScale(NamedTuple):
    scale: float
    shift: float


@dataclass(frozen=True)
class Moments:
    """Sums over latents in float64, so that parts measured by several processes add up to the whole."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, z: Tensor) -> Moments:
        """These sums and those of a raw latent."""
        z = z.detach().double()
        return self.merge(Moments(z.numel(), z.sum().item(), z.square().sum().item()))

    def merge(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def latent_scale(self) -> LatentScale:
        """The scale and shift that give scale * (z + shift) zero mean and unit (population) standard deviation."""
        if self.count == 0:
            raise UserError("no latents to measure the scale and shift from; is the data set empty?")
        mean = self.total / self.count
        variance = self.squares / self.count - mean * mean
        if not (math.isfinite(variance) and variance > 1e-12 * mean * mean):
            raise UserError(f"the latents have mean {mean:g} and variance {variance:g}: this autoencoder tells no videos apart")
        return LatentScale(scale=variance**-0.5, shift=-mean)
