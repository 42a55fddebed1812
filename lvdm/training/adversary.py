"""The adversarial part of an autoencoder's training: discriminators, their losses, and the weight of the generator loss.

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
from lvdm.types import UserError, check_contract


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the hinge loss of logits: those of real videos should be above 1, those of reconstructions below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Return the loss of the autoencoder, which is low if its reconstructions have high logits."""
    return -fake.mean()


def adaptive_weight(reconstruction_grad: Tensor, generator_grad: Tensor, *, largest: float = 1e4) -> Tensor:
    """Return |reconstruction_grad| / (|generator_grad| + 1e-4), finite; both are gradients at the decoder's last layer."""
    weight = reconstruction_grad.float().norm() / (generator_grad.float().norm() + 1e-4)
    return weight.nan_to_num(0.0, posinf=largest).clamp(0.0, largest).detach()


class Adversary(nn.Module):
    """The discriminators of an autoencoder, with their optimizer and the weight of their loss.

    Args:
        discriminators: one or more networks, such as lvdm.models.autoencoders.FrameDiscriminator; their losses are averaged.
        weight: weight of the generator loss in the autoencoder's loss.
        adaptive: multiply the weight by `adaptive_weight`, which makes both gradients at the last layer equally large.
        start_step: the first adversarial step; before it, the discriminators cost nothing.
        second_pass: show the discriminators a second reconstruction, by the stepped autoencoder and with other noise, as
            published; if false, they see the one that the autoencoder was trained on, which saves a forward pass.
        optimizer: optimizer of the discriminators; None is the published Adam.
    """

    def __init__(
        self,
        discriminators: Sequence[nn.Module],
        *,
        weight: float = 0.5,
        adaptive: bool = True,
        start_step: int = 50_001,
        second_pass: bool = False,
        optimizer: OptimizerSettings | None = None,
    ) -> None:
        super().__init__()
        if not discriminators:
            raise UserError("discriminators is empty, expected one or more; add one, or leave the adversary out")
        require(number(1e-9, 1e9), weight=weight)
        require(integer(0), start_step=start_step)
        self.discriminators = nn.ModuleList(discriminators)
        self.weight, self.adaptive, self.start_step, self.second_pass = weight, adaptive, start_step, second_pass
        self.optimizer = optimizer or AdamW(3.6e-5, betas=(0.5, 0.9))
        check_contract(self.optimizer, OptimizerSettings)

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        return torch.stack([hinge_generator_loss(each(reconstruction)) for each in self.discriminators]).mean()

    def discriminator_loss(self, video: Tensor, reconstruction: Tensor) -> Tensor:
        losses = [hinge_discriminator_loss(each(video), each(reconstruction)) for each in self.discriminators]
        return torch.stack(losses).mean()

    def trained_parameters(self) -> Iterable[Parameter]:
        return self.discriminators.parameters()
