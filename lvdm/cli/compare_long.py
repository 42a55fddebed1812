"""`scripts/compare_long.py`: the same long videos made in several ways, scored, in one table with its spread.

A variant is a name and settings that differ from the model file's own; all variants share seeds, so they are compared video by
video.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lvdm.cli import command
from lvdm.cli.sampling_options import add_machine, batches, load_model
from lvdm.cli.score_toy import SCORERS
from lvdm.config.keys import hint
from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError

COLUMNS = ("ok", "ok_last300", "motion", "drift", "score")
MODELS = ("predict", "infill")  # keys of a variant that name other model files; infill=none is plain autoregressive


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Make the same long toy videos in several ways, score them, and print one table (markdown) with mean and spread.",
        example="scripts/compare_long.py --predict MODEL --infill MODEL --num 8 "
        "--variant clean condition_noise=0 --variant noisy condition_noise=200",
    )
    parse.add_argument("--predict", type=Path, required=True, metavar="MODEL", help="the model that goes on from given latents")
    parse.add_argument("--infill", type=Path, metavar="MODEL", help="the model that fills gaps")
    settings = ", ".join(each.name for each in fields(LongOptions))
    parse.add_argument("--variant", nargs="+", action="append", required=True, metavar=("NAME", "key=value"),
                       help=f"a name, then settings: {settings}, predict=FILE, infill=FILE|none")  # fmt: skip
    parse.add_argument("--kind", choices=list(SCORERS), default="discs", help="what the videos show (default discs)")
    parse.add_argument("--num", type=int, default=8, help="videos of each variant (default 8)")
    parse.add_argument("--frames", type=int, default=1000, help="of each video (default 1000)")
    parse.add_argument("--batch-size", type=int, default=4, help="videos at once (default 4)")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path, metavar="FILE", help="also write the table there")
    add_machine(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), compare, argv)


def compare(args: argparse.Namespace) -> command.Report:
    if args.num < 1 or args.batch_size < 1:
        raise UserError(f"--num is {args.num} and --batch-size {args.batch_size}; both must be at least 1")
    variants = {words[0]: read_variant(words) for words in args.variant}
    loaded: dict[Path, VideoModel] = {}
    results = {name: make_and_score(settings, args, loaded) for name, settings in variants.items()}
    table = markdown(results)
    print(table)
    if args.out is not None:
        command.write_text(args.out, table + "\n")
    return {"frames": args.frames, "num": args.num, "seed": args.seed, "variants": results}


def read_variant(words: Sequence[str]) -> dict[str, Any]:
    """NAME key=value ... -> settings."""
    known = [*(f.name for f in fields(LongOptions) if f.name != "frames"), *MODELS]
    settings = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise UserError(f"--variant {words[0]}: {word!r} is no setting key=value; {hint(key, known)}")
        settings[key] = yaml.safe_load(value)
    return settings


def make_and_score(settings: Mapping[str, Any], args: argparse.Namespace, loaded: dict[Path, VideoModel]) -> dict[str, Any]:
    """Scores of each video, their mean and spread, and seconds a video."""
    predict = model(settings.get("predict", args.predict), args, loaded)
    infill = settings.get("infill", args.infill)
    filling = None if infill in (None, "none") else model(infill, args, loaded)
    options = {key: value for key, value in settings.items() if key not in MODELS}
    made = prepare_long_video(predict, filling, LongOptions(frames=args.frames, **options))
    start, scores = time.perf_counter(), []
    for batch in batches(range(args.num), args.batch_size):
        videos = np.concatenate(list(made.frames(args.seed, batch)), axis=1)  # (v, t, h, w, 3)
        scores += [SCORERS[args.kind](video).summary(last=300) for video in videos]
    seconds = (time.perf_counter() - start) / args.num
    columns = {name: [float(score[name]) for score in scores] for name in COLUMNS}
    return {
        "settings": {key: str(value) for key, value in settings.items()},
        "mean": {name: float(np.mean(values)) for name, values in columns.items()},
        "spread": {name: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for name, values in columns.items()},
        "videos": columns,
        "seconds_per_video": seconds,
    }


def model(path: str | Path, args: argparse.Namespace, loaded: dict[Path, VideoModel]) -> VideoModel:
    path = Path(path)
    if path not in loaded:
        loaded[path] = load_model(path, args)
    return loaded[path]


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a variant: mean +- standard deviation of one video."""
    rows = [f"| variant | {' | '.join(COLUMNS)} | seconds a video |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, result in results.items():
        cells = [f"{result['mean'][column]:.3f} ± {result['spread'][column]:.3f}" for column in COLUMNS]
        rows.append(f"| {name} | {' | '.join(cells)} | {result['seconds_per_video']:.1f} |")
    return "\n".join(rows)
