"""The mathematics of diffusion as pure functions on any tensor whose first axis is the batch.

Imports lvdm.types only; no networks, no config.
"""

BUILDABLE = (  # classes that a config may name
    "losses.L1Loss",
    "losses.L2Loss",
    "masks.NoMask",
    "masks.FirstFrames",
    "masks.BothEnds",
    "masks.EveryKth",
    "masks.Mixture",
    "objectives.EpsObjective",
    "objectives.X0Objective",
    "objectives.VObjective",
    "objectives.FlowObjective",
    "schedules.SqrtLinear",
    "schedules.Linear",
    "schedules.Cosine",
    "schedules.RectifiedFlow",
    "training_times.UniformTimes",
    "training_times.StratifiedTimes",
    "training_times.LogitNormalTimes",
    "training_times.ShiftedTimes",
    "loss_weights.UniformWeight",
    "loss_weights.MinSNRWeight",
)
