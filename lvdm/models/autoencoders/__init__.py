"""Video autoencoders: video (b, 3, t, h, w) in [-1, 1] <-> a posterior over latents; frozen inside a codec for diffusion.

Each keeps the contract `lvdm.types.VideoAutoencoder`. For adversarial training it also has last_layer, the weights of the pixels;
the discriminators are here too. DiffusersVAE is imported when it is first used. Imports lvdm.types, lvdm.rules, lvdm.planes and
models.layers only. Scale and shift are the codec's.
"""

from typing import Any

from lvdm.models.autoencoders.discriminators import ClipDiscriminator, FrameDiscriminator, StagedDiscriminator
from lvdm.models.autoencoders.patch_vae3d import PatchVAE3D
from lvdm.models.autoencoders.posterior import Posterior
from lvdm.models.autoencoders.triplane import TriplaneAE
from lvdm.models.autoencoders.vae3d import VAE3D

__all__ = [
    "ClipDiscriminator",
    "DiffusersVAE",
    "FrameDiscriminator",
    "PatchVAE3D",
    "Posterior",
    "StagedDiscriminator",
    "TriplaneAE",
    "VAE3D",
]


def __getattr__(name: str) -> Any:
    if name != "DiffusersVAE":  # needs the extra diffusers
        raise AttributeError(f"lvdm.models.autoencoders has no {name}; it has {', '.join(__all__)}")
    from lvdm.models.autoencoders.diffusers_vae import DiffusersVAE

    return DiffusersVAE
