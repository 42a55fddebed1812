"""One training loss and what surrounds it, by hand: windows, given frames, validation, the autoencoder."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from test_parity_sampling import SCHEDULE, network, published, relative_error
from tiny_training import UNET
from torch import nn

from lvdm.diffusion.loss_weights import MinSNRWeight
from lvdm.diffusion.losses import L1Loss
from lvdm.diffusion.masks import EveryKth, FirstFrames, NoMask, write_frames
from lvdm.diffusion.objectives import EpsObjective, VObjective, X0Objective
from lvdm.diffusion.process import q_sample
from lvdm.diffusion.schedules import Cosine, SqrtLinear
from lvdm.models.autoencoders import Posterior
from lvdm.models.denoisers import UNet3D
from lvdm.models.features import psnr
from lvdm.training import (
    GivenFrames,
    LatentDiffusion,
    ReconstructionLoss,
)
from lvdm.training.diffusion import LossInputs
from lvdm.training.seeding import Share, generator_for
from lvdm.training.tasks import Task, cut_windows, draw_tasks
from lvdm.types import ABSENT, Condition, DenoiserInputs, UserError

TASKS = {"short": Task(stride=3), "predict": Task(FirstFrames([1, 2]), stride=2), "infill": Task(EveryKth(2), weight=2.0)}


class Exact(nn.Module):
    """Knows eps and x0 of the draw at hand and says them as the objective asks; `wrong` is its error in v."""

    inputs = DenoiserInputs(mask=True, noise_level="time")

    def __init__(self, objective, schedule, wrong: float = 0.0) -> None:
        super().__init__()
        self.objective, self.schedule, self.wrong = objective, schedule, wrong
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[tuple] = []

    def forward(self, x, t, cond):
        self.seen.append((x, t, cond))
        times = torch.where(cond.mask[:, 0, :, 0, 0] == 1, cond.frame_noise[:, None], t[:, None])
        alpha, sigma = self.schedule.alpha_sigma(times, x)
        v = VObjective().target(self.x0, self.eps, times, self.schedule) + self.wrong
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        return self.scale * {VObjective: v, X0Objective: x0, EpsObjective: eps}[type(self.objective)]


def stage(objective=None, *, schedule=None, denoiser=None, codec=None, **options) -> LatentDiffusion:
    objective, schedule = objective or VObjective(), schedule or Cosine()
    denoiser = denoiser or Exact(objective, schedule)
    options = {"tasks": TASKS, "num_latents": 3, **options}
    return LatentDiffusion(denoiser=denoiser, codec=codec or nn.Identity(), schedule=schedule, objective=objective, **options)


def batch(b: int = 4, n: int = 9) -> dict[str, torch.Tensor]:
    latent = torch.randn(b, 2, n, 4, 4, generator=torch.Generator().manual_seed(7))
    return {"latent": latent, "index": torch.arange(b), "fps": torch.full((b,), 12.0)}


def fixed_draw(b: int = 2, frames: int = 4) -> LossInputs:
    rng = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(b, 2, frames, 4, 4, generator=rng) for _ in range(2))
    mask = EveryKth(2)(b, frames, None)
    return LossInputs(x0, eps, torch.tensor([300, 700])[:b], Condition(mask=mask, frame_noise=torch.tensor([50, 5])[:b]))


# Windows ---------------------------------------------------------------------------------------------------------------------


def test_windows_are_strided_slices_of_each_sample_and_every_start_occurs():
    latents = torch.arange(11.0).expand(64, 2, 11)[..., None, None] + torch.arange(64)[:, None, None, None, None] * 100
    tasks = [TASKS[name] for name in ("short", "predict", "infill", "short") * 16]
    window = cut_windows(latents, tasks, 3, torch.Generator().manual_seed(0))
    starts = set()
    for row, (z, task) in enumerate(zip(window.z, tasks, strict=True)):
        start = int(z[0, 0]) - 100 * row
        starts.add((task.stride, start))
        assert torch.equal(z, latents[row, :, start : start + 2 * task.stride + 1 : task.stride])
        assert window.stride[row] == task.stride
    assert {start for stride, start in starts if stride == 3} == set(range(5))
    with pytest.raises(UserError, match="spans 7, but a training clip has 6"):
        cut_windows(latents[:1, :, :6], [TASKS["short"]], 3, torch.Generator())


def test_a_window_without_random_start_is_every_kth_latent_from_the_first():
    """The published z[:, :, ::4] of 16 latents (lvdm/models/ddpm3d.py:667), whatever the draw."""
    latents = torch.randn(8, 2, 16, 3, 3)
    window = cut_windows(latents, [Task(stride=4, random_start=False)] * 8, 4, torch.Generator().manual_seed(0))
    assert torch.equal(window.z, latents[:, :, ::4])


def test_a_training_draws_its_times_independently_by_default():
    """In a batch of two, both times are below the middle in a quarter of all draws."""
    model = stage()
    t = torch.stack([model.draw(batch(2), [TASKS["short"]] * 2, generator_for(0, step)).t for step in range(400)])
    assert float((t < 500).all(dim=1).double().mean()) == pytest.approx(0.25, abs=0.06)


def test_tasks_are_drawn_per_sample_by_their_weights_and_their_masks_stand_in_one_batch():
    drawn = draw_tasks(TASKS, 4000, torch.Generator().manual_seed(0))
    shares = [sum(task is each for task in drawn) / 4000 for each in TASKS.values()]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.03)
    draw = stage().draw(batch(3), list(TASKS.values()), generator_for(0))
    given = draw.cond.mask[:, 0, :, 0, 0].tolist()
    assert given[0] == [0, 0, 0] and given[1] in ([1, 0, 0], [1, 1, 0]) and given[2] == [1, 0, 1]
    assert draw.cond.fps.tolist() == [4, 6, 12], "frames per second as the network sees them"


def test_draws_are_a_function_of_their_place():
    model = stage()
    one, same, other = (model.draw(batch(), [TASKS["predict"]] * 4, generator_for(0, step)) for step in (5, 5, 6))
    assert torch.equal(one.eps, same.eps) and torch.equal(one.t, same.t) and torch.equal(one.x0, same.x0)
    assert not torch.equal(one.eps, other.eps)
    assert abs(float(one.eps.mean())) < 0.2 and float(one.eps.std()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("counted", ["all", "new"])
def test_processes_draw_and_lose_together_what_one_would(counted):
    """Samples 0, 2 in one process and 1, 3 in the other, as the loaders deal them out."""
    model = stage(given=GivenFrames(loss=counted), denoiser=UNet3D(**UNET))
    torch.nn.init.normal_(model.denoiser.out[2].weight)
    tasks = [TASKS[name] for name in ("predict", "short", "infill", "infill")]
    whole = model.draw(batch(), tasks, generator_for(0))
    parts = [
        model.draw({name: value[rank::2] for name, value in batch().items()}, tasks, generator_for(0), Share(rank, 2))
        for rank in range(2)
    ]
    for rank, part in enumerate(parts):
        for name in ("x0", "eps", "t"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rank::2]), name
        assert torch.equal(part.cond.mask, whole.cond.mask[rank::2])
        assert torch.equal(part.cond.frame_noise, whole.cond.frame_noise[rank::2])
    with torch.no_grad():
        mean = sum(model.loss(part).loss for part in parts) / 2
        torch.testing.assert_close(mean, model.loss(whole).loss)


# The loss ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [VObjective(), EpsObjective(), X0Objective()])
def test_given_frames_are_seen_at_their_own_level_and_the_others_at_the_time(objective):
    model, draw = stage(objective, loss=L1Loss()), fixed_draw()
    model.denoiser.x0, model.denoiser.eps = draw.x0, draw.eps
    out = model.loss(draw)
    (x, t, cond) = model.denoiser.seen[-1]
    for row in range(2):
        for frame in range(4):
            time = draw.cond.frame_noise[row] if frame % 2 == 0 else draw.t[row]
            here = (slice(row, row + 1), slice(None), slice(frame, frame + 1))
            torch.testing.assert_close(x[here], q_sample(draw.x0[here], draw.eps[here], time[None], model.schedule))
            expected = objective.target(draw.x0[here], draw.eps[here], time[None], model.schedule)
            torch.testing.assert_close(out.target[here], expected)
    assert torch.equal(t, draw.t) and torch.equal(cond.mask, draw.cond.mask)
    assert float(out.loss.detach()) < 1e-4, "an exact network has no loss"


@pytest.mark.parametrize("weight", [None, MinSNRWeight(5.0)])
def test_given_frames_count_in_the_loss_only_if_asked(weight):
    draw = fixed_draw()
    for counted in ("all", "new"):
        model = stage(given=GivenFrames(loss=counted), weight=weight)
        model.denoiser.x0, model.denoiser.eps = draw.x0, draw.eps + torch.randn_like(draw.eps)
        out = model.loss(draw)
        sums, number = 0.0, 0
        for row in range(2):
            for frame in range(4):
                if counted == "new" and frame % 2 == 0:
                    continue
                time = (draw.cond.frame_noise if frame % 2 == 0 else draw.t)[row]
                factor = 1.0 if weight is None else float(weight(time, model.schedule, model.objective))
                error = (out.prediction - out.target)[row, :, frame]
                sums, number = sums + factor * float(error.detach().square().sum()), number + error.numel()
        assert float(out.loss.detach()) == pytest.approx(sums / number, rel=1e-5)


@pytest.mark.parametrize("task", ["predict", "infill"])
def test_a_training_loss_with_every_draw_given_is_the_published(parity, task):
    recorded = load_file(parity(f"lvdm_{task}_sampling.safetensors"))
    unet = network(published(parity(f"lvdm_{task}.ckpt")), averaged=False, masked=True)
    model = stage(EpsObjective(), schedule=SCHEDULE, denoiser=unet, loss=L1Loss(), num_latents=4)
    mask = recorded["mask"][..., :1, :1]
    eps = write_frames(recorded["train_noise"], recorded["train_condition_noise"], mask)
    cond = Condition(mask=mask, frame_noise=recorded["noise_level"])
    with torch.no_grad():
        out = model.loss(LossInputs(recorded["train_x0"], eps, recorded["train_t"], cond))
    assert relative_error(out.x_in, recorded["train_input"]) < 1e-6
    assert relative_error(out.prediction, recorded["train_prediction"]) < 1e-5
    assert float(out.loss) == pytest.approx(float(recorded["train_l1"]), rel=1e-5)


def test_a_network_gets_only_what_it_takes():
    plain = {**UNET, "mask_channel": False, "noise_level": None, "fps_embedding": False}
    short = {"short": Task()}
    model = stage(denoiser=UNet3D(**plain), tasks=short)
    labels = {**batch(2), "label": torch.tensor([1, ABSENT])}
    assert torch.isfinite(model.loss(model.draw(labels, [short["short"]] * 2, generator_for(0))).loss)
    assert Condition(label=labels["label"]).taken_by(UNet3D(**UNET, num_labels=2).inputs).given == {"label"}
    with pytest.raises(UserError, match="the task predict gives frames, but the denoiser takes no mask"):
        stage(denoiser=UNet3D(**plain))
    with pytest.raises(UserError, match="given.max_level is 300, but there are 251 levels"):
        stage(denoiser=UNet3D(**{**UNET, "noise_level": "embedding"}), given=GivenFrames(max_level=300))
    with pytest.raises(UserError, match="given.max_level is 101, but there are 100 levels"):
        stage(schedule=SqrtLinear(num_steps=100), given=GivenFrames(max_level=101))


def test_settings_of_given_frames_without_given_frames_are_warned_of(caplog):
    stage(tasks={"short": Task(NoMask())}, given=GivenFrames(loss="new"))
    assert "`given` has no effect" in caplog.text


# Validation ------------------------------------------------------------------------------------------------------------------


def validate(model: LatentDiffusion, data: dict) -> dict[str, float]:
    logged = {}
    model.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    with torch.no_grad():
        model.validation_step(data, 0)
    return logged


def test_validation_gives_the_same_numbers_whatever_was_drawn_before():
    networks = [UNet3D(**UNET) for _ in range(2)]
    for parameter in networks[0].parameters():
        nn.init.normal_(parameter, std=0.1)
    networks[1].load_state_dict(networks[0].state_dict())
    first = stage(denoiser=networks[0], seed=1)
    one = validate(first, batch())
    torch.manual_seed(99)
    assert validate(first, batch()) == one == validate(stage(denoiser=networks[1], seed=2), batch())
    assert one.keys() == {f"val/{task}_{what}" for task in TASKS for what in ("loss", "v_mse")}


def test_the_error_of_v_is_the_same_in_every_objective():
    class Peeking(LatentDiffusion):
        def loss(self, draw):
            self.denoiser.x0, self.denoiser.eps = draw.x0, draw.eps
            return super().loss(draw)

    errors = []
    for objective in (VObjective(), EpsObjective(), X0Objective()):
        network = Exact(objective, Cosine(), wrong=0.3)
        options = {"denoiser": network, "codec": nn.Identity(), "schedule": Cosine(), "objective": objective}
        errors.append(validate(Peeking(**options, tasks=TASKS, num_latents=3), batch())["val/infill_v_mse"])
    assert errors == pytest.approx([0.09] * 3, rel=1e-3)


# The autoencoder ----------------------------------------------------------------------------------------------------------


def test_psnr_is_that_of_a_peak_of_two():
    video, error = torch.zeros(2, 3, 4, 8, 8), torch.tensor([0.1, 0.5])
    expected = [10 * math.log10(4 / 0.01), 10 * math.log10(4 / 0.25)]
    assert psnr(video, video + error.view(2, 1, 1, 1, 1)).tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(psnr(video + 1, video + 3), psnr(video + 1, video + 1)), "what is out of range is shown clamped"


def test_the_reconstruction_loss_is_the_weighted_sum_of_its_means():
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 3, 2, 8, 8, generator=rng) for _ in range(2))
    posterior = Posterior(torch.randn(2, 2, 1, 1, 1, generator=rng), torch.randn(2, 2, 1, 1, 1, generator=rng))
    kl = 0.5 * (posterior.mean**2 + posterior.logvar.exp() - 1 - posterior.logvar).mean()
    out = ReconstructionLoss(l1=0.5, l2=2.0, kl=0.1)(x, y, posterior)
    expected = 0.5 * (x - y).abs().mean() + 2 * (x - y).square().mean() + 0.1 * kl
    torch.testing.assert_close(out.loss, expected)
    assert out.parts.keys() == {"l1", "l2", "kl"}
    for weights in ({"l1": 0.0}, {"l1": -1.0, "l2": 1.0}):
        with pytest.raises(UserError, match="expected one of l1, l2 and lpips|l1 is -1.0, expected"):
            ReconstructionLoss(**weights)
