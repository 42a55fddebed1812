"""`scripts/eval.py`: run the part of this name; without a name, distances between real and generated videos."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lvdm.cli import command
from lvdm.cli.evaluate import distances, listing, long, reconstruction, text

PARTS = {
    "compare": listing.compare_command,
    "long": lambda: (long.parser(), long.run),
    "protocols": listing.protocols_command,
    "reconstruction": lambda: (reconstruction.parser(), reconstruction.run),
    "text": lambda: (text.parser(), text.run),
    "weights": listing.weights_command,
}


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in PARTS:
        parse, work = PARTS[words[0]]()
        parse.prog = f"{parse.prog} {words[0]}"
        return command.run(parse, work, words[1:])
    return command.run(distances.parser(), distances.run, words)
