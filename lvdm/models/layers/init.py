"""How new branches begin: silent."""

from __future__ import annotations

from torch import nn


def zero_init(module: nn.Module) -> nn.Module:
    """The same module with every parameter zero: a new branch then starts as if it were not there."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
