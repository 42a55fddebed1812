"""Networks on a noisy latent and a time: UNet3D (LVDM), TriplaneUNet (PVDM) and DiT3D.

The diffusion mathematics around them does not belong here. Imports lvdm.types, lvdm.rules, lvdm.planes and models.layers only.
"""

from lvdm.models.denoisers.dit3d import DiT3D
from lvdm.models.denoisers.triplane_unet import TriplaneUNet
from lvdm.models.denoisers.unet3d import UNet3D

__all__ = ["DiT3D", "TriplaneUNet", "UNet3D"]
