"""What the commands that sample share: their options, the model, the bar that shows progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lvdm.cli import command
from lvdm.jobs.load import load
from lvdm.jobs.sampled_files import OnProgress
from lvdm.processes import Process
from lvdm.sampling.output import Output
from lvdm.sampling.pipeline import VideoModel
from lvdm.sampling.samplers import SAMPLERS

GUIDANCE = "weight w of guidance, in the convention eps_c + w (eps_c - eps_u): 0 is off; other codes may write 1 + w for it"
SAMPLER = f"sampler, with its usual steps: {', '.join(each.describe() for each in SAMPLERS.values())}"
WITH_ETA = [name for name, each in SAMPLERS.items() if each.takes_eta]


def add_sampling(parse: argparse.ArgumentParser, *, num: int) -> None:
    """Add the options of sampling."""
    group = parse.add_argument_group("sampling (defaults are in the model file)")
    group.add_argument("--num", type=int, default=num, help=f"number of videos (default {num})")
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed; video i of a seed is the same for any number of videos and batch size (default 0)",
    )
    group.add_argument("--sampler", metavar="NAME", help=SAMPLER)
    group.add_argument("--steps", type=int, help="number of sampling steps")
    group.add_argument("--eta", type=float, help=f"eta of {', '.join(WITH_ETA)}, 0 (deterministic) to 1")
    group.add_argument("--guidance", type=float, metavar="W", help=GUIDANCE)
    group.add_argument("--batch-size", type=int, metavar="B", help="videos sampled at once; changes only time and memory")


def add_long_video(parse: argparse.ArgumentParser) -> None:
    """Add the options of a long video, which `read_long` reads."""
    group = parse.add_argument_group("long video (defaults are in the model file)")
    group.add_argument(
        "--condition-noise", type=int, metavar="S", help="noise level of given keys, a time of the schedule; 0 is clean"
    )
    group.add_argument("--gap-noise", type=int, metavar="S", help="noise level of given keys while gaps are filled")
    group.add_argument("--overlap", type=int, metavar="N", help="keys that a window shares with the one before")
    group.add_argument("--key-stride", type=int, metavar="K", help="latents from one key to the next")
    group.add_argument("--gap-steps", type=int, metavar="S", help="sampling steps in gaps (default: --steps)")
    group.add_argument(
        "--gap-batch", default="auto", metavar="auto|N", help="gap windows sampled at once (default auto: by memory)"
    )
    what = group.add_mutually_exclusive_group()
    what.add_argument("--label", type=int, metavar="L", help="class of the videos, for models trained with classes")
    what.add_argument("--prompt", metavar="TEXT", help="text of the videos, for models with a text encoder")
    group.add_argument("--lead-in", type=int, metavar="N", help="frames sampled before the first one and left out")


def add_output(parse: argparse.ArgumentParser) -> None:
    """Add the options of the files to write."""
    group = parse.add_argument_group("output")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (default: samples/NAME, with a number if that has such files already)"
    )
    group.add_argument("--format", default="mp4", metavar="LIST", help="one or more of mp4,gif,npz,frames (default mp4)")
    group.add_argument("--quality", type=float, help="quality of mp4, 1 to 10 (default 8)")
    group.add_argument("--fps", type=float, help="frames per second of the files (default: sampling.fps of the model, or 8)")
    group.add_argument(
        "--contact-sheet", action="store_true", help="also write one PNG with frames of all videos, one row a video"
    )
    group.add_argument("--overwrite", action="store_true", help="replace existing files")
    group.add_argument(
        "--resume", action="store_true", help="sample the videos that are missing in --out, which was started with --resume too"
    )


def add_machine(parse: argparse.ArgumentParser) -> None:
    """Add the options of the device."""
    group = parse.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of denoiser and codec (default float32)"
    )
    command.add_allow_module(group)


def load_model(path: Path, args: argparse.Namespace) -> VideoModel:
    return load(path, **model_options(args))


@contextmanager
def progress(unit: str) -> Iterator[OnProgress]:
    """Show a bar over all the work of this process, in the first one; in a log file it is a line now and then."""
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]"
    seldom = 0.2 if sys.stderr.isatty() else 10.0
    bar: tqdm | None = None

    def show(done: float, total: float) -> None:
        nonlocal bar
        if bar is None:  # only when the work begins, after all checks
            bar = tqdm(total=total, unit=unit, bar_format=form, mininterval=seldom, disable=Process.this().rank > 0)
        bar.update(min(done, total) - bar.n)  # shares of floats may sum to a little more

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def read_output(args: argparse.Namespace) -> Output:
    """Return the output that the options of `add_output` describe."""
    given = {name: getattr(args, name) for name in ("fps", "quality", "overwrite", "contact_sheet", "resume")}
    return Output(args.out, args.format.split(","), **given)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_machine`, as `load` and the functions that sample take them."""
    return {"device": args.device, "dtype": getattr(torch, args.dtype), "allow": args.allow_module}
