"""`scripts/score_toy.py`: score generated toy videos, in a table, and over their length in curves.csv and curves.png."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lvdm.cli import command
from lvdm.toys.scores import SCORERS, score_videos


def parser() -> argparse.ArgumentParser:
    example = "python scripts/score_toy.py results/long --kind discs --out scores"
    parse = command.parser("Score generated toy videos. Real data score .99 or more.", example=example)
    parse.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="mp4 files, or folders of them")
    parse.add_argument("--kind", choices=list(SCORERS), default="discs", help="what the videos show (default: discs)")
    parse.add_argument("--out", type=Path, metavar="DIR", help="write curves.csv and curves.png into DIR")
    parse.add_argument("--last", type=int, default=300, metavar="N", help="also score the last N frames alone (default: 300)")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    scores = score_videos(args.videos, args.kind, last=args.last)
    print(scores.table())
    if args.out is not None:
        print(", ".join(map(str, scores.write_curves(args.out))))
    return {"kind": args.kind, "last": args.last, "videos": scores.videos, "mean": scores.mean, "spread": scores.spread}
