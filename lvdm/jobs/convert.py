"""`convert`: a published checkpoint to a model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvdm.checkpoints import published_lvdm, published_pvdm
from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.checkpoints.model_file import CODEC, DENOISER, check_weights, save_model
from lvdm.checkpoints.published_lvdm import state_dict
from lvdm.config import instantiate, to_dict
from lvdm.jobs.load import check_latents
from lvdm.jobs.model_info import model_info
from lvdm.jobs.run_config import read_run_config
from lvdm.jobs.settings import Config, Overrides
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.types import UserError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A family of checkpoints: functions from its names of weights to those of our networks."""

    autoencoder_weights: Callable[[Weights], Weights]
    denoiser_weights: Callable[..., Weights]  # with averaged=False those of the last step
    ignored_names: Callable[[Weights], Sequence[str]]
    scales: str | None = None  # of the published latents; None: they are not scaled


FAMILIES = {
    "lvdm": Family(
        published_lvdm.autoencoder_weights,
        published_lvdm.denoiser_weights,
        published_lvdm.ignored_names,
        "scale .33422927, shift 1.4606637 for sky, .220142075, .5837740898 for ucf101, .175733933, .03291025 for taichi",
    ),
    "pvdm": Family(published_pvdm.autoencoder_weights, published_pvdm.denoiser_weights, published_pvdm.ignored_names),
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
    checkpoint: str | Path,
    *,
    config: Config,
    out: str | Path,
    family: str = "lvdm",
    overrides: Overrides = None,
    autoencoder: str | Path | None = None,
    raw: bool = False,
    force: bool = False,
    allow: Sequence[str] = (),
) -> Converted:
    """Write the model file of a checkpoint, of which nothing is run and only the tensors of the config's networks are taken.

    Args:
        config, overrides: lvdm's training config of the same model, as `train` takes it.
        family: whose checkpoint it is, one of FAMILIES.
        autoencoder: take the autoencoder from this checkpoint instead; PVDM has one for each network.
        raw: take the last step's weights instead of the averaged ones. A checkpoint of PVDM holds one kind; raw says which.
        force: replace an existing model file.
        allow: your packages that the config may name classes of.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if family not in FAMILIES:
        raise UserError(f"the family is {family!r}, expected {' or '.join(FAMILIES)}")
    if out.exists() and not force:
        raise UserError(f"{out} exists already; give another path, or force to replace it")
    settings = to_dict(read_run_config(config, overrides, allow=allow, defaults=False))
    params = settings["model"]["params"]
    is_diffusion = "denoiser" in params
    if not is_diffusion and (raw or autoencoder is not None):
        option = "raw" if raw else "autoencoder"
        raise UserError(f"{option} has no effect here, because the config describes an autoencoder alone; leave it out")
    names = FAMILIES[family]
    sampling = _sampling(settings, names.scales) if is_diffusion else None
    content = read_checkpoint(checkpoint)
    weights = state_dict(content)
    first_stage = weights if autoencoder is None else state_dict(read_checkpoint(autoencoder))
    tensors = {f"{CODEC}{name}": tensor for name, tensor in names.autoencoder_weights(first_stage).items()}
    with torch.device("meta"):
        codec = instantiate(params["codec"], allow=allow)
    check_weights(codec.autoencoder, tensors, CODEC, autoencoder or checkpoint)
    if sampling is not None:
        denoiser = names.denoiser_weights(weights, averaged=not raw)
        tensors |= {f"{DENOISER}{name}": tensor for name, tensor in denoiser.items()}
        with torch.device("meta"):
            network = instantiate(params["denoiser"], allow=allow)
        check_weights(network, tensors, DENOISER, checkpoint)
        check_latents(sampling, codec, network, "the config")
    if raw:
        settings["average"] = 0  # results read from it whose weights were measured
    text_encoder = instantiate(params["text_encoder"], allow=allow) if params.get("text_encoder") else None
    step = _step(content, checkpoint)
    info = model_info(settings, codec, sampling, step=step, data_fingerprint="", text_encoder=text_encoder)
    save_model(out, tensors, info)
    count = sum(tensor.numel() for tensor in tensors.values())
    left_out = dict.fromkeys([*names.ignored_names(weights), *names.ignored_names(first_stage)])
    return Converted(out, info.kind, count, len(tensors), tuple(left_out))


def _step(content: Mapping[str, Any], path: Path) -> int:
    step = content.get("global_step", 0)
    if type(step) is not int or not 0 <= step < 2**63:
        raise UserError(f"global_step of {path} is no count of steps; it is damaged, or another kind of checkpoint")
    return step


def _sampling(settings: dict[str, Any], scales: str | None) -> SamplingSettings:
    """Return how to sample; refuse a codec without scale and shift, which a checkpoint lacks: samples would decode to noise."""
    absent = [name for name in ("scale", "shift") if name not in settings["model"]["params"]["codec"]["params"]]
    if absent and scales is not None:
        raise UserError(
            f"the config does not say model.params.codec.params.{absent[0]}, and a checkpoint does not hold it; "
            f"published are {scales}"
        )
    if settings.get("sampling") is None:
        raise UserError("the config has no sampling section; the model file needs at least its latent_shape")
    return SamplingSettings(**settings["sampling"])
