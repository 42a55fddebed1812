"""An estimate of the GPU memory of a training step, from a step on tensors that have shapes and no numbers.

It is the peak of forward and backward pass plus Adam's moments and the average of the weights. If the optimizer's step needs
more, with one more tensor for every weight, it is that peak. Letters: b batch, t frames or latents.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lvdm.jobs.benchmark.random_text import CAPTION_TOKENS
from lvdm.jobs.checks import Module
from lvdm.training.diffusion import LatentDiffusion, LossInputs
from lvdm.training.reconstruction import ReconstructionLoss
from lvdm.types import Condition

FLOAT = 4  # bytes


class Live(TorchDispatchMode):
    """Count the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, function: Callable, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._storages:
            self._storages.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, storage: int, size: int) -> None:
        self._storages.discard(storage)
        self.now -= size


def training_gib(module: Module, shape: Sequence[int], *, batch_size: int, is_bf16: bool, is_averaged: bool) -> float:
    """Return the GiB of one process for a module on the meta device; `shape` is a sample's: a video, or a window of latents."""
    with FakeTensorMode(allow_non_fake_inputs=True), Live() as live:
        module.to_empty(device="cpu").train()
        optimizers = module.build_optimizers()
        trained = sum(p.numel() for each in optimizers for group in each.param_groups for p in group["params"]) * FLOAT
        weights = live.now
        work = _denoising if isinstance(module, LatentDiffusion) else _reconstructing
        with _like_a_gpu() if is_bf16 else nullcontext():
            work(module, torch.empty(batch_size, *shape)).backward()
    moments = 2 * trained
    averaged = sum(p.numel() for p in module.parameters()) * FLOAT if is_averaged else 0
    return (max(live.peak + moments, weights + trained + moments + trained) + averaged) / 2**30


@contextmanager
def _like_a_gpu() -> Iterator[None]:
    """Use autocast on the CPU with norms in float32, as autocast on a GPU has them."""
    norms = {"group_norm": F.group_norm, "layer_norm": F.layer_norm}
    try:
        for name, norm in norms.items():
            setattr(F, name, lambda x, *args, norm=norm, **kwargs: norm(x.float(), *args, **kwargs))
        with torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        for name, norm in norms.items():
            setattr(F, name, norm)


def _denoising(module: Any, x0: Tensor) -> Tensor:
    b, _, t = x0.shape[:3]
    zeros = torch.zeros(b, dtype=torch.long)
    context = torch.zeros(b, CAPTION_TOKENS, module.denoiser.inputs.context_dim) if module.reads_text else None
    cond = Condition(mask=torch.zeros(b, 1, t, 1, 1), frame_noise=zeros, fps=torch.ones(b), label=zeros, context=context)
    return module.loss(LossInputs(x0, x0, zeros, cond, 1.0)).loss


def _reconstructing(module: Any, video: Tensor) -> Tensor:
    """Return the loss with the adversary, as at the end of training."""
    if isinstance(module.loss, ReconstructionLoss):
        module.loss.load_features(with_weights=False)
    posterior = module.autoencoder.encode(video)
    decoded = module.autoencoder.decode(posterior.mode())
    loss = module.loss(video, decoded, posterior, torch.Generator()).loss
    return loss if module.adversary is None else loss + module.adversary.generator_loss(decoded)
