"""A denoiser in parts: weights, gradients, averages and optimizer states divided over the processes, where one GPU is too small.

Rajbhandari et al. 2020, "ZeRO", third stage, by torch's `fully_shard`. A stage of the network is put together when it is used
and let go afterwards. Only memory and traffic differ from DDP: a step is the same, checkpoints and model files hold whole
tensors, and a run goes on in parts or whole, in any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.parts import gathered, parted


class Sharded(DDPStrategy):
    """What `trainer.strategy: fsdp` is here: processes and their talk as in DDP, the denoiser in parts."""

    def shard(self, module: pl.LightningModule) -> None:
        """In place; what lies on the CPU never lies on a GPU as a whole."""
        assert isinstance(module, LatentDiffusion), "check_strategy lets denoisers alone through"
        shard_network(module.denoiser, self.root_device.type)

    def model_to_device(self) -> None:
        assert self.lightning_module is not None
        self.shard(self.lightning_module)
        super().model_to_device()

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return model  # no wrapper: the parts average their gradients by themselves

    def _register_ddp_hooks(self) -> None:
        pass

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return gathered(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = [parted(state, each) for state, each in zip(checkpoint["optimizer_states"], self.optimizers, strict=True)]
        super().load_optimizer_state_dict({"optimizer_states": states})


def shard_network(network: nn.Module, device_type: str) -> None:
    """Stage by stage over all processes; outside of forward and backward passes each holds its part alone."""
    mesh = init_device_mesh(device_type, (distributed.get_world_size(),))
    for part in [*_stages(network), network]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def _stages(network: nn.Module) -> Iterator[nn.Module]:
    """The network's own parts, those of lists one by one, where they have weights."""
    for child in network.children():
        for stage in child if isinstance(child, nn.ModuleList) else [child]:
            if any(True for _ in stage.parameters()):
                yield stage
