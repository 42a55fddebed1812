"""From a training config to what its model file says of itself, and back to a codec with trained weights."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from lvdm.checkpoints.model_file import ModelInfo, load_weights, read_model
from lvdm.models.codec import Codec
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.types import TextEncoder, UserError

logger = logging.getLogger(__name__)


def model_info(
    config: dict[str, Any],
    codec: Codec,
    sampling: SamplingSettings | None,
    *,
    step: int,
    data_fingerprint: str,
    text_encoder: TextEncoder | None = None,
) -> ModelInfo:
    """`config` is the resolved config of the run; the nodes needed to build the networks again are taken from it."""
    params = config["model"]["params"]
    return ModelInfo(
        kind="diffusion" if "denoiser" in params else "autoencoder",
        autoencoder=params["codec"]["params"]["autoencoder"],
        denoiser=params.get("denoiser"),
        schedule=params.get("schedule"),
        objective=params.get("objective"),
        text_encoder=params.get("text_encoder"),
        text_fingerprint=None if text_encoder is None else text_encoder.fingerprint(),
        scale=codec.scale,
        shift=codec.shift,
        sampling={"decode_window": codec.decode_window} | ({} if sampling is None else asdict(sampling)),
        step=step,
        config=config,
        data_fingerprint=data_fingerprint,
    )


def model_tensors(codec: Codec, denoiser: nn.Module | None) -> dict[str, Any]:
    """Tensors under the names of the model file."""
    tensors = {f"codec.{name}": value for name, value in codec.autoencoder.state_dict().items()}
    if denoiser is not None:
        tensors |= {f"denoiser.{name}": value for name, value in denoiser.state_dict().items()}
    return tensors


def load_codec_weights(codec: Codec, path: str | Path) -> None:
    """Weights, scale and shift of a trained autoencoder into the codec that a config builds."""
    info, tensors = read_model(path)
    load_weights(codec.autoencoder, tensors, "codec.", path)
    if (codec.scale, codec.shift) not in ((1.0, 0.0), (info.scale, info.shift)):
        logger.warning(
            "the latent scale %g and shift %g are those of %s; the config's %g and %g have no effect here",
            *(info.scale, info.shift, path, codec.scale, codec.shift),
        )
    codec.set_scale(info.scale, info.shift)


def require_codec_weights(path: str | None) -> str:
    if path is None:
        raise UserError(
            "a diffusion stage trains on the latents of a trained autoencoder; "
            "give its model file as codec_weights=runs/NAME/model.safetensors (scripts/convert.py makes one of a published one)"
        )
    return path
