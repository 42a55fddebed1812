"""Video autoencoders: video (b, 3, t, h, w) in [-1, 1] <-> a posterior over latents; frozen inside a codec for diffusion.

Each keeps the contract `lvdm.types.VideoAutoencoder`. For adversarial training it also has last_layer, the weights of the pixels;
the discriminators are here too. diffusers_vae is imported only where a config names it. Imports lvdm.types, lvdm.rules and
models.layers only. Scale and shift are the codec's.
"""

from lvdm.models.autoencoders.discriminators import ClipDiscriminator, FrameDiscriminator
from lvdm.models.autoencoders.patch_vae3d import PatchVAE3D
from lvdm.models.autoencoders.posterior import Posterior
from lvdm.models.autoencoders.vae3d import VAE3D

__all__ = ["ClipDiscriminator", "FrameDiscriminator", "PatchVAE3D", "Posterior", "VAE3D"]
