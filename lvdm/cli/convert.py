"""`convert`: a checkpoint of the published LVDM code to the model file that every command of lvdm reads."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.checkpoints.model_file import CODEC, DENOISER, check_weights, save_model
from lvdm.checkpoints.published_lvdm import autoencoder_weights, denoiser_weights, ignored_names, state_dict
from lvdm.cli import command
from lvdm.config import check, instantiate, load_config, to_dict
from lvdm.jobs.model_info import model_info
from lvdm.jobs.run_config import RunConfig
from lvdm.models.codec import Codec
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.types import UserError

Settings = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(_parser(), _work, argv)


def _parser() -> argparse.ArgumentParser:
    made = command.parser(
        "Make a model file of a published checkpoint. Nothing in the checkpoint is run: tensors are taken from it, and only "
        "those that the config's networks need; the file says which others were left out.",
        example="python scripts/convert.py --from lvdm sky.ckpt --config configs/lvdm/short_sky.yaml --out sky.safetensors",
    )
    made.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="published, or trained with the published code")
    made.add_argument("--from", dest="family", type=_family, required=True, metavar="lvdm", help="whose checkpoint it is")
    made.add_argument(
        "--config", nargs="+", required=True, metavar="CONFIG", help="lvdm's config of the same model, and key=value overrides"
    )
    made.add_argument("--out", type=Path, required=True, metavar="MODEL", help="the model file to write")
    made.add_argument("--autoencoder", type=Path, metavar="CHECKPOINT", help="take the autoencoder from this checkpoint instead")
    made.add_argument("--raw", action="store_true", help="take the last step's weights instead of the averaged ones")
    made.add_argument("--force", action="store_true", help="replace the model file if there is one")
    made.add_argument("--allow-module", action="append", default=[], metavar="NAME", help="a package that targets may name")
    return made


def _family(name: str) -> str:
    if name == "pvdm":
        raise argparse.ArgumentTypeError("checkpoints of PVDM can be converted once lvdm has PVDM's models; give lvdm")
    if name != "lvdm":
        raise argparse.ArgumentTypeError(f"lvdm knows no checkpoints of {name!r}; give lvdm")
    return name


def _work(args: argparse.Namespace) -> command.Report:
    if args.out.exists() and not args.force:
        raise UserError(f"{args.out} exists already; give another --out, or --force to replace it")
    settings = _read_config(args.config, args.allow_module)
    is_diffusion = "denoiser" in settings["model"]["params"]
    if is_diffusion:
        _require_scale(settings["model"]["params"]["codec"]["params"])
    else:
        _refuse_idle_options(args)
    checkpoint = read_checkpoint(args.checkpoint)
    weights = state_dict(checkpoint)
    tensors = _tensors(weights, args, is_diffusion)
    codec, denoiser = _networks(settings, args.allow_module)
    check_weights(codec.autoencoder, tensors, CODEC, args.autoencoder or args.checkpoint)
    if denoiser is not None:
        check_weights(denoiser, tensors, DENOISER, args.checkpoint)
    sampling = _sampling(settings) if is_diffusion else None
    node = settings["model"]["params"].get("text_encoder")
    text_encoder = None if node is None else instantiate(node, allow=args.allow_module)
    if args.raw:
        settings["average"] = 0  # results tell by it whose weights were measured
    step = checkpoint.get("global_step", 0)
    if type(step) is not int or not 0 <= step < 2**63:
        raise UserError(f"global_step of {args.checkpoint} is no count of steps; it is damaged, or another kind of checkpoint")
    known = {"data_fingerprint": "", "text_encoder": text_encoder}
    info = model_info(settings, codec, sampling, step=step, **known)
    save_model(args.out, tensors, info)
    return _report(args, info.kind, tensors, ignored_names(weights))


def _tensors(weights: dict[str, Tensor], args: argparse.Namespace, is_diffusion: bool) -> dict[str, Tensor]:
    """The checkpoint's weights under the names of a model file."""
    first_stage = weights if args.autoencoder is None else state_dict(read_checkpoint(args.autoencoder))
    tensors = {f"{CODEC}{name}": tensor for name, tensor in autoencoder_weights(first_stage).items()}
    if is_diffusion:
        averaged = denoiser_weights(weights, averaged=not args.raw)
        tensors |= {f"{DENOISER}{name}": tensor for name, tensor in averaged.items()}
    return tensors


def _read_config(arguments: Sequence[str], allow: Sequence[str]) -> Settings:
    files = [argument for argument in arguments if "=" not in argument]
    config = load_config(files, [argument for argument in arguments if "=" in argument])
    check(config, schema=RunConfig, allow=allow)
    return to_dict(config)


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """An autoencoder's checkpoint holds one set of weights, and nothing but the autoencoder."""
    for option, is_given in (("--raw", args.raw), ("--autoencoder", args.autoencoder is not None)):
        if is_given:
            raise UserError(f"{option} has no effect here: the config describes an autoencoder alone; leave it out")


def _networks(settings: Settings, allow: Sequence[str]) -> tuple[Codec, nn.Module | None]:
    """The codec and the denoiser (None for an autoencoder alone), built without memory."""
    params = settings["model"]["params"]
    with torch.device("meta"):
        codec = instantiate(params["codec"], allow=allow)
        return codec, instantiate(params["denoiser"], allow=allow) if "denoiser" in params else None


def _sampling(settings: Settings) -> SamplingSettings:
    if settings.get("sampling") is None:
        raise UserError("the config has no sampling section; the model file needs at least its latent_shape (c, t, h, w)")
    return SamplingSettings(**settings["sampling"])


def _require_scale(codec: Settings) -> None:
    """A checkpoint does not hold them, and without them samples decode to noise."""
    absent = [name for name in ("scale", "shift") if name not in codec]
    if absent:
        raise UserError(
            f"the config does not say model.params.codec.params.{absent[0]}, and a checkpoint does not hold it; published are "
            "scale .33422927, shift 1.4606637 for sky, .220142075, .5837740898 for ucf101, .175733933, .03291025 for taichi"
        )


def _report(args: argparse.Namespace, kind: str, tensors: dict[str, Tensor], ignored: Sequence[str]) -> command.Report:
    numbers = sum(tensor.numel() for tensor in tensors.values())
    groups = Counter(name.split(".")[0] for name in ignored)
    print(f"{args.out}: {kind}, {numbers / 1e6:.1f} M parameters in {len(tensors)} tensors")
    if groups:
        print("left out: " + ", ".join(f"{name} ({count})" for name, count in groups.items()))
    return {"out": args.out, "kind": kind, "parameters": numbers, "tensors": len(tensors), "left_out": list(ignored)}
