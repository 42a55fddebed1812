"""Lightning modules, optimizers, averaging and callbacks.

Imports lvdm.types, models, diffusion and sampling (previews); no config, no command line.
"""

from lvdm.training.adversary import Adversary
from lvdm.training.autoencoder import AutoencoderTraining
from lvdm.training.averaging import ExponentialAverage
from lvdm.training.diffusion import GivenFrames, LatentDiffusion
from lvdm.training.optimizers import AdamW, Constant, Cosine, Muon
from lvdm.training.reconstruction import ReconstructionLoss
from lvdm.training.stages import InfillDiffusion, JointDiffusion, PredictDiffusion, ShortDiffusion
from lvdm.training.tasks import Task

__all__ = [
    "AdamW",
    "Adversary",
    "AutoencoderTraining",
    "Constant",
    "Cosine",
    "ExponentialAverage",
    "GivenFrames",
    "InfillDiffusion",
    "JointDiffusion",
    "LatentDiffusion",
    "Muon",
    "PredictDiffusion",
    "ReconstructionLoss",
    "ShortDiffusion",
    "Task",
]

BUILDABLE = (  # classes that a config may name
    "adversary.Adversary",
    "autoencoder.AutoencoderTraining",
    "diffusion.GivenFrames",
    "diffusion.LatentDiffusion",
    "optimizers.AdamW",
    "optimizers.Muon",
    "optimizers.Constant",
    "optimizers.Cosine",
    "reconstruction.ReconstructionLoss",
    "stages.ShortDiffusion",
    "stages.PredictDiffusion",
    "stages.InfillDiffusion",
    "stages.JointDiffusion",
    "tasks.Task",
)
