"""`scripts/encode.py CONFIG`: the latents of whole videos, once, into shards that training reads instead of videos."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from lvdm.cli import command
from lvdm.cli.model_info import load_codec_weights, require_codec_weights
from lvdm.config import check, instantiate, load_config, with_defaults
from lvdm.data import LatentWriter, VideoFolder
from lvdm.models.codec import Codec
from lvdm.types import UserError


@dataclass
class EncodeConfig:
    """One run of encoding."""

    codec: Codec
    data: dict[str, VideoFolder]  # by name, such as train and val: each becomes a folder of shards
    out: str  # folder of those folders
    codec_weights: str | None = None  # the autoencoder's model.safetensors
    define: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float16"  # as stored: float16 or float32
    precision: str = "float32"  # of the encoder: float32 or bfloat16
    device: str = "auto"
    shard_size: int = 64  # videos in a shard
    frames_at_once: int = 256  # longer videos are encoded in pieces ...
    context_frames: int = 32  # ... that see so many frames more on each side


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Encode whole videos once; an interrupted run goes on where it stopped.",
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
    codec = instantiate(config.codec, allow=args.allow_module)
    load_codec_weights(codec, require_codec_weights(config.codec_weights))
    codec.to(device := command.device(config.device))
    check_pieces(config, codec)
    report: dict[str, Any] = {"out": config.out, "codec": codec.fingerprint()}
    for name, node in config.data.items():
        folder = instantiate(node, allow=args.allow_module)
        start = time.perf_counter()
        number = encode_folder(folder, codec, Path(config.out) / name, config, device)
        report[name] = {"videos": number, "seconds": time.perf_counter() - start}
        print(f"{name}: {number} videos in {Path(config.out) / name}")
    return report


def check_pieces(config: DictConfig, codec: Codec) -> None:
    factor = codec.temporal_factor
    if config.frames_at_once % factor or config.context_frames % factor or not config.frames_at_once > 0 <= config.context_frames:
        raise UserError(
            f"frames_at_once={config.frames_at_once} and context_frames={config.context_frames} must be multiples of the "
            f"{factor} frames that one latent holds, the first above 0 and the second not below"
        )
    if config.precision not in ("float32", "bfloat16"):
        raise UserError(f"precision is {config.precision}; choose float32 or bfloat16")


def encode_folder(videos: VideoFolder, codec: Codec, out: Path, config: DictConfig, device: torch.device) -> int:
    """All videos of a folder; returns how many there are now."""
    videos.prepare()
    writer = LatentWriter(
        out,
        codec_fingerprint=codec.fingerprint(),
        data_fingerprint=videos.fingerprint(),
        temporal_factor=codec.temporal_factor,
        shard_size=config.shard_size,
        dtype=config.dtype,
    )
    cast = torch.autocast(device.type, torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
    with writer, cast:
        for index, name in enumerate(tqdm(videos.names, desc=out.name, unit="video", mininterval=1.0)):
            if name in writer.done:
                continue
            try:
                item = videos.read(index)
                pieces = list(encode_pieces(item["video"], codec, config.frames_at_once, config.context_frames, device))
            except UserError as error:
                videos.report_broken(index, error)
                continue
            writer.add(
                name,
                torch.cat(pieces, dim=1),
                fps=float(item["fps"]),
                caption=item.get("caption"),
                label=None if item.get("label") is None else int(item["label"]),
            )
        return len(writer.done)


def encode_pieces(video: Tensor, codec: Codec, at_once: int, context: int, device: torch.device) -> Iterator[Tensor]:
    """Latents (c, n, h, w) of a video (3, t, h, w) piece by piece; frames that do not fill a latent are left out."""
    factor = codec.temporal_factor
    frames = video.shape[1] // factor * factor
    if frames == 0:
        raise UserError(f"a video of {video.shape[1]} frames is shorter than one latent ({factor} frames)")
    for start in range(0, frames, at_once):
        stop = min(start + at_once, frames)
        first, last = max(0, start - context), min(frames, stop + context)
        latent = codec.encode(video[None, :, first:last].to(device))[0].float().cpu()
        yield latent[:, (start - first) // factor : (stop - first) // factor]
