"""Networks: autoencoders, denoisers, text encoders, extractors, and the frozen codec around an autoencoder.

Imports lvdm.types, lvdm.rules and lvdm.files only; no training, no diffusion.
"""

BUILDABLE = (  # classes that a config may name
    "autoencoders.triplane.TriplaneAE",
    "autoencoders.vae3d.VAE3D",
    "autoencoders.patch_vae3d.PatchVAE3D",
    "autoencoders.diffusers_vae.DiffusersVAE",
    "autoencoders.discriminators.FrameDiscriminator",
    "autoencoders.discriminators.ClipDiscriminator",
    "autoencoders.discriminators.StagedDiscriminator",
    "codec.Codec",
    "denoisers.dit3d.DiT3D",
    "denoisers.triplane_unet.TriplaneUNet",
    "denoisers.unet3d.UNet3D",
    "features.encoders.TransformersEncoder",
    "text.clip.ClipText",
)
