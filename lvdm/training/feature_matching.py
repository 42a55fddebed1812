"""The losses of PVDM's autoencoder, as pure functions: perceptual and adversarial on one drawn frame of each clip, adversarial on
the whole clip, and feature matching on both.

    autoencoder    4 |x - y| + 4 LPIPS(x_f, y_f) - D2(y_f) - D3(y) + 4 sum_i (|D2_i(x_f) - D2_i(y_f)| + |D3_i(x) - D3_i(y)|)
    discriminators hinge(D2(x_f), D2(y_f)) + hinge(D3(x), D3(y))
All are means over their elements; the sum is over stages i except the logits. Letters: x video, y reconstruction, both
(b, 3, t, h, w); f the drawn frame of each clip (b,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.models.autoencoders import StagedDiscriminator
from lvdm.training.adversary import hinge_discriminator_loss, hinge_generator_loss


@dataclass(frozen=True)
class GeneratorParts:
    """The autoencoder's losses by its discriminators, scalars before their weights."""

    adversarial: Tensor
    features: Tensor


def draw_frames(batch: int, num_frames: int, generator: torch.Generator) -> Tensor:
    """Return one frame for each clip (b,), on the CPU."""
    return torch.randint(num_frames, (batch,), generator=generator)


def frames_at(video: Tensor, frame: Tensor) -> Tensor:
    """(b, 3, t, h, w), (b,) -> each clip's frame as a video (b, 3, 1, h, w)."""
    return video[torch.arange(len(video), device=video.device), :, frame.to(video.device)][:, :, None]


def perceptual_loss(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, frame: Tensor) -> Tensor:
    """Return the mean distance of images (b, 3, h, w), such as LPIPS, at the drawn frames."""
    return distance(frames_at(y, frame)[:, :, 0], frames_at(x, frame)[:, :, 0]).mean()


def feature_matching_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return sum_i |real_i - fake_i| over the outputs of a discriminator's stages, the last of which are logits."""
    parts = [(one.detach() - other).abs().mean() for one, other in zip(real[:-1], fake[:-1], strict=True)]
    return torch.stack(parts).sum()


def generator_losses(discriminators: Sequence[StagedDiscriminator], x: Tensor, y: Tensor, frame: Tensor) -> GeneratorParts:
    """Return the sums over the discriminators. Of the real videos no gradient is needed."""
    adversarial, features = [], []
    for discriminator in discriminators:
        with torch.no_grad():
            real = discriminator.features(_seen(discriminator, x, frame))
        fake = discriminator.features(_seen(discriminator, y, frame))
        adversarial.append(hinge_generator_loss(fake[-1]))
        features.append(feature_matching_loss(real, fake))
    return GeneratorParts(torch.stack(adversarial).sum(), torch.stack(features).sum())


def discriminator_loss(discriminators: Sequence[StagedDiscriminator], x: Tensor, y: Tensor, frame: Tensor) -> Tensor:
    """Return the sum of the hinge losses; the reconstruction gets no gradient."""
    losses = []
    for discriminator in discriminators:
        real, fake = (discriminator(_seen(discriminator, video, frame)) for video in (x, y.detach()))
        losses.append(hinge_discriminator_loss(real, fake))
    return torch.stack(losses).sum()


def _seen(discriminator: StagedDiscriminator, video: Tensor, frame: Tensor) -> Tensor:
    """Return the drawn frames for a discriminator of frames, and the whole clips for one of clips."""
    return frames_at(video, frame) if discriminator.dims == 2 else video
