"""Video autoencoders: video (b, 3, t, h, w) in [-1, 1] <-> a posterior over latents; frozen inside a codec for diffusion.

Each has encode, decode, temporal_factor, spatial_factor, latent_channels and decode_halo (latents of context on each side that
make windowed decoding equal to whole decoding, None where none do), and last_layer, the weights that make pixels, for adversarial
training, whose discriminators are here too. Imports lvdm.types only. Scale and shift are the codec's.
"""

from lvdm.models.autoencoders.discriminators import ClipDiscriminator, FrameDiscriminator
from lvdm.models.autoencoders.patch_vae3d import PatchVAE3D
from lvdm.models.autoencoders.posterior import Posterior
from lvdm.models.autoencoders.vae3d import VAE3D

__all__ = ["ClipDiscriminator", "FrameDiscriminator", "PatchVAE3D", "Posterior", "VAE3D"]
