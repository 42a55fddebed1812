"""`scripts/eval.py reconstruction --model M --real SRC`: what is left of real clips that go through a model's codec and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from lvdm.cli import command
from lvdm.cli.evaluate.distances import (
    add_measuring,
    extractor_of,
    open_real,
    plain_name,
    protocol_name,
    protocol_of,
    settings_of,
    tell,
)
from lvdm.cli.sampling_options import FPS_UNKNOWN
from lvdm.evaluation.features import ClipPixels
from lvdm.evaluation.measure import Settings, choose_real, facts_of, measure_real
from lvdm.evaluation.metrics.scores import ScoreOptions, mean_over, paired_distances
from lvdm.evaluation.protocols.manifest import Manifest
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.reconstruction import check_side
from lvdm.evaluation.results.records import require_writable
from lvdm.evaluation.results.result import FakeSource, Result
from lvdm.evaluation.round_trip import RoundTrip, Show, reconstruct
from lvdm.evaluation.sources.videos import Source
from lvdm.jobs.load import load
from lvdm.models.features.extractors import Extractor
from lvdm.models.features.perceptual import TRUNKS, lpips_distance
from lvdm.models.features.weights import sha256_of, weights_folder
from lvdm.processes import Process, as_device, machine, process_group
from lvdm.types import UserError

DEFAULT = "pvdm-fvd2048"
OF_FAKE = ("num_fake", "fake_stride", "fake_clips")  # fields of a protocol that say nothing of reconstructions


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure what is left of real clips that go through the codec of a model file, a diffusion model's too, and back.\n"
        "psnr_clip is of the error of the whole clip (as PVDM), psnr_frame the mean of its frames', of 100 dB at most each;\n"
        "these, ssim and lpips are of floats that are not rounded to levels. r_fvd is the distance of the clips and their\n"
        "reconstructions as levels. Clips, pixels and extractor are those of the protocol.",
        example="scripts/eval.py reconstruction --model runs/autoencoder_sky/model.safetensors --real data/sky --set split=test",
    )
    parse.add_argument("--model", type=Path, metavar="M", required=True, help="a model file: an autoencoder, or any with one")
    parse.add_argument("--real", type=Path, metavar="SRC", required=True, help="the real videos, as eval.py takes them")
    parse.add_argument("--protocol", default=DEFAULT, metavar="NAME", help=f"a named protocol, or custom (default {DEFAULT})")
    parse.add_argument("--lpips", default="vgg", metavar="LIST", help="vgg, alex, vgg,alex or none (default vgg)")
    parse.add_argument("--show", type=int, default=4, metavar="N",
                       help="write the first N clips above their reconstructions, mp4 beside the result (default 4)")  # fmt: skip
    add_measuring(parse, chooses_metrics=False)
    parse.add_argument("--out", type=Path, metavar="FILE", help="the result (default: results/M-reconstruction-PROTOCOL.json)")
    return parse


def run(args: argparse.Namespace) -> command.Report:
    if args.show < 0:
        raise UserError(f"--show is {args.show}; give the number of clips to write, or 0")
    with process_group() as process:
        protocol = _protocol(args)
        out = args.out or Path("results") / f"{plain_name(args.model)}-reconstruction-{protocol_name(protocol)}.json"
        require_writable(out)  # before hours of measuring
        options = ScoreOptions(protocol.metrics, args.bootstrap)
        real = open_real(args, protocol)
        assert real is not None, "every distance looks at real clips"
        model = load(args.model, as_device(args.device), allow=args.allow_module)
        show = Show(out, args.show, (model.settings.fps if model.settings else None) or FPS_UNKNOWN)
        trip = RoundTrip(args.model, model.codec, model.device, _perceptual(args.lpips, model.device), show)
        result, manifest = evaluate(protocol, real, trip, extractor_of(args, protocol), options, settings_of(args))
        args.json = process.report_file(args.json)
        shown = [str(show.file(number)) for number in range(min(args.show, result.num_real))]
        if process.rank == 0:
            tell(result, manifest, out)
            for path in shown:
                print(f"clip above its reconstruction: {path}")
    return result.as_dict() | {"result": str(out), "shown": shown}


def evaluate(
    protocol: EvalProtocol, real: Source, trip: RoundTrip, extractor: Extractor, options: ScoreOptions, settings: Settings
) -> tuple[Result, Manifest]:
    """Every process takes its share and comes to the same result."""
    (clips,), count = choose_real(protocol, real, settings)
    _check_fit(protocol, ClipPixels(real, clips[:1], protocol, "real")[0][0].shape, trip, extractor)
    originals = measure_real(protocol, real, extractor, settings)
    made = reconstruct(trip, real, clips, protocol, extractor, settings)
    of_clips = {name: mean_over(scores, options, over="clips") for name, scores in made.scores.items()}
    result = Result(
        protocol=protocol,
        values=of_clips | paired_distances(protocol, originals.features[0], made.features, options),
        extractor=facts_of(extractor),
        num_real=count,
        num_fake=count,
        fake=FakeSource("reconstruction", f"{trip.path.parent.name}/{trip.path.name}", sha256_of(trip.path)),
        real=originals.source,
        networks={file: sha256_of(weights_folder() / file) for file in _trunks(trip)},
        machine=machine() | {"processes": Process.this().count},
    )
    return result, originals.manifest


# What the arguments say --------------------------------------------------------------------------------------------------


def _protocol(args: argparse.Namespace) -> EvalProtocol:
    """One of real clips; there are as many reconstructions as clips."""
    protocol = protocol_of(args)
    if not protocol.uses_real or "is" in protocol.metrics:
        raise UserError(
            f"{protocol.name} measures {', '.join(protocol.metrics)}; reconstructions need distances alone, such as fvd"
        )
    if protocol.runs > 1:
        raise UserError(f"{protocol.name} has {protocol.runs} runs, and reconstructions are measured in one; give --set runs=1")
    for key in OF_FAKE:
        if getattr(protocol, key) != getattr(PROTOCOLS[protocol.based_on], key):
            raise UserError(f"--set {key} has no effect on reconstructions, which follow the real clips; leave it out")
    return replace(protocol, num_fake=protocol.num_real)


def _perceptual(nets: str, device: torch.device) -> dict[str, nn.Module]:
    """LPIPS distances under the names of their scores."""
    asked = [] if nets == "none" else nets.split(",")
    return {f"lpips_{net}": lpips_distance(net, without="give --lpips none").to(device) for net in asked}


def _trunks(trip: RoundTrip) -> list[str]:
    return [TRUNKS[name.removeprefix("lpips_")] for name in trip.perceptual]


def _check_fit(protocol: EvalProtocol, shape: Sequence[int], trip: RoundTrip, extractor: Extractor) -> None:
    """Whether clips of this shape (t, h, w, c) can go through the codec, and be scored; before anything is measured."""
    frames, height, width, _ = shape
    f_t, f_s = trip.codec.temporal_factor, trip.codec.spatial_factor
    check_side(min(height, width), trip.names)
    if height % f_s or width % f_s:
        near = max(f_s, min(height, width) // f_s * f_s)
        how = f"--set resolution={near}" + (" resize='crop, bilinear'" if protocol.resolution is None else "")
        raise UserError(f"frames of {width} x {height} do not divide into latents of {f_s} x {f_s} pixels; give {how}")
    if frames % f_t:
        least = max(extractor.min_frames, f_t)
        near = frames // f_t * f_t if frames // f_t * f_t >= least else -(-least // f_t) * f_t
        raise UserError(f"clips of {frames} frames do not divide into latents of {f_t} frames; give --set frames={near}")
