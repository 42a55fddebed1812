"""`scripts/eval.py text --fake SRC --prompts FILE`: how well videos show what their prompts say, by CLIP."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lvdm.cli import command
from lvdm.cli.evaluate.distances import add_sampling, plain_name, refuse_sampling
from lvdm.cli.sample_short import prompts_of
from lvdm.evaluation.metrics.scores import ScoreOptions, mean_over
from lvdm.evaluation.results.records import require_writable
from lvdm.evaluation.results.report import table_line
from lvdm.evaluation.results.result import ExtractorFacts, write_result
from lvdm.evaluation.results.text_result import TextResult, prompts_sha256
from lvdm.evaluation.sources.model import Sampling
from lvdm.evaluation.sources.prompted import Prompted, PromptedModel, open_prompted, similarities, spread
from lvdm.jobs.load import load
from lvdm.models.features.clip import FOLDER, ClipSimilarity
from lvdm.processes import Process, as_device, machine, process_group
from lvdm.types import UserError


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure how well videos show what their prompts say: the cosine between CLIP's features of the prompt and of a frame,\n"
        "the mean over all frames of a video. SRC is a folder of videos, or of folders of images, an npy or npz of uint8\n"
        "(n, t, h, w, 3), or a text-to-video model, which is sampled from. Without --prompts the captions of a folder's\n"
        "metadata.jsonl are taken.",
        example="scripts/eval.py text --fake runs/text2video/model.safetensors --prompts prompts.txt --guidance 7",
    )
    parse.add_argument("--fake", type=Path, metavar="SRC", required=True, help="the videos, or a model to make them")
    parse.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt a line, in the order of the videos' names")
    parse.add_argument("--num", type=int, metavar="N",
                       help="videos of each prompt, one after the other as sample_short writes them (default 1)")  # fmt: skip
    parse.add_argument("--out", type=Path, metavar="FILE", help="the result (default: results/FAKE-text.json)")
    group = parse.add_argument_group("measuring")
    group.add_argument("--clip", type=Path, metavar="DIR", help=f"the folder of a CLIP (default: LVDM_WEIGHTS/{FOLDER})")
    group.add_argument("--bootstrap", type=int, default=0, metavar="N", help="95 %% intervals from N resamples")
    group.add_argument("--batch-size", type=int, default=32, metavar="B", help="frames through CLIP at once (default 32)")
    group.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read videos (default 0)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    command.add_allow_module(group)
    add_sampling(parse, is_long=False)
    return parse


def run(args: argparse.Namespace) -> command.Report:
    if args.batch_size < 1 or args.workers < 0:
        counts = f"{args.batch_size} frames at once and {args.workers} workers"
        raise UserError(f"{counts} were asked for; give at least 1 frame at once, and no workers below 0")
    out = args.out or Path("results") / f"{plain_name(args.fake)}-text.json"
    require_writable(out)  # before hours of measuring
    with process_group() as process:
        device = as_device(args.device)
        similarity = ClipSimilarity(args.clip, device=device, frames_at_once=args.batch_size)
        videos = _videos(args, device)
        scores, frames = similarities(videos, similarity)
        name = f"clip_similarity_{similarity.name.removeprefix('clip ').removeprefix('clip-')}"
        result = TextResult(
            values={name: mean_over(scores, ScoreOptions((), args.bootstrap), over="videos")},
            network=_facts_of(similarity),
            num_videos=len(scores),
            frames=(min(frames), max(frames)),
            prompts_sha256=prompts_sha256(videos.prompts),
            fake=videos.facts(),
            machine=machine() | {"processes": Process.this().count},
        )
        args.json = process.report_file(args.json)
        if process.rank == 0:
            _tell(result, out)
    return result.as_dict() | {"result": str(out)}


def _tell(result: TextResult, out: Path) -> None:
    write_result(out, result)
    line = table_line(result, result.fake.name)
    print(f"| {' | '.join(line.columns)} |\n|{'---|' * len(line.columns)}\n{line.markdown}\n{line.latex}\nresult: {out}")


def _videos(args: argparse.Namespace, device: torch.device) -> Prompted:
    prompts = [] if args.prompts is None else prompts_of(args.prompts)
    if args.num is not None and not prompts:
        raise UserError("--num counts the videos of each prompt, and captions have one; leave it out or give --prompts")
    if args.fake.suffix != ".safetensors":
        refuse_sampling(args, parser())
        return open_prompted(args.fake, prompts, each=args.num, workers=args.workers)
    if not prompts:
        raise UserError(f"{args.fake} makes videos of prompts; give them by --prompts, one a line")
    if args.workers:
        raise UserError("--workers read videos, and those of a model are not read; leave it out")
    model = load(args.fake, device, allow=args.allow_module)
    model.trained_settings()  # an autoencoder makes no videos
    if model.text_encoder is None:
        raise UserError(f"{args.fake} has no text encoder to read a prompt; give a text-to-video model, or videos")
    how = Sampling(args.sampler, args.steps, args.eta, args.guidance, args.seed, args.sample_batch)
    return PromptedModel(args.fake, model, model.text_encoder, how, spread(prompts, 1 if args.num is None else args.num))


def _facts_of(similarity: ClipSimilarity) -> ExtractorFacts:
    folder, dim = similarity.name.removeprefix("clip "), similarity.model.config.projection_dim
    return ExtractorFacts(similarity.name, dim, is_comparable=True, weights=folder, sha256=similarity.sha256)
