"""`scripts/benchmark.py CONFIG...`: how fast a training config runs here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from lvdm.cli import command
from lvdm.jobs.benchmark.cache_speed import benchmark_cache
from lvdm.jobs.benchmark.data_speed import benchmark_data
from lvdm.jobs.benchmark.speed import table
from lvdm.jobs.benchmark.stages import STAGES, benchmark_stages
from lvdm.jobs.benchmark.subject import WARMUP, BenchmarkSettings
from lvdm.types import UserError

READING = ("data", "cache")  # stages that read videos


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure how fast a training config runs on this machine, with random weights and random batches. Two stages read the\n"
        "config's videos: data measures reading them; cache encodes them all, then measures training steps fed from the files\n"
        "in turn with steps fed from their latents. The average of the weights, validation and checkpoints are not measured.",
        example="scripts/benchmark.py configs/lvdm/joint_toy.yaml --stage train --steps 20 --json joint.json",
    )
    command.add_config(parse)
    parse.add_argument(
        "--stage",
        choices=(*STAGES, *READING, "all"),
        default="all",
        help="the stage to measure (default all: each that reads no data); data and cache run one turn to warm up, then four",
    )
    parse.add_argument("--steps", type=int, default=10, help="steps to measure; for data and cache, in each turn (default 10)")
    parse.add_argument("--warmup", type=int, default=WARMUP, help=f"steps before them, which are not measured (default {WARMUP})")
    parse.add_argument("--batch-size", type=int, metavar="B", help="batch size (default: data.params.batch_size)")
    parse.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parse.add_argument("--precision", choices=("float32", "bfloat16"), help="bfloat16 uses autocast (default: trainer.precision)")
    parse.add_argument("--compile", action="store_true", help="torch.compile the network, as training does; needs a warm-up")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    files, overrides = command.config_of(args.config)
    settings = BenchmarkSettings(args.steps, args.warmup, args.batch_size, args.device, args.precision, args.compile)
    if args.stage in READING and args.warmup != WARMUP:
        raise UserError(f"--warmup has no effect on --stage {args.stage}, whose first turn does not count; leave it out")
    if args.stage == "data":
        if args.compile or args.precision or args.device != "auto":
            raise UserError("--compile, --precision and --device have no effect on --stage data, which reads; leave them out")
        reading = benchmark_data(files, overrides, steps=args.steps, batch_size=args.batch_size, allow=args.allow_module)
        print("\n".join(reading.lines()))
        return {"config": args.config, **reading.report()}
    if args.stage == "cache":
        found = benchmark_cache(files, overrides, settings=settings, allow=args.allow_module)
        print(f"{found.device}, {found.precision}, batch {found.batch_size}")
        print(f"{found.encoding.videos} videos encoded in {found.encoding.seconds:.1f} s", *found.speed.lines(), sep="\n")
        facts = {name: getattr(found, name) for name in ("device", "precision", "batch_size", "compiled")}
        return {"config": args.config, **facts, "seconds to encode": found.encoding.seconds, **found.speed.report()}
    speeds = benchmark_stages(files, overrides, stage=args.stage, settings=settings, allow=args.allow_module)
    measured = f"batch {speeds.batch_size}, median of {speeds.steps} steps (quartiles)"
    print(table(speeds.stages, f"{speeds.device}, {speeds.precision}, {measured}"))
    return {"config": args.config, **asdict(speeds)}
