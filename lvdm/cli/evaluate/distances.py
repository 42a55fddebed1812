"""`scripts/eval.py --real SRC --fake SRC --protocol NAME`: FVD, KVD and IS of generated videos, in a way that can be repeated."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.evaluate import options
from lvdm.jobs.evaluate import evaluate, is_model
from lvdm.processes import process_group


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure generated videos by a named protocol; `eval.py protocols` lists them. The result is a JSON with all that\n"
        "the number depends on. Next to it is the manifest of the real clips. SRC is a folder of videos or of folders of\n"
        "images, an npy or npz of uint8 (n, t, h, w, 3), or the YAML of a training's data. --fake may also be a model file,\n"
        "which is sampled from. The first generated videos are used, in the order of their names.\n"
        "Others: eval.py reconstruction, completion, statistics, long, text, compare, protocols, weights; each has --help.",
        example="scripts/eval.py --real data/sky --fake runs/short_sky/model.safetensors --protocol styleganv-fvd2048-16f",
    )
    parse.add_argument("--real", type=Path, metavar="SRC", help="the real videos, or statistics of them; not needed for IS")
    parse.add_argument("--fake", type=Path, metavar="SRC", required=True, help="the generated videos, or a model to sample from")
    parse.add_argument(
        "--protocol",
        required=True,
        metavar="NAME",
        help="a named protocol; custom, with --set; or one of your own, as mypackage.NAME",
    )
    options.add_measuring(parse)
    options.add_sampling(parse)
    parse.add_argument(
        "--out", type=Path, metavar="FILE", help="the file of the result (default: results/FAKE-PROTOCOL.json, numbered)"
    )
    return parse


def run(args: argparse.Namespace) -> command.Report:
    if not is_model(args.fake):
        options.refuse(args, parser(), options.OF_MODEL, options.ON_FILES)
    with process_group() as process:
        settings = options.settings_of(args)
        protocol = settings.protocol(args.protocol, getattr(args, "features", None))
        out = options.place(args.out, f"{options.plain_name(args.fake)}-{options.protocol_name(protocol)}")
        result = evaluate(
            args.real,
            args.fake,
            protocol,
            metrics=getattr(args, "metrics", None),
            **options.counts_of(args),
            infill=getattr(args, "infill", None),
            sampling=options.sampling_of(args),
            settings=settings,
        )
        args.json = process.report_file(args.json)
        report = result.as_dict()
        if process.rank == 0:
            options.show(result, out)
            report["result"] = str(out)
    return report
