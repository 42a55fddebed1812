"""Tensors of which each process holds a part (sharding.py), from and to whole ones; what is whole stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def whole(tensor: Tensor) -> Tensor:
    """Put together in every process, which all must do at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole tensor of the parameter's shape; none has to ask another."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


def gathered(state: Any) -> Any:
    """A checkpoint's tensors, nested in anything, put together by all processes; the first one keeps the result, on the CPU."""

    def gather(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        tensor = value.detach().full_tensor()
        return tensor.cpu() if distributed.get_rank() == 0 else torch.empty(0)

    return tree_map(gather, state)


def parted(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole state in the parts of the optimizer's parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {**state, "state": {index: _parts_like(parameters[index], values) for index, values in state["state"].items()}}


def _parts_like(parameter: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
    """Counts and the like stay whole."""
    return {
        name: part_like(parameter, value) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for name, value in values.items()
    }
