"""`encode`: latents of whole videos or of clips, once, into shards that training reads instead of videos.

With a text encoder, the features of their captions too. Interrupted work is resumed, and any number of processes share it.
Letters: c channels, n latents, t frames, h w.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lvdm.config import check_node, instantiate, with_defaults
from lvdm.data import CacheFacts, LatentWriter, VideoFolder
from lvdm.data.latents.format import CONTEXT
from lvdm.jobs.encode_batches import clips_at_once, encode_pieces, groups
from lvdm.jobs.load import load
from lvdm.jobs.lock import only_alike
from lvdm.jobs.model_info import load_codec_weights, require_codec_weights
from lvdm.jobs.settings import Config, Overrides, read_settings
from lvdm.models.codec import Codec
from lvdm.processes import Process, as_device
from lvdm.rules import FLAG, PATH, Rule, integer, one_of, require
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import TextEncoder, UserError, video_shape

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeSettings:
    """Settings of encoding: what is stored of each video, and how it is computed."""

    clips: bool = False  # encode each clip of the data set by itself, as training on pixels would; False: whole videos
    std: bool = False  # store the posterior's standard deviation too, for stages with sample_posterior
    flips: bool = False  # store the mirrored videos too, for LatentClips with flip=True
    dtype: str = "float16"  # of stored latents: float16 or float32; the features of captions are float32
    precision: str = "float32"  # of the encoder: float32 or bfloat16
    shard_size: int = 64  # videos in a shard
    frames_at_once: int = 256  # longer videos are encoded in pieces ...
    context_frames: int = 32  # ... that see this many more frames on each side

    def __post_init__(self) -> None:
        require(FLAG, clips=self.clips, std=self.std, flips=self.flips)
        require(one_of("float16", "float32"), dtype=self.dtype)
        require(one_of("float32", "bfloat16"), precision=self.precision)
        require(integer(1), shard_size=self.shard_size, frames_at_once=self.frames_at_once)
        require(integer(0), context_frames=self.context_frames)


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(EncodeSettings):
    """The keys of an encoding config."""

    codec: Codec
    data: dict[str, VideoFolder]  # by name, such as train and val: each becomes a folder of shards
    out: str  # folder of those folders
    codec_weights: str | None = None  # the autoencoder's model.safetensors
    text_encoder: TextEncoder | None = None  # store the features of each caption too, for LatentClips with context=True
    define: dict[str, Any] = field(default_factory=dict)  # names of your own, for ${define.NAME} elsewhere
    device: str = "auto"


@dataclass(frozen=True)
class EncodeReport:
    """The share of a data set that one process encoded."""

    out: Path
    videos: int  # or clips; those that were stored before are not counted
    unit: str  # videos or clips
    seconds: float
    codec_fingerprint: str
    text_fingerprint: str | None


def encode(
    model: str | Path | VideoModel | Codec,
    data: str | Path | VideoFolder | Mapping[str, Any],
    out: str | Path,
    *,
    settings: EncodeSettings = EncodeSettings(),  # noqa: B008 (frozen)
    size: int | Sequence[int] | None = None,
    text_encoder: TextEncoder | None = None,
    device: str | torch.device | None = None,
    allow: Sequence[str] = (),
) -> EncodeReport:
    """Encode one data set into a folder of shards, which `lvdm.data.LatentClips` reads.

    Args:
        model: a model file, a loaded model or a codec.
        data: a folder of videos, a data set, or its config node.
        size: of the frames, for a folder; None takes the size that the model was trained at.
        text_encoder: store the features of each caption too.
        device: on which a model file is loaded; None is "auto". A loaded model stays where it is.
        allow: your packages that the model file and the node may name classes of.
    """
    require(PATH, out=out)
    require(Rule("an EncodeSettings", lambda value: isinstance(value, EncodeSettings)), settings=settings)
    if isinstance(model, str | Path):
        model = load(model, device or "auto", allow=allow)
    elif device is not None:
        raise UserError("device has no effect on a loaded model, which encodes where it is; leave it out or move the model")
    codec = model.codec if isinstance(model, VideoModel) else model
    if not isinstance(codec, Codec):
        raise UserError(
            f"{type(codec).__name__} encodes no data set, because it has no posterior; give an lvdm.models.codec.Codec"
        )
    if isinstance(data, str | Path):
        data = VideoFolder(
            data, num_frames=codec.frames_of(1), size=_trained_size(model, codec) if size is None else size, random_clip=False
        )
    elif size is not None:
        raise UserError("size has no effect on a data set, which has one of its own; leave it out")
    if isinstance(data, Mapping):
        check_node(data, kind=VideoFolder, allow=allow)
        data = instantiate(data, allow=allow)
    if not isinstance(data, VideoFolder):
        raise UserError(f"data is a {type(data).__name__}, expected a folder of videos, a VideoFolder or its config node")
    return encode_folder(data, codec, text_encoder, Path(out), settings)


def _trained_size(model: VideoModel | Codec, codec: Codec) -> int | Sequence[int]:
    if isinstance(model, VideoModel) and model.settings is not None:
        return video_shape(codec, model.settings.latent_shape)[1:]
    node: Any = model.description.get("config", {}) if isinstance(model, VideoModel) else {}
    for key in ("data", "params", "train", "params", "size"):
        node = node.get(key, {}) if isinstance(node, Mapping) else {}
    if not node:
        raise UserError("the size that this autoencoder was trained at is not known; give size, such as size=64 or size=(64, 96)")
    return node


def encode_config(config: Config, overrides: Overrides = None, *, allow: Sequence[str] = ()) -> dict[str, EncodeReport]:
    """Encode every data set of an encoding config, each into a folder of its name below the config's `out`."""
    checked = with_defaults(read_settings(config, overrides, schema=EncodeConfig, allow=allow), EncodeConfig)
    if not checked.data:
        raise UserError("data holds no data set; give at least one, such as data.train")
    settings = EncodeSettings(**{each.name: checked[each.name] for each in fields(EncodeSettings)})
    codec = instantiate(checked.codec, allow=allow)
    load_codec_weights(codec, require_codec_weights(checked.codec_weights))
    codec.to(as_device(checked.device))
    text = None if checked.text_encoder is None else instantiate(checked.text_encoder, allow=allow)
    return {
        name: encode_folder(instantiate(node, allow=allow), codec, text, Path(checked.out, name), settings)
        for name, node in checked.data.items()
    }


def encode_folder(
    videos: VideoFolder, codec: Codec, text: TextEncoder | None, out: Path, settings: EncodeSettings
) -> EncodeReport:
    """Encode this process's share of a data set, on the codec's device."""
    start = time.perf_counter()
    check_pieces(settings, codec)
    videos.prepare()
    _check_draws(videos, settings, out.name)
    _warn_of_seams(videos, settings, codec)
    if text is not None and all(not video.description.caption for video in videos.usable.videos):
        logger.warning("no video of data.%s has a caption: each gets the features of the empty one", out.name)
    process, device = Process.this(), next(codec.parameters()).device
    text = None if text is None else text.to(device)
    facts = CacheFacts(
        codec_fingerprint=codec.fingerprint(),
        data_fingerprint=videos.fingerprint(),
        temporal_factor=codec.temporal_factor,
        first_frame_alone=codec.first_frame_alone,
        dtype=settings.dtype,
        shard_size=settings.shard_size,
        clip_frames=videos.num_frames if settings.clips else None,
        has_std=settings.std,
        precision=settings.precision,
        has_flips=settings.flips,
        text_fingerprint=None if text is None else text.fingerprint(),
    )
    count, unit = (len(videos), "clip") if settings.clips else (len(videos.names), "video")
    cast = _computing_in(settings.precision, codec, device)
    with only_alike(out, asdict(facts)), LatentWriter(out, facts, count, share=(process.rank, process.count)) as writer, cast:
        videos.record_skipped(out / "skipped_files.txt")
        bar = {"total": sum(map(len, writer.missing())), "unit": unit, "disable": process.rank > 0}
        added = 0
        numbers = tqdm(writer.todo(), desc=out.name, mininterval=1.0, **bar)
        at_once = clips_at_once(videos, device) if settings.clips else 1
        for group in groups(numbers, at_once, facts.shard_size, count):
            try:
                items = [videos[number] if settings.clips else videos.read(number) for number in group]
                encoded = _encode_videos([item["video"] for item in items], codec, facts, settings)
            except UserError as error:
                if settings.clips:
                    raise
                videos.report_broken(group[0], error)
                continue
            for number, item, tensors in zip(group, items, encoded, strict=True):
                if text is not None:
                    tensors[CONTEXT] = text([item.get("caption", "")])[0]
                name = videos.names[item["index"]]
                writer.add(
                    f"{number}: {name}" if settings.clips else name,
                    tensors.pop(""),
                    further=tensors,
                    fps=float(item["fps"]),
                    caption=item.get("caption"),
                    label=None if item.get("label") is None else int(item["label"]),
                )
                added += 1
    return EncodeReport(out, added, f"{unit}s", time.perf_counter() - start, facts.codec_fingerprint, facts.text_fingerprint)


@contextmanager
def _computing_in(precision: str, codec: Codec, device: torch.device) -> Iterator[None]:
    """Compute latents in the precision that is recorded with them, whatever the model was loaded with."""
    loaded, codec.compute_dtype = codec.compute_dtype, None
    try:
        with torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext():
            yield
    finally:
        codec.compute_dtype = loaded


def check_pieces(settings: EncodeSettings, codec: Codec) -> None:
    factor, at_once, context = codec.temporal_factor, settings.frames_at_once, settings.context_frames
    if at_once % factor or context % factor:
        raise UserError(
            f"frames_at_once={at_once} and context_frames={context} must be multiples of the {factor} frames of one latent"
        )


def _check_draws(videos: VideoFolder, settings: EncodeSettings, name: str) -> None:
    """Refuse random crops, flips and clips, which latents that are computed once cannot follow."""
    if settings.clips and videos.random_clip:
        raise UserError(f"clips: true needs the same clips in every epoch from data.{name}; set its random_clip: false")
    if videos.random_crop:
        raise UserError(f"data.{name} crops at random, which cached latents cannot follow; set random_crop: false")
    if videos.flip:
        raise UserError(
            f"data.{name} mirrors clips at random: set its flip: false, flips: true here, which stores both, and flip: true "
            "in the LatentClips of training"
        )


def _warn_of_seams(videos: VideoFolder, settings: EncodeSettings, codec: Codec) -> None:
    """Warn if videos are encoded in pieces by an autoencoder whose latents depend on the whole clip."""
    lengths = [facts.num_frames // videos.stride for facts in videos.usable.facts]
    longest = videos.num_frames if settings.clips else max(lengths)
    if codec.autoencoder.decode_halo is None and longest > settings.frames_at_once:
        logger.warning(
            "videos of up to %d frames are encoded %d at once, and the norms of this autoencoder see the whole clip: latents "
            "near the seams differ by a tenth of their spread and more; encode clips (clips: true), or raise frames_at_once "
            "and context_frames",
            *(longest, settings.frames_at_once),
        )


def _encode_videos(
    videos: Sequence[Tensor], codec: Codec, facts: CacheFacts, settings: EncodeSettings
) -> list[dict[str, Tensor]]:
    """Return all latents that the facts promise of each video, by suffix."""
    sides = [videos, [video.flip(-1) for video in videos]] if facts.has_flips else [videos]
    of_sides = [encode_pieces(side, codec, settings.frames_at_once, settings.context_frames) for side in sides]
    count = 2 if facts.has_std else 1
    tensors = (
        (tensor for mean_and_std in of_video for tensor in mean_and_std[:count]) for of_video in zip(*of_sides, strict=True)
    )
    return [dict(zip(facts.latent_suffixes(), each, strict=True)) for each in tensors]
