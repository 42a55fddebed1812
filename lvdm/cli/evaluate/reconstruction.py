"""`scripts/eval.py reconstruction --model M --real SRC`: how well a model's codec keeps real clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.evaluate import options
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.splits import PARTS
from lvdm.jobs.evaluate_reconstruction import PROTOCOL, evaluate_reconstruction
from lvdm.processes import process_group


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure how well the codec of a model file reconstructs real clips. The file may be that of a diffusion model.\n"
        "psnr_clip uses the error of the whole clip (as PVDM). psnr_frame is the mean over frames, of at most 100 dB each.\n"
        "Both, ssim and lpips use floats that are not rounded to levels. r_fvd is the distance between the clips and their\n"
        "reconstructions as levels. Without --protocol, all clips of the held-out split are measured (at most 2,048), at the\n"
        "model's own size. PSNR and SSIM need no weights; LPIPS and R-FVD are left out if their networks are missing.",
        example="scripts/eval.py reconstruction --model runs/autoencoder_sky/model.safetensors --real data/sky",
    )
    parse.add_argument(
        "--model", type=Path, metavar="M", required=True, help="a model file: an autoencoder, or a diffusion model"
    )
    parse.add_argument("--real", type=Path, metavar="SRC", required=True, help="the real videos, as eval.py takes them")
    parse.add_argument(
        "--protocol", metavar="NAME", help=f"a named protocol, or custom (default: {PROTOCOL} on the test split, at the own size)"
    )
    parse.add_argument("--lpips", metavar="LIST", help="vgg, alex, vgg,alex or none (default: vgg if its weights are there)")
    parse.add_argument("--show", type=int, default=4, metavar="N",
                       help="write mp4s of the first N clips above their reconstructions (default 4)")  # fmt: skip
    options.add_measuring(parse, chooses_metrics=False, split="test, with --protocol train")
    parse.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the file of the result (default: results/M-reconstruction-PROTOCOL.json, numbered)",
    )
    return parse


LPIPS: dict[str | None, list[str] | None] = {None: None, "none": []}


def _clips(result: Result) -> str:
    """Return which clips were measured, for a sentence."""
    protocol = result.protocol
    assert protocol is not None, "clips have a protocol"
    side = "their own size" if protocol.resolution is None else f"{protocol.resolution} x {protocol.resolution} pixels"
    split = None if result.real is None else result.real.split
    part = "no split" if split is None else f"split {split}" if split in PARTS else split
    return f"{result.num_real} clips of {protocol.frames} frames, {part}, {side}"


def run(args: argparse.Namespace) -> command.Report:
    with process_group() as process:
        settings = options.settings_of(args)
        features = getattr(args, "features", None)
        of_protocol = f"{PROTOCOL}-custom"  # by default
        if args.protocol is not None:
            of_protocol = options.protocol_name(settings.protocol(args.protocol, features))
        out = options.place(args.out, f"{options.plain_name(args.model)}-reconstruction-{of_protocol}")
        result = evaluate_reconstruction(
            args.model,
            args.real,
            args.protocol,
            **options.counts_of(args),
            features=features,
            lpips=LPIPS.get(args.lpips, str(args.lpips).split(",")),
            show=args.show,
            show_at=out,
            settings=settings,
        )
        args.json = process.report_file(args.json)
        shown = [str(out.with_suffix(f".clip{number}.mp4")) for number in range(min(args.show, result.num_real))]
        if process.rank == 0:
            options.show(result, out)
            print(f"measured: {_clips(result)}")
            for path in shown:
                print(f"clip above its reconstruction: {path}")
    return result.as_dict() | {"result": str(out), "shown": shown}
