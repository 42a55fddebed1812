"""How fast a training config runs on this machine: stages, reading, cached latents."""
