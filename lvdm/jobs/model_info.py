"""The description in a run's model file, and the trained autoencoder that a diffusion stage takes from one."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from lvdm.checkpoints.model_file import ModelInfo, load_weights, read_model
from lvdm.models.codec import Codec
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.sampling.trained import Trained
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
    trained: Trained | None = None,
) -> ModelInfo:
    """Return the description of a model file, with the nodes that build its networks from the resolved config of the run."""
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
        trained=None if trained is None else asdict(trained),
        step=step,
        config=config,
        data_fingerprint=data_fingerprint,
    )


def model_tensors(codec: Codec, denoiser: nn.Module | None) -> dict[str, Any]:
    """Return the networks' tensors under the names of the model file."""
    tensors = {f"codec.{name}": value for name, value in codec.autoencoder.state_dict().items()}
    if denoiser is not None:
        tensors |= {f"denoiser.{name}": value for name, value in denoiser.state_dict().items()}
    return tensors


def load_codec_weights(codec: Codec, path: str | Path) -> None:
    """Load weights, scale and shift of a trained autoencoder into the codec that a config builds."""
    info, tensors = read_model(path)
    load_weights(codec.autoencoder, tensors, "codec.", path)
    if (codec.scale, codec.shift) not in ((1.0, 0.0), (info.scale, info.shift)):
        logger.warning(
            "the latent scale %g and shift %g come from %s; the config's %g and %g have no effect",
            *(info.scale, info.shift, path, codec.scale, codec.shift),
        )
    codec.set_scale(info.scale, info.shift)


def require_codec_weights(path: str | None) -> str:
    """Return the path, or refuse a diffusion stage without one."""
    if path is None:
        raise UserError(
            "a diffusion stage trains on the latents of a trained autoencoder; "
            "give its model file as codec_weights=runs/NAME/model.safetensors (convert makes one of a published checkpoint)"
        )
    return path
