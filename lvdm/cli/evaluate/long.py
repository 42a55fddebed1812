"""`scripts/eval.py long --fake SRC [--real SRC]`: what long videos lose over their length, with and without a network.

Without --real no network looks at the videos, and only the curves of their frames are measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.evaluate import options
from lvdm.cli.sampling_options import add_long_video
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.evaluation.results.records import require_writable
from lvdm.jobs.evaluate import CLIPS, EvalSettings, is_model
from lvdm.jobs.evaluate_long import FRAMES, evaluate_long
from lvdm.processes import process_group
from lvdm.sampling.options import LongOptions
from lvdm.types import UserError

FVD128 = [name for name, protocol in PROTOCOLS.items() if protocol.frames == 128]
OF_REAL = ("protocol", "fvd128", "metrics", "features", "fewer", *(f.name for f in fields(EvalSettings)))
OF_FILES = ("workers", "device", "allow")  # of EvalSettings, what long videos need without real ones too


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure long videos over their length. With --real: FVD and KVD of each chunk of 16 frames of all videos against the\n"
        "real clips of a protocol, their slopes, and those of the first and the last chunk. Always, without a network: flicker,\n"
        "motion, drift of brightness and colour, and similarity to the first frame. The command writes over_time.csv,\n"
        "over_time.png and result.json. If videos differ in length, distances use the frames that all of them have, and curves\n"
        "use whole videos. Frames after the last whole chunk are in no distance. A model is sampled while it is measured.",
        example="scripts/eval.py long --real data/sky --fake runs/joint_sky/model.safetensors --infill "
        "runs/joint_sky/model.safetensors --out results/long_sky",
    )
    parse.add_argument(
        "--fake", type=Path, metavar="SRC", required=True, help="long videos, or a model that continues given frames"
    )
    parse.add_argument(
        "--real", type=Path, metavar="SRC", help="the real videos; without them only what needs no network is measured"
    )
    parse.add_argument("--out", type=Path, metavar="DIR", required=True, help="the folder to write")
    parse.add_argument("--protocol", metavar="NAME", help=f"protocol of the distances over time (default {CLIPS})")
    parse.add_argument("--fvd128", nargs="?", const=FVD128[0], choices=FVD128, metavar="PROTOCOL",
                       help=f"also measure the first 128 frames, by {' or '.join(FVD128)} (default the former)")  # fmt: skip
    parse.add_argument("--frames", type=int, metavar="T", help=f"the first T frames of each video (default: all of a file, "
                       f"{FRAMES} of a model's video)")  # fmt: skip
    parse.add_argument("--num", type=int, metavar="N", help="measure the first N videos (default: as many as the protocol takes; "
                       "without --real all of them)")  # fmt: skip
    options.add_measuring(parse)
    options.add_sampling(parse)
    add_long_video(parse)
    return parse


def run(args: argparse.Namespace) -> command.Report:
    _refuse(args, parser())
    with process_group() as process:
        require_writable(args.out / "result.json")  # before hours of measuring
        found = evaluate_long(
            args.fake,
            args.real,
            args.protocol or CLIPS,
            first_frames=args.fvd128,
            metrics=getattr(args, "metrics", None),
            frames=args.frames,
            num=args.num,
            fewer=getattr(args, "fewer", None),
            features=getattr(args, "features", None),
            infill=getattr(args, "infill", None),
            options=_long_options(args) if is_model(args.fake) else None,
            seed=getattr(args, "seed", 0),
            sample_batch=getattr(args, "sample_batch", None),
            settings=options.settings_of(args),
        )
        args.json = process.report_file(args.json)
        if process.rank == 0:
            files = found.save(args.out)
            print(_markdown(found.table()))
            for note in found.notes:
                print(f"note: {note}")
            print(f"result: {', '.join(map(str, files))}")
    return {**found.as_dict(), "out": str(args.out)}


def _refuse(args: argparse.Namespace, parse: argparse.ArgumentParser) -> None:
    """Refuse options without effect."""
    if args.real is None:
        of_real = [name for name in OF_REAL if name not in OF_FILES]
        options.refuse(args, parse, of_real, "without real videos; leave it out or give --real SRC")
    if not is_model(args.fake):
        of_model = (*options.OF_MODEL, *(f.name for f in fields(LongOptions) if f.name != "frames"))
        options.refuse(args, parse, of_model, options.ON_FILES)
    elif args.real is None:
        options.refuse(args, parse, ("workers",), "on a model without real videos; leave it out")


def _long_options(args: argparse.Namespace) -> LongOptions:
    if args.gap_batch != "auto" and not args.gap_batch.isdecimal():
        raise UserError(f"--gap-batch is {args.gap_batch!r}, expected auto or a number")
    gap_batch = args.gap_batch if args.gap_batch == "auto" else int(args.gap_batch)
    return options.read(LongOptions, args, frames=FRAMES if args.frames is None else args.frames, gap_batch=gap_batch)


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])
