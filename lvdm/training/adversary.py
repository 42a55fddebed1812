"""The adversarial part of an autoencoder's training: discriminators, their losses, and how much of them the autoencoder hears.

LVDM section 3.1; hinge loss, and VQGAN's adaptive weight. Letters: x video, y reconstruction, both (b, 3, t, h, w).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from lvdm.rules import integer, number, require
from lvdm.training.optimizers import AdamW, OptimizerSettings
from lvdm.types import UserError


def hinge_judging(real: Tensor, made: Tensor) -> Tensor:
    """What a discriminator lowers: logits of real videos above 1, of made ones below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def hinge_fooling(made: Tensor) -> Tensor:
    """What the autoencoder lowers: made videos with high logits."""
    return -made.mean()


def adaptive_weight(of_reconstruction: Tensor, of_fooling: Tensor, *, largest: float = 1e4) -> Tensor:
    """|grad of the reconstruction loss| / (|grad of the fooling loss| + 1e-4), both at the decoder's last layer; finite."""
    weight = of_reconstruction.float().norm() / (of_fooling.float().norm() + 1e-4)
    return weight.nan_to_num(0.0, posinf=largest).clamp(0.0, largest).detach()


class Adversary(nn.Module):
    """Who judges reconstructions, and from when on.

    Args:
        discriminators: one or more, such as lvdm.models.autoencoders.FrameDiscriminator; their losses are averaged.
        weight: of the fooling loss in the autoencoder's.
        adaptive: multiply it by the adaptive weight, which makes its gradient as large as the reconstruction's.
        start_step: the first step that has it; before, the discriminators cost nothing.
        optimizer: of the discriminators; Adam as published where absent.
    """

    def __init__(
        self,
        discriminators: Sequence[nn.Module],
        *,
        weight: float = 0.5,
        adaptive: bool = True,
        start_step: int = 50_001,
        optimizer: OptimizerSettings | None = None,
    ) -> None:
        super().__init__()
        if not discriminators:
            raise UserError("discriminators is empty; an adversary needs one or more")
        require(number(1e-9, 1e9), weight=weight)
        require(integer(0), start_step=start_step)
        self.discriminators = nn.ModuleList(discriminators)
        self.weight, self.adaptive, self.start_step = weight, adaptive, start_step
        self.optimizer = optimizer or AdamW(3.6e-5, betas=(0.5, 0.9))

    def fooling(self, reconstruction: Tensor) -> Tensor:
        return torch.stack([hinge_fooling(judge(reconstruction)) for judge in self.discriminators]).mean()

    def judging(self, video: Tensor, reconstruction: Tensor) -> Tensor:
        losses = [hinge_judging(judge(video), judge(reconstruction)) for judge in self.discriminators]
        return torch.stack(losses).mean()

    def trained_parameters(self) -> Iterable[Parameter]:
        return self.discriminators.parameters()
