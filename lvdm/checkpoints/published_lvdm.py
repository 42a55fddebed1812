"""Names of the published LVDM checkpoints (`ae_*`, `short_*`, `pred_*`, `interp_*`, `t2v`), to the names of our networks.

Our networks keep the published parameter names, so this is taking prefixes off, plus two habits of those files: convolutions of
the autoencoder are stored twice, and averaged weights lie under names with every dot removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lvdm.types import UserError

Weights = dict[str, Tensor]

AUTOENCODER = "first_stage_model."
ALONE = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")  # the autoencoder in a checkpoint of its own
DENOISER = "model.diffusion_model."
AVERAGED = "model_ema."
COUNTERS = ("model_ema.decay", "model_ema.num_updates")


def state_dict(checkpoint: Mapping[str, Any]) -> Weights:
    """Return the tensors of a checkpoint, which lie under `state_dict` or are the file itself."""
    inner = checkpoint.get("state_dict", checkpoint)
    tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)} if isinstance(inner, Mapping) else {}
    if not tensors:
        raise UserError(
            f"the checkpoint holds no weights, only {', '.join(str(key)[:40] for key in list(checkpoint)[:6]) or 'nothing'}"
        )
    return tensors


def ignored_names(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of which lvdm uses nothing: losses, tables, text encoders."""
    used = (AUTOENCODER, *ALONE, DENOISER, AVERAGED)
    return tuple(name for name in weights if not name.startswith(used) or name in COUNTERS)


def autoencoder_weights(weights: Mapping[str, Tensor]) -> Weights:
    """Return the weights for VAE3D, each convolution once, after checking that its two copies are equal."""
    own = {name.removeprefix(AUTOENCODER): weights[name] for name in weights if name.startswith(AUTOENCODER)}
    own = own or {name: weights[name] for name in weights if name.startswith(ALONE)}
    if not own:
        raise UserError(f"the checkpoint holds no autoencoder ({AUTOENCODER}*, or encoder.*), but {beginnings(weights)}")
    copies = {name: f"{name.removesuffix('.weight')}.conv.weight" for name in own if name.endswith(".weight")}
    copies = {name: stored for name, stored in copies.items() if stored in own}
    for name, stored in copies.items():
        if not torch.equal(own[name], own[stored]):
            raise UserError(f"{name} and {stored} are one weight, and the checkpoint stores two different ones; it is damaged")
    return {name: tensor for name, tensor in own.items() if name not in copies}


def denoiser_weights(weights: Mapping[str, Tensor], *, averaged: bool = True) -> Weights:
    """Return the weights for UNet3D: the averaged ones, which the published results use, or those of the last step."""
    raw = {name.removeprefix(DENOISER): weights[name] for name in weights if name.startswith(DENOISER)}
    if not raw:
        raise UserError(f"the checkpoint holds no denoiser ({DENOISER}*), but {beginnings(weights)}")
    return {name: _averaged(weights, name) for name in raw} if averaged else raw


def _averaged(weights: Mapping[str, Tensor], name: str) -> Tensor:
    stored = AVERAGED + averaged_name(name)
    if stored not in weights:
        raise UserError(f"the checkpoint holds no averaged weight {stored}; take the last step's weights instead, with raw")
    return weights[stored]


def averaged_name(name: str) -> str:
    """Return `diffusion_modelinput_blocks00weight` for `input_blocks.0.0.weight`."""
    return (DENOISER.removeprefix("model.") + name).replace(".", "")


def beginnings(weights: Mapping[str, Tensor]) -> str:
    """Return the first words of all names: enough to see what a file is."""
    return "names that begin with " + ", ".join(sorted({name.split(".")[0] for name in weights})[:6])
