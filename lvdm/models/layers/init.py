"""Initial weights of branches that have no effect at the start of training."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def zero_init(module: Module) -> Module:
    """Return the module with every parameter set to zero, so that a new branch has no effect at the start."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
