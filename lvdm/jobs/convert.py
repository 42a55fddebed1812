"""`convert`: a published checkpoint to a model file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvdm.checkpoints import published_lvdm
from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.checkpoints.model_file import CODEC, DENOISER, check_weights, save_model
from lvdm.checkpoints.published_lvdm import state_dict
from lvdm.config import instantiate, to_dict
from lvdm.jobs.model_info import model_info
from lvdm.jobs.run_config import read_run_config
from lvdm.jobs.settings import Config, Overrides
from lvdm.models.codec import Codec
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.types import UserError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """How the names in a family's checkpoints become those of our networks."""

    autoencoder_weights: Callable[[Weights], Weights]
    denoiser_weights: Callable[..., Weights]  # with averaged=False those of the last step
    ignored_names: Callable[[Weights], Sequence[str]]


FAMILIES = {
    "lvdm": Family(published_lvdm.autoencoder_weights, published_lvdm.denoiser_weights, published_lvdm.ignored_names),
}


@dataclass(frozen=True)
class Converted:
    """A model file that was made of a checkpoint."""

    out: Path
    kind: str  # autoencoder or diffusion
    parameters: int
    tensors: int
    left_out: tuple[str, ...]  # names in the checkpoint that the model file has no use for


def convert(
    checkpoint: str | os.PathLike[str],
    *,
    config: Config,
    out: str | os.PathLike[str],
    family: str = "lvdm",
    overrides: Overrides = None,
    autoencoder: str | os.PathLike[str] | None = None,
    raw: bool = False,
    force: bool = False,
    allow: Sequence[str] = (),
) -> Converted:
    """Write the model file of a checkpoint. Nothing in the checkpoint is run, and only the tensors that the config's networks need
    are taken from it.

    Args:
        config, overrides: lvdm's training config of the same model, as `train` takes it.
        family: whose checkpoint it is, one of FAMILIES.
        autoencoder: take the autoencoder from this checkpoint instead.
        raw: take the last step's weights instead of the averaged ones.
        force: replace an existing model file.
        allow: packages beside lvdm's own that the config may name classes of.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if family not in FAMILIES:
        raise UserError(f"the family is {family!r}, expected {' or '.join(FAMILIES)}")
    if out.exists() and not force:
        raise UserError(f"{out} exists already; give another path, or force to replace it")
    settings = to_dict(read_run_config(config, overrides, allow=allow, defaults=False))
    is_diffusion = "denoiser" in settings["model"]["params"]
    if is_diffusion:
        _require_scale(settings["model"]["params"]["codec"]["params"])
    elif raw or autoencoder is not None:
        option = "raw" if raw else "autoencoder"
        raise UserError(f"{option} has no effect here, because the config describes an autoencoder alone; leave it out")
    content = read_checkpoint(checkpoint)
    weights = state_dict(content)
    first_stage = weights if autoencoder is None else state_dict(read_checkpoint(autoencoder))
    tensors = {f"{CODEC}{name}": tensor for name, tensor in FAMILIES[family].autoencoder_weights(first_stage).items()}
    if is_diffusion:
        denoiser_weights = FAMILIES[family].denoiser_weights(weights, averaged=not raw)
        tensors |= {f"{DENOISER}{name}": tensor for name, tensor in denoiser_weights.items()}
    codec, denoiser = _networks(settings, allow)
    check_weights(codec.autoencoder, tensors, CODEC, autoencoder or checkpoint)
    if denoiser is not None:
        check_weights(denoiser, tensors, DENOISER, checkpoint)
    node = settings["model"]["params"].get("text_encoder")
    text_encoder = None if node is None else instantiate(node, allow=allow)
    if raw:
        settings["average"] = 0  # results read from it whose weights were measured
    sampling = _sampling(settings) if is_diffusion else None
    facts = {"step": _step(content, checkpoint), "data_fingerprint": "", "text_encoder": text_encoder}
    info = model_info(settings, codec, sampling, **facts)
    save_model(out, tensors, info)
    left_out = tuple(FAMILIES[family].ignored_names(weights))
    return Converted(out, info.kind, sum(tensor.numel() for tensor in tensors.values()), len(tensors), left_out)


def _networks(settings: dict[str, Any], allow: Sequence[str]) -> tuple[Codec, nn.Module | None]:
    """Build the codec and the denoiser (None for an autoencoder alone) without memory."""
    params = settings["model"]["params"]
    with torch.device("meta"):
        codec = instantiate(params["codec"], allow=allow)
        return codec, instantiate(params["denoiser"], allow=allow) if "denoiser" in params else None


def _step(content: Mapping[str, Any], path: Path) -> int:
    step = content.get("global_step", 0)
    if type(step) is not int or not 0 <= step < 2**63:
        raise UserError(f"global_step of {path} is no count of steps; it is damaged, or another kind of checkpoint")
    return step


def _sampling(settings: dict[str, Any]) -> SamplingSettings:
    if settings.get("sampling") is None:
        raise UserError("the config has no sampling section; the model file needs at least its latent_shape (c, t, h, w)")
    return SamplingSettings(**settings["sampling"])


def _require_scale(codec: dict[str, Any]) -> None:
    """Refuse a codec without scale and shift: the checkpoint lacks them, and without them samples decode to noise."""
    absent = [name for name in ("scale", "shift") if name not in codec]
    if absent:
        raise UserError(
            f"the config does not say model.params.codec.params.{absent[0]}, and a checkpoint does not hold it; published are "
            "scale .33422927, shift 1.4606637 for sky, .220142075, .5837740898 for ucf101, .175733933, .03291025 for taichi"
        )
