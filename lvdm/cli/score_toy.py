"""`score_toy`: how far generated toy videos are right, in a table, and over their length in curves.csv and curves.png."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import decord
import numpy as np
from tqdm import tqdm

from lvdm.cli.command import Report, parser, run
from lvdm.evaluation import write_chart, write_csv
from lvdm.toys.curves import ToyCurves
from lvdm.toys.score_clouds import score_clouds
from lvdm.toys.score_discs import score_discs
from lvdm.types import UserError

SCORERS: dict[str, Callable[[np.ndarray], ToyCurves]] = {"discs": score_discs, "clouds": score_clouds}
SHOW = {
    "ok": "frames that show what they should (fraction)",
    "moving": "frames that move as real data do (fraction)",
    "speed": "speed (pixels a frame)",
    "drift": "drift of the scene from the first 16 frames",
}
FRAMES_PER_BIN = 20  # of the chart; the table of curves has every frame


def main(argv: Sequence[str] | None = None) -> int:
    return run(_parser(), _work, argv)


def _parser() -> argparse.ArgumentParser:
    example = "python scripts/score_toy.py results/long --kind discs --out scores"
    made = parser("Score videos of a toy; real data score .99 or more.", example=example)
    made.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="mp4 files, or folders of them")
    made.add_argument("--kind", choices=list(SCORERS), default="discs", help="what they show (default: discs)")
    made.add_argument("--out", type=Path, metavar="DIR", help="write curves.csv and curves.png there")
    made.add_argument("--last", type=int, default=300, metavar="N", help="also score the last N frames alone (default: 300)")
    return made


def _work(args: argparse.Namespace) -> Report:
    if args.last < 1:
        raise UserError(f"--last is {args.last}, but at least 1 frame is needed")
    score = SCORERS[args.kind]
    paths = _files(args.videos)
    progress = tqdm(paths, unit="video", desc="score", delay=2)
    curves = {name: score(_read(path)) for name, path in zip(_names(paths), progress, strict=True)}
    summaries = {name: found.summary(args.last) for name, found in curves.items()}
    over_videos = _mean_and_spread(summaries)
    print(_table(summaries, over_videos))
    if args.out is not None:
        by_frame = {name: found.curves() for name, found in curves.items()}
        write_csv(args.out / "curves.csv", by_frame)
        write_chart(args.out / "curves.png", by_frame, show=_shown(by_frame), frames_per_bin=FRAMES_PER_BIN)
        print(f"{args.out / 'curves.csv'}, {args.out / 'curves.png'}")
    return {"kind": args.kind, "last": args.last, "videos": summaries, **over_videos}


def _files(paths: list[Path]) -> list[Path]:
    """Files as given, folders as their mp4 files in order."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.mp4")) if path.is_dir() else [path]
        if not inside or not inside[0].exists():
            raise UserError(f"{path} holds no mp4 file; give videos or a folder of them" if path.is_dir() else f"no file {path}")
        found += inside
    return found


def _names(paths: list[Path]) -> list[str]:
    """Short names, with the folder where they would be the same."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]


def _read(path: Path) -> np.ndarray:
    try:
        return decord.VideoReader(str(path))[:].asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise UserError(f"{path} is not a video that decord can read; write it anew or leave it out") from error


def _mean_and_spread(summaries: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Over the videos; the spread is the standard deviation of one video, 0 for a single one."""
    columns = {key: [summary[key] for summary in summaries.values()] for key in next(iter(summaries.values()))}
    spread = {key: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for key, values in columns.items()}
    return {"mean": {key: float(np.mean(values)) for key, values in columns.items()}, "spread": spread}


def _table(summaries: Mapping[str, Mapping[str, float]], over_videos: Mapping[str, Mapping[str, float]]) -> str:
    rows = {**summaries, "mean": over_videos["mean"], "+-": over_videos["spread"]}
    keys = list(over_videos["mean"])
    width = max(len(name) for name in [*rows, "video"])
    head = f"{'video':{width}}" + "".join(f"{key:>12}" for key in keys)
    return "\n".join([head, *(f"{name:{width}}" + "".join(f"{row[key]:12.3f}" for key in keys) for name, row in rows.items())])


def _shown(videos: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, str]:
    """The chart's panels: what both toys have, then what only this one has."""
    more = [name for name in next(iter(videos.values())) if name not in SHOW and name != "right"]
    return {**SHOW, **{name: name.replace("_", " ") for name in more}}
