"""What every measurement of a model's videos shares: the groups in which videos are sampled, and where the model came from.

A group is the same in any process, because the rounding of a video depends on how many are sampled with it. Each process samples
as many groups as every other, because all of them gather a sharded model at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lvdm.evaluation.results.provenance import Origin, WeightsInMemory
from lvdm.files import add_tensors
from lvdm.models.codec import Codec
from lvdm.processes import Process, gather
from lvdm.sampling.pipeline import VideoModel, auto_batch
from lvdm.types import UserError

GROUP = 16  # videos sampled at once, if there is room: enough to fill a GPU, few enough to share out evenly


def check_at_once(videos: int | None) -> None:
    """Refuse a number of videos sampled at once that is none."""
    if videos is not None and videos < 1:
        raise UserError(f"{videos} videos at once: give 1 or more")


def group_size(asked: int | None, count: int, elements: int, device: torch.device) -> int:
    """Return the videos of a group, the same for any number of processes; `elements` are those of a video's latents."""
    return min(count, GROUP, *gather(auto_batch(elements, device))) if asked is None else asked


def groups(count: int, size: int) -> list[range]:
    """Return the videos of each group of this process; those from `count` on are sampled too, and are to be left out."""
    process = Process.this()
    each = -(-count // (size * process.count))
    numbers = range(process.rank * each, (process.rank + 1) * each)
    return [range(number * size, (number + 1) * size) for number in numbers]


def origin_of(model: VideoModel, infill: VideoModel | None, *paths: Path | None) -> Origin:
    """Return where models came from: the files that they were loaded from, else their weights."""
    files = [path for path in paths if path is not None]
    if len(files) == (1 if infill is None else 2):
        return files
    models = [model] if infill is None else [model, infill]
    return WeightsInMemory(" + ".join(one.name for one in models), " + ".join(map(_weights_sha256, models)))


def _weights_sha256(model: VideoModel) -> str:
    for part, kind in ((model.codec, Codec), (model.denoiser, nn.Module)):
        if not isinstance(part, kind):
            what = f"{model.name} has a {type(part).__name__}, and the weights of a {kind.__name__} identify a model in results"
            raise UserError(f"{what}; derive it from {kind.__module__}.{kind.__name__}")
    assert isinstance(model.codec, Codec) and isinstance(model.denoiser, nn.Module)
    return weights_sha256(model.codec, model.denoiser.state_dict())


def weights_sha256(codec: Codec, denoiser: Mapping[str, Tensor]) -> str:
    """Return the hash of a codec and of a denoiser's tensors: equal for a model in training and for its model file."""
    digest = hashlib.sha256(codec.fingerprint().encode())
    add_tensors(digest, denoiser)
    return digest.hexdigest()
