"""The tasks of a diffusion model: which latents it sees, how far apart, and which of them are given.

LVDM sections 3.2 to 3.4. Letters: b batch, c channels, t latent frames of a window, z latent, m mask (1 = given), s level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.diffusion.masks import Mask, NoMask
from lvdm.rules import integer, number, require
from lvdm.training.seeding import ALONE, Share
from lvdm.types import UserError, clip_span


class Task:
    """A task: which frames are given, at which stride, and how often it is sampled.

    Args:
        mask: which frames of a window are given, drawn per sample.
        stride: latents from one frame of the window to the next (4: the sparse key latents of a long video).
        weight: how often this task is drawn, relative to the others.
        random_start: windows start anywhere in a clip; if false at its first latent, as published.
    """

    def __init__(self, mask: Mask | None = None, *, stride: int = 1, weight: float = 1.0, random_start: bool = True) -> None:
        require(integer(1, 2**16), stride=stride)
        require(number(1e-9, 1e9), weight=weight)
        self.mask = NoMask() if mask is None else mask
        self.stride = stride
        self.weight = weight
        self.random_start = random_start


@dataclass(frozen=True)
class WindowBatch:
    """A batch of windows cut from longer latents, with the mask and stride of each sample's task."""

    z: Tensor  # (b, c, t, h, w)
    mask: Tensor  # (b, 1, t, 1, 1)
    stride: Tensor  # (b,) float
    new_fraction: float  # of the frames of all processes' windows: those that are not given


def draw_tasks(tasks: Mapping[str, Task], batch: int, generator: torch.Generator | None) -> list[Task]:
    """Sample a task for each sample, with probabilities proportional to the weights."""
    choices = list(tasks.values())
    weights = torch.tensor([task.weight for task in choices], dtype=torch.float64)
    return [choices[i] for i in torch.multinomial(weights, batch, replacement=True, generator=generator)]


def cut_windows(
    latents: Tensor, tasks: list[Task], num_latents: int, generator: torch.Generator | None, share: Share = ALONE
) -> WindowBatch:
    """Cut from this process's latents (b, c, n, h, w) a window of `num_latents` for each sample's task.

    `tasks` are those of all processes' samples."""
    available = latents.shape[2]
    starts = [_draw_start(task, available, num_latents, generator) for task in tasks]
    masks = torch.cat([task.mask(1, num_latents, generator) for task in tasks])
    mine = list(zip(latents, share.of(starts), share.of(tasks), strict=True))
    z = torch.stack([z[:, start : start + _span(task, num_latents) : task.stride] for z, start, task in mine])
    strides = torch.tensor([float(task.stride) for _, _, task in mine])
    return WindowBatch(z, share.of(masks).to(latents), strides.to(latents.device), 1 - float(masks.mean()))


def _span(task: Task, num_latents: int) -> int:
    return clip_span(num_latents, task.stride)


def _draw_start(task: Task, available: int, num_latents: int, generator: torch.Generator | None) -> int:
    span = _span(task, num_latents)
    if span > available:
        raise UserError(
            f"a window of {num_latents} latents at stride {task.stride} spans {span}, but a training clip has {available}; "
            "make the data set's clips longer, or lower num_latents or stride"
        )
    if not task.random_start:
        return 0
    return int(torch.randint(available - span + 1, (), generator=generator))
