"""A published autoencoder of the diffusers package as ours: of images, frame by frame, or of videos (`pip install diffusers`).

    target: lvdm.models.autoencoders.DiffusersVAE
    params:
      vae: {target: diffusers.AutoencoderKLLTXVideo, params: {...}}  # the values of its config.json
      latent_channels: 128
      spatial_factor: 32
      temporal_factor: 8

Its own scaling_factor s is the codec's: `Codec(..., scale=s)`. Letters: b batch, c channels, t frames, h w; z latent.
"""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from lvdm.models.autoencoders.posterior import Posterior, check_video_shape
from lvdm.rules import CHANNELS, integer, require
from lvdm.types import UserError


class DiffusersVAE(nn.Module):
    """An autoencoder of diffusers that encodes to a Gaussian: AutoencoderKL, AutoencoderKLLTXVideo, AutoencoderKLCogVideoX, ...

    Args:
        vae: the network.
        latent_channels, spatial_factor: of its latents, as its model card says.
        temporal_factor: frames of one latent. 1 is an image autoencoder, which gets the frames as a batch.
        first_frame_alone: the first latent of a video is the first frame alone; so it is in most published video autoencoders.
    """

    def __init__(
        self,
        vae: ModelMixin,
        *,
        latent_channels: int,
        spatial_factor: int = 8,
        temporal_factor: int = 1,
        first_frame_alone: bool = True,
    ) -> None:
        super().__init__()
        require(CHANNELS, latent_channels=latent_channels)
        require(integer(1, 256), spatial_factor=spatial_factor, temporal_factor=temporal_factor)
        if not (hasattr(vae, "encode") and hasattr(vae, "decode")):
            raise UserError(
                f"{type(vae).__name__} has no encode and decode; give an autoencoder, such as diffusers.AutoencoderKL"
            )
        self.vae, self.latent_channels, self.spatial_factor = vae, latent_channels, spatial_factor
        self.temporal_factor, self.first_frame_alone = temporal_factor, first_frame_alone and temporal_factor > 1
        self.decode_halo = 0 if temporal_factor == 1 else None
        self.settings = {type(vae).__name__: _settings(vae)}

    def encode(self, video: Tensor) -> Posterior:
        """Video (b, 3, t, h, w) -> posterior over latents."""
        factors: dict[str, Any] = {"temporal_factor": self.temporal_factor, "spatial_factor": self.spatial_factor}
        check_video_shape(video.shape, **factors, first_frame_alone=self.first_frame_alone)
        gaussian = self.vae.encode(self._enter(video)).latent_dist
        return Posterior(self._leave(gaussian.mean, len(video)), self._leave(gaussian.logvar, len(video)))

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (b, c, n, h, w) -> video (b, 3, t, h, w)."""
        return self._leave(self.vae.decode(self._enter(latent)).sample, len(latent))

    def _enter(self, x: Tensor) -> Tensor:
        return rearrange(x, "b c t h w -> (b t) c h w") if self.temporal_factor == 1 else x

    def _leave(self, x: Tensor, batch: int) -> Tensor:
        return rearrange(x, "(b t) c h w -> b c t h w", b=batch) if self.temporal_factor == 1 else x


def _settings(vae: Any) -> dict[str, Any]:
    """Return the settings that are not the defaults, so that an option that diffusers adds changes no fingerprint."""
    defaults = inspect.signature(type(vae)).parameters
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vae.config.items() if name in defaults}
    usual = {name: list(p.default) if isinstance(p.default, tuple) else p.default for name, p in defaults.items()}
    return {name: value for name, value in plain.items() if value != usual[name]}
