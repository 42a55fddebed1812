"""`scripts/eval.py --real SRC --fake SRC --protocol NAME`: FVD, KVD and IS of generated videos, in a way that can be repeated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from lvdm.cli import command
from lvdm.evaluation.measure import Settings, evaluate
from lvdm.evaluation.metrics.scores import ScoreOptions
from lvdm.evaluation.protocols.manifest import Manifest, write_manifest
from lvdm.evaluation.protocols.named import changed_protocol
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.records import require_writable
from lvdm.evaluation.results.report import table_line
from lvdm.evaluation.results.result import Result, write_result
from lvdm.evaluation.sources.model import ModelSource, Sampling
from lvdm.evaluation.sources.videos import Source, open_source
from lvdm.jobs.load import load
from lvdm.models.features.extractors import EXTRACTORS, Extractor, make_extractor
from lvdm.processes import as_device, process_group
from lvdm.types import UserError

OF_MODEL = ("infill", "sampler", "steps", "eta", "guidance", "seed", "sample_batch", "condition_noise", "gap_noise", "overlap",
            "key_stride", "gap_steps", "gap_batch", "lead_in")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure generated videos by a named protocol; `eval.py protocols` lists them. The result is a JSON with all that\n"
        "the number depends on, and beside it the manifest of the real clips. SRC is a folder of videos or of folders of\n"
        "images, an npy or npz of uint8 (n, t, h, w, 3), the YAML of a training's data, or, for --fake, a model file,\n"
        "which is sampled from. Of generated videos the first ones are taken, in the order of their names.\n"
        "Further: eval.py reconstruction, long, text, compare, protocols, weights; each has --help.",
        example="scripts/eval.py --real data/sky --fake runs/short_sky/model.safetensors --protocol styleganv-fvd2048-16f",
    )
    parse.add_argument("--real", type=Path, metavar="SRC", help="the real videos; left out where no metric looks at them (IS)")
    parse.add_argument("--fake", type=Path, metavar="SRC", required=True, help="the generated videos, or a model to make them")
    parse.add_argument("--protocol", required=True, metavar="NAME", help="a named protocol, or custom, with --set")
    add_measuring(parse)
    add_sampling(parse)
    parse.add_argument("--out", type=Path, metavar="FILE", help="the result (default: results/FAKE-PROTOCOL.json)")
    return parse


def add_measuring(parse: argparse.ArgumentParser, *, chooses_metrics: bool = True) -> None:
    """`chooses_metrics`: whether the protocol's metrics are all there is to measure, and can be left out or extrapolated."""
    group = parse.add_argument_group("measuring")
    if chooses_metrics:
        group.add_argument("--metrics", metavar="LIST", help="only these of the protocol's, such as fvd,kvd")
        group.add_argument("--extrapolate", action="store_true", help="also FVD at infinitely many clips, free of bias")
    group.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
                       help="change the protocol, which then is called custom: frames=32 split=train+test ...")  # fmt: skip
    group.add_argument("--features", metavar="NAME", help=f"random, which needs no weights and is not comparable; or one of "
                       f"{', '.join(EXTRACTORS)}")  # fmt: skip
    group.add_argument("--feature-width", type=float, default=1.0, metavar="W", help="of random ones: a fraction of the channels")
    group.add_argument("--feature-seed", type=int, default=0, metavar="K", help="of random ones (default 0)")
    group.add_argument("--allow-fewer", nargs="?", type=int, const=0, metavar="N",
                       help="measure on fewer clips than the protocol takes, at most N of each; renames the metric")  # fmt: skip
    group.add_argument("--replay", type=Path, metavar="MANIFEST", help="take just these real clips, and check their pixels")
    group.add_argument("--bootstrap", type=int, default=0, metavar="N", help="95 %% intervals from N resamples")
    group.add_argument("--batch-size", type=int, default=8, metavar="B", help="clips that are read at once (default 8)")
    group.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read videos (default 0)")
    group.add_argument("--no-cache", action="store_true", help="neither take nor keep features of real clips (LVDM_CACHE)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    command.add_allow_module(group)


def add_sampling(parse: argparse.ArgumentParser, *, is_long: bool = True) -> None:
    """`is_long`: whether videos may be longer than the model's window."""
    group = parse.add_argument_group("a model as --fake (the model file says what is best for it)")
    if is_long:
        group.add_argument("--infill", type=Path, metavar="MODEL", help="fills gaps of clips longer than the model's window")
    group.add_argument("--sampler", metavar="NAME", help="ddim, ddpm or dpmpp")
    group.add_argument("--steps", type=int, help="sampling steps")
    group.add_argument("--eta", type=float, help="randomness of ddim's steps, 0 to 1")
    against = "of long videos, against the pass that is given no frames" if is_long else "against the empty prompt"
    group.add_argument("--guidance", type=float, metavar="W", help=against)
    group.add_argument("--seed", type=int, default=0, help="video i of a seed is always the same (default 0)")
    group.add_argument("--sample-batch", type=int, metavar="B", help="videos made at once")


def run(args: argparse.Namespace) -> command.Report:
    with process_group() as process:
        protocol = protocol_of(args)
        out = args.out or Path("results") / f"{plain_name(args.fake)}-{protocol_name(protocol)}.json"
        require_writable(out)  # before hours of measuring
        options = ScoreOptions(metrics_of(args, protocol), args.bootstrap, args.extrapolate)
        options.check(protocol)
        real, fake = open_real(args, protocol), open_fake(args, protocol)
        extractor = extractor_of(args, protocol)
        result, manifest = evaluate(protocol, real, fake, extractor, options, settings_of(args))
        args.json = process.report_file(args.json)
        report = result.as_dict()
        if process.rank == 0:
            tell(result, manifest, out)
            report["result"] = str(out)
    return report


def tell(result: Result, manifest: Manifest | None, out: Path) -> None:
    """The files, and the lines to look at."""
    if manifest is not None:  # first: a result that is there is complete
        write_manifest(out.with_suffix(".manifest.jsonl"), manifest)
    write_result(out, result)
    line = table_line(result, result.fake.name)
    print(f"| {' | '.join(line.columns)} |\n|{'---|' * len(line.columns)}\n{line.markdown}\n{line.latex}")
    for warning in result.warnings:
        print(f"note: {warning}")
    print(f"result: {out}")


# What the arguments say --------------------------------------------------------------------------------------------------


def protocol_of(args: argparse.Namespace) -> EvalProtocol:
    """The named one, with what --set and --features change."""
    return changed_protocol(args.protocol, dict(map(_setting, args.overrides)), args.features)


def _setting(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"--set {word}: expected KEY=VALUE, such as frames=32")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {word}: the value is no YAML; expected such as frames=32 or metrics=[fvd,kvd]") from error


def settings_of(args: argparse.Namespace) -> Settings:
    return Settings(args.batch_size, args.workers, args.allow_fewer, args.replay, is_cached=not args.no_cache)


def metrics_of(args: argparse.Namespace, protocol: EvalProtocol) -> tuple[str, ...]:
    return protocol.metrics if args.metrics is None else tuple(args.metrics.split(","))


def open_real(args: argparse.Namespace, protocol: EvalProtocol) -> Source | None:
    if args.real is None and protocol.uses_real:
        raise UserError(f"{protocol.name} compares with real videos; give --real SRC")
    if not protocol.uses_real:
        if args.real is not None or args.replay is not None:
            raise UserError(f"{protocol.name} looks at no real videos; leave --real and --replay out")
        return None
    return open_source(args.real, split=protocol.split, allow=args.allow_module)


def open_fake(args: argparse.Namespace, protocol: EvalProtocol) -> Source | ModelSource:
    if args.fake.suffix != ".safetensors":
        refuse_sampling(args, parser())
        return open_source(args.fake, split=protocol.split, allow=args.allow_module)
    device = as_device(args.device)
    model = load(args.fake, device, allow=args.allow_module)
    infill = None if args.infill is None else load(args.infill, device, allow=args.allow_module)
    how = Sampling(args.sampler, args.steps, args.eta, args.guidance, args.seed, args.sample_batch)
    source = ModelSource(args.fake, model, how, infill)
    source.check(protocol)
    return source


def refuse_sampling(args: argparse.Namespace, parse: argparse.ArgumentParser) -> None:
    """Options of a model are none of files."""
    command.refuse_idle(args, parse, OF_MODEL, "on videos that are there already; leave it out or give a model as --fake")


def extractor_of(args: argparse.Namespace, protocol: EvalProtocol) -> Extractor:
    return make_extractor(protocol.extractor, device=as_device(args.device), seed=args.feature_seed, width=args.feature_width)


def plain_name(path: Path) -> str:
    """runs/short/model.safetensors -> short; videos.npz -> videos."""
    return path.resolve().parent.name if path.name == "model.safetensors" else path.resolve().stem


def protocol_name(protocol: EvalProtocol) -> str:
    """tats, or tats-custom, which never takes the place of a result of tats."""
    return protocol.based_on + ("" if protocol.based_on == protocol.name else "-custom")
