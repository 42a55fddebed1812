"""Rectified flow through the ordinary training, sampling and commands; and what docs/diffusion.md lists and says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import TASKS, batch
from torch import nn

import lvdm
from lvdm.cli import eval as eval_command
from lvdm.cli import sample_long, sample_short, train
from lvdm.diffusion import BUILDABLE
from lvdm.diffusion.objectives import FlowObjective
from lvdm.diffusion.schedules import RectifiedFlow
from lvdm.diffusion.training_times import ShiftedTimes
from lvdm.jobs import dry_run as dry_run_module
from lvdm.models.autoencoders import PatchVAE3D
from lvdm.models.codec import Codec
from lvdm.sampling.options import SampleOptions, SamplingSettings
from lvdm.sampling.pipeline import VideoModel
from lvdm.sampling.samplers import SAMPLERS
from lvdm.sampling.solver import make_solver
from lvdm.training import LatentDiffusion, Task
from lvdm.training.seeding import generator_for
from lvdm.types import DenoiserInputs, UserError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "diffusion.md").read_text()


class Gaussian(nn.Module):
    """The exact velocity of data N(.5, .3^2), from the time it is given and nothing else."""

    inputs = DenoiserInputs()

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, cond=None):
        u = (t / 1000).view(-1, *[1] * (x.ndim - 1)) + self.unused
        variance = (1 - u) ** 2 * 0.3**2 + u**2
        centred = x - (1 - u) * 0.5
        return u / variance * centred - (0.5 + (1 - u) * 0.3**2 / variance * centred)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_of_gaussian_data_samples_its_mean_and_deviation(name):
    settings = SamplingSettings((1, 4, 16, 16), steps=50, spacing="trailing")
    codec = Codec(PatchVAE3D((8,), ((1, 1, 1),), latent_channels=1))
    model = VideoModel(codec, Gaussian(), RectifiedFlow(sampling_shift=2.0), FlowObjective(), settings)
    made = model.sample_latents(16, sampler=name, steps=400, seed=1)
    assert float(made.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(made.std()) == pytest.approx(0.3, rel=0.03)


def test_the_loss_of_the_exact_velocity_is_what_no_network_can_lower():
    """E |eps - x0 - v|^2 = Var(eps - x0 | x_t), which is s^2 / ((1-u)^2 s^2 + u^2) for data of deviation s."""
    module = LatentDiffusion(
        denoiser=Gaussian(), codec=nn.Identity(), schedule=RectifiedFlow(), objective=FlowObjective(), num_latents=4
    )
    latent = 0.5 + 0.3 * torch.randn(64, 2, 4, 16, 16)
    drawn = module.draw({"latent": latent, "index": torch.arange(64)}, [TASKS_OF_ONE] * 64, generator_for(0))
    assert drawn.t.dtype == torch.float32 and 900 < float(drawn.t.max()) < 1000
    u = drawn.t.double() / 1000
    expected = (0.3**2 / ((1 - u) ** 2 * 0.3**2 + u**2)).mean()
    assert module.loss(drawn).loss.item() == pytest.approx(float(expected), rel=0.01)


@pytest.mark.parametrize("shift", [0.1, 0.2, 0.45, 1.0, 3.0, 9.9])
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_shift_of_sampling_begins_at_pure_noise_and_ends_at_none(shift: float, name: str) -> None:
    """Rounding in the shift would put the first time beyond the schedule, where alpha is below 0."""
    schedule = RectifiedFlow(sampling_shift=shift)
    for steps in (1, 2, 5, 20):
        times = schedule.trailing_times(steps)
        assert times[0] == 1000 and times[-1] == 0 and times == sorted(times, reverse=True)
        solver = make_solver(schedule, name, steps=steps, spacing="trailing")
        noise = lambda shape: torch.zeros(shape)  # noqa: E731
        assert solver(lambda x, t: 0 * x, torch.ones(1, 1), noise=noise).abs().max() < 1e-6


TASKS_OF_ONE = Task()


def test_training_times_are_shifted_whatever_the_shift_of_sampling():
    def times(**options):
        module = LatentDiffusion(denoiser=Gaussian(), codec=nn.Identity(), objective=FlowObjective(), num_latents=3, **options)
        return module.draw(batch(4), [TASKS["short"]] * 4, generator_for(0)).t

    plain = times(schedule=RectifiedFlow())
    assert torch.equal(plain, times(schedule=RectifiedFlow(sampling_shift=4.0)))
    shifted = times(schedule=RectifiedFlow(), times=ShiftedTimes(4.0))
    torch.testing.assert_close(shifted / (1000 - shifted), 4 * plain / (1000 - plain), rtol=1e-4, atol=0)


def overrides() -> list[str]:
    """What the page's command changes."""
    block = re.search(r"```bash\n(scripts/train.py .*?)```", PAGE, re.S)
    assert block is not None
    return shlex.split(block[1].replace("\\\n", ""))[4:]


def test_a_flow_trains_and_is_sampled_by_the_commands(configs, tmp_path, capsys):
    """Given frames included; the model file alone tells how."""
    said = [word.replace("spacing=trailing", "steps=3") for word in overrides()]
    assert train.main([configs["joint"], "--name", "flow", *said]) == 0, capsys.readouterr().err
    model = tmp_path / "flow" / "model.safetensors"
    loaded = lvdm.load(model)
    assert isinstance(loaded.schedule, RectifiedFlow) and loaded.schedule.sampling_shift == 3.0
    assert loaded.solver(SampleOptions()).sampler.name == "heun"
    assert (
        sample_short.main([str(model), "--num", "1", "--sampler", "unipc", "--format", "npz", "--out", str(tmp_path / "a")]) == 0
    )
    long = ["--predict", str(model), "--frames", "40", "--format", "npz"]
    assert sample_long.main([*long, "--condition-noise", "50", "--out", str(tmp_path / "b")]) == 0, capsys.readouterr().err
    for folder, frames in (("a", 16), ("b", 40)):
        assert np.load(tmp_path / folder / "seed0-00000.npz")["video"].shape == (frames, 16, 16, 3)


def test_the_pages_command_is_a_valid_training(capsys, monkeypatch):
    monkeypatch.setattr(dry_run_module, "training_gib", lambda *_, **__: 1.0)
    toy = str(ROOT / "configs" / "lvdm" / "short_toy.yaml")
    assert train.main([toy, *overrides(), "--dry-run"]) == 0, capsys.readouterr().err
    for wrong, words in [
        ("model.params.objective={target: lvdm.diffusion.objectives.VObjective}", "VObjective does not fit"),
        ("sampling.spacing=published", "RectifiedFlow is continuous; give spacing trailing"),
    ]:
        assert train.main([toy, *overrides(), wrong, "--dry-run"]) == 2
        assert words in capsys.readouterr().err


def test_the_page_lists_every_class_and_sampler_with_its_facts():
    for each in BUILDABLE:
        assert each.startswith(("losses", "masks", "loss_weights")) or f"`{each}`" in PAGE
    rows = {row[1]: [cell.strip() for cell in row[2].split("|")] for row in re.finditer(r"\| `(\w+)` \|(.*)\|\n", PAGE)}
    assert rows.keys() == SAMPLERS.keys()
    for name, sampler in SAMPLERS.items():
        facts = [str(sampler.usual_steps or "all"), str(sampler.calls_per_step), "yes" if sampler.takes_eta else "no"]
        assert rows[name][1:4] == facts


@pytest.mark.parametrize("command", [sample_short, sample_long, eval_command])
def test_help_lists_every_sampler(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} (" in said for name in SAMPLERS)


def test_an_old_file_that_names_a_deleted_class_gets_the_ordinary_error():
    from lvdm.config import check_node

    with pytest.raises(UserError, match="RandomSubset, which is no class of lvdm that a config may name"):
        check_node({"target": "lvdm.diffusion.masks.RandomSubset", "params": {"probability": 0.5}})
