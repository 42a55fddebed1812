"""What the commands that sample share: their options, the model, this process's share of the videos, where files go."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from lvdm.checkpoints.model_file import content_hash
from lvdm.cli import command
from lvdm.files import HASH, hash_file, with_hashes
from lvdm.jobs.load import load
from lvdm.processes import Process, as_device
from lvdm.sampling.output import Output
from lvdm.sampling.pipeline import VideoModel, auto_batch
from lvdm.sampling.samplers import SAMPLERS
from lvdm.sampling.writers import ContactSheet
from lvdm.types import UserError

logger = logging.getLogger(__name__)

GUIDANCE = "weight w of guidance, in the convention eps_c + w (eps_c - eps_u): 0 is off; other codes may write 1 + w for it"
SAMPLER = f"sampler, with its usual steps: {', '.join(each.describe() for each in SAMPLERS.values())}"
WITH_ETA = [name for name, each in SAMPLERS.items() if each.takes_eta]
FPS_UNKNOWN = 8.0  # to show a video by when nobody says


def add_sampling(parse: argparse.ArgumentParser, *, num: int) -> None:
    """Add the options of sampling."""
    group = parse.add_argument_group("sampling (defaults are in the model file)")
    group.add_argument("--num", type=int, default=num, help=f"number of videos (default {num})")
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed; video i of a seed is the same for any number of videos and batch size (default 0)",
    )
    group.add_argument("--sampler", metavar="NAME", help=SAMPLER)
    group.add_argument("--steps", type=int, help="number of sampling steps")
    group.add_argument("--eta", type=float, help=f"eta of {', '.join(WITH_ETA)}, 0 (deterministic) to 1")
    group.add_argument("--guidance", type=float, metavar="W", help=GUIDANCE)
    group.add_argument("--batch-size", type=int, metavar="B", help="videos sampled at once; changes only time and memory")


def add_long_video(parse: argparse.ArgumentParser) -> None:
    """Add the options of a long video, which `sample_long.read_options` reads."""
    group = parse.add_argument_group("long video (defaults are in the model file)")
    group.add_argument(
        "--condition-noise", type=int, metavar="S", help="noise level of given keys, a time of the schedule; 0 is clean"
    )
    group.add_argument("--gap-noise", type=int, metavar="S", help="noise level of given keys while gaps are filled")
    group.add_argument("--overlap", type=int, metavar="N", help="keys that a window shares with the one before")
    group.add_argument("--key-stride", type=int, metavar="K", help="latents from one key to the next")
    group.add_argument("--gap-steps", type=int, metavar="S", help="sampling steps in gaps (default: --steps)")
    group.add_argument(
        "--gap-batch", default="auto", metavar="auto|N", help="gap windows sampled at once (default auto: by memory)"
    )
    what = group.add_mutually_exclusive_group()
    what.add_argument("--label", type=int, metavar="L", help="class of the videos, for models trained with classes")
    what.add_argument("--prompt", metavar="TEXT", help="text of the videos, for models with a text encoder")
    group.add_argument("--lead-in", type=int, metavar="N", help="frames sampled before the first one and left out")


def add_output(parse: argparse.ArgumentParser) -> None:
    """Add the options of the files to write."""
    group = parse.add_argument_group("output")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (default: samples/NAME, with a number if that has such files already)"
    )
    group.add_argument("--format", default="mp4", metavar="LIST", help="one or more of mp4,gif,npz,frames (default mp4)")
    group.add_argument("--quality", type=float, help="quality of mp4, 1 to 10 (default 8)")
    group.add_argument("--fps", type=float, help="frames per second of the files (default: that of training)")
    group.add_argument(
        "--contact-sheet", action="store_true", help="also write one PNG with frames of all videos, one row a video"
    )
    group.add_argument("--overwrite", action="store_true", help="replace existing files")
    group.add_argument(
        "--resume", action="store_true", help="sample the videos that are missing in --out, which was started with --resume too"
    )


def add_machine(parse: argparse.ArgumentParser) -> None:
    """Add the options of the device."""
    group = parse.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of the network (default float32)"
    )
    command.add_allow_module(group)


def load_model(path: Path, args: argparse.Namespace) -> VideoModel:
    return load(path, as_device(args.device), getattr(torch, args.dtype), allow=args.allow_module)


def batch_size(args: argparse.Namespace, model: VideoModel) -> int:
    """Return how many videos to sample at once: as many as requested, or as are useful."""
    if args.batch_size is not None:
        return args.batch_size
    return auto_batch(2 * math.prod(model.trained_settings().latent_shape), model.device)


def check_num(args: argparse.Namespace) -> None:
    if args.num < 1:
        raise UserError(f"--num is {args.num}, expected 1 or more")


@contextmanager
def progress(total: float, unit: str) -> Iterator[tqdm]:
    """Show a bar over all the work of this process, in the first one; in a log file it is a line now and then."""
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]"
    seldom = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(total=total, unit=unit, bar_format=form, mininterval=seldom, disable=Process.this().rank > 0) as bar:
        yield bar


# What a resumed start may ask for otherwise: none of it is seen in a video.
NOT_SEEN = {"json", "out", "device", "batch_size", "gap_batch", "resume", "overwrite", "allow_module", "num", "contact_sheet"}
MODELS = {"model", "predict", "infill"}  # arguments that are model files


def check_resume(args: argparse.Namespace) -> None:
    """Refuse to resume with other settings than those of the existing videos."""
    if args.out is None or args.contact_sheet or args.overwrite:
        raise UserError("--resume needs --out, and excludes --overwrite and --contact-sheet (which needs all videos)")
    kept, now = settings_file(args), settings_of(args)
    if kept.exists():
        then = _kept(kept)
        differing = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        changed = [f"{name} ({then.get(name)} then, {now.get(name)} now)" for name in differing]
        if changed:
            raise UserError(f"{kept} was started with other settings: {', '.join(changed)}; give those, or another --out")
    elif args.out.is_dir() and any(args.out.glob(f"seed{args.seed}-0*")):
        raise UserError(f"{args.out} has videos of seed {args.seed} that were made without --resume; give another --out")


def _kept(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and the videos next to it, or give another --out") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no settings; remove it and the videos next to it, or give another --out")
    return found


def keep_settings(args: argparse.Namespace, *, is_first: bool) -> None:
    """Write the settings if there are none; of two starts at once, one writes them and the other compares."""
    kept = settings_file(args)
    if not is_first or kept.exists():
        return
    mine = kept.with_name(f".{kept.name}.{os.getpid()}.new")
    command.write_text(mine, json.dumps(settings_of(args), indent=2) + "\n")
    try:
        os.link(mine, kept)
    except FileExistsError:
        check_resume(args)
    except OSError:  # a file system without hard links
        os.replace(mine, kept)
    finally:
        mine.unlink(missing_ok=True)


def settings_file(args: argparse.Namespace) -> Path:
    return args.out / f"seed{args.seed}-settings.json"


def settings_of(args: argparse.Namespace) -> dict[str, str]:
    """Return all that decides what a video shows; files by their content, because another may come to lie under the same path."""
    asked = {name: value for name, value in vars(args).items() if name not in NOT_SEEN and value is not None}
    return {name: _content(name, value) if isinstance(value, Path) else str(value) for name, value in asked.items()}


def _content(name: str, path: Path) -> str:
    """Return the hash of a model, of another file, or of all files of a folder."""
    if name in MODELS:
        return f"content {content_hash(path)}"
    if path.is_dir():
        found = {str(each.relative_to(path)): hash_file(each) for each in sorted(path.rglob("*")) if each.is_file()}
        return f"content {with_hashes(found)[HASH]}"
    return f"content {hash_file(path)}"


def choose_output(
    args: argparse.Namespace, model: Path, videos: range, *, frames: int, fps: float | None
) -> tuple[Output, list[int]]:
    """Return where this process's videos go, checked before the work, and which of them are missing.

    Args:
        model: names the folder if none is given.
        videos: numbers of this process's videos.
        frames: of one video, for the contact sheet.
        fps: the model's own.
    """
    formats = args.format.split(",")
    if args.quality is not None and "mp4" not in formats:
        raise UserError(f"--quality is that of mp4, but the format is {args.format}; leave it out or add mp4")
    process = Process.this()
    rank = f"-rank{process.rank}" if process.count > 1 else ""
    sheet = f"seed{args.seed}-contact-sheet{rank}.png"
    quality = 8 if args.quality is None else args.quality
    out = Output(Path(), formats, args.fps or fps or FPS_UNKNOWN, quality, seed=args.seed, overwrite=args.overwrite)
    names = [path.name for video in videos for path in out.files_of(video).values()]
    names += [sheet] if args.contact_sheet else []
    if args.resume:
        check_resume(args)
    out.folder = _folder(args, Path("samples") / _run_name(model), names, alone=process.count == 1)
    _make_writable(out.folder)
    if args.contact_sheet:
        out.sheet = ContactSheet(out.folder / sheet, every=max(1, frames // 10), overwrite=args.overwrite)
    if not args.resume:
        return out, list(videos)
    keep_settings(args, is_first=process.rank == 0)
    written = {video: [path.exists() for path in out.files_of(video).values()] for video in videos}
    missing = [video for video in videos if not all(written[video])]
    out.incomplete = {video for video in missing if any(written[video])}  # one format of two
    return out, missing


def _folder(args: argparse.Namespace, default: Path, names: Sequence[str], *, alone: bool) -> Path:
    """Return the requested folder, or the default one with the first number at which none of the files exists."""
    folder = default if args.out is None else args.out

    def taken(folder: Path) -> str | None:
        return next((name for name in names if (folder / name).exists()), None)

    if args.overwrite or args.resume or not taken(folder):
        return folder
    if args.out is None and alone:
        numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
        return next(folder for folder in numbered if not taken(folder))
    raise UserError(f"{folder} has {taken(folder)} already; give another --out, or --overwrite to replace it")


def _run_name(model: Path) -> str:
    """runs/NAME/model.safetensors is called NAME, any other file by its own name."""
    name = model.resolve()
    return name.parent.name if name.name == "model.safetensors" else name.stem


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; give another --out") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {folder}; give another --out")
