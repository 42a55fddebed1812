"""`scripts/sample_long.py --predict MODEL [--infill MODEL]`: long videos, streamed to their files as they are made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lvdm.cli import command
from lvdm.cli.sampling_options import (
    add_long_video,
    add_machine,
    add_output,
    add_sampling,
    model_options,
    progress,
    read_output,
)
from lvdm.jobs.sample_long import sample_long
from lvdm.processes import Process
from lvdm.sampling.options import LongOptions
from lvdm.types import UserError


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Sample long videos: sparse keys first, then the gaps between them. Without --infill every latent is a key.",
        example="scripts/sample_long.py --predict runs/predict_sky/model.safetensors --infill runs/infill_sky/model.safetensors",
    )
    parse.add_argument("--predict", type=Path, required=True, metavar="MODEL", help="the model that continues given latents")
    parse.add_argument("--infill", type=Path, metavar="MODEL", help="the model that fills gaps; it may be the same file")
    parse.add_argument("--frames", type=int, default=1000, help="frames of each video, including those of --start (default 1000)")
    parse.add_argument("--start", type=Path, metavar="VIDEO", help="a video or folder of images to continue")
    parse.add_argument(
        "--start-frames", type=int, metavar="N", help="continue after the first N frames of --start (default: all)"
    )
    add_sampling(parse, num=1)
    add_long_video(parse)
    add_output(parse)
    add_machine(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    process = Process.this()
    args.json = process.report_file(args.json)
    with command.terminable(), progress("frames") as bar:
        samples = sample_long(
            args.predict,
            args.infill,
            args.num,
            out=read_output(args),
            videos=process.share(args.num),
            batch_size=args.batch_size,
            seed=args.seed,
            start=args.start,
            start_frames=args.start_frames,
            on_progress=bar,
            **model_options(args),
            **read_long(args),
        )
    print(f"{len(samples.numbers)} videos of {samples.frames} frames in {samples.seconds:.1f} s: {samples.folder}")
    return {
        "predict": args.predict,
        "infill": args.infill,
        "videos": samples.paths,
        "frames": samples.frames,
        "seed": samples.seed,
        "sampling_seconds": samples.seconds,
        "label": samples.label,
        "prompt": samples.prompt,
        "fps": samples.fps,
        "plan": samples.plan,
        "rank": process.rank,
        "processes": process.count,
    }


def read_long(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of a long video."""
    if args.gap_batch != "auto" and not args.gap_batch.isdecimal():
        raise UserError(f"--gap-batch is {args.gap_batch!r}, expected auto or a number")
    given = {option.name: getattr(args, option.name) for option in fields(LongOptions)}
    return {**given, "gap_batch": args.gap_batch if args.gap_batch == "auto" else int(args.gap_batch)}
