"""`scripts/sample_short.py MODEL`: short videos, one window of latents each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from lvdm.cli import command
from lvdm.cli.sampling_options import (
    add_machine,
    add_output,
    add_sampling,
    batch_size,
    batches,
    check_num,
    choose_output,
    load_model,
    progress,
)
from lvdm.processes import Process
from lvdm.sampling.options import SampleOptions
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Sample short videos from a trained model.",
        example="scripts/sample_short.py runs/short_sky/model.safetensors --num 8 --sampler dpmpp --steps 20 --contact-sheet",
    )
    parse.add_argument("model", type=Path, metavar="MODEL", help="model.safetensors of a diffusion model")
    what = parse.add_mutually_exclusive_group()
    what.add_argument("--label", type=int, metavar="L", help="class of the videos, for models trained with labels")
    what.add_argument("--prompt", metavar="TEXT", help="what to show, for models with a text encoder")
    what.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt a line; --num videos of each")
    add_sampling(parse, num=4)
    add_output(parse)
    add_machine(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), sample, argv)


def sample(args: argparse.Namespace) -> command.Report:
    check_num(args)
    process = Process.this()
    args.json = process.report_file(args.json)
    model = load_model(args.model, args)
    settings = model.trained_settings()
    how = SampleOptions(args.sampler, args.steps, args.eta, args.guidance)
    solver = model.solver(how)
    context = encode_prompts(model, read_prompts(args))
    num = args.num if context is None else args.num * len(context)
    frames = model.codec.frames_of(settings.latent_shape[1])
    videos = process.share(num)
    out, missing = choose_output(args, args.model, videos, frames=frames, fps=settings.fps)
    size = batch_size(args, model)
    start = time.perf_counter()
    with progress(len(missing), "videos") as bar:
        for batch in batches(missing, size):
            made = model.sample(
                len(batch),
                **how.of_any(),
                seed=args.seed,
                first=batch[0],
                batch_size=size,
                label=args.label,
                context=None if context is None else context[[video // args.num for video in batch]],
                on_progress=bar.update,
            )
            for video, shown in zip(batch, made, strict=True):
                with out.open(video) as files:
                    files.write(shown)
    out.close()
    seconds = time.perf_counter() - start
    print(f"{len(missing)} videos of {frames} frames in {seconds:.1f} s: {out.folder}")
    return {
        "model": args.model,
        "videos": out.paths,
        "frames": frames,
        "seed": args.seed,
        "sampler": solver.sampler.name,
        "eta": solver.eta,
        "steps": len(solver.grid),
        "sampling_seconds": seconds,
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


def encode_prompts(model: VideoModel, prompts: list[str]) -> torch.Tensor | None:
    if not prompts:
        return None
    if model.text_encoder is None:
        raise UserError(f"{model.name} has no text encoder to read a prompt; leave it out or take a text-to-video model")
    return model.text_encoder(prompts)
