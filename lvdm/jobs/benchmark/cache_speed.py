"""`scripts/benchmark.py CONFIG --stage cache`: training steps fed from video files, in turn with steps fed from their latents.

Fed from videos, a step reads and resizes its clips, encodes them and trains the denoiser; fed from the cache, it reads latents
and trains the denoiser. The cache is made first, in a temporary folder, as scripts/encode.py makes it, and held in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lvdm.cli.data_speed import Turn, Way, in_turn, loader_of, videos_on_disk
from lvdm.cli.encode import EncodeConfig, Encoders, encode_folder
from lvdm.data import LatentClips, VideoData, VideoFolder
from lvdm.data.loading import ClipSet
from lvdm.jobs.benchmark import speed
from lvdm.jobs.checks import Module
from lvdm.training.diffusion import LatentDiffusion
from lvdm.types import Batch, UserError


def measure_cache(
    data: VideoData, module: Module, step: Callable[[Batch], object], device: torch.device, *, steps: int, batch_size: int
) -> dict[str, Any]:
    """Clips a second of both ways; `step` trains on a batch."""
    if not isinstance(module, LatentDiffusion):
        raise UserError(
            "--stage cache measures training on latents, but this config trains an autoencoder on videos; give a diffusion stage"
        )
    videos = videos_on_disk(data, "cache")
    if videos.random_crop or videos.flip:
        raise UserError("--stage cache compares the same clips; set random_crop=false and flip=false in data.params.train.params")
    start = time.perf_counter()
    cache = cached(videos, module, device)
    seconds = time.perf_counter() - start
    print(f"{len(cache.names)} videos encoded in {seconds:.1f} s")
    turn = Turn(steps * batch_size, min(len(videos), len(cache)))  # fewer where a video turned out to be broken

    def way(clips: ClipSet) -> Way:
        loader = loader_of(clips, data, turn, batch_size)

        def train() -> None:
            for batch in loader:
                step(module.transfer_batch_to_device(batch, device, 0))
            speed.wait(device)

        return train

    return {"seconds to encode": seconds, **in_turn({"cache": way(cache), "videos": way(videos)}, turn, workers=data.num_workers)}


def cached(videos: VideoFolder, module: LatentDiffusion, device: torch.device) -> LatentClips:
    """Clips of as many latents, in memory; encoded a clip's length at a time, so that it takes the memory of one."""
    codec, std = module.codec, module.sample_posterior
    with TemporaryDirectory() as folder:
        pieces = {"frames_at_once": videos.num_frames, "context_frames": 0}
        settings = EncodeConfig(codec, {"train": videos}, folder, std=std, **pieces)
        encode_folder(videos, Encoders(codec, None, device, codec.fingerprint(), None), Path(folder, "train"), settings)
        cache = LatentClips(
            Path(folder, "train"),
            num_latents=codec.latent_shape(videos.num_frames, *videos.size)[1],
            random_clip=videos.random_clip,
            clips_per_video=-(-len(videos) // len(videos.names)),
            std=std,
            seed=videos.seed,
        )
        cache.prepare()
    return cache
