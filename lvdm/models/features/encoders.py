"""Any image or video encoder of transformers as an extractor, by config: CLIP, DINOv2, VideoMAE, V-JEPA 2 and so on.

    target: lvdm.models.features.encoders.TransformersEncoder
    params: {model: weights/dinov2-base}

The model is a folder that transformers saved, or a name that it has downloaded before; nothing is fetched, and no code of the
folder is run. Letters: b batch, c channels, t frames, h w, n tokens, d features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features.extractors import FrozenFeatures
from lvdm.models.features.weights import DAMAGE
from lvdm.rules import PATH, integer, optional, require
from lvdm.types import UserError

SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")  # of the layers, and of the colours
HALF = (0.5, 0.5, 0.5)  # of the colours, if the folder does not say how they are normalised


class TransformersEncoder(FrozenFeatures):
    """A frozen encoder of transformers: clips (b, t, h, w, 3) -> (b, d), or (b, t, d) of frames.

    Frames are resized to the model's size, bilinear with antialiasing, and normalised by its own mean and deviation.

    Args:
        model: a folder, or a name that transformers has downloaded before.
        tokens: "mean" of the last layer's tokens, the "first" one, or what the model calls "pooled".
        over_time: of an image encoder, the "mean" over frames, or "frames", a row for each, which FID and KID take.
        size: of a side in pixels; None takes the model's own.
    """

    def __init__(
        self,
        model: str,
        *,
        tokens: Literal["mean", "first", "pooled"] = "mean",
        over_time: Literal["mean", "frames"] = "mean",
        size: int | None = None,
    ) -> None:
        require(PATH, model=model)
        require(optional(integer(1, 2**14)), size=size)
        folder = _folder_of(model)
        loaded, colours = _load(folder)
        side, frames = size or _side(loaded, folder), _frames_of(loaded)
        if frames is not None and over_time != "mean":
            raise UserError(f"{model} sees whole clips, so over_time: frames has no effect; leave it out")
        network = _Encoder(loaded, tokens=tokens, is_video=frames is not None, keeps_frames=over_time == "frames")
        mean, std = (torch.tensor(colours.get(f"image_{key}") or HALF).view(1, 3, 1, 1, 1) for key in ("mean", "std"))

        def prepare(video: Tensor) -> Tensor:
            rows = video.transpose(1, 2).flatten(0, 1).float() / 255  # (b t, 3, h, w)
            resized = F.interpolate(rows, (side, side), mode="bilinear", antialias=True)
            return (resized.unflatten(0, (len(video), -1)).transpose(1, 2) - mean.to(video.device)) / std.to(video.device)

        with torch.no_grad():
            shown = network(prepare(torch.zeros(1, 3, frames or 1, side, side)))
        super().__init__(
            network,
            prepare,
            name=f"transformers {type(loaded).__name__} {folder.name} {tokens} {over_time} {side}",
            dim=shown.shape[-1],
            min_frames=frames or 1,
            max_frames=frames,
            files=_files(folder),
        )


class _Encoder(nn.Module):
    """(b, 3, t, h, w) -> (b, d) or (b, t, d)."""

    def __init__(self, model: nn.Module, *, tokens: str, is_video: bool, keeps_frames: bool) -> None:
        super().__init__()
        self.model, self.tokens, self.is_video, self.keeps_frames = model, tokens, is_video, keeps_frames

    def forward(self, video: Tensor) -> Tensor:
        frames = video.transpose(1, 2)  # (b, t, 3, h, w)
        if self.is_video:
            return self._features(frames)
        rows = self._features(frames.flatten(0, 1)).unflatten(0, (len(video), -1))  # (b, t, d)
        return rows if self.keeps_frames else rows.mean(1)

    def _features(self, pixels: Tensor) -> Tensor:
        """Return (n, d) of images (n, 3, h, w) or clips (n, t, 3, h, w)."""
        model: Any = self.model
        out = model(**{model.main_input_name: pixels})
        if self.tokens == "pooled":
            pooled = getattr(out, "pooler_output", None)
            if pooled is None:
                raise UserError(f"{type(model).__name__} pools nothing; take tokens: mean or tokens: first")
            return pooled.flatten(1)
        hidden = out.last_hidden_state  # (n, tokens, d), or (n, d, h, w) of a convolutional one
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        return hidden.mean(1) if self.tokens == "mean" else hidden[:, 0]


def _folder_of(model: str) -> Path:
    """Return the folder of a model that is here, whether by its path or by its name in the cache of transformers."""
    from transformers.utils import cached_file

    if Path(model).is_dir():
        return Path(model)
    try:
        found = cached_file(model, "config.json", local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"there is no folder {model}, nor has transformers downloaded a model of this name; put one there"
        ) from error
    assert found is not None, "an error otherwise"
    return Path(found).parent


def _load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the encoder of images or videos, frozen, and how the folder wants colours normalised."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModel, ImageProcessingMixin

    own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, loaded = AutoModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32, **own)
        has_colours = (folder / "preprocessor_config.json").is_file()
        colours = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)[0] if has_colours else {}
    except (*DAMAGE, StrictDataclassError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{folder} does not hold a whole model of transformers ({reason:.120}); put all of its files there"
        ) from error
    if missing := sorted(loaded["missing_keys"]):  # transformers would go on with random ones
        raise UserError(f"{folder} lacks {len(missing)} tensors of its model, first {missing[0]}; put all of its files there")
    model = getattr(model, "vision_model", model)  # of one that reads text too
    if "pixel_values" not in getattr(model, "main_input_name", ""):
        raise UserError(f"{folder} holds {type(model).__name__}, which sees no images; give an encoder of images or videos")
    return model.eval().requires_grad_(False), colours


def _frames_of(model: Any) -> int | None:
    """Return the frames of a clip that a video encoder takes; None for one of images."""
    config = model.config
    return next((getattr(config, key) for key in ("num_frames", "frames_per_clip") if getattr(config, key, None)), None)


def _side(model: Any, folder: Path) -> int:
    """Return the side of a frame in pixels."""
    sides = next((getattr(model.config, key) for key in ("image_size", "crop_size") if getattr(model.config, key, None)), None)
    if sides is None:
        raise UserError(f"{folder} does not say the size of its images; give it as size")
    return sides if isinstance(sides, int) else min(sides)


def _files(folder: Path) -> tuple[Path, ...]:
    """Return the files that decide the features: the weights, in the format that transformers prefers, and the settings."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return (*weights, *(folder / name for name in SETTINGS if (folder / name).is_file()))
