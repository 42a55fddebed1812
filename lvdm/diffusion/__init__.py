"""The mathematics of diffusion as pure functions on any tensor whose first axis is the batch.

Imports lvdm.types only; no networks, no config.
"""

BUILDABLE = (  # classes that a config may name
    "losses.L1Loss",
    "losses.L2Loss",
    "losses.HuberLoss",
    "masks.NoMask",
    "masks.FirstFrames",
    "masks.BothEnds",
    "masks.EveryKth",
    "masks.RandomSubset",
    "masks.Mixture",
    "objectives.EpsObjective",
    "objectives.X0Objective",
    "objectives.VObjective",
    "schedules.SqrtLinear",
    "schedules.Linear",
    "schedules.Cosine",
    "loss_weights.UniformWeight",
    "loss_weights.MinSNRWeight",
)
