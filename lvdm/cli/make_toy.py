"""`make_toy`: a small data set of procedural videos as real mp4 files, with captions, classes and the ground truth."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lvdm.cli.command import Report, parser, run
from lvdm.toys.write import KINDS, ToyDataset, write_dataset
from lvdm.types import UserError


def main(argv: Sequence[str] | None = None) -> int:
    return run(_parser(), _work, argv)


def _parser() -> argparse.ArgumentParser:
    example = "python scripts/make_toy.py data/discs --kind discs --videos 512 --val 16"
    made = parser("Make a toy data set of mp4 files.", example=example)
    made.add_argument("out", type=Path, metavar="OUT", help="folder to make; left as it is where complete")
    made.add_argument("--kind", choices=list(KINDS), default="discs", help="what is shown (default: discs)")
    made.add_argument("--videos", type=int, default=512, metavar="N", help="training videos (default: 512)")
    made.add_argument("--frames", type=int, default=160, metavar="T", help="frames of each video (default: 160)")
    made.add_argument("--size", type=int, default=64, metavar="S", help="pixels of a side, even (default: 64)")
    made.add_argument("--val", type=int, default=16, metavar="N", help="validation videos (default: 16)")
    made.add_argument("--seed", type=int, default=0, metavar="K", help="another seed makes other videos (default: 0)")
    made.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="videos made at once (default: the cores)")
    return made


def _work(args: argparse.Namespace) -> Report:
    if args.workers < 1:
        raise UserError(f"--workers is {args.workers}, but at least 1 is needed")
    dataset = ToyDataset(args.kind, args.videos, args.frames, args.size, args.val, args.seed)
    written = write_dataset(args.out, dataset, workers=args.workers)
    print(f"{args.out}: {args.videos} + {args.val} videos of {args.frames} frames" + ("" if written else ", complete already"))
    return {**asdict(dataset), "out": args.out, "written": written}
