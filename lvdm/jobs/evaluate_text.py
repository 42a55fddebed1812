"""Measure from Python how well videos show their prompts. `scripts/eval.py text` calls this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.model import Sampling
from lvdm.evaluation.sources.sampled import origin_of
from lvdm.evaluation.text import Prompted, PromptedModel, measure_text, open_prompted, spread
from lvdm.jobs.evaluate import EvalSettings, Model, Videos, is_model, refuse_sampling
from lvdm.jobs.evaluate_rules import COUNT
from lvdm.models.features.clip_similarity import ClipSimilarity
from lvdm.processes import as_device, process_group
from lvdm.rules import integer, require
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError


def evaluate_text(
    fake: Videos | Model,
    prompts: Sequence[str] = (),
    *,
    num: int | None = None,
    clip: Path | None = None,
    bootstrap: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    sampling: Sampling | None = None,
    device: str | torch.device = "auto",
    allow: Sequence[str] = (),
) -> Result:
    """Return how well videos show their prompts: the mean cosine of CLIP's features of prompts and frames.

    Args:
        fake: videos in the order of the prompts, or a text-to-video model.
        prompts: without them, the captions of a folder's metadata.jsonl.
        num: videos of each prompt, one after the other; 1 by default.
        clip: the folder of a CLIP; by default the one in LVDM_WEIGHTS.
        batch_size: frames that go through CLIP at once.
    """
    require(integer(1), batch_size=batch_size)
    require(integer(0), workers=workers, bootstrap=bootstrap)
    require(COUNT, num=num)
    with process_group():
        similarity = ClipSimilarity(clip, device=as_device(device), frames_at_once=batch_size)
        settings = EvalSettings(workers=workers, device=device, allow=allow)
        return measure_text(_open_prompted(fake, prompts, num, sampling, settings), similarity, resamples=bootstrap)


def _open_prompted(
    fake: Videos | Model, prompts: Sequence[str], num: int | None, sampling: Sampling | None, settings: EvalSettings
) -> Prompted:
    if num is not None and not prompts:
        raise UserError("num counts the videos of each prompt, and captions have one; leave it out or give prompts")
    if not is_model(fake):
        assert not isinstance(fake, VideoModel)
        refuse_sampling(sampling)
        return open_prompted(fake, prompts, each=num, workers=settings.workers)
    if not prompts:
        raise UserError("a model samples videos of prompts; give prompts")
    if settings.workers:
        raise UserError("workers read videos, and those of a model are not read; leave it out")
    model, path = settings.open_model(fake)
    model.trained_settings()  # an autoencoder samples no videos
    if model.text_encoder is None:
        raise UserError(f"{model.name} has no text encoder to read a prompt; give a text-to-video model, or videos")
    how = sampling or Sampling()
    origin = origin_of(model, None, path)
    return PromptedModel(origin, model, model.text_encoder, how, spread(prompts, 1 if num is None else num))
