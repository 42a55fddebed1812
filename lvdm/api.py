"""lvdm from Python: a model file, ready for use; a long video as an iterator of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lvdm.checkpoints.model_file import CODEC, DENOISER, ModelInfo, load_weights, read_model
from lvdm.config import instantiate
from lvdm.models.codec import Codec
from lvdm.sampling.long_pipeline import sample_long
from lvdm.sampling.pipeline import SamplingSettings, VideoModel
from lvdm.types import Condition, UserError

__all__ = ["Condition", "VideoModel", "load", "sample_long"]

AUTOCAST = (torch.bfloat16, torch.float16)


def load(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, *, allow: Sequence[str] = ()
) -> VideoModel:
    """The model of a `model.safetensors`, with its averaged weights.

    Args:
        dtype: bfloat16 or float16 run the denoiser by autocast; None and float32 change nothing.
        allow: packages beside lvdm's own that the file's config may name classes of.
    """
    if dtype not in (None, torch.float32, *AUTOCAST):
        raise UserError(f"dtype is {dtype}, expected float32, bfloat16 or float16")
    info, tensors = read_model(path)
    device = _device(device)
    autoencoder = _build(info.autoencoder, "autoencoder", path, allow)
    load_weights(autoencoder, tensors, CODEC, path)
    codec = Codec(autoencoder, scale=info.scale, shift=info.shift).to(device)
    model = VideoModel(codec, device=device, dtype=dtype if dtype in AUTOCAST else None, name=str(path))
    return model if info.kind == "autoencoder" else _with_denoiser(model, info, tensors, path, allow)


def _with_denoiser(
    model: VideoModel, info: ModelInfo, tensors: dict[str, torch.Tensor], path: str | Path, allow: Sequence[str]
) -> VideoModel:
    denoiser = _build(info.denoiser, "denoiser", path, allow)
    load_weights(denoiser, tensors, DENOISER, path)
    return replace(
        model,
        denoiser=denoiser.to(model.device).eval().requires_grad_(False),
        schedule=_build(info.schedule, "schedule", path, allow),
        objective=_build(info.objective, "objective", path, allow),
        settings=SamplingSettings.read(info.sampling),
    )


def _build(node: dict[str, Any] | None, part: str, path: str | Path, allow: Sequence[str]) -> Any:
    if node is None:
        raise UserError(f"{path} does not say how to build its {part}; make the file again")
    try:
        return instantiate(node, allow=allow)
    except TypeError as error:  # an option of another version of lvdm
        raise UserError(f"the {part} in {path} cannot be built by this version of lvdm: {error}") from error


def _device(device: str | torch.device) -> torch.device:
    try:
        made = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"there is no device {device!r}; give cpu, cuda or cuda:N") from error
    if made.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{device} was asked for, but torch sees no GPU here; give cpu")
    return made
