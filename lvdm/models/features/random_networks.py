"""I3D, C3D and Inception with fixed random weights, a function of the seed alone, for pipelines without trained weights.

So many layers of plain random weights show every video the same way. Here the norms, or the last layer if there are none, are
first measured on smooth noise; after that, videos that differ have features that differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features.c3d import C3D, FRAMES, SIDE
from lvdm.models.features.i3d import I3D
from lvdm.models.features.inception import Inception

CLIPS = 4  # of noise
LOGITS_SPREAD = 2.0  # standard deviation: neither one class for all, nor all classes alike


@torch.no_grad()
def random_i3d(seed: int, *, width: float = 1.0) -> I3D:
    """Return the frozen network with `width` times the published channels."""
    with torch.device("meta"):
        network = I3D(width=width)
    generator = torch.Generator().manual_seed(seed)
    _fill(network, generator)
    _measure_norms(network)
    x = smooth_noise(generator)
    for layer in list(network.children())[:-2]:  # all but the last pool, which needs 224 pixels, and the logits
        x = layer(x)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def random_inception(seed: int, *, width: float = 1.0) -> Inception:
    """Return the frozen network with `width` times the published channels."""
    with torch.device("meta"):
        network = Inception(width=width)
    generator = torch.Generator().manual_seed(seed)
    _fill(network, generator)
    _measure_norms(network)
    network(smooth_noise(generator)[:, :, ::4])
    return network.eval().requires_grad_(False)


def _measure_norms(network: nn.Module) -> None:
    """Make the norms take the plain mean of what they see next."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)):
        norm.momentum = None
        norm.reset_running_stats()
    network.train()


@torch.no_grad()
def random_c3d(seed: int, *, width: float = 1.0) -> C3D:
    """Return the frozen network with `width` times the published channels."""
    with torch.device("meta"):
        network = C3D(width=width)
    generator = torch.Generator().manual_seed(seed)
    _fill(network, generator)
    seen: list[Tensor] = []
    hook = network.fc8.register_forward_hook(lambda layer, given, logits: seen.append(logits))
    network.eval()(128 * smooth_noise(generator))
    hook.remove()
    mean = seen[0].mean(0)
    scale = LOGITS_SPREAD / (seen[0] - mean).square().mean().sqrt()
    network.fc8.weight.mul_(scale)
    network.fc8.bias.sub_(mean).mul_(scale)
    return network.requires_grad_(False)


def smooth_noise(generator: torch.Generator) -> Tensor:
    """Return a few clips (b, 3, 16, 112, 112) in [-1, 1] that change slowly in space and time."""
    coarse = torch.rand(CLIPS, 3, 4, 7, 7, generator=generator) * 2 - 1
    return F.interpolate(coarse, (FRAMES, SIDE, SIDE), mode="trilinear", align_corners=True)


def _fill(network: nn.Module, generator: torch.Generator) -> None:
    """Draw weights that keep the size of activations through ReLUs (He et al. 2015); norms change nothing, biases are 0."""
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
