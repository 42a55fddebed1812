"""The part that every denoiser shares: what it takes, checked, and one vector per frame of time and condition (LVDM section 3.2).

    class MyDenoiser(ConditionedDenoiser):
        def __init__(self, width: int = 64) -> None:
            super().__init__(DenoiserInputs(mask=True, fps=True), features=width, width=width)
            ...
        def forward(self, x, t, cond=None):
            cond = self.checked(cond)
            emb = self.embed(t, cond, frames=x.shape[2])  # (b, t, width)

Letters: b batch, t frames (as a shape) or diffusion time (as an argument), h w space, m mask (1 = given), e embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvdm.models.layers.embeddings import INDEX_PERIOD, NumberEmbedding, OptionalEmbedding, sinusoidal_features
from lvdm.rules import CHANNELS, integer, optional, require
from lvdm.types import Condition, DenoiserInputs, UserError, check_inputs, check_labels


class ConditionedDenoiser(nn.Module):
    """The base of a denoiser: embeds the time, the noise level of given frames, the class, the fps and each frame's position.

    The parameters have the names of the published UNet, where `label_emb` embeds a noise level and `class_emb` the label.

    Args:
        inputs: what the network takes.
        features: sinusoidal features of a number.
        width: of the embedding.
        position_embedding: embed each frame's index in the window. Like the fps, it has no effect at the start of training.
    """

    def __init__(self, inputs: DenoiserInputs, *, features: int, width: int, position_embedding: bool = False) -> None:
        super().__init__()
        require(optional(integer(1, 10**6)), num_noise_levels=inputs.num_noise_levels)
        require(optional(CHANNELS), context_dim=inputs.context_dim)
        require(integer(0, 10**6), num_labels=inputs.num_labels)
        self.inputs, self.features = inputs, features
        levels, labels = inputs.num_noise_levels, inputs.num_labels
        self.time_embed = NumberEmbedding(features, width)
        self.label_emb = None if levels is None else OptionalEmbedding(levels, width)  # of noise levels
        self.class_emb = OptionalEmbedding(labels, width) if labels else None
        self.fps_embed = NumberEmbedding(features, width, starts_at_zero=True) if inputs.fps else None
        self.position_embed = NumberEmbedding(features, width, starts_at_zero=True) if position_embedding else None

    def checked(self, cond: Condition | None) -> Condition:
        """Return the condition, empty for None. Refuse what the network does not take, and a lack of what it needs."""
        cond = Condition() if cond is None else cond
        check_inputs(cond.given, self.inputs)
        if self.inputs.context_dim is not None and cond.context is None:
            raise UserError("this network takes text and got none; give a prompt (the empty one for no text)")
        if self.inputs.fps and cond.fps is None:
            raise UserError("this network takes the frames per second and got none; give cond.fps, one number per sample")
        if cond.label is not None and cond.label.device.type == "cpu" and not torch.compiler.is_compiling():
            check_labels(cond.label, self.inputs.num_labels)  # elsewhere it would wait for the device
        return cond

    def embed(self, t: Tensor, cond: Condition, *, frames: int) -> Tensor:
        """Return the embedding (b, t, e) of the time and of all that is known about the sample and its frames."""
        t = times_per_frame(t, frames)
        if self.inputs.noise_level == "time":
            t = cond.frame_times(t)
        emb = self.time_embed(sinusoidal_features(t, self.features))
        if self.label_emb is not None and cond.frame_noise is not None:
            emb = emb + self.label_emb(cond.frame_noise)[:, None]
        if self.class_emb is not None and cond.label is not None:
            emb = emb + self.class_emb(cond.label)[:, None]
        if self.fps_embed is not None:
            assert cond.fps is not None, "call `checked` first"
            octaves = cond.fps.float().log2()
            emb = emb + self.fps_embed(sinusoidal_features(octaves, self.features, max_period=INDEX_PERIOD))[:, None]
        if self.position_embed is not None:
            index = torch.arange(frames, device=t.device)
            emb = emb + self.position_embed(sinusoidal_features(index, self.features, max_period=INDEX_PERIOD))
        return emb


def times_per_frame(t: Tensor, frames: int) -> Tensor:
    """(b,) or (b, t) -> (b, t).

    A scalar time is expanded before anything is computed from it. So the same kernels see the same numbers, and a constant time
    per frame gives the same output to the bit.
    """
    if t.ndim == 1:
        return t[:, None].expand(-1, frames)
    if t.shape[1] != frames:
        raise UserError(f"the time has {t.shape[1]} frames and the latent {frames}; give t as (b,) or (b, {frames})")
    return t


def with_mask_channel(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return [x, m] on channels; m (b, 1, t, 1, 1) or (b, 1, t, h, w), zeros if no frame is given."""
    channel = torch.zeros_like(x[:, :1]) if mask is None else mask.to(x.dtype).expand(-1, -1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)


def check_latent(x: Tensor, *, channels: int, multiple: int) -> None:
    """Refuse a latent that the layers cannot take."""
    if x.ndim != 5 or x.shape[1] != channels:
        raise UserError(f"the latent is {tuple(x.shape)}, this network takes (b, {channels}, t, h, w)")
    if x.shape[3] % multiple or x.shape[4] % multiple:
        raise UserError(f"the latent is {x.shape[3]} x {x.shape[4]}, this network takes multiples of {multiple}")
