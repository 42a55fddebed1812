"""Muon against the singular value decomposition and torch's own; the learning rate over time against its formula."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lvdm.models.layers.attention import RelativePosition
from lvdm.training.muon import MuonWithAdamW, is_matrix, orthogonalize
from lvdm.training.optimizers import AdamW, Constant, Cosine, Muon, SteppedModule, take_settings, with_schedule
from lvdm.types import UserError

BAND = (0.65, 1.25)  # where five steps of the quintic bring singular values that are not tiny


def network() -> nn.Module:
    """Matrices of several shapes, a convolution, and what is none: biases, a norm, a thin map."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 16, (1, 3, 3)), nn.GroupNorm(4, 16), nn.Flatten(), nn.Linear(16 * 18, 24), nn.Linear(24, 4))


def test_tables_that_are_looked_up_by_rows_belong_to_adamw():
    """A step on row 3 of a table moves no other row: torch's own AdamW is the answer, where Muon would move all of them."""

    class Tables(SteppedModule):
        def __init__(self) -> None:
            super().__init__(Muon(lr=0.1, adamw_lr=0.01), None)
            self.levels, self.distances, self.matrix = nn.Embedding(32, 24), RelativePosition(20, 10), nn.Linear(24, 20)

        def trained_parameters(self):
            return self.parameters()

    module = Tables()
    (optimizer,) = module.build_optimizers()
    matrices, others = (group["params"] for group in optimizer.param_groups)
    assert {id(p) for p in matrices} == {id(module.matrix.weight)} and len(others) == 3
    table = module.levels.weight
    before, right = table.detach().clone(), nn.Parameter(table.detach().clone())
    by_torch = torch.optim.AdamW([right], lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for weight in (table, right):
        nn.functional.embedding(torch.tensor([3]), weight).square().sum().backward()
    optimizer.step()
    by_torch.step()
    torch.testing.assert_close(table, right)
    assert torch.equal(table.detach()[4:], before[4:]) and not torch.equal(table.detach()[3], before[3])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> nn.Module:
    for step in steps:
        x = torch.randn(5, 3, 2, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16), (64, 64)])
def test_an_orthogonal_update_keeps_singular_vectors_and_brings_their_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalize([matrix])[0] @ v.T
    values = inside.diagonal()[s > 0.05 * s[0]]
    assert values.min() > BAND[0] and values.max() < BAND[1]
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-3


def test_each_step_is_the_quintic_of_the_singular_values():
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(2))
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize([matrix])[0], (u * s @ v).float(), atol=2e-4, rtol=0)


def test_matrices_are_orthogonalized_alike_alone_and_together():
    torch.manual_seed(3)
    matrices = [torch.randn(shape) for shape in [(16, 20), (20, 16), (16, 90), (16, 20), (32, 32)]]
    for matrix, together in zip(matrices, orthogonalize(matrices), strict=True):
        torch.testing.assert_close(together, orthogonalize([matrix])[0])
    assert torch.equal(orthogonalize([torch.zeros(16, 20)])[0], torch.zeros(16, 20))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48)])
def test_matrices_move_as_with_torchs_muon(shape):
    torch.manual_seed(4)
    ours, theirs = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.empty(shape))
    theirs.data.copy_(start := ours.detach().clone())
    mine = MuonWithAdamW([ours], lr=0.1, weight_decay=0.05)
    yours = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.05)
    for step in range(4):
        ours.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours.grad.clone()
        mine.step()
        yours.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # theirs iterates in bfloat16


def test_a_convolution_is_the_matrix_of_its_output_channels():
    torch.manual_seed(5)
    kernel = nn.Parameter(torch.randn(16, 8, 1, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    for step in range(3):
        kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(step))
        matrix.grad = kernel.grad.flatten(1).clone()
        if step == 0:
            both = [MuonWithAdamW([kernel], lr=0.1), MuonWithAdamW([matrix], lr=0.1)]
        for optimizer in both:
            optimizer.step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_everything_else_moves_as_with_torchs_adamw():
    model = network()
    mine = MuonWithAdamW(model.parameters(), adamw_lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    small = {name for name, p in model.named_parameters() if not is_matrix(p, 16)}
    assert small == {"0.bias", "1.weight", "1.bias", "3.bias", "4.weight", "4.bias"}
    other = copy.deepcopy(model)
    yours = torch.optim.AdamW([p for n, p in other.named_parameters() if n in small], lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    parameters = dict(other.named_parameters())
    for step in range(6):
        rng = torch.Generator().manual_seed(step)
        for name, p in model.named_parameters():
            is_unused = step == 1 and name == "1.bias"  # a part that is not always used counts its own steps
            p.grad = None if is_unused else torch.randn(p.shape, generator=rng)
            parameters[name].grad = None if is_unused else p.grad.clone()
        mine.step()
        yours.step()
    for name, p in model.named_parameters():
        if name in small:
            torch.testing.assert_close(p, parameters[name], msg=name)


@pytest.mark.parametrize("settings", [Muon(lr=0.02), AdamW(lr=0.02)])
def test_a_saved_optimizer_goes_on_to_the_bit(settings, tmp_path):
    whole = network()
    train(whole, settings.build(whole.parameters()), range(6))

    first = network()
    optimizer = settings.build(first.parameters())
    train(first, optimizer, range(3))
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    saved = torch.load(tmp_path / "state", weights_only=True)
    second = network()
    second.load_state_dict(saved["model"])
    optimizer = settings.build(second.parameters())
    optimizer.load_state_dict(saved["optimizer"])
    assert torch.equal(weights(train(second, optimizer, range(3, 6))), weights(whole))


def test_frozen_parameters_stay():
    model = network()
    model[3].requires_grad_(False)
    before = model[3].weight.clone()
    train(model, Muon().build(model.parameters()), range(2))
    assert torch.equal(model[3].weight, before)


def test_the_rate_warms_up_in_a_line_then_stays_or_falls_by_half_a_cosine():
    assert [Constant(warmup_steps=4).factor(step, 0.9) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = Cosine(warmup_steps=2, final=0.1)
    for progress in (0, 0.25, 0.5, 1.0, 1.3):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * min(progress, 1))) / 2
        assert cosine.factor(5, progress) == pytest.approx(expected)
        assert cosine.factor(0, progress) == pytest.approx(0.5 * expected)


def test_every_group_follows_the_rate():
    model, progress = network(), [0.0]
    made = with_schedule(Muon(lr=0.2, adamw_lr=0.1).build(model.parameters()), Cosine(), lambda: progress[0])
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    progress[0] = 0.5
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05])


def test_a_resumed_run_takes_the_settings_of_its_config():
    saved = with_schedule(AdamW(lr=0.1).build(network().parameters()), Constant(), lambda: 0.0)
    optimizer, scheduler = saved["optimizer"], saved["lr_scheduler"]["scheduler"]
    optimizer.param_groups[0]["lr"] = 0.05  # half way down
    state = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]}
    as_before = copy.deepcopy(state)
    take_settings(as_before, [AdamW(lr=0.1).build(network().parameters())])
    assert as_before == state
    take_settings(state, [AdamW(lr=0.01, weight_decay=0.3).build(network().parameters())])
    group = state["optimizer_states"][0]["param_groups"][0]
    assert group["lr"] == pytest.approx(0.005) and group["initial_lr"] == 0.01 and group["weight_decay"] == 0.3
    assert state["lr_schedulers"][0]["base_lrs"] == [0.01]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdamW(lr=-1.0), "lr is -1.0"),
        (lambda: AdamW(betas=[0.9, 1.0]), "betas is"),
        (lambda: Muon(adamw_lr=float("nan")), "adamw_lr is nan"),
        (lambda: Muon(steps=0), "steps is 0"),
        (lambda: Constant(warmup_steps=-1), "warmup_steps is -1"),
        (lambda: Cosine(final=2), "final is 2"),
    ],
)
def test_settings_without_meaning_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
