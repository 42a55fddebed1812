"""`scripts/eval.py compare A B`, `protocols` and `weights`: what is read and shown; nothing is measured."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lvdm.cli import command
from lvdm.config import import_packages
from lvdm.evaluation.extensions import protocol_name
from lvdm.evaluation.protocols.named import PROTOCOLS, get_protocol
from lvdm.evaluation.results.report import compare
from lvdm.evaluation.results.result import read_result
from lvdm.models.features.weights import KNOWN, weights_folder

Part = tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], command.Report]]


def compare_command() -> Part:
    parse = command.parser(
        "Compare two results of one protocol. Results of different conditions are refused, and the differences are named.",
        example="scripts/eval.py compare results/before.json results/after.json",
    )
    parse.add_argument("a", type=Path, metavar="A.json")
    parse.add_argument("b", type=Path, metavar="B.json")
    command.add_allow_module(parse)
    return parse, _compare


def _compare(args: argparse.Namespace) -> command.Report:
    import_packages(args.allow_module)
    found = compare(read_result(args.a), read_result(args.b))
    for metric, each in found.items():
        within = "" if each.interval is None else f" [{each.interval[0]:+.4g}, {each.interval[1]:+.4g}] ({each.level:.0%})"
        print(f"{metric}: {each.a:.6g} and {each.b:.6g}, difference {each.difference:+.4g}{within}")
    return {"a": str(args.a), "b": str(args.b), "differences": {metric: asdict(each) for metric, each in found.items()}}


def protocols_command() -> Part:
    parse = command.parser("List the named protocols, or show all of one.", example="scripts/eval.py protocols lvdm-fvd2048")
    parse.add_argument("name", nargs="?", help="the protocol to show")
    command.add_allow_module(parse)
    return parse, _protocols


def _protocols(args: argparse.Namespace) -> command.Report:
    import_packages(args.allow_module)
    if args.name is None:
        for protocol in PROTOCOLS.values():
            print(protocol.label())
        return {"protocols": [protocol.as_dict() for protocol in PROTOCOLS.values()]}
    found = get_protocol(protocol_name(args.name, args.allow_module)).as_dict()
    for key, value in found.items():
        print(textwrap.fill(f"{key:<14}{value}", width=120, subsequent_indent=" " * 14))
    return {"protocols": [found]}


def weights_command() -> Part:
    return command.parser(
        "List the published weights, and which of them exist here.", example="scripts/eval.py weights"
    ), _weights


def _weights(args: argparse.Namespace) -> command.Report:
    folder = weights_folder()
    there = {name: (folder / name).is_file() for name in KNOWN}
    print(f"{folder} (LVDM_WEIGHTS)")
    for name, known in KNOWN.items():
        print(f"  {'there  ' if there[name] else 'missing'}  {name}: {known.what}\n           {known.sources}")
    return {"folder": str(folder), "there": there}
