"""`model.safetensors`: all that sampling needs, tensors with a description in the metadata (design.md, sec. 6).

Tensors are named `codec.<name in the autoencoder's state dict>` and `denoiser.<name in the denoiser's>`. The description,
`ModelInfo`, is JSON under the metadata key `lvdm`, with the hashes of itself and of every tensor, which reading checks;
`lvdm_format` counts changes that older readers cannot follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lvdm.files import (
    HASH,
    TENSOR_HASHES,
    DamagedFile,
    check_description,
    check_tensors,
    hash_file,
    why_not_written,
    with_hashes,
    write_whole,
)
from lvdm.rules import MAPPING, TEXT, integer, number, one_of, optional, require, require_each
from lvdm.types import UserError
from lvdm.version import __version__

FORMAT = 1
KINDS = ("autoencoder", "diffusion")
CODEC, DENOISER = "codec.", "denoiser."

Node = dict[str, Any]  # a config node: {"target": class path, "params": {...}}


@dataclass(frozen=True)
class ModelInfo:
    """The description in a model file. Nodes are config nodes, None if the kind has no such part."""

    kind: str  # one of KINDS
    autoencoder: Node | None = None
    denoiser: Node | None = None
    schedule: Node | None = None
    objective: Node | None = None
    text_encoder: Node | None = None  # its weights are not in the file ...
    text_fingerprint: str | None = None  # ... but what tells them from others is
    scale: float = 1.0  # latent = scale * (z + shift)
    shift: float = 0.0
    sampling: dict[str, Any] = field(default_factory=dict)  # latent_shape [c, t, h, w], key_stride, fps, size, defaults
    trained: dict[str, Any] | None = None  # tasks, strides, given latents, classes, fps; None: not recorded
    step: int = 0
    config: dict[str, Any] = field(default_factory=dict)  # the run's resolved config
    data_fingerprint: str = ""
    version: str = __version__


RULES = {
    "kind": one_of(*KINDS),
    **dict.fromkeys(("autoencoder", "denoiser", "schedule", "objective", "text_encoder"), optional(MAPPING)),
    "text_fingerprint": optional(TEXT),
    "scale": number(1e-30, 1e30),
    "shift": number(-1e30, 1e30),
    **dict.fromkeys(("sampling", "config"), MAPPING),
    "trained": optional(MAPPING),
    "step": integer(0),
    **dict.fromkeys(("data_fingerprint", "version"), TEXT),
}
LONGEST = 1 << 26  # characters of a description; a real one has 10,000, and 100 for each tensor
DEEPEST, MOST_VALUES = 100, 50_000  # a real one has 20 levels and 300 values; a config has at most 10,000
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def save_model(path: str | Path, tensors: Mapping[str, Tensor], info: ModelInfo) -> None:
    """Write under a temporary name, then rename: a reader sees the old file or the whole new one."""
    assert info.kind in KINDS, f"kind {info.kind!r} is none of {KINDS}"
    strange = [name for name in tensors if not name.startswith((CODEC, DENOISER))]
    assert not strange, f"tensors of a model file start with codec. or denoiser., not {strange[0]!r}"
    path = Path(path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = with_hashes({**asdict(info), "format": FORMAT}, plain)
    metadata = {"lvdm": json.dumps(described), "lvdm_format": str(FORMAT)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: save_file(plain, temporary, metadata))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write the model to {path}: {why_not_written(error)}; free space or choose another folder"
        ) from error


def read_info(path: str | Path) -> ModelInfo:
    """Return the description alone; the tensors stay on the disk."""
    with _opened(Path(path)) as file:
        return _info(Path(path), file.metadata() or {})


def read_model(path: str | Path) -> tuple[ModelInfo, dict[str, Tensor]]:
    """Return the description and all tensors, on the CPU."""
    with open_model(path) as model:
        return model


@contextmanager
def open_model(path: str | Path) -> Iterator[tuple[ModelInfo, dict[str, Tensor]]]:
    """Give the description and all tensors at once, and check the tensors' hashes meanwhile: damage is raised on leaving.

    What is built in the block, such as the networks, takes no time on top of the check. Leave the tensors as they are in it.
    """
    path = Path(path)
    with _opened(path) as file:
        metadata = file.metadata() or {}
        info = _info(path, metadata)
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise UserError(f"{path} is a damaged model file ({error}); copy or make it again") from error
    with ThreadPoolExecutor(1) as pool:
        check = pool.submit(check_tensors, tensors, json.loads(metadata["lvdm"]), path, all_of_them=True)
        try:
            yield info, tensors
        finally:
            check.result()  # damage explains whatever else went wrong in the block


def content_hash(path: str | Path) -> str:
    """Return what identifies a model file: the hash in it covers all that it holds; without one, that of its bytes."""
    with _opened(Path(path)) as file:
        metadata = file.metadata() or {}
    _info(Path(path), metadata)
    return json.loads(metadata["lvdm"]).get(HASH) or hash_file(Path(path))


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: str | Path) -> None:
    """Copy the tensors under `prefix` into a network, all of them, or say in a sentence how the two differ."""
    check_weights(module, tensors, prefix, path)
    module.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)})


def check_weights(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: str | Path) -> None:
    """Check that these are the weights of this network, which may lie on the meta device; `path` is their source."""
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    differences = _differences(given, module.state_dict())
    if differences:
        raise UserError(
            f"the weights in {path} do not fit the {type(module).__name__} that the config builds: {'; '.join(differences)}; "
            "this is a config of another size: use the one that the weights were trained with"
        )


def _differences(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    common = [name for name in wanted if name in given]
    other = [name for name in common if given[name].shape != wanted[name].shape]
    strange = [name for name in common if wanted[name].is_floating_point() != (given[name].dtype in FLOATS)]
    found = []
    if missing:
        found.append(f"{len(missing)} missing (first {missing[0]}, {_shape(wanted[missing[0]])})")
    if unexpected:
        found.append(f"{len(unexpected)} unexpected (first {unexpected[0]}, {_shape(given[unexpected[0]])})")
    if other:
        name = other[0]
        shapes = f"{_shape(given[name])} in the file, {_shape(wanted[name])} built"
        found.append(f"{len(other)} of another shape (first {name}, {shapes})")
    if strange:
        found.append(f"{len(strange)} of another type (first {strange[0]}, {given[strange[0]].dtype} in the file)")
    return found


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _opened(path: Path) -> safe_open:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the model file in it, usually {path / 'model.safetensors'}")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a special file and no model file; correct the path")
    if not path.exists():
        raise UserError(f"there is no model file {path}; train or convert one first, or correct the path")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        if _starts_like_safetensors(path):
            raise UserError(f"{path} is a truncated or damaged model file ({error}); copy or make it again") from error
        raise UserError(
            f"{path} is not a model file (safetensors) but something else; convert checkpoints of other codes first"
        ) from error


def _starts_like_safetensors(path: Path) -> bool:
    """Return whether a file starts with a length in 8 bytes and a JSON object; an empty file counts as truncated."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) < 9 or start[8:9] == b"{"


def _info(path: Path, metadata: Mapping[str, str]) -> ModelInfo:
    if "lvdm" not in metadata:
        raise UserError(f"{path} is a safetensors file, but not one that lvdm wrote: it holds no description of a model")
    try:
        described = _parsed(metadata["lvdm"])
        check_description(described, path)
        format_number = int(described.get("format", metadata["lvdm_format"]))
        if format_number <= FORMAT and described.get("kind") in KINDS:
            require_each(RULES, described)
    except DamagedFile:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} holds a damaged description of its model ({error}); make the file again") from error
    if format_number > FORMAT:
        raise UserError(
            f"{path} was written by lvdm {str(described.get('version', '(unknown)'))[:40]} in format {format_number}, "
            f"and this is lvdm {__version__}, which reads up to format {FORMAT}; upgrade lvdm"
        )
    if described.get("kind") not in KINDS:
        kind = repr(described.get("kind"))[:40]
        raise UserError(f"{path} describes a model of kind {kind}, and lvdm knows {' and '.join(KINDS)}")
    return ModelInfo(**{name: value for name, value in described.items() if name in RULES})


def _parsed(text: str) -> dict[str, Any]:
    """Return the description as JSON; raise a UserError if it is none, or too large for one."""
    if len(text) > LONGEST:
        raise UserError(f"{len(text):,} characters, at most {LONGEST:,}")
    described = json.loads(text)
    require(MAPPING, description=described)
    _check_size({name: value for name, value in described.items() if name != TENSOR_HASHES})
    return described


def _check_size(described: dict[str, Any]) -> None:
    """Limit nesting and values level by level, which also works for a nesting too deep for recursion."""
    level, values, depth = [described], 0, 0
    while level:
        values, depth = values + len(level), depth + 1
        if depth > DEEPEST or values > MOST_VALUES:
            raise UserError(f"it has more than {DEEPEST} levels or {MOST_VALUES:,} values")
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [value for values_of_one in inner for value in values_of_one]
