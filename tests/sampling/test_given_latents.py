"""One window with given latents: noised once, written at every step, told; what is kept of them is clean."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.checkpoints.published_lvdm import denoiser_weights
from lvdm.diffusion.guidance import predict_x0
from lvdm.diffusion.objectives import EpsObjective
from lvdm.diffusion.schedules import SqrtLinear
from lvdm.models.denoisers.unet3d import UNet3D
from lvdm.sampling.long_video import WindowSampler, long_latents
from lvdm.sampling.noise import VideoNoise
from lvdm.sampling.solver import make_solver
from lvdm.sampling.windows import plan
from lvdm.types import Condition


class Recorder:
    """A predictor that answers with x0 = 0 and remembers what it saw."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Condition]] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        assert cond is not None
        self.calls.append((x.clone(), t, cond))
        return torch.zeros_like(x)


def window_sampler(predict: Recorder, level: int, guidance: float = 0.0) -> WindowSampler:
    schedule = SqrtLinear()
    solver = make_solver(schedule, "ddim", steps=5)
    return WindowSampler(predict, schedule, solver, level=level, guidance=guidance, fps=4.0)


def test_given_latents_are_noised_once_and_written_at_every_step() -> None:
    seen = Recorder()
    sampler = window_sampler(seen, level=100)
    frames = torch.randn(2, 3, 4, 2, 2)
    sampler(frames, (0, 2), VideoNoise(0, [0, 1]))
    written = [x[:, :, [0, 2]] for x, _, _ in seen.calls]
    assert all(torch.equal(one, written[0]) for one in written), "noised anew"
    alpha_bar = sampler.schedule.table[100]
    eps = (written[0] - alpha_bar.sqrt() * frames[:, :, [0, 2]]) / (1 - alpha_bar).sqrt()
    assert 0.6 < eps.std() < 1.4 and (eps - eps.mean()).abs().max() > 0.5, "level 100 of the table"
    for _, _, cond in seen.calls:
        assert cond.mask.flatten(1).tolist() == [[1, 0, 1, 0]] * 2
        assert cond.frame_noise.tolist() == [100, 100] and cond.fps.tolist() == [4, 4]


def test_level_zero_leaves_them_clean() -> None:
    seen = Recorder()
    frames = torch.randn(1, 3, 4, 2, 2)
    window_sampler(seen, level=0)(frames, (0,), VideoNoise(0, [0]))
    assert all(torch.equal(x[:, :, 0], frames[:, :, 0]) and cond.frame_noise.tolist() == [0] for x, _, cond in seen.calls)


def test_the_unconditional_pass_sees_the_written_frames_but_is_told_nothing_of_them() -> None:
    seen = Recorder()
    window_sampler(seen, level=50, guidance=0.5)(torch.randn(1, 3, 4, 2, 2), (0,), VideoNoise(0, [0]))
    for x, _, cond in seen.calls:
        assert len(x) == 2 and torch.equal(x[0], x[1])
        assert cond.mask.flatten(1).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
        assert cond.frame_noise.tolist() == [50, -1] and cond.fps.tolist() == [4, 4]


def test_windows_without_given_frames_need_one_pass() -> None:
    seen = Recorder()
    window_sampler(seen, level=50, guidance=0.5)(torch.zeros(1, 3, 4, 2, 2), (), VideoNoise(0, [0]))
    assert all(len(x) == 1 and not cond.mask.any() for x, _, cond in seen.calls)


@pytest.mark.parametrize("guidance", [0.0, 0.1])
@pytest.mark.parametrize(("task", "given"), [("predict", (0,)), ("infill", (0, 3))])
def test_a_window_is_the_published_one(parity, task: str, given: tuple[int, ...], guidance: float) -> None:
    recorded = load_file(parity(f"lvdm_{task}_sampling.safetensors"))
    sizes = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (2, 1)}
    network = UNet3D(**sizes, temporal_length=4, mask_channel=True, noise_level="embedding").eval()
    weights = read_checkpoint(parity(f"lvdm_{task}.ckpt"))["state_dict"]
    network.load_state_dict(denoiser_weights(weights, averaged=True))
    schedule, level = SqrtLinear(), set(recorded["noise_level"].tolist())
    sampler = WindowSampler(
        predict_x0(network, EpsObjective(), schedule),
        schedule,
        make_solver(schedule, "ddim", steps=10),
        level=level.pop(),
        guidance=guidance,
        fps=None,
    )
    assert not level, "one level for all samples was recorded"
    frames, eps = (torch.zeros_like(recorded["x_T"]) for _ in range(2))
    frames[:, :, given], eps[:, :, given] = recorded["clean_condition"], recorded["condition_noise"]
    draws = iter([recorded["x_T"], eps])
    latent = sampler(frames, given, lambda shape: next(draws))
    expected = recorded[f"ddim10_eta0_guidance{guidance}_latent"]
    assert (latent - expected).norm() < 1e-5 * expected.norm()


def test_what_is_kept_of_given_latents_is_clean() -> None:
    start = torch.randn(1, 2, 3, 2, 2)
    made = plan(20, latents=20, window=4, overlap=2, start_latents=3)
    sampler = window_sampler(Recorder(), level=200)
    noise_for = lambda stage, index: VideoNoise(0, [0], stage=(1, index))  # noqa: E731
    chunks = list(long_latents(made, keys=sampler, gaps=None, start=start, noise_for=noise_for))
    assert torch.equal(chunks[0], start), "a start comes out as it came in, and at once"
    assert torch.cat(chunks, dim=2).shape == (1, 2, 20, 2, 2)


def test_a_world_that_stands_still_stands_still_for_400_latents() -> None:
    """Where every latent equals the given ones, the exact denoiser answers with their mean: nothing may drift."""

    class Repeat:
        def __call__(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            given = (cond.frames * cond.mask).sum(2) / cond.mask.sum(2).clamp(min=1)
            return given[:, :, None].expand_as(x)

    made = plan(400, latents=400, window=9, overlap=1, key_stride=4, gap_window=9, start_latents=1)
    schedule = SqrtLinear()
    solver = make_solver(schedule, "dpmpp", steps=10, spacing="trailing")
    sampler = WindowSampler(Repeat(), schedule, solver, level=0, guidance=0.0, fps=None)
    noise_for = lambda stage, index: VideoNoise(0, [0], stage=(1, index))  # noqa: E731
    start = torch.full((1, 1, 1, 1, 1), 0.7)
    chunks = long_latents(made, keys=sampler, gaps=sampler, start=start, noise_for=noise_for, gap_batch=4)
    assert torch.cat(list(chunks), dim=2).flatten().sub(0.7).abs().max() < 1e-5
