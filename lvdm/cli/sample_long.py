"""`scripts/sample_long.py --predict MODEL [--infill MODEL]`: long videos, streamed to their files as they are made."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from lvdm.cli import command
from lvdm.cli.sampling_options import (
    add_long_video,
    add_machine,
    add_output,
    add_sampling,
    batch_size,
    check_num,
    choose_output,
    load_model,
    progress,
)
from lvdm.data.whole_video import read_video
from lvdm.jobs.sample import batches
from lvdm.processes import Process
from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video
from lvdm.sampling.pipeline import VideoModel
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
    return command.run(parser(), sample, argv)


def sample(args: argparse.Namespace) -> command.Report:
    check_num(args)
    process = Process.this()
    args.json = process.report_file(args.json)
    predict = load_model(args.predict, args)
    infill = load_infill(args, predict)
    made = prepare_long_video(predict, infill, read_options(args), start=read_start(args, predict))
    videos = process.share(args.num)
    out, missing = choose_output(args, args.predict, videos, frames=args.frames, fps=predict.trained_settings().fps)
    start = time.perf_counter()
    frames_of, plan = predict.codec.frames_of, made.plan
    frames = frames_of(plan.latents) - frames_of(plan.start_latents)  # of one video, to be made
    per_latent = frames / max(1, plan.latents - plan.start_latents)
    with progress(frames * len(missing), "frames") as bar:
        for batch in batches(missing, batch_size(args, predict)):
            made.write(out, batch, on_latents=lambda done: bar.update(done * per_latent))
    out.close()
    seconds = time.perf_counter() - start
    print(f"{len(missing)} videos of {args.frames} frames in {seconds:.1f} s: {out.folder}")
    return {
        "predict": args.predict,
        "infill": args.infill,
        "videos": out.paths,
        "frames": args.frames,
        "seed": args.seed,
        "sampling_seconds": seconds,
        "plan": made.describe(),
        "rank": process.rank,
        "processes": process.count,
    }


def load_infill(args: argparse.Namespace, predict: VideoModel) -> VideoModel | None:
    if args.infill is None:
        return None
    if args.infill.exists() and args.infill.samefile(args.predict):
        return predict
    return load_model(args.infill, args)


def read_options(args: argparse.Namespace) -> LongOptions:
    if args.gap_batch != "auto" and not args.gap_batch.isdecimal():
        raise UserError(f"--gap-batch is {args.gap_batch!r}, expected auto or a number")
    given = {option.name: getattr(args, option.name) for option in fields(LongOptions)}
    return LongOptions(**{**given, "gap_batch": args.gap_batch if args.gap_batch == "auto" else int(args.gap_batch)})


def read_start(args: argparse.Namespace, model: VideoModel) -> np.ndarray | None:
    """Return the start's frames, uint8 (t, h, w, 3), in the model's size."""
    if args.start is None:
        if args.start_frames is not None:
            raise UserError("--start-frames has no effect without --start; give both or neither")
        return None
    latent = model.trained_settings().latent_shape
    size = [side * model.codec.spatial_factor for side in latent[2:]]
    return read_video(args.start, frames=args.start_frames, at_most=args.frames, size=size)
