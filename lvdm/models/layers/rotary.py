"""Rotary positions of PVDM's video transformer: angles by which pairs of a head's channels are turned (TimeSformer-rotary).

Letters: n tokens, d width of a head, t frames, h w locations. Angles are computed in float32 and not stored, so that a network in
bfloat16 keeps them exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_SCALE = 5.0  # of space: the finest wave has this many half turns from the middle to a border


def frame_angles(t: int, d: int, device: torch.device) -> Tensor:
    """Return n 10000^(-2j/d) for frame n, (t, d). All d/2 frequencies come twice in a row, as published: the channels of one pair
    have different ones."""
    frequencies = 10000 ** (-torch.arange(0, d, 2, dtype=torch.float32, device=device) / d)
    angles = torch.arange(t, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.repeat(1, 2)


def grid_angles(h: int, w: int, d: int, device: torch.device) -> Tensor:
    """Return pi s y, then pi s x, of the locations (y, x) in [-1, 1]^2 with d/4 scales s, each for a pair: (h w, d)."""
    scales = torch.logspace(0, math.log2(MAX_SCALE), d // 4, base=2, dtype=torch.float32, device=device)
    rows, columns = (torch.linspace(-1, 1, n, device=device)[:, None] * scales * math.pi for n in (h, w))
    angles = torch.cat([rows[:, None].expand(-1, w, -1), columns[None].expand(h, -1, -1)], dim=-1)
    return angles.flatten(0, 1).repeat_interleave(2, dim=-1)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Return x cos + x' sin, where x' is (-b, a) for each pair of neighbours (a, b); x (..., n, d), angles (n, d)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * angles.cos().to(x.dtype) + torch.stack([-b, a], dim=-1).flatten(-2) * angles.sin().to(x.dtype)
