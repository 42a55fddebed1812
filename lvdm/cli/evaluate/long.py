"""`scripts/eval.py long --fake SRC [--real SRC]`: what long videos lose over their length, with and without a network.

Without --real no network looks at the videos, and the curves of their frames are all that is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lvdm.cli import command
from lvdm.cli.evaluate.distances import (
    add_measuring,
    add_sampling,
    extractor_of,
    metrics_of,
    open_real,
    protocol_of,
    refuse_sampling,
    settings_of,
)
from lvdm.cli.sample_long import read_options
from lvdm.cli.sampling_options import add_long_video
from lvdm.evaluation.long.measure import AgainstReal, LongMeasurement, measure_long
from lvdm.evaluation.long.report import CHUNK
from lvdm.evaluation.long.videos import FileVideos, LongSource, ModelVideos
from lvdm.evaluation.metrics.scores import ScoreOptions
from lvdm.evaluation.protocols.manifest import write_manifest
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.records import require_writable, write_whole
from lvdm.evaluation.results.result import write_result
from lvdm.evaluation.sources.sampled import check_at_once
from lvdm.evaluation.sources.videos import open_source
from lvdm.jobs.load import load
from lvdm.processes import as_device, process_group
from lvdm.sampling.long_pipeline import prepare_long_video
from lvdm.types import UserError

OVER_TIME = "lvdm-fvd2048"
FVD128 = [name for name, protocol in PROTOCOLS.items() if protocol.frames == 128]
FRAMES = 1000  # of a video that a model makes
OF_REAL = ("protocol", "fvd128", "overrides", "metrics", "features", "feature_width", "feature_seed", "allow_fewer", "replay",
           "bootstrap", "extrapolate", "batch_size", "no_cache")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure long videos over their length: FVD and KVD of each chunk of 16 frames of all videos against the real clips of\n"
        "a protocol, their slopes, those of the first and the last chunk; and without any network flicker, motion, drift of\n"
        "brightness and colour, and likeness to the first frame. Writes over_time.csv, over_time.png and result.json.\n"
        "Videos of several lengths: distances are of the frames that all of them have, each curve is of a whole video;\n"
        "frames behind the last whole chunk are in no distance. A model's videos are measured while they are made.",
        example="scripts/eval.py long --real data/sky --fake runs/joint_sky/model.safetensors --infill "
        "runs/joint_sky/model.safetensors --out results/long_sky",
    )
    parse.add_argument("--fake", type=Path, metavar="SRC", required=True, help="long videos, or a model that goes on from frames")
    parse.add_argument("--real", type=Path, metavar="SRC", help="the real videos; without, only what needs no network")
    parse.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of what is written")
    parse.add_argument("--protocol", metavar="NAME", help=f"of the distances over time (default {OVER_TIME})")
    parse.add_argument("--fvd128", nargs="?", const=FVD128[0], choices=FVD128, metavar="PROTOCOL",
                       help=f"also of the first 128 frames, by {' or '.join(FVD128)} (default the first of them)")  # fmt: skip
    parse.add_argument("--frames", type=int, metavar="T", help=f"of each video: the first T that a file has, all of them by "
                       f"default; of a model's video {FRAMES} by default")  # fmt: skip
    parse.add_argument("--num", type=int, metavar="N", help="videos, the first N (default: as many as the protocol takes; "
                       "without --real all there are)")  # fmt: skip
    add_measuring(parse)
    add_sampling(parse)
    add_long_video(parse)
    return parse


def run(args: argparse.Namespace) -> command.Report:
    with process_group() as process:
        judges = judges_of(args)
        source = open_videos(args, judges)
        require_writable(args.out / "result.json")  # before hours of measuring
        found = measure_long(source, judges)
        args.json = process.report_file(args.json)
        if process.rank == 0:
            tell(found, args.out)
    return {**found.as_dict(), "out": str(args.out)}


def tell(found: LongMeasurement, out: Path) -> None:
    """The files, and the lines to look at."""
    files = found.report.write(out)
    result = out / "result.json"
    write_whole(result, json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n")
    if found.over_time is not None:
        write_manifest(result.with_suffix(".manifest.jsonl"), found.over_time.manifest)
    if found.first_frames is not None:
        files.append(out / f"{found.first_frames.result.protocol.based_on}.json")
        write_result(files[-1], found.first_frames.result)
        write_manifest(files[-1].with_suffix(".manifest.jsonl"), found.first_frames.manifest)
    print(table(found))
    for note in found.notes:
        print(f"note: {note}")
    print(f"result: {', '.join(map(str, [result, *files]))}")


# What the arguments say --------------------------------------------------------------------------------------------------


def judges_of(args: argparse.Namespace) -> list[AgainstReal]:
    """None without real videos; else the protocol over time, and that of the first 128 frames where it is asked for."""
    if args.real is None:
        command.refuse_idle(args, parser(), OF_REAL, "without real videos; leave it out or give --real SRC")
        return []
    judges = [_judge(args, protocol=args.protocol or OVER_TIME)]
    if args.fvd128 is not None:  # --set, --metrics and --replay speak of the clips over time
        judges.append(_judge(args, protocol=args.fvd128, overrides=[], metrics=None, replay=None, is_over_time=False))
    return judges


def _judge(args: argparse.Namespace, *, is_over_time: bool = True, **instead: Any) -> AgainstReal:
    args = argparse.Namespace(**{**vars(args), **instead})
    protocol = protocol_of(args)
    if not protocol.uses_real:
        raise UserError(f"{protocol.name} looks at no real videos, so it tells no distance; take another protocol")
    if protocol.fake_clips != "first frames":
        raise UserError(f"fake_clips {protocol.fake_clips!r} has no effect, for all of each video is measured; leave it out")
    options = ScoreOptions(metrics_of(args, protocol), args.bootstrap, args.extrapolate)
    options.check(protocol)
    real = open_real(args, protocol)
    assert real is not None, "its protocol looks at real videos"
    return AgainstReal(protocol, real, extractor_of(args, protocol), options, settings_of(args), is_over_time)


def open_videos(args: argparse.Namespace, judges: Sequence[AgainstReal]) -> LongSource:
    protocols = [judge.protocol for judge in judges]
    if args.fake.suffix == ".safetensors":
        if not judges:
            command.refuse_idle(args, parser(), ("workers",), "on a model without real videos; leave it out")
        return _of_model(args, how_many(args, protocols, there=None))
    refuse_sampling(args, parser())
    source = open_source(args.fake, split=protocols[0].split if protocols else "train", allow=args.allow_module)
    count = how_many(args, protocols, there=len(source.lengths))
    lengths = source.lengths[:count]
    if args.frames is not None:
        short = [name for name, length in zip(source.names, lengths, strict=False) if length < args.frames]
        if short:
            told = f"{len(short)} of {count} videos have fewer, such as {short[0]}"
            raise UserError(f"--frames is {args.frames}, but {told}; give a smaller number, or leave those out")
        lengths = [args.frames] * count
    return FileVideos(source, lengths, args.workers)


def _of_model(args: argparse.Namespace, count: int) -> ModelVideos:
    check_at_once(args.sample_batch)
    device, allow = as_device(args.device), args.allow_module
    args.frames = FRAMES if args.frames is None else args.frames
    predict = load(args.fake, device, allow=allow)
    is_same = args.infill is not None and args.infill.exists() and args.infill.samefile(args.fake)
    infill = predict if is_same else None if args.infill is None else load(args.infill, device, allow=allow)
    made = prepare_long_video(predict, infill, read_options(args))
    return ModelVideos(args.fake, made, args.frames, count, args.seed, args.sample_batch, args.infill)


def how_many(args: argparse.Namespace, protocols: Sequence[EvalProtocol], *, there: int | None) -> int:
    """Videos that are measured: --num, else as many as the protocols take, else all that are there; a model has any number."""
    most = min((protocol.num_fake for protocol in protocols), default=None)
    if args.num is not None and not 1 <= args.num <= (most or args.num):
        raise UserError(f"--num is {args.num}; give 1 or more" + (f", at most {most}, which the protocol takes" if most else ""))
    if args.num is not None and there is not None and args.num > there:
        raise UserError(f"--num is {args.num}, but {args.fake} has {there} videos; give fewer, or more videos")
    if there is None and args.num is None and (most is None or args.allow_fewer == 0):
        raise UserError("a model makes as many videos as it is asked for; say how many: --num 16")
    count = min(number for number in (args.num, args.allow_fewer or None, most, there) if number is not None)
    for protocol in protocols:
        if count < protocol.num_fake and args.allow_fewer is None:
            more = "give more, or --allow-fewer, which renames the metric"
            raise UserError(f"{protocol.name} takes {protocol.num_fake} generated videos, not {count}; {more}")
    if protocols and count < 2:
        raise UserError("a distance is one of sets, and 1 video is none; give more, or leave --real out")
    return count


# What is shown -----------------------------------------------------------------------------------------------------------


def table(found: LongMeasurement) -> str:
    """Markdown: a row for each distance and each curve."""
    chunk = found.report.over_time.chunk if found.report.over_time else CHUNK
    rows = [("", "mean", f"first {chunk} frames", f"last {chunk}", "per 100 frames")]
    for name, told in found.report.summary().items():
        slope = "" if told.per_100_frames is None else f"{told.per_100_frames:+.3g}"
        error = "" if told.standard_error is None else f" ± {told.standard_error:.2g}"
        rows.append((name, *map(_number, (told.mean, told.first, told.last)), slope + error))
    if found.first_frames is not None:
        result = found.first_frames.result
        rows += [(f"{name} of {result.protocol.frames} frames", _number(told.value), "", "", "")
                 for name, told in result.metrics.items()]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value if abs(value) > 1e-9 else 0:.4g}"  # rounding is no drift
