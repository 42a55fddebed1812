"""The record of what a run trains, which its model file carries: see `lvdm.sampling.trained`."""

from __future__ import annotations

import torch

from lvdm.data import LatentClips, VideoData, VideoFolder
from lvdm.sampling.trained import MOST_LABELS, MOST_PATTERNS, Trained, TrainedTask
from lvdm.training.diffusion import LatentDiffusion
from lvdm.training.tasks import Task

DRAWS = 4096  # of a mask: a pattern of one in 200 is missed once in a billion


def trained_by(module: LatentDiffusion, data: VideoData) -> Trained:
    """Return what this run trains; classes and rates of a user's own data set are unknown."""
    inputs, clips = module.denoiser.inputs, data.train
    known = isinstance(clips, LatentClips | VideoFolder)
    labels = sorted({label for label in clips.labels if label >= 0}) if known and inputs.num_labels else []
    rates = clips.rates if known else []
    return Trained(
        tasks={name: trained_task(task, module.num_latents) for name, task in module.tasks.items()},
        fps=(min(rates), max(rates)) if rates else None,
        max_level=module.given.max_level if inputs.mask else None,
        labels=labels if len(labels) <= MOST_LABELS and (known or not inputs.num_labels) else None,
        label_dropout=module.label_dropout,
        empty_caption=module.empty_caption,
    )


def trained_task(task: Task, num_latents: int) -> TrainedTask:
    """Return the patterns of a task, drawn from its mask, which may be a user's own."""
    drawn = task.mask(DRAWS, num_latents, torch.Generator().manual_seed(0))[:, 0, :, 0, 0] > 0.5
    patterns = sorted({tuple(row.nonzero()[:, 0].tolist()) for row in drawn.unique(dim=0)})
    return TrainedTask(task.stride, patterns if len(patterns) <= MOST_PATTERNS else None)
