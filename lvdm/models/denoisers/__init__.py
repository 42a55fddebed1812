"""Networks on a noisy latent and a time: UNet3D (LVDM) and DiT3D. The diffusion mathematics around them does not belong here.

Imports lvdm.types, lvdm.rules and models.layers only.
"""

from lvdm.models.denoisers.dit3d import DiT3D
from lvdm.models.denoisers.unet3d import UNet3D

__all__ = ["DiT3D", "UNet3D"]
