"""`scripts/make_toy.py`: a small data set of procedural videos as real mp4 files, with captions, classes and the ground truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lvdm.cli import command
from lvdm.toys.write import KINDS, ToyDataset, write_dataset


def parser() -> argparse.ArgumentParser:
    example = "python scripts/make_toy.py data/discs --kind discs --videos 512 --val 16"
    parse = command.parser("Write a toy data set of mp4 files, with captions, classes and the ground truth.", example=example)
    parse.add_argument("out", type=Path, metavar="OUT", help="the folder to write; a complete one is left as it is")
    parse.add_argument("--kind", choices=list(KINDS), default="discs", help="what the videos show (default: discs)")
    parse.add_argument("--videos", type=int, default=512, metavar="N", help="number of training videos (default: 512)")
    parse.add_argument("--frames", type=int, default=160, metavar="T", help="frames of each video (default: 160)")
    parse.add_argument("--size", type=int, default=64, metavar="S", help="height and width in pixels, even (default: 64)")
    parse.add_argument("--val", type=int, default=16, metavar="N", help="number of validation videos (default: 16)")
    parse.add_argument("--seed", type=int, default=0, metavar="K", help="seed of the videos (default: 0)")
    parse.add_argument("--workers", type=int, metavar="N", help="videos written at once (default: number of cores)")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    dataset = ToyDataset(args.kind, args.videos, args.frames, args.size, args.val, args.seed)
    written = write_dataset(args.out, dataset, workers=args.workers)
    print(f"{args.out}: {args.videos} + {args.val} videos of {args.frames} frames" + ("" if written else ", complete already"))
    return {**asdict(dataset), "out": args.out, "written": written}
