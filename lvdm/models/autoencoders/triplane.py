"""The published autoencoder of PVDM: a clip as three planes, each a projection along one axis (PVDM section 3.2).

Letters: b batch, c channels, t frames, h w locations of the latent, p side of a patch in pixels, d width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lvdm.models.autoencoders.posterior import Posterior, check_video_shape
from lvdm.models.autoencoders.video_transformer import Projector, Trunk
from lvdm.planes import NAMES, Planes, pack
from lvdm.rules import CHANNELS, LAYERS, integer, listed, require
from lvdm.types import UserError

PROJECTED = {  # tokens (b, t, h, w, d) with the axis last that a plane is without
    "xy": "b t h w d -> b h w t d",
    "yt": "b t h w d -> b t w h d",
    "xt": "b t h w d -> b t h w d",
}
PROJECTOR_HEADS, PROJECTOR_INNER = 4, 512  # as published, for any width
SIDES = listed(integer(1, 2**16), 2, 2)


class TriplaneAE(nn.Module):
    """Clip (b, 3, t, h p, w p) in [-1, 1] <-> planes (b, c, l) in (-1, 1), see lvdm.planes; without noise, so no KL.

    The defaults are the published size, 62.1 M parameters. Clips have one size, because positions are learned.

    Args:
        size: height and width of a clip in pixels; one number for a square.
        num_frames: frames of a clip.
        patch: side p of a patch in pixels.
        channels: width of a token.
        latent_channels: channels of the planes.
        depth, num_heads, head_width: layers and attention of the two trunks.
        projector_depth: layers of the three projectors, whose heads have an eighth of the channels.
        checkpointing: recompute layers in the backward pass: less memory, more time, the same gradients.
    """

    decode_halo = 0  # every clip is decoded alone

    def __init__(
        self,
        size: int | Sequence[int] = 256,
        num_frames: int = 16,
        patch: int = 8,
        channels: int = 384,
        latent_channels: int = 4,
        *,
        depth: int = 8,
        num_heads: int = 8,
        head_width: int = 64,
        projector_depth: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sides = [size, size] if isinstance(size, int) else size
        require(SIDES, size=sides)
        height, width = sides
        require(integer(1, 2**16), num_frames=num_frames, patch=patch)
        require(CHANNELS, channels=channels, latent_channels=latent_channels, num_heads=num_heads, head_width=head_width)
        require(LAYERS, depth=depth, projector_depth=projector_depth)
        if height % patch or width % patch:
            raise UserError(f"patches of {patch} pixels do not divide clips of {height} x {width}; change patch or size")
        if channels % 8 or head_width % 4:
            raise UserError(f"channels {channels} and head_width {head_width} must be multiples of 8 and of 4; change them")
        self.planes = Planes(num_frames, height // patch, width // patch)
        self.temporal_factor, self.spatial_factor, self.latent_channels = num_frames, patch, latent_channels
        self.settings = {"num_heads": num_heads}
        self.checkpointing = checkpointing
        trunk = (channels, depth, num_heads, head_width)
        self.encoder = Trunk(*trunk, patch_channels=3 * patch**2, checkpointing=checkpointing)
        self.decoder = Trunk(*trunk, checkpointing=checkpointing)
        self.to_pixel = nn.Sequential(nn.Identity(), nn.ConvTranspose2d(channels, 3, patch, patch))
        lengths = (self.planes.frames, self.planes.height, self.planes.width)  # of the axis that a plane is without
        for plane, length in zip(NAMES, lengths, strict=True):
            self.register_parameter(f"{plane}_token", nn.Parameter(torch.randn(1, 1, channels)))
            self.register_parameter(f"{plane}_pos_embedding", nn.Parameter(torch.randn(1, length + 1, channels)))
            projector = Projector(channels, projector_depth, PROJECTOR_HEADS, channels // 8, PROJECTOR_INNER)
            self.add_module(f"{plane}_quant_attn", projector)
            self.add_module(f"pre_{plane}", nn.Conv2d(channels, latent_channels, 1))
            self.add_module(f"post_{plane}", nn.Conv2d(latent_channels, channels, 1))

    @property
    def last_layer(self) -> Tensor:
        """Return the weights of the pixels; the weight of the adversarial loss is measured there."""
        return self.get_parameter("to_pixel.1.weight")

    def encode(self, video: Tensor) -> Posterior:
        """Clip (b, 3, t, h p, w p) -> planes (b, c, l) without noise."""
        check_video_shape(
            video.shape, temporal_factor=self.temporal_factor, spatial_factor=self.spatial_factor, planes=self.planes
        )
        patches = rearrange(video, "b c t (h p) (w q) -> b t h w (p q c)", p=self.spatial_factor, q=self.spatial_factor)
        tokens = self.encoder(patches)
        return Posterior.exact(pack([self._project(tokens, plane) for plane in NAMES]))

    def _project(self, tokens: Tensor, plane: str) -> Tensor:
        """Tokens (b, t, h, w, d) -> a plane (b, c, rows, columns)."""
        sequences = rearrange(tokens, PROJECTED[plane])
        arguments = (sequences.flatten(0, 2), self.get_parameter(f"{plane}_token"), self.get_parameter(f"{plane}_pos_embedding"))
        projector = self.get_submodule(f"{plane}_quant_attn")
        if self.checkpointing and torch.is_grad_enabled():
            projected = checkpoint(projector, *arguments, use_reentrant=False)
        else:
            projected = projector(*arguments)
        maps = projected.unflatten(0, sequences.shape[:3]).movedim(-1, 1)  # (b, d, rows, columns)
        return self.get_submodule(f"pre_{plane}")(maps).tanh()

    def decode(self, latent: Tensor) -> Tensor:
        """Planes (b, c, l) -> clip (b, 3, t, h p, w p) in (-1, 1)."""
        maps = [self.get_submodule(f"post_{name}")(z) for name, z in zip(NAMES, self.planes.split(latent), strict=True)]
        xy, yt, xt = (each.movedim(1, -1) for each in maps)
        tokens = self.decoder(xy[:, None] + yt[:, :, None] + xt[:, :, :, None])  # (b, t, h, w, d)
        frames = self.to_pixel(rearrange(tokens, "b t h w d -> (b t) d h w"))
        return 2 * rearrange(frames, "(b t) c h w -> b c t h w", b=len(latent)).sigmoid() - 1
