"""`scripts/train.py CONFIG...`: train a stage, or with --dry-run and --check-data look at what training would do."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from dataclasses import asdict

from lvdm.cli import command
from lvdm.jobs.check_data import DataFacts, check_data, require_usable
from lvdm.jobs.dry_run import dry_run
from lvdm.jobs.lock import is_first
from lvdm.jobs.train import train
from lvdm.training.signals import StoppedBySignal

NAMED = 20  # skipped videos that are printed; --json has all
COMMON = 3  # sizes and rates that are printed


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Train a stage from YAML: the video autoencoder, or a diffusion model on its latents.",
        example="scripts/train.py configs/lvdm/joint_toy.yaml codec_weights=runs/autoencoder_toy/model.safetensors max_minutes=5",
    )
    command.add_config(parse)
    parse.add_argument("--name", help="the run's folder under `out` (default: the name of the last config file)")
    parse.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto (default): resume from the run's newest complete checkpoint, if there is one; never: refuse an existing run; "
        "PATH: resume from this checkpoint",
    )
    parse.add_argument(
        "--allow-changes", action="store_true", help="resume although config or data set differ from the checkpoint's"
    )
    only = parse.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="build everything without weights, print sizes, train nothing")
    only.add_argument("--check-data", action="store_true", help="probe every video, print what the data contain, train nothing")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    files, overrides = command.config_of(args.config)
    if args.dry_run:
        rows = dry_run(files, overrides, allow=args.allow_module).rows()
        width = max(map(len, rows))
        for row, value in rows.items():
            print(f"{row:<{width}}  {value:,}" if isinstance(value, int) else f"{row:<{width}}  {value}")
        return {"dry_run": rows}
    if args.check_data:
        facts = check_data(files, overrides, name=args.name, allow=args.allow_module)
        for part, each in facts.items():
            print_facts(part, each)
        require_usable(facts)
        return {"check_data": {part: report_of(each) for part, each in facts.items()}}
    options = {"name": args.name, "resume": args.resume, "allow_changes": args.allow_changes, "allow": args.allow_module}
    try:
        run = train(files, overrides, **options)
    except StoppedBySignal as stop:
        raise command.Stopped(str(stop), status=0 if stop.number == signal.SIGUSR1 else 128 + stop.number) from stop
    if is_first():
        print(f"{run.steps} steps; model file: {run.model_file}")
    return {"run": str(run.folder.path), "model": str(run.model_file), "steps": run.steps, "metrics": run.metrics}


def report_of(facts: DataFacts) -> command.Report:
    report = asdict(facts)
    report["samples of an epoch"] = report.pop("samples")
    return report


def print_facts(part: str, facts: DataFacts) -> None:
    length, skipped = facts.length, facts.skipped
    print(f"{part}: {facts.root}")
    rows = {
        "videos": f"{facts.videos:,} of {facts.of:,}, {facts.samples:,} samples of an epoch",
        "frames": f"{facts.frames:,} ({facts.hours:.2f} hours)",
        "frames of a video": f"{length['least']} to {length['most']}, median {length['median']:g}",
        "width x height": common(facts.sizes),
        "frames per second": common(facts.rates),
        "captions": f"{facts.captions:,}",
        "classes": f"{facts.classes:,}",
        "contact sheet": facts.contact_sheet,
        "skipped": f"{len(skipped):,}",
    }
    for row, text in rows.items():
        print(f"  {row:<18} {text}")
    for reason in list(skipped.values())[:NAMED]:
        print(f"    {reason}")
    if len(skipped) > NAMED:
        print(f"    and {len(skipped) - NAMED:,} more, which --json FILE lists")


def common(counts: dict[str, int]) -> str:
    """Return the most common values, each with its number of videos."""
    shown = [f"{value} ({number:,})" for value, number in list(counts.items())[:COMMON]]
    others = sum(list(counts.values())[COMMON:])
    return ", ".join([*shown, f"others ({others:,})"] if others else shown)
