"""Previews during training: samples or reconstructions at every validation, as mp4 and in tensorboard.

They use the averaged weights and the same seed each time, so the same videos improve over training.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.distributed.tensor import DTensor

from lvdm.batching import Batches
from lvdm.files import why_not_written
from lvdm.sampling.pipeline import SamplingSettings, VideoModel, auto_batch, to_uint8
from lvdm.sampling.writers import Mp4Writer, VideoFiles
from lvdm.training.autoencoder import AutoencoderTraining
from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.lightning_internals import all_gather
from lvdm.training.tensorboard import Tensorboard
from lvdm.types import Batch, UserError

logger = logging.getLogger(__name__)


class Previews(Callback):
    """Writes previews/step=N.mp4, with the videos side by side.

    Args:
        folder: the folder of the previews.
        settings: the sampling settings; None for an autoencoder, which shows videos above their reconstructions.
        num: number of videos in a preview.
        steps: sampling steps; None takes those of `settings`.
    """

    def __init__(self, folder: Path, settings: SamplingSettings | None, *, num: int = 2, steps: int | None = None) -> None:
        self.folder, self.settings, self.num, self.steps = folder, settings, num, steps

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        videos, fps = self._videos(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        strip = np.concatenate(list(videos), axis=2)  # (t, h, n w, 3)
        try:
            self._write(strip, fps, trainer)
        except (OSError, UserError) as error:
            why = why_not_written(error)
            logger.error("cannot write the preview of step %d (%s); training continues", trainer.global_step, why)

    def _write(self, strip: np.ndarray, fps: float, trainer: pl.Trainer) -> None:
        path = self.folder / f"step={trainer.global_step}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoFiles([Mp4Writer(path, fps=fps, overwrite=True)]) as file:
            file.write(strip)
        for board in trainer.loggers:
            if isinstance(board, Tensorboard):
                board.add_summary(gif_summary("preview", strip, fps), trainer.global_step)

    def _videos(self, trainer: pl.Trainer, module: pl.LightningModule) -> tuple[np.ndarray, float]:
        """Return the videos and their frames per second; every process creates the same number, and extra ones are dropped."""
        share = -(-self.num // trainer.world_size)
        if isinstance(module, LatentDiffusion):
            assert self.settings is not None, "a diffusion stage has sampling settings"
            samples = self._sample(trainer, module, share)
            return self._gather(samples, module)[: self.num], self.settings.fps or 8.0
        assert isinstance(module, AutoencoderTraining)
        batch = _first_batch(trainer)
        video = batch["video"][:share].to(module.device)
        with torch.no_grad():
            reconstruction = module.autoencoder.decode(module.autoencoder.encode(video).mode())
        pairs = to_uint8(torch.cat([video, reconstruction.to(video)], dim=3))
        return self._gather(pairs, module)[: self.num], float(batch["fps"][0]) if "fps" in batch else 8.0

    def _sample(self, trainer: pl.Trainer, module: LatentDiffusion, num: int) -> np.ndarray:
        """Sample videos; a network that reads text gets the captions of the first validation batch."""
        assert self.settings is not None
        model, context = video_model(module, self.settings), None
        if module.reads_text:
            texts = module.context_of(_first_batch(trainer), module.device)
            assert texts is not None
            context = texts[:num]
            num = len(context)
        passes = 2 if context is not None and self.settings.guidance else 1
        most = auto_batch(passes * int(np.prod(self.settings.latent_shape)), module.device)
        size = int(all_gather(module, torch.tensor(most, device=module.device)).min())
        options = {"steps": self.steps, "sampler": self.settings.sampler, "context": context}
        # the same size in all processes, because each may hold a shard of the weights and all must run in step
        try:
            return model.sample(num, first=trainer.global_rank * num, batch_size=size, **options)
        except UserError as error:
            logger.error("cannot sample the preview of step %d (%s); training continues", trainer.global_step, error)
        _, t, h, w = self.settings.latent_shape
        side = model.codec.spatial_factor
        return np.zeros((num, model.codec.frames_of(t), h * side, w * side, 3), np.uint8)

    def _gather(self, videos: np.ndarray, module: pl.LightningModule) -> np.ndarray:
        """Return the videos of all processes, one process after the other."""
        parts = all_gather(module, torch.from_numpy(videos).to(module.device))
        return parts.reshape(-1, *videos.shape[1:]).cpu().numpy()


def video_model(module: LatentDiffusion, settings: SamplingSettings) -> VideoModel:
    """Return the model in training, to sample from with its current weights."""
    network = (module.denoiser, module.schedule, module.objective)
    is_sharded = any(isinstance(weight, DTensor) for weight in module.denoiser.parameters())
    named: dict[str, Any] = {"device": module.device, "text_encoder": module.text_encoder, "trained": module.trained}
    return VideoModel(module.codec, *network, settings, **named, batches=Batches(shrinks=not is_sharded))


def _first_batch(trainer: pl.Trainer) -> Batch:
    """Return the first batch of the validation data."""
    assert trainer.val_dataloaders is not None
    return next(iter(trainer.val_dataloaders))


def gif_summary(tag: str, video: np.ndarray, fps: float) -> Summary:
    """Return a uint8 video (t, h, w, 3) as a tensorboard image in gif format."""
    buffer = io.BytesIO()
    iio.imwrite(buffer, video, extension=".gif", duration=1000 / fps, loop=0)
    frames, height, width, _ = video.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])
