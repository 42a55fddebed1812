"""`scripts/eval.py text --fake SRC --prompts FILE`: how well videos show what their prompts say, by CLIP."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvdm.cli import command
from lvdm.cli.evaluate import options
from lvdm.cli.sample_short import prompts_of
from lvdm.jobs.evaluate import is_model
from lvdm.jobs.evaluate_text import evaluate_text
from lvdm.models.features.clip_similarity import FOLDER
from lvdm.processes import process_group


def parser() -> argparse.ArgumentParser:
    parse = command.parser(
        "Measure how well videos match their prompts: the cosine between CLIP's features of the prompt and of a frame, as the\n"
        "mean over all frames of a video. SRC is a folder of videos or of folders of images, an npy or npz of uint8\n"
        "(n, t, h, w, 3), or a text-to-video model, which is sampled from. Without --prompts the captions of a folder's\n"
        "metadata.jsonl are used.",
        example="scripts/eval.py text --fake runs/text2video/model.safetensors --prompts prompts.txt --guidance 7",
    )
    parse.add_argument("--fake", type=Path, metavar="SRC", required=True, help="the videos, or a model to sample from")
    parse.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a file with one prompt a line, in the order of the videos' names"
    )
    parse.add_argument("--num", type=int, metavar="N",
                       help="videos of each prompt, one after the other, as sample_short writes them (default 1)")  # fmt: skip
    parse.add_argument(
        "--out", type=Path, metavar="FILE", help="the file of the result (default: results/FAKE-text.json, numbered)"
    )
    group = parse.add_argument_group("measuring")
    group.add_argument("--clip", type=Path, metavar="DIR", help=f"the folder of a CLIP model (default: LVDM_WEIGHTS/{FOLDER})")
    group.add_argument("--bootstrap", type=int, default=0, metavar="N", help="95 %% intervals from N resamples")
    group.add_argument("--batch-size", type=int, default=32, metavar="B", help="frames through CLIP at once (default 32)")
    group.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read videos (default 0)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    command.add_allow_module(group)
    options.add_sampling(parse, is_long=False)
    return parse


def run(args: argparse.Namespace) -> command.Report:
    if not is_model(args.fake):
        options.refuse(args, parser(), options.OF_MODEL, options.ON_FILES)
    out = options.place(args.out, f"{options.plain_name(args.fake)}-text")
    with process_group() as process:
        result = evaluate_text(
            args.fake,
            [] if args.prompts is None else prompts_of(args.prompts),
            num=args.num,
            clip=args.clip,
            bootstrap=args.bootstrap,
            batch_size=args.batch_size,
            workers=args.workers,
            sampling=options.sampling_of(args),
            device=args.device,
            allow=tuple(args.allow_module),
        )
        args.json = process.report_file(args.json)
        if process.rank == 0:
            options.show(result, out)
    return result.as_dict() | {"result": str(out)}
