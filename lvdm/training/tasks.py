"""What a diffusion model is asked to do: which latents it sees, how far apart, and which of them are given.

LVDM sections 3.2 to 3.4. Letters: b batch, c channels, t latent frames of a window, z latent, m mask (1 = given), s level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lvdm.diffusion.masks import Mask, NoMask
from lvdm.types import UserError


class Task:
    """One thing to learn.

    Args:
        mask: which frames of a window are given, drawn per sample.
        stride: latents from one frame of the window to the next (4: the sparse key latents of a long video).
        weight: how often this task is drawn, relative to the others.
    """

    def __init__(self, mask: Mask | None = None, *, stride: int = 1, weight: float = 1.0) -> None:
        if stride < 1 or weight <= 0:
            raise UserError(f"a task needs stride >= 1 and weight > 0, not {stride} and {weight}")
        self.mask = NoMask() if mask is None else mask
        self.stride = stride
        self.weight = weight


@dataclass(frozen=True)
class Window:
    """A batch of windows cut from longer latents, with what each sample is asked."""

    z: Tensor  # (b, c, t, h, w)
    mask: Tensor  # (b, 1, t, 1, 1)
    stride: Tensor  # (b,) float


def generator_for(*place: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Randomness as a function of where we are (seed, step, rank, ...): nothing to save, nothing to restore."""
    state = np.random.SeedSequence(place).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) >> 1)


def draw_tasks(tasks: Mapping[str, Task], batch: int, generator: torch.Generator | None) -> list[Task]:
    """One task per sample, with probabilities proportional to the weights."""
    choices = list(tasks.values())
    weights = torch.tensor([task.weight for task in choices], dtype=torch.float64)
    return [choices[i] for i in torch.multinomial(weights, batch, replacement=True, generator=generator)]


def cut_windows(latents: Tensor, tasks: list[Task], num_latents: int, generator: torch.Generator | None) -> Window:
    """From latents (b, c, n, h, w), a window of `num_latents` for each sample's task at a random place."""
    available = latents.shape[2]
    windows, masks = [], []
    for z, task in zip(latents, tasks, strict=True):
        span = (num_latents - 1) * task.stride + 1
        if span > available:
            raise UserError(
                f"a window of {num_latents} latents at stride {task.stride} spans {span}, but a training clip has {available}; "
                "make the data set's clips longer, or lower num_latents or stride"
            )
        start = int(torch.randint(available - span + 1, (), generator=generator))
        windows.append(z[:, start : start + span : task.stride])
        masks.append(task.mask(1, num_latents, generator))
    strides = torch.tensor([float(task.stride) for task in tasks])
    return Window(torch.stack(windows), torch.cat(masks).to(latents), strides.to(latents.device))
