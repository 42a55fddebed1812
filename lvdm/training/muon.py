"""Muon: momentum whose update is made orthogonal, for weight matrices; AdamW for everything else.

Jordan et al. 2024, "Muon: an optimizer for hidden layers". torch.optim.Muon takes two-dimensional weights only; a convolution
is a matrix too, (out, in * kernel), and here matrices of one shape go through one batched product.
Letters: g gradient, m momentum, X the matrix on its way to orthogonal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

QUINTIC = (3.4445, -4.7750, 2.0315)  # a X + b (X X^T) X + c (X X^T)^2 X drives singular values towards one


def orthogonalize(matrices: Tensor, steps: int = 5, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Newton-Schulz on a batch of matrices (n, rows, cols): U S V^T -> about U V^T."""
    a, b, c = QUINTIC
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


def is_matrix(parameter: Tensor, smallest: int) -> bool:
    """Big enough in both directions that an orthogonal update makes sense."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= smallest


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimizer with two kinds of groups, so that schedules, clipping and checkpoints treat it as one.

    Args:
        parameters: what to train.
        lr: step of the matrices; the update has about unit spectral norm.
        adamw_lr: step of biases, norms, embeddings' small tables and thin matrices.
        momentum, nesterov: of the matrices.
        steps: Newton-Schulz iterations.
        smallest: matrices with fewer rows or columns go to AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        *,
        lr: float = 3e-3,
        adamw_lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        smallest: int = 16,
    ) -> None:
        trained = [p for p in parameters if p.requires_grad]
        matrices = [p for p in trained if is_matrix(p, smallest)]
        others = [p for p in trained if not is_matrix(p, smallest)]
        groups = []
        if matrices:
            groups.append({"params": matrices, "lr": lr, "momentum": momentum, "nesterov": nesterov, "steps": steps, "betas": None})
        if others:
            groups.append({"params": others, "lr": adamw_lr, "betas": tuple(betas)})
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._adamw_group if group["betas"] else self._muon_group
            update(group, [p for p in group["params"] if p.grad is not None])
        return loss

    def _muon_group(self, group: dict, parameters: list[Parameter]) -> None:
        by_shape: dict[tuple[int, int], list[Parameter]] = defaultdict(list)
        for p in parameters:
            by_shape[(p.shape[0], p[0].numel())].append(p)
        for (rows, columns), same in by_shape.items():
            updates = orthogonalize(torch.stack([self._momentum(p, group).reshape(rows, columns) for p in same]), group["steps"])
            scale = max(1.0, rows / columns) ** 0.5
            for p, update in zip(same, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"] * scale)

    def _momentum(self, p: Parameter, group: dict) -> Tensor:
        state, weight = self.state[p], 1 - group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].lerp_(p.grad, weight)
        return p.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum

    def _adamw_group(self, group: dict, parameters: list[Parameter]) -> None:
        if not parameters:
            return
        beta1, beta2 = group["betas"]
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            self.state[p]["step"] += 1
        grads = [p.grad for p in parameters]
        means = [self.state[p]["mean"] for p in parameters]
        squares = [self.state[p]["square"] for p in parameters]
        step = self.state[parameters[0]]["step"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(roots, 1e-8)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, means, roots, -group["lr"] / (1 - beta1**step))
