"""`scripts/eval.py reconstruction --model M --real SRC`: how well a model's codec keeps real clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.evaluate import options
from lvdm.evaluation.results.records import require_writable
from lvdm.jobs.evaluate import RECONSTRUCTIONS, evaluate_reconstruction
from lvdm.processes import process_group


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure how well the codec of a model file reconstructs real clips. The file may be that of a diffusion model.\n"
        "psnr_clip uses the error of the whole clip (as PVDM). psnr_frame is the mean over frames, of at most 100 dB each.\n"
        "Both, ssim and lpips use floats that are not rounded to levels. r_fvd is the distance between the clips and their\n"
        "reconstructions as levels. Clips, pixels and extractor are those of the protocol.",
        example="scripts/eval.py reconstruction --model runs/autoencoder_sky/model.safetensors --real data/sky --split test",
    )
    parse.add_argument(
        "--model", type=Path, metavar="M", required=True, help="a model file: an autoencoder, or a diffusion model"
    )
    parse.add_argument("--real", type=Path, metavar="SRC", required=True, help="the real videos, as eval.py takes them")
    parse.add_argument(
        "--protocol", default=RECONSTRUCTIONS, metavar="NAME", help=f"a named protocol, or custom (default {RECONSTRUCTIONS})"
    )
    parse.add_argument("--lpips", default="vgg", metavar="LIST", help="vgg, alex, vgg,alex or none (default vgg)")
    parse.add_argument("--show", type=int, default=4, metavar="N",
                       help="write mp4s of the first N clips above their reconstructions (default 4)")  # fmt: skip
    options.add_measuring(parse, chooses_metrics=False)
    parse.add_argument(
        "--out", type=Path, metavar="FILE", help="the file of the result (default: results/M-reconstruction-PROTOCOL.json)"
    )
    return parse


def run(args: argparse.Namespace) -> command.Report:
    with process_group() as process:
        settings = options.settings_of(args)
        protocol = settings.protocol(args.protocol, getattr(args, "features", None))
        name = f"{options.plain_name(args.model)}-reconstruction-{options.protocol_name(protocol)}.json"
        out = args.out or Path("results") / name
        require_writable(out)  # before hours of measuring
        result = evaluate_reconstruction(
            args.model,
            args.real,
            protocol,
            **options.counts_of(args),
            lpips=[] if args.lpips == "none" else args.lpips.split(","),
            show=args.show,
            show_at=out,
            settings=settings,
        )
        args.json = process.report_file(args.json)
        shown = [str(out.with_suffix(f".clip{number}.mp4")) for number in range(min(args.show, result.num_real))]
        if process.rank == 0:
            options.show(result, out)
            for path in shown:
                print(f"clip above its reconstruction: {path}")
    return result.as_dict() | {"result": str(out), "shown": shown}
