"""What a denoiser reads from its Condition: which frames are given, their time, and what it must refuse (LVDM section 3.2).

Letters: b batch, t frames, h w space; m mask (1 = given); s noise level of given frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvdm.types import Condition, UserError


def times_per_frame(t: Tensor, frames: int) -> Tensor:
    """(b,) or (b, t) -> (b, t). A scalar time is spread before anything is computed from it, so that the same kernels see
    the same numbers and a constant per-frame time gives the same output to the bit."""
    if t.ndim == 1:
        return t[:, None].expand(-1, frames)
    if t.shape[1] != frames:
        raise UserError(f"the time has {t.shape[1]} frames and the latent {frames}; give t as (b,) or (b, {frames})")
    return t


def with_mask_channel(x: Tensor, mask: Tensor | None) -> Tensor:
    """[x, m] on channels; m (b, 1, t, 1, 1) or (b, 1, t, h, w), zeros where nothing is given."""
    channel = torch.zeros_like(x[:, :1]) if mask is None else mask.to(x.dtype).expand(-1, -1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)


def check_latent(x: Tensor, *, channels: int, factor: int) -> None:
    """Refuse a latent that the layers cannot take."""
    if x.ndim != 5 or x.shape[1] != channels:
        raise UserError(f"the latent is {tuple(x.shape)}, this network takes (b, {channels}, t, h, w)")
    if x.shape[3] % factor or x.shape[4] % factor:
        raise UserError(f"the latent is {x.shape[3]} x {x.shape[4]}, this network halves it: give multiples of {factor}")


def check_condition(cond: Condition, *, mask_channel: bool, num_labels: int, needs_context: bool, needs_fps: bool) -> None:
    """Refuse what the network cannot read, and what it cannot do without."""
    if not mask_channel and (cond.mask is not None or cond.frames is not None):
        raise UserError("frames are given but this network has no mask channel to see them; train one with mask_channel: true")
    if not num_labels and cond.label is not None:
        raise UserError("a label is given but this network knows no classes; leave it out or train one with num_labels")
    if needs_context and cond.context is None:
        raise UserError("this network reads text and got no context; give a prompt (the empty one for none)")
    if not needs_context and cond.context is not None:
        raise UserError("text is given but this network reads none; leave it out or train one with context_dim")
    if needs_fps and cond.fps is None:
        raise UserError("this network is told the frames per second and got none; give cond.fps, one number per sample")
