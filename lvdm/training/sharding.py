"""A denoiser in shards: weights, gradients, averages and optimizer states are divided over the processes.

Rajbhandari et al. 2020, "ZeRO", stage 3, with torch's `fully_shard`: each stage of the network is gathered when it is used and
freed afterwards. Only memory and communication differ from DDP. Checkpoints and model files hold full tensors, so a run can be
resumed with or without shards, in any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from lvdm.training.lightning_internals import UnwrappedDDP
from lvdm.types import UserError


class Sharded(UnwrappedDDP):
    """The strategy that `trainer.strategy: fsdp` selects: processes as in DDP, with the denoiser in shards."""

    def shard(self, module: nn.Module) -> None:
        """Shard the module's denoiser in place; weights on the CPU are never on a GPU as a whole."""
        shard_network(module.get_submodule("denoiser"), self.root_device.type)

    def model_to_device(self) -> None:
        assert self.lightning_module is not None
        self.shard(self.lightning_module)
        super().model_to_device()

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        super().setup_optimizers(trainer)
        trained = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        if not all(isinstance(p, DTensor) for p in trained):
            raise UserError("trainer.strategy fsdp trains the denoiser only, but its loss or weight has parameters; use ddp")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return full_state(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return full_state(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = [sharded_state(state, each) for state, each in zip(checkpoint["optimizer_states"], self.optimizers, strict=True)]
        super().load_optimizer_state_dict({"optimizer_states": states})


def shard_network(network: nn.Module, device_type: str) -> None:
    """Shard a network over all processes, stage by stage."""
    mesh = init_device_mesh(device_type, (distributed.get_world_size(),))
    for part in [*_stages(network), network]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def _stages(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the network's children that have weights, and the items of its module lists one by one."""
    for child in network.children():
        for stage in child if isinstance(child, nn.ModuleList) else [child]:
            if any(True for _ in stage.parameters()):
                yield stage


# From shards to full tensors and back; a tensor that is not sharded stays as it is


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor in every process; all processes must call this at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return this process's shard of a full tensor of the parameter's shape; this needs no communication."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


def full_state(state: Any) -> Any:
    """Gather the tensors of a nested state in all processes; the first process keeps the result, on the CPU."""

    def gather(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        tensor = full_tensor(value.detach())
        return tensor.cpu() if distributed.get_rank() == 0 else torch.empty(0)

    return tree_map(gather, state)


def sharded_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a full optimizer state in shards like the optimizer's parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {**state, "state": {index: _shards_like(parameters[index], values) for index, values in state["state"].items()}}


def _shards_like(parameter: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return one parameter's state in shards; step counts stay as they are."""
    return {
        name: shard_like(parameter, value) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for name, value in values.items()
    }
