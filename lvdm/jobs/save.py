"""`save`: a model in memory to a model file, the inverse of `load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lvdm.checkpoints.model_file import CODEC, DENOISER, ModelInfo, check_weights, save_model
from lvdm.config import check_node, instantiate
from lvdm.jobs.load import KINDS, RecordedText
from lvdm.jobs.model_info import model_tensors
from lvdm.models.codec import Codec
from lvdm.rules import MAPPING, PATH, integer, optional, require
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError

PARTS = ("autoencoder", "denoiser", "schedule", "objective", "text_encoder")


def save(
    model: VideoModel,
    path: str | Path,
    *,
    nodes: Mapping[str, Mapping[str, Any]] | None = None,
    step: int | None = None,
    overwrite: bool = False,
    allow: Sequence[str] = (),
) -> Path:
    """Write the model file of a model, from which `load` returns the same model.

    A file holds weights, and for each part the class and arguments that build it. A loaded model knows those of its file. Name
    those of a part that you built yourself:

        save(model, "mine.safetensors", nodes={"denoiser": {"target": "mine.Net", "params": {"width": 8}}}, allow=["mine"])

    Args:
        nodes: by part (autoencoder, denoiser, schedule, objective, text_encoder): target is the class, params its arguments.
        overwrite: replace a file that exists.
        step: of training; None keeps that of the file from which the model was loaded.
        allow: your packages that the nodes name classes of.
    """
    if not isinstance(model, VideoModel):
        raise UserError(f"model is {model!r:.99}, expected a loaded model")
    require(PATH, path=path)
    require(optional(MAPPING), nodes=nodes)
    if Path(path).exists() and not overwrite:
        raise UserError(f"{path} exists and is kept; choose another name, or give overwrite=True")
    codec, description = model.codec, dict(model.description)
    if not isinstance(codec, Codec):
        raise UserError(f"a model file holds an lvdm.models.codec.Codec, not a {type(codec).__name__}; wrap its autoencoder")
    built = {"autoencoder": codec.autoencoder, **{name: getattr(model, name) for name in PARTS[1:]}}
    named: dict[str, Any] = {name: {**description, **(nodes or {})}.get(name) for name in PARTS if built[name] is not None}
    _check_named(model, built, named, nodes or {})
    _check_plain_parts(built, named, allow)
    step = description.get("step", 0) if step is None else step
    require(integer(0), step=step)
    denoiser = model.denoiser if isinstance(model.denoiser, nn.Module) else None
    tensors = model_tensors(codec, denoiser)
    for name, prefix in (("autoencoder", CODEC), ("denoiser", DENOISER)):
        if name in named:
            check_node(named[name], key=name, kind=nn.Module, allow=allow)
            with torch.device("meta"):
                check_weights(instantiate(named[name], allow=allow), tensors, prefix, model.name)
    settings = {} if model.settings is None else asdict(model.settings)
    info = ModelInfo(
        kind="autoencoder" if denoiser is None else "diffusion",
        **named,
        text_fingerprint=None if model.text_encoder is None else model.text_encoder.fingerprint(),
        scale=codec.scale,
        shift=codec.shift,
        sampling={"decode_window": codec.decode_window} | settings,
        trained=None if model.trained is None else asdict(model.trained),
        step=step,
        config=description.get("config", {}),
        data_fingerprint=description.get("data_fingerprint", ""),
    )
    save_model(path := Path(path), tensors, info)
    return path


def _check_plain_parts(built: Mapping[str, Any], named: Mapping[str, Any], allow: Sequence[str]) -> None:
    """Refuse nodes of schedule, objective and text encoder that build something else than the model has."""
    for name in ("schedule", "objective", "text_encoder"):
        if name not in named:
            continue
        check_node(named[name], key=name, kind=KINDS[name], allow=allow)
        again: Any = instantiate(named[name], allow=allow)
        part: Any = built[name]
        part = part.encoder if isinstance(part, RecordedText) else part
        is_same = type(again) is type(part)
        if is_same and name == "schedule":
            times = torch.linspace(0, part.num_steps - 1, 9).long()
            is_same = again.num_steps == part.num_steps and torch.equal(again.alpha(times), part.alpha(times))
        if not is_same:
            raise UserError(
                f"the node of the {name} builds another one than the model's {type(part).__name__}; correct its params"
            )


def _check_named(model: VideoModel, built: Mapping[str, Any], named: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    if model.denoiser is not None and None in (model.schedule, model.objective, model.settings):
        raise UserError(f"{model.name} samples by a schedule, an objective and settings; give the VideoModel all three")
    if model.settings is not None and model.settings.latent_shape[0] != model.codec.latent_channels:
        channels = f"{model.settings.latent_shape[0]} channels, and the codec's latents have {model.codec.latent_channels}"
        raise UserError(f"settings.latent_shape of {model.name} has {channels}; correct it")
    if unknown := sorted(nodes.keys() - built.keys()):
        raise UserError(f"a model has no {unknown[0]}; nodes are those of {', '.join(PARTS)}")
    if missing := [name for name, node in named.items() if node is None]:
        target = f"{type(built[missing[0]]).__module__}.{type(built[missing[0]]).__name__}"
        example = f'nodes={{"{missing[0]}": {{"target": "{target}", "params": {{...}}}}}}'
        raise UserError(f"{model.name} does not know how its {missing[0]} is built; give {example}")
