"""`benchmark_cache`: training steps fed from video files, in turn with steps fed from their latents.

Fed from videos, a step reads and resizes its clips, encodes them and trains the denoiser; fed from the cache, it reads latents
and trains the denoiser. The cache is encoded first, in a temporary folder, and held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lvdm.data import LatentClips, VideoData, VideoFolder
from lvdm.data.loading import ClipSet
from lvdm.jobs.benchmark import speed
from lvdm.jobs.benchmark.data_speed import ReadingSpeed, Turn, in_turn, loader_of, videos_on_disk
from lvdm.jobs.benchmark.stages import measured_alone
from lvdm.jobs.benchmark.subject import BenchmarkSettings, build_subject, compile_subject
from lvdm.jobs.checks import Module
from lvdm.jobs.encode import EncodeReport, EncodeSettings, encode_folder
from lvdm.jobs.settings import Config, Overrides
from lvdm.training.diffusion import LatentDiffusion
from lvdm.types import Batch, UserError


@dataclass(frozen=True)
class CacheSpeed:
    """Training from the cache against training from videos, with what they were measured on."""

    device: str
    precision: str
    batch_size: int
    compiled: list[str]
    encoding: EncodeReport
    speed: ReadingSpeed


def benchmark_cache(
    config: Config,
    overrides: Overrides = None,
    *,
    settings: BenchmarkSettings = BenchmarkSettings(),  # noqa: B008 (frozen)
    allow: Sequence[str] = (),
) -> CacheSpeed:
    """Measure the training of a diffusion config on videos, from the files and from a cache of their latents."""
    subject, data = build_subject(config, overrides, settings, allow=allow)
    compiled = compile_subject(subject, ["train"], requested=settings.compile)
    subject.module.train()
    with measured_alone("train", subject):
        counts = {"steps": settings.steps, "batch_size": subject.batch_size}
        measured = measure_cache(data, subject.module, subject.stepping(), subject.device, **counts)
    return CacheSpeed(subject.device_name, subject.precision, subject.batch_size, compiled, *measured)


def measure_cache(
    data: VideoData, module: Module, step: Callable[[Batch], object], device: torch.device, *, steps: int, batch_size: int
) -> tuple[EncodeReport, ReadingSpeed]:
    """Encode the videos, then measure both ways; `step` trains on a batch."""
    if not isinstance(module, LatentDiffusion):
        raise UserError(
            "this stage measures training on latents, but this config trains an autoencoder on videos; give a diffusion stage"
        )
    videos = videos_on_disk(data)
    if videos.random_crop or videos.flip:
        raise UserError("this stage compares equal clips; set random_crop=false and flip=false in data.params.train.params")
    cache, encoding = _encode(videos, module)
    turn = Turn(steps * batch_size, min(len(videos), len(cache)))  # fewer if a video turned out to be broken

    def way(clips: ClipSet) -> Callable[[], None]:
        loader = loader_of(clips, data, turn, batch_size)

        def train() -> None:
            for batch in loader:
                step(module.transfer_batch_to_device(batch, device, 0))
            speed.wait(device)

        return train

    return encoding, in_turn({"cache": way(cache), "videos": way(videos)}, turn, workers=data.num_workers)


def _encode(videos: VideoFolder, module: LatentDiffusion) -> tuple[LatentClips, EncodeReport]:
    """Return clips of as many latents, in memory; they are encoded a clip's length at a time, in the memory of one."""
    codec, std = module.codec, module.sample_posterior
    settings = EncodeSettings(std=std, frames_at_once=videos.num_frames, context_frames=0)
    with TemporaryDirectory() as folder:
        out = Path(folder, "train")
        report = encode_folder(videos, codec, None, out, settings)
        cache = LatentClips(
            out,
            num_latents=codec.latent_shape(videos.num_frames, *videos.size)[1],
            random_clip=videos.random_clip,
            clips_per_video=-(-len(videos) // len(videos.names)),
            std=std,
            seed=videos.seed,
        )
        cache.prepare()
    return cache, report
