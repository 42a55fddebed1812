"""`scripts/eval.py completion --model M --real SRC`: continuations and infillings of real clips, against the truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.evaluate import options
from lvdm.jobs.evaluate_completion import evaluate_completion
from lvdm.processes import process_group


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Give a model the beginning of real clips, or both ends, and compare the frames that it samples with the true ones:\n"
        "PSNR, SSIM and LPIPS of the new frames, of the best sample of each clip, and FVD of the new frames (--features).\n"
        "Clips are those of the held-out split, as long as the model's window, at its own size.",
        example="scripts/eval.py completion --model runs/joint_sky/model.safetensors --real data/sky --samples 10",
    )
    parse.add_argument("--model", type=Path, metavar="M", required=True, help="a predict, infill or joint model")
    parse.add_argument("--real", type=Path, metavar="SRC", required=True, help="the real videos, as eval.py takes them")
    parse.add_argument("--kind", choices=("continuation", "infilling"), default="continuation", help="default continuation")
    parse.add_argument("--given", type=int, metavar="N",
                       help="latents given at each end (default: the fewest of the model's training, else 1)")  # fmt: skip
    parse.add_argument("--samples", type=int, default=1, metavar="K", help="samples of each clip (default 1)")
    parse.add_argument("--lpips", default="none", metavar="LIST", help="vgg, alex, vgg,alex or none (default none)")
    options.add_measuring(parse, chooses_metrics=False, split="test")
    options.add_sampling(parse, is_long=False)
    parse.add_argument("--out", type=Path, metavar="FILE", help="the file of the result (default: results/M-KIND.json, numbered)")
    return parse


def run(args: argparse.Namespace) -> command.Report:
    out = options.place(args.out, f"{options.plain_name(args.model)}-{args.kind}")
    with process_group() as process:
        result = evaluate_completion(
            args.model,
            args.real,
            args.kind,
            given=args.given,
            samples=args.samples,
            num=options.counts_of(args)["num"],
            features=getattr(args, "features", None),
            lpips=[] if args.lpips == "none" else args.lpips.split(","),
            sampling=options.sampling_of(args),
            settings=options.settings_of(args),
        )
        args.json = process.report_file(args.json)
        if process.rank == 0:
            options.show(result, out)
    return result.as_dict() | {"result": str(out)}
