"""The random numbers of one training batch: times t, and noise levels s of given frames (LVDM sec. 3.3, latent perturbation)."""

from __future__ import annotations

import torch
from torch import Tensor

from lvdm.types import UserError


def draw_times(batch: int, num_steps: int, generator: torch.Generator | None = None, *, stratified: bool = True) -> Tensor:
    """t (b,) uniform on 0..T-1. Stratified: one from each of b equal parts, in random order, so that every sample's t is still
    uniform while the batch covers the whole range (a loss with less noise at the same cost)."""
    u = torch.rand(batch, generator=generator, dtype=torch.float64)
    if stratified:
        u = (torch.randperm(batch, generator=generator) + u) / batch
    return (u * num_steps).long()


def draw_levels(batch: int, max_level: int, clean_fraction: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """s (b,) uniform on 0..max_level-1, and with probability `clean_fraction` 0. Published: max_level 250, clean_fraction 0.
    Level 0 is the table's first time, which holds a trace of noise (alpha_bar .9985), so "clean" is nearly so."""
    if max_level < 1:
        raise UserError(f"max_level is {max_level}, expected at least 1; 1 gives level 0 always, the published one is 250")
    if not 0 <= clean_fraction <= 1:
        raise UserError(f"clean_fraction is {clean_fraction}, expected a number from 0 to 1")
    level = torch.randint(max_level, (batch,), generator=generator)
    is_clean = torch.rand(batch, generator=generator) < clean_fraction
    return torch.where(is_clean, 0, level)
