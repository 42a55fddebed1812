"""`scripts/sample_short.py MODEL`: short videos, one window of latents each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.sampling_options import add_machine, add_output, add_sampling, model_options, progress, read_output
from lvdm.jobs.sample import sample
from lvdm.processes import Process
from lvdm.types import UserError


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Sample short videos from a trained model.",
        example="scripts/sample_short.py runs/short_sky/model.safetensors --num 8 --sampler dpmpp --steps 20 --contact-sheet",
    )
    parse.add_argument("model", type=Path, metavar="MODEL", help="model.safetensors of a diffusion model")
    what = parse.add_mutually_exclusive_group()
    what.add_argument("--label", type=int, metavar="L", help="class of the videos, for models trained with classes")
    what.add_argument("--prompt", metavar="TEXT", help="text of the videos, for models with a text encoder")
    what.add_argument("--prompts", type=Path, metavar="FILE", help="a file with one prompt a line; --num videos of each")
    add_sampling(parse, num=4)
    add_output(parse)
    add_machine(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    process, prompts = Process.this(), read_prompts(args)
    args.json = process.report_file(args.json)
    with command.terminable(), progress("videos") as bar:
        samples = sample(
            args.model,
            args.num,
            prompts=prompts,
            label=args.label,
            seed=args.seed,
            sampler=args.sampler,
            steps=args.steps,
            eta=args.eta,
            guidance=args.guidance,
            batch_size=args.batch_size,
            videos=process.share(args.num * max(1, len(prompts))),
            out=read_output(args),
            **model_options(args),
            on_progress=bar,
        )
    print(f"{len(samples.numbers)} videos of {samples.frames} frames in {samples.seconds:.1f} s: {samples.folder}")
    return {
        "model": args.model,
        "videos": samples.paths,
        "frames": samples.frames,
        "seed": samples.seed,
        "sampler": samples.sampler,
        "eta": samples.eta,
        "steps": samples.steps,
        "guidance": samples.guidance,
        "label": samples.label,
        "labels": samples.labels,
        "prompts": samples.prompts,
        "fps": samples.fps,
        "sampling_seconds": samples.seconds,
        "rank": process.rank,
        "processes": process.count,
    }


def read_prompts(args: argparse.Namespace) -> list[str]:
    """Return the requested prompts; an empty list for none."""
    if args.prompt is not None:
        return [args.prompt]
    if args.prompts is None:
        return []
    return prompts_of(args.prompts)


def prompts_of(path: Path) -> list[str]:
    """Return the prompts in a file, one a line."""
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompt; write one a line")
    return prompts
