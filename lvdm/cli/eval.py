"""`scripts/eval.py`: run the part of this name; without a name, distances between real and generated videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lvdm.cli import command
from lvdm.cli.evaluate import completion, distances, listing, long, reconstruction, statistics, text
from lvdm.cli.evaluate.options import with_flags
from lvdm.types import UserError

PARTS = {
    "completion": lambda: (completion.parser(), completion.run),
    "compare": listing.compare_command,
    "long": lambda: (long.parser(), long.run),
    "protocols": listing.protocols_command,
    "reconstruction": lambda: (reconstruction.parser(), reconstruction.run),
    "statistics": lambda: (statistics.parser(), statistics.run),
    "text": lambda: (text.parser(), text.run),
    "weights": listing.weights_command,
}


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    is_named = bool(words) and words[0] in PARTS
    parse, work = PARTS[words[0]]() if is_named else (distances.parser(), distances.run)
    if is_named:
        parse.prog = f"{parse.prog} {words[0]}"

    def run(args: argparse.Namespace) -> command.Report:
        try:
            return work(args)
        except UserError as error:
            raise UserError(with_flags(str(error), parse)) from error

    return command.run(parse, run, words[1:] if is_named else words)
