"""Lightning modules, optimizers, averaging and callbacks.

Imports lvdm.types, models, diffusion and sampling (previews); no config, no command line.
"""

from lvdm.training.adversary import Adversary
from lvdm.training.autoencoder import AutoencoderTraining
from lvdm.training.averaging import ExponentialAverage
from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.given_frames import GivenFrames
from lvdm.training.optimizers import AdamW, Constant, Cosine, LearningRate, Muon, OptimizerSettings
from lvdm.training.reconstruction import ReconstructionLoss, ReconstructionParts
from lvdm.training.tasks import Task

__all__ = [
    "AdamW",
    "Adversary",
    "AutoencoderTraining",
    "Constant",
    "Cosine",
    "ExponentialAverage",
    "GivenFrames",
    "LatentDiffusion",
    "LearningRate",
    "Muon",
    "OptimizerSettings",
    "ReconstructionLoss",
    "ReconstructionParts",
    "Task",
]

BUILDABLE = (  # classes that a config may name
    "adversary.Adversary",
    "autoencoder.AutoencoderTraining",
    "diffusion.LatentDiffusion",
    "given_frames.GivenFrames",
    "optimizers.AdamW",
    "optimizers.Muon",
    "optimizers.Constant",
    "optimizers.Cosine",
    "reconstruction.ReconstructionLoss",
    "tasks.Task",
)
