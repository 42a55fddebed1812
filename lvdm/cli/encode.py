"""`scripts/encode.py CONFIG`: encode the videos of a config once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lvdm.cli import command
from lvdm.jobs.encode import encode_config
from lvdm.processes import Process


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Encode the videos of a config to latents, once. An interrupted run is resumed.\n"
        "Several processes (torchrun, srun) share the work.",
        example="scripts/encode.py configs/lvdm/encode_toy.yaml codec_weights=runs/autoencoder_toy/model.safetensors",
    )
    command.add_config(parse)
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(parser(), work, argv)


def work(args: argparse.Namespace) -> command.Report:
    args.json = Process.this().report_file(args.json)
    reports = encode_config(*command.config_of(args.config), allow=args.allow_module)
    for name, report in reports.items():
        print(f"{name}: {report.videos} {report.unit} encoded into {report.out}")
    return {
        **{"out": report.out.parent, "codec": report.codec_fingerprint},
        **({} if report.text_fingerprint is None else {"text_encoder": report.text_fingerprint}),
        **{name: {"videos": each.videos, "seconds": each.seconds} for name, each in reports.items()},
    }
