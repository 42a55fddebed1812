"""`scripts/compare_long.py`: the same long toy videos sampled in several ways, scored, in one table.

A variant is a name and settings that differ from the model file's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from lvdm.cli import command
from lvdm.cli.sampling_options import add_machine, load_model
from lvdm.config.keys import hint
from lvdm.sampling.long_pipeline import LongOptions
from lvdm.sampling.pipeline import VideoModel
from lvdm.toys.compare import COLUMNS, Variant, compare, markdown
from lvdm.toys.scores import SCORERS
from lvdm.types import UserError

SETTINGS = [each.name for each in fields(LongOptions) if each.name != "frames"]
MODELS = ("predict", "infill")  # keys of a variant that name other model files; infill=none is plain autoregressive


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Sample the same long toy videos in several ways, score them, and print a Markdown table with mean and deviation.",
        example="scripts/compare_long.py --predict MODEL --infill MODEL --num 8 "
        "--variant clean condition_noise=0 --variant noisy condition_noise=200",
    )
    parse.add_argument("--predict", type=Path, required=True, metavar="MODEL", help="the model that continues given latents")
    parse.add_argument("--infill", type=Path, metavar="MODEL", help="the model that fills gaps")
    help_ = f"a name, then settings that differ from the model file: {', '.join(SETTINGS)}, predict=FILE, infill=FILE|none"
    parse.add_argument("--variant", nargs="+", action="append", required=True, metavar=("NAME", "key=value"), help=help_)
    parse.add_argument("--kind", choices=list(SCORERS), default="discs", help="what the videos show (default discs)")
    parse.add_argument("--num", type=int, default=8, help="number of videos of each variant (default 8)")
    parse.add_argument("--frames", type=int, default=1000, help="frames of each video (default 1000)")
    parse.add_argument("--batch-size", type=int, default=4, help="videos sampled at once (default 4)")
    parse.add_argument("--seed", type=int, default=0, help="seed of the videos (default 0)")
    parse.add_argument("--out", type=Path, metavar="FILE", help="also write the table to FILE")
    add_machine(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    settings = {words[0]: read_settings(words) for words in args.variant}
    loaded: dict[Path, VideoModel] = {}
    variants = {name: read_variant(each, args, loaded) for name, each in settings.items()}
    results = compare(variants, kind=args.kind, num=args.num, seed=args.seed, batch_size=args.batch_size)
    table = markdown(results)
    print(table)
    if args.out is not None:
        command.write_text(args.out, table + "\n")
    rows = {
        name: {
            "settings": {key: str(value) for key, value in settings[name].items()},
            "mean": {column: each.scores.mean[column] for column in COLUMNS},
            "spread": {column: each.scores.spread[column] for column in COLUMNS},
            "videos": {column: each.scores.columns[column] for column in COLUMNS},
            "seconds_per_video": each.seconds_per_video,
        }
        for name, each in results.items()
    }
    return {"frames": args.frames, "num": args.num, "seed": args.seed, "variants": rows}


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of NAME key=value ..."""
    settings = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or key not in (*SETTINGS, *MODELS):
            raise UserError(f"--variant {words[0]}: {word!r} is no setting key=value; {hint(key, [*SETTINGS, *MODELS])}")
        settings[key] = yaml.safe_load(value)
    return settings


def read_variant(settings: dict[str, Any], args: argparse.Namespace, loaded: dict[Path, VideoModel]) -> Variant:
    """Return a variant with its models; each file is loaded once."""

    def model(path: str | Path) -> VideoModel:
        path = Path(path)
        if path not in loaded:
            loaded[path] = load_model(path, args)
        return loaded[path]

    infill = settings.get("infill", args.infill)
    options = LongOptions(frames=args.frames, **{key: value for key, value in settings.items() if key not in MODELS})
    return Variant(model(settings.get("predict", args.predict)), None if infill in (None, "none") else model(infill), options)
