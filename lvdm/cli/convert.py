"""`scripts/convert.py`: a published checkpoint to the model file that every command of lvdm reads."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lvdm.cli import command
from lvdm.jobs.convert import FAMILIES, convert


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Convert a published checkpoint to a model file. No code in the checkpoint runs. Only the tensors that the config's\n"
        "networks need are used; --json FILE lists the others.",
        example="python scripts/convert.py --from lvdm sky.ckpt --config configs/lvdm/short_sky.yaml --out sky.safetensors",
    )
    parse.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a published checkpoint, or one trained with the published code"
    )
    parse.add_argument(
        "--from", dest="family", choices=list(FAMILIES), required=True, help="the code that the checkpoint is from"
    )
    help_ = "lvdm's config of the same model, then key=value overrides"
    parse.add_argument("--config", nargs="+", required=True, metavar="CONFIG", help=help_)
    parse.add_argument("--out", type=Path, required=True, metavar="MODEL", help="the model file to write")
    help_ = "use the autoencoder of this checkpoint instead; a diffusion model of PVDM needs it"
    parse.add_argument("--autoencoder", type=Path, metavar="CHECKPOINT", help=help_)
    parse.add_argument("--raw", action="store_true", help="use the weights of the last step instead of the averaged ones")
    parse.add_argument("--force", action="store_true", help="replace an existing model file")
    command.add_allow_module(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    files, overrides = command.config_of(args.config)
    options = {"family": args.family, "autoencoder": args.autoencoder, "raw": args.raw, "force": args.force}
    made = convert(args.checkpoint, config=files, overrides=overrides, out=args.out, **options, allow=args.allow_module)
    print(f"{made.out}: {made.kind}, {made.parameters / 1e6:.1f} M parameters in {made.tensors} tensors")
    if groups := Counter(name.split(".")[0] for name in made.left_out):
        print("left out: " + ", ".join(f"{name} ({count})" for name, count in groups.items()))
    return asdict(made)
