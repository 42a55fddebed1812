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
    "objective.EpsObjective",
    "objective.X0Objective",
    "objective.VObjective",
    "schedule.SqrtLinear",
    "schedule.Linear",
    "schedule.Cosine",
    "weights.UniformWeight",
    "weights.MinSNRWeight",
)
