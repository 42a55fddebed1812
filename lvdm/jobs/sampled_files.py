"""What `sample` and `sample_long` share: models, checks, batches, and what identifies the videos in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvdm.checkpoints.model_file import content_hash
from lvdm.files import HASH, hash_tensor, with_hashes
from lvdm.jobs.load import load
from lvdm.processes import as_device
from lvdm.rules import PATH, integer, require
from lvdm.sampling.noise import VIDEO_NUMBER
from lvdm.sampling.options import SampleOptions
from lvdm.sampling.output import Output
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError

Model = VideoModel | str | Path
OnProgress = Callable[[float, float], None]  # (done, total)
PLAIN = (bool, int, float, str, tuple, list, dict, type(None))  # settings of a part that identify it by what they print
NOT_SEEN = {"gap_batch"}  # options that change no video


def as_model(model: Model, device: str | torch.device, dtype: torch.dtype | None, allow: Sequence[str], name: str) -> VideoModel:
    """Return the model, loaded if it is a file; `name` is that of the argument."""
    if isinstance(model, VideoModel):
        _check_loaded(model, device, dtype)
        return model
    if not PATH.holds(model):
        raise UserError(f"{name} is {model!r:.99}, expected a model file or a loaded model")
    return load(model, device, dtype, allow=allow)


def _check_loaded(model: VideoModel, device: str | torch.device, dtype: torch.dtype | None) -> None:
    """Refuse another device or type than the model was loaded with."""
    if device != "auto" and (wanted := as_device(device)) != model.device and str(wanted) != model.device.type:
        raise UserError(f"device is {device}, and {model.name} is loaded on {model.device}; leave device out or load it there")
    if dtype not in (None, model.dtype or torch.float32):
        raise UserError(f"dtype is {dtype}, and {model.name} runs in {model.dtype_name}; leave dtype out or load it with that")


def check_numbers(num: int, seed: int, batch_size: int | None, videos: Sequence[int] | None) -> None:
    """Refuse odd numbers of videos."""
    require(integer(1), num=num)
    require(integer(0), seed=seed)
    if batch_size is not None:
        require(integer(1), batch_size=batch_size)
    if videos is not None and (isinstance(videos, str | bytes) or not isinstance(videos, Sequence)):
        raise UserError(f"videos is {videos!r:.99}, expected a list of numbers of videos")
    for number, video in enumerate(videos or ()):
        require(VIDEO_NUMBER, **{f"videos[{number}]": video})
    if videos is not None and len(set(videos)) < len(videos):
        twice = next(video for number, video in enumerate(videos) if video in videos[:number])
        raise UserError(f"videos has {twice} twice, and a video of a seed is the same each time; name each number once")


def batches(videos: Sequence[int], size: int) -> Iterator[range]:
    """Yield ranges of consecutive videos, at most `size` at once."""
    start = 0
    for end in range(1, len(videos) + 1):
        if end == len(videos) or videos[end] != videos[end - 1] + 1 or end - start == size:
            yield range(videos[start], videos[end - 1] + 1)
            start = end


def as_output(out: Output | str | Path) -> Output:
    """Return the output; a path is a folder with the usual settings."""
    return out if isinstance(out, Output) else Output(out)


def folder_name(model: VideoModel) -> str:
    """Return NAME for runs/NAME/model.safetensors, and the name of any other file or model."""
    path = Path(model.name).resolve()
    return path.parent.name if path.name == "model.safetensors" else path.stem


def seen_settings(models: Mapping[str, Model | None], options: SampleOptions, out: Output, **others: Any) -> dict[str, str]:
    """Return all that decides what a video shows. Models are named by their content, because files are replaced."""
    content = {name: f"content {content_of(model)}" for name, model in models.items() if model is not None}
    asked = {**asdict(options), "fps": out.fps, "quality": out.quality, "format": ",".join(out.formats), **others}
    return {**content, **{name: str(value) for name, value in asked.items() if value is not None and name not in NOT_SEEN}}


def content_of(model: Model) -> str:
    """Return what identifies a model: the content of its file, or of the parts and settings in memory."""
    if not isinstance(model, VideoModel):
        return content_hash(model)
    if not isinstance(model.denoiser, nn.Module):
        raise UserError(
            f"the denoiser of {model.name} is a {type(model.denoiser).__name__}, whose content cannot be compared when sampling "
            "is resumed; make it an nn.Module, or sample without resume"
        )
    codec, text, schedule = model.codec, model.text_encoder, model.schedule
    description: dict[str, Any] = {
        **{"codec": codec.fingerprint(), "decode_window": getattr(codec, "decode_window", None)},
        **{"settings": str(model.settings), "trained": str(model.trained), "config": str(dict(model.description))},
        **{"inputs": str(model.denoiser.inputs), "text_encoder": None if text is None else text.fingerprint()},
    }
    tensors: dict[str, Tensor] = {}
    for name in ("denoiser", "schedule", "objective"):
        part = getattr(model, name)
        description[name] = f"{type(part).__module__}.{type(part).__qualname__}"
        values = part.state_dict() if isinstance(part, nn.Module) else vars(part)
        tensors |= {f"{name}.{key}": value for key, value in values.items() if isinstance(value, Tensor)}
        description |= {f"{name}.{key}": repr(value) for key, value in values.items() if isinstance(value, PLAIN)}
    if schedule is not None:
        times = torch.arange(schedule.num_steps, device="cpu")
        tensors |= {"alpha": schedule.alpha(times), "sigma": schedule.sigma(times)}
    return with_hashes(description, tensors)[HASH]


def content_of_list(name: str, values: Sequence[str]) -> str:
    return f"content {with_hashes({name: list(values)})[HASH]}"


def content_of_array(name: str, values: Any) -> str:
    return f"content {hash_tensor(name, torch.as_tensor(values))}"
