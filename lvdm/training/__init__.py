"""Lightning modules, optimizers, averaging and callbacks. Imports lvdm.types, models, diffusion, sampling (previews); no config, no command line."""
