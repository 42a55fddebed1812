"""Long videos: what is given, told and kept, and that neither batches nor length change what comes out."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lvdm.diffusion.objectives import EpsObjective, VObjective
from lvdm.diffusion.schedules import Cosine, SqrtLinear
from lvdm.models.autoencoders.patch_vae3d import PatchVAE3D
from lvdm.models.codec import Codec
from lvdm.models.denoisers.unet3d import UNet3D
from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video, sample_long
from lvdm.sampling.long_video import _Line
from lvdm.sampling.pipeline import SamplingSettings, VideoModel
from lvdm.types import Condition, UserError

WINDOW = 5


def tiny_model(*, noise_level: str | None = "time", seed: int = 0, **changes: object) -> VideoModel:
    """A joint model as in the toy, 16 x 16 pixels, 2 x 2 latents, random weights that are nowhere zero."""
    torch.manual_seed(seed)
    autoencoder = PatchVAE3D(channels=(8, 8), blocks=1, latent_channels=2)
    denoiser = UNet3D(
        in_channels=2,
        out_channels=2,
        model_channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention_resolutions=(2,),
        num_heads=2,
        mask_channel=True,
        noise_level=noise_level,
        fps_embedding=True,
        temporal_length=WINDOW,
    ).eval()
    for parameter in [*autoencoder.parameters(), *denoiser.parameters()]:
        torch.nn.init.normal_(parameter, std=0.1)
    settings = SamplingSettings((2, WINDOW, 2, 2), fps=8, key_stride=4, overlap=2, sampler="dpmpp", steps=4, spacing="trailing")
    return VideoModel(
        Codec(autoencoder, scale=0.5),
        denoiser=denoiser,
        schedule=Cosine(),
        objective=VObjective(),
        settings=replace(settings, **changes),
    )


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return tiny_model()


def latents_of(model: VideoModel, videos: list[int], frames: int = 90, infill: bool = True, **options: object) -> Tensor:
    made = prepare_long_video(model, model if infill else None, LongOptions(frames=frames, **options))
    return torch.cat(list(made.latents(3, videos)), dim=2)


# Counting and order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 4, 13, 64, 90])
@pytest.mark.parametrize("infill", [True, False])
def test_exactly_the_frames_asked_for(model: VideoModel, frames: int, infill: bool) -> None:
    video = list(sample_long(model, model if infill else None, frames=frames))
    assert len(video) == frames
    assert all(frame.shape == (16, 16, 3) and frame.dtype == np.uint8 for frame in video)


def test_streamed_frames_are_the_whole_latent_decoded(model: VideoModel) -> None:
    whole = model.codec.decode(latents_of(model, [0]))[0, :, :90]
    expected = ((whole + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0).numpy()
    assert np.abs(np.stack(list(sample_long(model, model, frames=90, seed=3))) - expected).max() <= 1


@pytest.mark.parametrize("lead_in", [0, 1, 30, 64, 100])  # a chunk of the stream has 64 frames
def test_a_lead_in_is_the_same_video_without_its_first_frames(model: VideoModel, lead_in: int) -> None:
    whole = np.stack(list(sample_long(model, model, frames=lead_in + 90, lead_in=0)))
    video = np.stack(list(sample_long(model, model, frames=90, lead_in=lead_in)))
    assert np.array_equal(video, whole[lead_in:])
    own = replace(model, settings=replace(model.trained_settings(), lead_in=lead_in))
    assert np.array_equal(np.stack(list(sample_long(own, own, frames=90))), video)
    start = whole[:26]
    assert prepare_long_video(own, own, LongOptions(frames=90), start=start).lead_in == 0
    with pytest.raises(UserError, match="continues a start"):
        prepare_long_video(own, own, LongOptions(frames=90, lead_in=5), start=start)


def test_progress_counts_every_latent_once(model: VideoModel) -> None:
    told: list[float] = []
    made = prepare_long_video(model, model, LongOptions(frames=90))
    list(made.latents(0, [0, 1], on_latents=told.append))
    assert sum(told) == pytest.approx(2 * made.plan.latents)


# The same video, whatever is made beside it -------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_level", ["time", "embedding", None])
def test_a_video_does_not_depend_on_the_others(noise_level: str | None) -> None:
    model = tiny_model(noise_level=noise_level)
    together = latents_of(model, [0, 1, 2], guidance=0.3)
    for row, video in enumerate((0, 1, 2)):
        alone = latents_of(model, [video], guidance=0.3)
        assert (together[row] - alone[0]).abs().max() < 1e-4 * together.std()
    assert (together[0] - together[1]).abs().max() > 0.1 * together.std()


@pytest.mark.parametrize("gap_batch", [2, 3, 100, "auto"])
def test_a_video_does_not_depend_on_the_gap_batch(model: VideoModel, gap_batch: int | str) -> None:
    one_by_one = latents_of(model, [0, 1], gap_batch=1, sampler="ddim", eta=0.5)
    assert (latents_of(model, [0, 1], gap_batch=gap_batch, sampler="ddim", eta=0.5) - one_by_one).abs().max() < 1e-4


def test_gaps_are_halved_when_memory_is_short(model: VideoModel) -> None:
    class Small:
        inputs = model.denoiser.inputs
        refused = 0

        def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
            if len(x) > 2:
                Small.refused += 1
                raise torch.OutOfMemoryError("no more")
            return model.denoiser(x, t, cond)

    small = replace(model, denoiser=Small())
    assert (latents_of(small, [0], gap_batch=5) - latents_of(model, [0], gap_batch=1)).abs().max() < 1e-4
    assert Small.refused == 2, "5 and 3 are refused, 2 fits and is kept"


# Starts and refusals -------------------------------------------------------------------------------------------------------


def test_a_start_is_continued_not_changed(model: VideoModel) -> None:
    start = np.random.default_rng(0).integers(0, 256, (26, 16, 16, 3), np.uint8)
    made = prepare_long_video(model, model, LongOptions(frames=80), start=start)
    assert made.plan.start_latents == 6, "26 frames hold 6 whole latents"
    latents = torch.cat(list(made.latents(0, [0, 1])), dim=2)
    video = torch.from_numpy(start[:24]).float().permute(3, 0, 1, 2)[None] / 127.5 - 1
    torch.testing.assert_close(latents[:, :, :6], model.codec.encode(video).expand(2, -1, -1, -1, -1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overlap": WINDOW}, "cannot share"),
        ({"key_stride": 3}, "multiple of 3 plus one"),
        ({"sampler": "dpmpp", "eta": 0.5}, "dpmpp has no eta"),
        ({"sampler": "euler"}, "one of ddim"),
        ({"condition_noise": 1000}, "0 \\(clean\\) to 999"),
        ({"gap_batch": 0}, "auto or a number"),
        ({"lead_in": -1}, "lead_in is -1"),
        ({"frames": 0, "lead_in": 50}, "frames is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(model: VideoModel, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepare_long_video(model, model, LongOptions(**{"frames": 100, **options}))


@pytest.mark.parametrize("option", ["gap_noise", "gap_steps", "key_stride", "gap_batch"])
def test_options_of_gaps_need_an_infill_model(model: VideoModel, option: str) -> None:
    with pytest.raises(UserError, match=f"{option} has no effect without an infill model"):
        prepare_long_video(model, None, LongOptions(frames=100, **{option: 4}))


def test_models_of_different_autoencoders_are_refused(model: VideoModel) -> None:
    with pytest.raises(UserError, match="different autoencoders"):
        prepare_long_video(model, tiny_model(seed=1), LongOptions(frames=100))


def test_levels_above_the_embedding_are_refused() -> None:
    with pytest.raises(UserError, match="0 \\(clean\\) to 250"):
        prepare_long_video(tiny_model(noise_level="embedding"), None, LongOptions(frames=100, condition_noise=251))


def test_a_network_without_mask_makes_one_window_and_no_more(model: VideoModel) -> None:
    denoiser = UNet3D(2, 2, 32, (1,), 1, (1,), 2).eval()
    short = replace(model, denoiser=denoiser, objective=EpsObjective(), schedule=SqrtLinear())
    assert len(list(sample_long(short, frames=4 * WINDOW))) == 4 * WINDOW
    with pytest.raises(UserError, match="takes no mask"):
        sample_long(short, frames=4 * WINDOW + 1)


# Memory --------------------------------------------------------------------------------------------------------------------

MEASURE = """
import gc, resource, sys
sys.path[:0] = {tests!r}
import torch
from test_long_video import tiny_model
import lvdm
torch.set_num_threads(1)
model = tiny_model(steps=2)
count = sum(1 for frame in lvdm.sample_long(model, model, frames={frames}))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_memory(frames: int) -> int:
    """Peak resident memory of a process that makes a video of that length, in KiB (Linux)."""
    source = MEASURE.format(tests=[str(folder) for folder in Path(__file__).parents[:2]], frames=frames)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == frames
    return peak


def test_only_latents_still_needed_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(steps=1)
    held: dict[int, int] = {}
    forget = _Line.forget_before

    def count(line: _Line, position: int) -> None:
        forget(line, position)
        held[frames] = max(held.get(frames, 0), len(line._known))

    monkeypatch.setattr(_Line, "forget_before", count)
    for frames in (400, 1200):
        assert sum(1 for _ in sample_long(model, model, frames=frames, gap_batch=3)) == frames
    assert held[1200] == held[400] < 30


def test_memory_does_not_grow_with_length() -> None:
    short, long = peak_memory(500), peak_memory(4000)
    assert long < 1.1 * short, f"{short / 1024:.0f} MiB for 500 frames, {long / 1024:.0f} MiB for 4,000"
