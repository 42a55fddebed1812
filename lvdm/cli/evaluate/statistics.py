"""`scripts/eval.py statistics --real SRC --protocol NAME --out FILE`: what a Fréchet distance needs of real videos, in a file."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.evaluate import options
from lvdm.evaluation.results.records import require_writable
from lvdm.evaluation.statistics import require_free
from lvdm.jobs.statistics import statistics
from lvdm.processes import process_group

OF_SCORES = ("metrics", "extrapolate", "bootstrap")


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Write mean and covariance of the features of real videos under a protocol. Give the file as --real to measure FVD\n"
        "or FID without the videos. Another protocol or network than the file's is refused.",
        example="scripts/eval.py statistics --real data/sky --protocol styleganv-fvd2048-16f --out sky.safetensors",
    )
    parse.add_argument("--real", type=Path, metavar="SRC", required=True, help="the real videos, as eval.py takes them")
    parse.add_argument("--protocol", required=True, metavar="NAME", help="a named protocol, or custom, with --set")
    options.add_measuring(parse, chooses_metrics=False)
    parse.add_argument("--out", type=Path, metavar="FILE", required=True, help="the file, which ends in .safetensors")
    parse.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    return parse


def run(args: argparse.Namespace) -> command.Report:
    options.refuse(args, parser(), OF_SCORES, "on statistics, which are no score; leave it out")
    require_free(args.out, overwrite=args.overwrite)
    require_writable(args.out)  # before hours of measuring
    with process_group() as process:
        settings = options.settings_of(args)
        counts, features = options.counts_of(args), getattr(args, "features", None)
        found = statistics(args.real, args.protocol, **counts, features=features, settings=settings)
        args.json = process.report_file(args.json)
        if process.rank == 0:
            found.save(args.out, overwrite=args.overwrite)
            print(f"{found.num_clips} clips a run, {len(found.moments)} runs, {found.extractor.name}: {args.out}")
    return {"statistics": str(args.out), "num_clips": found.num_clips, "real": asdict(found.source)}
