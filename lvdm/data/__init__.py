"""Videos in: which frames, reading, resizing, data sets, toy videos, cached latents. Imports lvdm.types only; no networks."""
