"""Whole sampling loops and one training loss with the published weights: recorded values of the published modules, at 1e-5.

The parts are tested elsewhere; here schedule, grid, given frames, guidance, sampler, network and codec must fit together.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lvdm.diffusion.guidance import guided, predict_x0
from lvdm.diffusion.losses import L1Loss
from lvdm.diffusion.masks import write_frames
from lvdm.diffusion.objectives import EpsObjective
from lvdm.diffusion.process import posterior_beta, q_sample
from lvdm.diffusion.schedules import SqrtLinear
from lvdm.models.autoencoders.vae3d import VAE3D
from lvdm.models.codec import Codec
from lvdm.models.denoisers.unet3d import UNet3D
from lvdm.sampling.samplers import SAMPLERS
from lvdm.sampling.timesteps import published_grid
from lvdm.types import Condition

SCHEDULE = SqrtLinear()
SIZE = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (2, 1), "temporal_length": 4}
GIVEN = {"predict": [0], "infill": [0, 3]}  # frames of four


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def published(path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def network(weights: dict[str, torch.Tensor], *, averaged: bool, masked: bool) -> UNet3D:
    """The denoiser with published weights, found under the names its own parameters have."""
    unet = UNet3D(**SIZE, mask_channel=masked, noise_level="embedding" if masked else None)
    names = {name: f"diffusion_model.{name}" for name in unet.state_dict()}
    keys = {name: f"model_ema.{full.replace('.', '')}" if averaged else f"model.{full}" for name, full in names.items()}
    unet.load_state_dict({name: weights[key] for name, key in keys.items()})
    return unet.eval()


def condition(recorded: dict[str, torch.Tensor], where: list[int]) -> Condition:
    """Given frames noised once to their level, put in their places."""
    frames = torch.zeros_like(recorded["x_T"])
    frames[:, :, where] = q_sample(recorded["clean_condition"], recorded["condition_noise"], recorded["noise_level"], SCHEDULE)
    return Condition(frames=frames, mask=recorded["mask"][..., :1, :1], frame_noise=recorded["noise_level"])


def test_ddim_grid_and_sigmas_are_the_published(parity):
    recorded, grid = load_file(parity("lvdm_schedule.safetensors")), published_grid(SCHEDULE, 50)
    steps = list(grid)[::-1]
    assert [step.t for step in steps] == recorded["ddim50_timesteps"].tolist()
    for name, ours in [
        ("ddim50_alphas", [step.alpha**2 for step in steps]),
        ("ddim50_alphas_prev", [step.alpha_next**2 for step in steps]),
        ("ddim50_sigmas_eta1", [posterior_beta(s.alpha, s.sigma, s.alpha_next, s.sigma_next) ** 0.5 for s in steps]),
    ]:
        torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), recorded[name], rtol=1e-5, atol=0, msg=name)


def test_short_sampling_is_the_published_to_the_decoded_video(parity):
    recorded, weights = load_file(parity("lvdm_short_sampling.safetensors")), published(parity("lvdm_short.ckpt"))
    unet = network(weights, averaged=True, masked=False)
    with torch.no_grad():
        assert relative_error(unet(recorded["x_T"], recorded["t"]), recorded["eps_ema"]) < 1e-5
    denoise = guided(predict_x0(unet, EpsObjective(), SCHEDULE), None, scale=0.0)
    latent = SAMPLERS["ddim"](denoise, recorded["x_T"], published_grid(SCHEDULE, 10))
    assert relative_error(latent, recorded["ddim10_eta0_latent"]) < 1e-5

    autoencoder = VAE3D(channels=16, downsample=(2, 4, 4))
    autoencoder.load_state_dict({name: weights[f"first_stage_model.{name}"] for name in autoencoder.state_dict()})
    codec = Codec(autoencoder, scale=0.33422927, shift=1.4606637)
    assert relative_error(codec.decode(latent), recorded["video"]) < 1e-5


@pytest.mark.parametrize("guidance", [0.0, 0.1])
@pytest.mark.parametrize("task", GIVEN)
def test_sampling_with_given_frames_is_the_published(parity, task, guidance):
    recorded = load_file(parity(f"lvdm_{task}_sampling.safetensors"))
    unet = network(published(parity(f"lvdm_{task}.ckpt")), averaged=True, masked=True)
    cond = condition(recorded, GIVEN[task])
    assert relative_error(cond.frames[:, :, GIVEN[task]], recorded["noisy_condition"]) < 1e-6

    denoise = guided(predict_x0(unet, EpsObjective(), SCHEDULE), cond, scale=guidance)
    latent = SAMPLERS["ddim"](
        denoise,
        recorded["x_T"],
        published_grid(SCHEDULE, 10),
        before_step=lambda x: write_frames(x, cond.frames, cond.mask),
    )
    assert relative_error(latent, recorded[f"ddim10_eta0_guidance{guidance}_latent"]) < 1e-5


@pytest.mark.parametrize("task", GIVEN)
def test_one_training_loss_with_every_draw_given_is_the_published(parity, task):
    recorded = load_file(parity(f"lvdm_{task}_sampling.safetensors"))
    unet = network(published(parity(f"lvdm_{task}.ckpt")), averaged=False, masked=True)
    x0, t, mask = recorded["train_x0"], recorded["train_t"], recorded["mask"][..., :1, :1]
    cond = Condition(mask=mask, frame_noise=recorded["noise_level"])
    eps = write_frames(recorded["train_noise"], recorded["train_condition_noise"], mask)
    x_in = q_sample(x0, eps, cond.frame_times(t), SCHEDULE)
    target = EpsObjective().target(x0, eps, t, SCHEDULE)
    with torch.no_grad():
        prediction = unet(x_in, t, cond)
    assert relative_error(x_in, recorded["train_input"]) < 1e-6
    assert torch.equal(target, recorded["train_target"])
    assert relative_error(prediction, recorded["train_prediction"]) < 1e-5
    assert float(L1Loss()(prediction, target).mean()) == pytest.approx(float(recorded["train_l1"]), rel=1e-5)
