"""LVDM's stages: short clips, prediction, infilling, and all three with one set of weights.

LVDM sections 3.2 and 3.3. They differ only in which latents are given and how far apart they lie; `tasks` in the config
overrides what is written here.
"""

from __future__ import annotations

from lvdm.diffusion.masks import BothEnds, EveryKth, FirstFrames, Mixture, NoMask
from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.tasks import Task


class ShortDiffusion(LatentDiffusion):
    """Unconditional clips."""


class PredictDiffusion(LatentDiffusion):
    """Continues sparse key latents: half of the time the first one is given, else none (sky's published settings)."""

    @staticmethod
    def default_tasks() -> dict[str, Task]:
        return {"predict": Task(Mixture([FirstFrames([1]), NoMask()], [0.5, 0.5]), stride=4)}


class InfillDiffusion(LatentDiffusion):
    """Fills the gap between two key latents (sky's published settings)."""

    @staticmethod
    def default_tasks() -> dict[str, Task]:
        return {"infill": Task(Mixture([BothEnds(), NoMask()], [0.9, 0.1]))}


class JointDiffusion(LatentDiffusion):
    """All three with one set of weights; the frame rate tells the network how far apart the latents lie."""

    @staticmethod
    def default_tasks() -> dict[str, Task]:
        return {
            "short": Task(stride=4, weight=0.35),
            "predict": Task(FirstFrames([3, 4, 5]), stride=4, weight=0.42),
            "infill": Task(EveryKth(4), stride=1, weight=0.23),
        }
