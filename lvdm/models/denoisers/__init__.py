"""Networks that look at a noisy latent and a time: UNet3D (LVDM). Imports lvdm.types and models.layers only; the diffusion
mathematics around them does not belong here."""

from lvdm.models.denoisers.unet3d import UNet3D

__all__ = ["UNet3D"]
