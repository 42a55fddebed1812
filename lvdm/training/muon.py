"""Muon: momentum whose update is made orthogonal, for weight matrices; AdamW for everything else.

Jordan et al. 2024, "Muon: an optimizer for hidden layers". torch.optim.Muon takes two-dimensional weights only; here a
convolution is a matrix too, (out, in * kernel), and matrices with equal numbers of rows are iterated together.
Letters: X the matrix that becomes orthogonal, G its Gram matrix, Q one step, P the product of all steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.adamw import adamw

from lvdm.models.layers.attention import RelativePosition
from lvdm.training.sharding import full_tensor, shard_like

TABLE = "lvdm_is_table"  # attribute of a parameter that is looked up by rows
QUINTIC = (3.4445, -4.7750, 2.0315)  # a X + b (X X^T) X + c (X X^T)^2 X drives singular values towards one


def orthogonalize(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """Replace every matrix U S V^T by about U V^T, with the Newton-Schulz iteration.

    A step multiplies X from the left by Q = a + b G + c G^2 with G = X X^T, and every Q commutes with G. So only the small G is
    iterated, G <- Q Q G, for all matrices with equal numbers of rows at once. X is multiplied once, by the product P of all Q.
    """
    wide = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    wide = [x / (x.norm() + 1e-7) for x in wide]
    by_rows: dict[int, list[int]] = defaultdict(list)
    for index, x in enumerate(wide):
        by_rows[len(x)].append(index)
    for indices in by_rows.values():
        products = _product_of_steps(torch.stack([wide[i] @ wide[i].mT for i in indices]), steps)
        for i, product in zip(indices, products, strict=True):
            wide[i] = product @ wide[i]
    return [x.mT if m.shape[0] > m.shape[1] else x for m, x in zip(matrices, wide, strict=True)]


def _product_of_steps(gram: Tensor, steps: int) -> Tensor:
    """Return P = Q_n ... Q_1 for Gram matrices (n, rows, rows)."""
    a, b, c = QUINTIC
    diagonal = a * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = None
    for step in range(steps):
        q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c).add_(diagonal)
        product = q if product is None else q @ product
        if step < steps - 1:
            gram = q @ (q @ gram)
    assert product is not None, "at least one step"
    return product


def mark_tables(module: nn.Module) -> None:
    """Mark the parameters that are looked up by rows. An orthogonal update would move every row at every step."""
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag | RelativePosition):
            for parameter in part.parameters(recurse=False):
                setattr(parameter, TABLE, True)


def is_matrix(parameter: Tensor, smallest: int) -> bool:
    """Return whether a parameter is no table and has at least `smallest` rows and columns: then orthogonal updates make sense."""
    if getattr(parameter, TABLE, False):
        return False
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter.shape[1:].numel()) >= smallest


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimizer with a group of matrices and a group of other parameters, for schedules, clipping and checkpoints.

    Args:
        parameters: the parameters to train.
        lr: learning rate of the matrices, whose update has about unit spectral norm.
        adamw_lr: learning rate of biases, norms, embeddings (`mark_tables`) and thin matrices.
        momentum, nesterov: momentum of the matrices.
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
            groups.append(
                {"params": matrices, "lr": lr, "momentum": momentum, "nesterov": nesterov, "steps": steps, "betas": None}
            )
        if others:
            groups.append({"params": others, "lr": adamw_lr, "betas": tuple(betas)})
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._adamw_group if group["betas"] else self._muon_group
            update(group, [p for p in group["params"] if p.grad is not None])
        return loss

    def _muon_group(self, group: dict, parameters: list[Tensor]) -> None:
        if not parameters:
            return
        matrices = [full_tensor(self._momentum(p, group)).flatten(1) for p in parameters]
        scales = [max(1.0, len(m) / m.shape[1]) ** 0.5 for m in matrices]
        orthogonal = orthogonalize(matrices, group["steps"])
        updates = [shard_like(p, u.reshape(p.shape)) for p, u in zip(parameters, orthogonal, strict=True)]
        torch._foreach_mul_(updates, scales)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _momentum(self, p: Tensor, group: dict) -> Tensor:
        assert p.grad is not None
        state, weight = self.state[p], 1 - group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].lerp_(p.grad, weight)
        return p.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum

    def _adamw_group(self, group: dict, parameters: list[Tensor]) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] = torch.as_tensor(state["step"], dtype=torch.float32)  # version 0.1 saved an int
        grads = [p.grad for p in parameters if p.grad is not None]
        means, squares, steps = ([self.state[p][name] for p in parameters] for name in ("mean", "square", "step"))
        beta1, beta2 = group["betas"]
        options = {"beta1": beta1, "beta2": beta2, "lr": group["lr"], "weight_decay": group["weight_decay"], "eps": 1e-8}
        adamw(parameters, grads, means, squares, [], steps, foreach=True, amsgrad=False, maximize=False, **options)
