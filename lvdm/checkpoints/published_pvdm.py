"""Names of the published PVDM checkpoints, to the names of our networks, which keep the published ones.

The published code writes one file for each network: the autoencoder (`model_last.pth`), the denoiser (`model_*.pth`) and the
denoiser with averaged weights (`ema_model_*.pth`, the released ones). All names of a file may begin with `module.`,
`diffusion_model.`, or both. Letters: n entries of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lvdm.checkpoints.published_lvdm import Weights, beginnings
from lvdm.types import UserError

PREFIXES = ("module.", "diffusion_model.")  # outermost first
CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {  # tables that our networks compute, by the end of their name
    "coords": lambda table: torch.linspace(-1, 1, table.numel())[:, None],  # of frames; the published code reads it nowhere
    "zeros": torch.zeros_like,  # the null condition
    "frame_rot_emb.inv_freqs": lambda table: 10000 ** -(torch.arange(table.numel()) / table.numel()),
    "image_rot_emb.scales": lambda table: torch.logspace(0, 1, table.numel(), base=5),
}


def autoencoder_weights(weights: Mapping[str, Tensor]) -> Weights:
    """Return the weights for TriplaneAE."""
    own = _plain(weights)
    if not any(name.startswith("encoder.") for name in own):
        raise UserError(
            f"the checkpoint holds no autoencoder (encoder.*), but {beginnings(own)}; PVDM has a file for each network: give both"
        )
    return _without_constants(own)


def denoiser_weights(weights: Mapping[str, Tensor], *, averaged: bool = True) -> Weights:
    """Return the weights for TriplaneUNet. A file holds either averaged ones or those of the last step, under the same names."""
    own = _plain(weights)
    if not any(name.startswith("input_blocks.") for name in own):
        raise UserError(f"the checkpoint holds no denoiser (input_blocks.*), but {beginnings(own)}; give ema_model_*.pth")
    return _without_constants(own)


def ignored_names(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the tables that our networks compute."""
    return tuple(name for name in weights if _constant(name) is not None)


def _constant(name: str) -> str | None:
    return next((end for end in CONSTANTS if f".{name}".endswith(f".{end}")), None)


def _plain(weights: Mapping[str, Tensor]) -> Weights:
    """Return the weights without the prefixes that all names have."""
    own = dict(weights)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in own):
            own = {name.removeprefix(prefix): tensor for name, tensor in own.items()}
    return own


def _without_constants(weights: Weights) -> Weights:
    """Leave out the tables after checking that they hold what our networks compute."""
    constants = {name: end for name in weights if (end := _constant(name)) is not None}
    for name, end in constants.items():
        table = weights[name].float()
        expected = CONSTANTS[end](table)
        if table.shape != expected.shape or not torch.allclose(table, expected, rtol=0.01, atol=0.01):
            raise UserError(f"{name} in the checkpoint is not the table that PVDM has there; it is from changed code, or damaged")
    return {name: tensor for name, tensor in weights.items() if name not in constants}
