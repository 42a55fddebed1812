"""The mathematics of diffusion as pure functions on any tensor whose first axis is the batch.

Imports lvdm.types only; no networks, no config.
"""
