"""What the parts of `scripts/eval.py` share: options that are read into records, refusals by flags, a printed result."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from lvdm.cli import command
from lvdm.cli.sampling_options import SAMPLER, WITH_ETA
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.records import require_writable
from lvdm.evaluation.results.report import table_line
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.model import Sampling
from lvdm.jobs.evaluate import EvalSettings
from lvdm.models.features.extractors import EXTRACTORS
from lvdm.types import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
OF_MODEL = ("infill", "sampler", "steps", "eta", "guidance", "seed", "sample_batch")
ON_FILES = "on videos that are there already; leave it out or give a model as --fake"
FLAGS = (  # what the library says, and the flag for it
    ("change the protocol to ", "give --set "),
    ("take random features", "take --features random"),
    ("weights of your own", "--weights FILE"),
    ("allow fewer", "give --allow-fewer"),
    ("leave LPIPS out", "give --lpips none"),
    ("give overwrite=True", "give --overwrite"),
    ("allow its package by name", "allow its package by --allow-module NAME"),
)


def add_measuring(parse: argparse.ArgumentParser, *, chooses_metrics: bool = True, split: str = "train") -> None:
    """Add how clips are measured; with `chooses_metrics`, some of the protocol's metrics can be left out or extrapolated.

    `split` is the default of the split, as --help has it.
    """
    group = parse.add_argument_group("measuring", argument_default=argparse.SUPPRESS)
    if chooses_metrics:
        group.add_argument(
            "--metrics", metavar="LIST", type=_words, help="measure only these metrics of the protocol, such as fvd,kvd"
        )
        group.add_argument("--extrapolate", action="store_true", help="also measure FVD at infinitely many clips, free of bias")
    group.add_argument("--split", metavar="PART", help=f"part of the real data: train, test or train+test (default {split}; "
                       "a folder without parts is then measured whole)")  # fmt: skip
    group.add_argument("--set", nargs="+", action="extend", metavar="KEY=VALUE", dest="changes",
                       help="change fields of the protocol, then called custom: frames=32 stride=2 ...")  # fmt: skip
    group.add_argument("--features", metavar="NAME", help="random (no weights, not comparable), one of "
                       f"{', '.join(EXTRACTORS)}, one of your own, as mypackage.MyExtractor, or a YAML of one")  # fmt: skip
    group.add_argument("--weights", nargs="+", type=Path, metavar="FILE",
                       help="weights of your own for the network; the result has their sha256 and is not comparable")  # fmt: skip
    group.add_argument("--feature-width", type=float, metavar="W", help="width of random features, a fraction of the channels")
    group.add_argument("--feature-seed", type=int, metavar="K", help="seed of random features (default 0)")
    group.add_argument("--allow-fewer", nargs="?", type=int, const=0, metavar="N", dest="fewer",
                       help="measure on fewer clips than the protocol takes, at most N of each; renames the metric")  # fmt: skip
    group.add_argument("--replay", type=Path, metavar="MANIFEST", help="use exactly these real clips, and check their pixels")
    group.add_argument("--bootstrap", type=int, metavar="N", help="95 %% intervals from N resamples")
    group.add_argument("--batch-size", type=int, metavar="B", help="clips read at once (default 8)")
    group.add_argument("--workers", type=int, metavar="N", help="processes that read videos (default 0)")
    group.add_argument("--no-cache", action="store_false", dest="is_cached",
                       help="neither read nor write cached features of real clips (LVDM_CACHE)")  # fmt: skip
    group.add_argument("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    command.add_allow_module(group)


def add_sampling(parse: argparse.ArgumentParser, *, is_long: bool = True) -> None:
    """Add how a model samples; with `is_long`, videos may be longer than the model's window."""
    group = parse.add_argument_group("a model as --fake (defaults are in the model file)", argument_default=argparse.SUPPRESS)
    if is_long:
        group.add_argument(
            "--infill", type=Path, metavar="MODEL", help="the model that fills gaps of clips longer than the window of --fake"
        )
    group.add_argument("--sampler", metavar="NAME", help=SAMPLER)
    group.add_argument("--steps", type=int, help="number of sampling steps")
    group.add_argument("--eta", type=float, help=f"eta of {', '.join(WITH_ETA)}, 0 (deterministic) to 1")
    against = f"weight of guidance {'for long videos, against no given frames' if is_long else 'against the empty prompt'}"
    group.add_argument("--guidance", type=float, metavar="W", help=against)
    group.add_argument("--seed", type=int, help="seed; video i of a seed is always the same (default 0)")
    group.add_argument("--sample-batch", type=int, metavar="B", help="videos sampled at once")


def read(kind: type[Record], args: argparse.Namespace, **others: Any) -> Record:
    """Return a record of the options that were given; the others keep the record's own defaults."""
    return kind(**{f.name: getattr(args, f.name) for f in fields(kind) if hasattr(args, f.name)} | others)


def settings_of(args: argparse.Namespace) -> EvalSettings:
    """Return how clips are measured."""
    changes = dict(map(_change, getattr(args, "changes", [])))
    return read(EvalSettings, args, changes=changes, allow=tuple(args.allow_module))


def counts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return how many clips are measured: --allow-fewer N takes at most N, --allow-fewer all there are."""
    fewer = getattr(args, "fewer", None)
    return {"num": fewer or None, "allow_fewer": fewer is not None}


def sampling_of(args: argparse.Namespace) -> Sampling | None:
    """Return how a model samples, or None if nothing was given."""
    how = read(Sampling, args, batch_size=getattr(args, "sample_batch", None))
    return None if how == Sampling() else how


def refuse(args: argparse.Namespace, parse: argparse.ArgumentParser, options: Sequence[str], why: str) -> None:
    """Refuse those of these options that were given but have no effect."""
    for action in parse._actions:
        if action.dest in options and getattr(args, action.dest, action.default) != action.default:
            raise UserError(f"{action.option_strings[0]} has no effect {why}")


def with_flags(message: str, parse: argparse.ArgumentParser) -> str:
    """Return the library's message with the names of flags instead of those of arguments."""
    for words, flag in FLAGS:
        message = message.replace(words, flag)
    names = {action.dest: action.option_strings[0] for action in parse._actions if action.option_strings}
    return re.sub(r"^(\w+)(?= is | has | has no effect | counts | read )", lambda found: names.get(found[1], found[1]), message)


def show(result: Result, out: Path) -> None:
    """Save a result, and print the lines to look at."""
    result.save(out)
    line = table_line(result, result.fake.name)
    print(f"| {' | '.join(line.columns)} |\n|{'---|' * len(line.columns)}\n{line.markdown}\n{line.latex}")
    for warning in result.warnings:
        print(f"note: {warning}")
    print(f"result: {out}")


def place(out: Path | None, name: str) -> Path:
    """Return the file of a result, `out` or the first of results/NAME.json, results/NAME-2.json and so on that does not exist."""
    numbered = (Path("results") / f"{name}{'' if number == 1 else f'-{number}'}.json" for number in itertools.count(1))
    file = next(path for path in numbered if not path.exists()) if out is None else out
    require_writable(file)  # before hours of measuring
    return file


def plain_name(path: Path) -> str:
    """Return a name for files: runs/short/model.safetensors -> short; videos.npz -> videos."""
    return path.resolve().parent.name if path.name == "model.safetensors" else path.resolve().stem


def protocol_name(protocol: EvalProtocol) -> str:
    """Return tats, or tats-custom, which never takes the place of a result of tats."""
    return protocol.based_on + ("" if protocol.based_on == protocol.name else "-custom")


def _words(text: str) -> list[str]:
    return text.split(",")


def _change(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"--set {word}: expected KEY=VALUE, such as frames=32")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {word}: the value is no YAML; expected such as frames=32 or metrics=[fvd,kvd]") from error
