"""`scripts/encode.py CONFIG`: latents of whole videos or of clips, once, into shards that training reads instead of videos.

With a text encoder, the features of their captions too.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from lvdm.cli import command
from lvdm.config import check, instantiate, load_config, with_defaults
from lvdm.data import CacheFacts, LatentWriter, VideoFolder
from lvdm.data.latents.format import CONTEXT
from lvdm.jobs.lock import only_alike
from lvdm.jobs.model_info import load_codec_weights, require_codec_weights
from lvdm.models.codec import Codec
from lvdm.processes import Process, as_device
from lvdm.types import TextEncoder, UserError

logger = logging.getLogger(__name__)


@dataclass
class EncodeConfig:
    """One run of encoding."""

    codec: Codec
    data: dict[str, VideoFolder]  # by name, such as train and val: each becomes a folder of shards
    out: str  # folder of those folders
    codec_weights: str | None = None  # the autoencoder's model.safetensors
    text_encoder: TextEncoder | None = None  # store what it makes of each caption too, for LatentClips with context: true
    define: dict[str, Any] = field(default_factory=dict)
    clips: bool = False  # encode each clip of the data set by itself, as training on pixels would; false: whole videos
    std: bool = False  # store the posterior's standard deviation too, for stages with sample_posterior
    flips: bool = False  # store the mirrored videos too, for LatentClips with flip: true
    dtype: str = "float16"  # as stored: float16 or float32
    precision: str = "float32"  # of the encoder: float32 or bfloat16
    device: str = "auto"
    shard_size: int = 64  # videos in a shard
    frames_at_once: int = 256  # longer videos are encoded in pieces ...
    context_frames: int = 32  # ... that see so many frames more on each side


@dataclass(frozen=True)
class Encoders:
    """The networks, on their device, and what tells them from others."""

    codec: Codec
    text: TextEncoder | None
    device: torch.device
    codec_fingerprint: str
    text_fingerprint: str | None


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Encode videos once. What was interrupted goes on where it stopped; any number of processes (torchrun, srun) share it.",
        example="scripts/encode.py configs/lvdm/encode_toy.yaml codec_weights=runs/autoencoder_toy/model.safetensors",
    )
    parse.add_argument("config", nargs="+", help="YAML files, merged left to right, then key=value overrides")
    command.add_allow_module(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), encode, argv)


def encode(args: argparse.Namespace) -> command.Report:
    files = [argument for argument in args.config if "=" not in argument]
    config = load_config(files, [argument for argument in args.config if "=" in argument])
    check(config, schema=EncodeConfig, allow=args.allow_module)
    config = with_defaults(config, EncodeConfig)
    encoders = build_encoders(config, allow=args.allow_module)
    args.json = Process.this().report_file(args.json)
    report: dict[str, Any] = {"out": config.out, "codec": encoders.codec_fingerprint}
    if encoders.text is not None:
        report["text_encoder"] = encoders.text_fingerprint
    for name, node in config.data.items():
        folder = instantiate(node, allow=args.allow_module)
        start = time.perf_counter()
        number = encode_folder(folder, encoders, Path(config.out) / name, config)
        report[name] = {"videos": number, "seconds": time.perf_counter() - start}
        print(f"{name}: {number} {'clips' if config.clips else 'videos'} encoded into {Path(config.out) / name}")
    return report


def build_encoders(config: DictConfig, *, allow: Sequence[str]) -> Encoders:
    """The codec with its trained weights, and the text encoder where there is one."""
    codec = instantiate(config.codec, allow=allow)
    load_codec_weights(codec, require_codec_weights(config.codec_weights))
    codec.to(device := as_device(config.device))
    check_pieces(config, codec)
    if config.text_encoder is None:
        return Encoders(codec, None, device, codec.fingerprint(), None)
    text = instantiate(config.text_encoder, allow=allow).to(device)
    return Encoders(codec, text, device, codec.fingerprint(), text.fingerprint())


def check_pieces(config: DictConfig, codec: Codec) -> None:
    factor = codec.temporal_factor
    if config.frames_at_once % factor or config.context_frames % factor or not config.frames_at_once > 0 <= config.context_frames:
        raise UserError(
            f"frames_at_once={config.frames_at_once} and context_frames={config.context_frames} must be multiples of the "
            f"{factor} frames that one latent holds, the first above 0 and the second not below"
        )
    if config.precision not in ("float32", "bfloat16"):
        raise UserError(f"precision is {config.precision}; choose float32 or bfloat16")


def encode_folder(videos: VideoFolder, encoders: Encoders, out: Path, config: DictConfig) -> int:
    """What this process is to make of a folder; returns how many videos or clips that were."""
    videos.prepare()
    check_draws(videos, config, out.name)
    process = Process.this()
    facts = CacheFacts(
        codec_fingerprint=encoders.codec_fingerprint,
        data_fingerprint=videos.fingerprint(),
        temporal_factor=encoders.codec.temporal_factor,
        first_frame_alone=encoders.codec.first_frame_alone,
        dtype=config.dtype,
        shard_size=config.shard_size,
        clip_frames=videos.num_frames if config.clips else None,
        has_std=config.std,
        has_flips=config.flips,
        text_fingerprint=encoders.text_fingerprint,
    )
    count = len(videos) if config.clips else len(videos.names)
    cast = torch.autocast(encoders.device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
    added = 0
    share = (process.rank, process.count)
    with only_alike(out, asdict(facts)), LatentWriter(out, facts, count, share=share) as writer, cast:
        videos.record_skipped(out / "skipped_files.txt")
        total = sum(map(len, writer.missing()))
        unit = "clip" if config.clips else "video"
        for number in tqdm(writer.todo(), total=total, desc=out.name, unit=unit, mininterval=1.0, disable=process.rank > 0):
            try:
                item = videos[number] if config.clips else videos.read(number)
                tensors = encode_video(item["video"], encoders, facts, config)
            except UserError as error:
                if config.clips:
                    raise
                videos.report_broken(number, error)
                continue
            if encoders.text is not None:
                tensors[CONTEXT] = encoders.text([item.get("caption", "")])[0]
            name = videos.names[item["index"]]
            writer.add(
                f"{number}: {name}" if config.clips else name,
                tensors.pop(""),
                further=tensors,
                fps=float(item["fps"]),
                caption=item.get("caption"),
                label=None if item.get("label") is None else int(item["label"]),
            )
            added += 1
    return added


def check_draws(videos: VideoFolder, config: DictConfig, name: str) -> None:
    """What is drawn anew at every epoch is not in latents that are made once; what has no caption is the empty one."""
    if config.clips and videos.random_clip:
        raise UserError("clips: true encodes the clips of a data set that are always the same; set its random_clip: false")
    if videos.random_crop:
        raise UserError(f"data.{name} draws its crops at random, which latents made once cannot carry; set random_crop: false")
    if videos.flip:
        raise UserError(
            f"data.{name} mirrors clips at random: set its flip: false, here flips: true, which stores both, and flip: true "
            "where the latents are trained on"
        )
    if config.text_encoder is not None and all(not video.known.caption for video in videos.found.videos):
        logger.warning("no video of data.%s has a caption: each gets the features of the empty one", name)


def encode_video(video: Tensor, encoders: Encoders, facts: CacheFacts, config: DictConfig) -> dict[str, Tensor]:
    """All latents that the facts promise of a video, by suffix."""
    sides = [video, video.flip(-1)] if facts.has_flips else [video]
    pieces = (config.frames_at_once, config.context_frames)
    moments = [encode_pieces(side, encoders.codec, *pieces, encoders.device) for side in sides]
    tensors = (tensor for mean_and_std in moments for tensor in mean_and_std[: 2 if facts.has_std else 1])
    return dict(zip(facts.latent_suffixes(), tensors, strict=True))


def encode_pieces(video: Tensor, codec: Codec, at_once: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and std (c, n, h, w) of a video (3, t, h, w), piece by piece. Frames that do not fill a latent are left out.

    A piece begins on the last frame of a latent if the codec takes its first frame alone. That latent is part of the context.
    """
    factor, latents = codec.temporal_factor, codec.latents_of(video.shape[1])
    if latents == 0:
        raise UserError(f"a video of {video.shape[1]} frames is shorter than one latent ({factor} frames)")
    at_once, before, behind = at_once // factor, max(context // factor, codec.first_frame_alone), context // factor
    pieces = []
    for start in range(0, latents, at_once):
        stop = min(start + at_once, latents)
        first, last = max(0, start - before), min(latents, stop + behind)
        moments = codec.moments(video[None, :, first * factor : codec.frames_of(last)].to(device))
        pieces.append([each[0].float().cpu()[:, start - first : stop - first] for each in moments])
    mean, std = (torch.cat(each, dim=1) for each in zip(*pieces, strict=True))
    return mean, std
