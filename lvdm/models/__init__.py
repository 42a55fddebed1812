"""Networks: autoencoders, denoisers, and the frozen codec around an autoencoder.

Imports lvdm.types only; no training, no diffusion.
"""
