"""CLIP's frozen text transformer from the `transformers` package (LVDM, text-to-video: ViT-L/14, 77 tokens of 768).

The network is not a part of the module that trains with it. Checkpoints, model files, averages and gradient syncs leave it out.
It is not loaded by `from_pretrained`: keys of config.json can make that fetch code or kernels from a hub.
Letters: b captions, n tokens, d width.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lvdm.files import bytes_of
from lvdm.models.build_limits import no_larger_than
from lvdm.models.features.weights import weights_folder
from lvdm.types import UserError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

PUBLISHED = "clip-vit-large-patch14"
AT_ONCE = 32  # captions in the network
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # one of these sets, and next to it
FILES = ("config.json", "model.safetensors")
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    ImportError,
    MemoryError,
)
HUB = ("attn_implementation", "dtype", "torch_dtype")  # left out: the first may name code on a hub, weights have their own type
PREFIX = "text_model."  # of the weights' names in files and in some versions of transformers


class _Loaded(NamedTuple):
    tokenizer: CLIPTokenizer
    network: CLIPTextModel


class ClipText:
    """A text encoder: captions to the last hidden state of CLIP's text transformer, float32 (b, n, d).

    A caption is padded or cut to n tokens. The padding is attended to, as published. The files are read at first use.

    Args:
        folder: path of the published files. If it does not exist, a folder of this name in LVDM_WEIGHTS is used.
    """

    def __init__(self, folder: str | Path = PUBLISHED) -> None:
        self.folder = Path(folder).expanduser()
        self.device = torch.device("cpu")

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        tokenizer, network = self._loaded
        n = network.config.max_position_embeddings
        tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=n, return_tensors="pt").input_ids
        with torch.autocast(self.device.type, enabled=False):  # the same embedding under any autocast
            parts = [network(input_ids=part.to(self.device)).last_hidden_state for part in tokens.split(AT_ONCE)]
        return torch.cat(parts)

    def to(self, device: torch.device | str) -> ClipText:
        """Move the network to a device."""
        self.device = torch.device(device)
        if "_loaded" in vars(self):
            self._loaded.network.to(self.device)  # type: ignore[arg-type]  # a wrapper hides the signature
        return self

    def fingerprint(self) -> str:
        """Return a hash of weights, vocabulary and settings: equal ones give the same embeddings."""
        return self._fingerprint

    def __deepcopy__(self, memo: dict[int, Any]) -> ClipText:
        """Return itself: the averaged copy of a module shares the frozen encoder."""
        return self

    @cached_property
    def _fingerprint(self) -> str:
        tokenizer, network = self._loaded
        config = network.config
        settings = {
            "heads": config.num_attention_heads,
            "activation": config.hidden_act,
            "eps": config.layer_norm_eps,
            "padding": tokenizer.pad_token_id,
            "vocabulary": tokenizer.get_vocab(),  # in the order of its merges
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, weight in sorted((name.removeprefix(PREFIX), weight) for name, weight in network.named_parameters()):
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(bytes_of(weight))
        return digest.hexdigest()[:32]

    @cached_property
    def _loaded(self) -> _Loaded:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # slow to import, and few need it

        path = self._find()
        with _one_sentence(path), torch.random.fork_rng(devices=[]):  # building a network draws random weights
            described = json.loads((path / "config.json").read_text())
            described = described.get("text_config", described)  # a file of a whole CLIP: take the text part
            known = inspect.signature(CLIPTextConfig).parameters
            settings = CLIPTextConfig(**{name: described[name] for name in known if name in described and name not in HUB})
            weights = load_file(path / "model.safetensors")
            with no_larger_than(weights, path / "model.safetensors"):
                network = CLIPTextModel(settings)
            tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        _copy_weights(network, weights, path)
        if len(tokenizer) > network.config.vocab_size:
            sizes = f"{len(tokenizer)} tokens and the network {network.config.vocab_size}"
            raise UserError(f"the tokenizer in {path} has {sizes}; put the files of one published model there")
        return _Loaded(tokenizer, network.float().eval().requires_grad_(False).to(self.device))

    def _find(self) -> Path:
        """Return the folder that has all files."""
        places = [self.folder, weights_folder() / self.folder.name]
        path = next((place for place in places if place.is_dir()), None)
        sets = " or ".join(" and ".join(each) for each in TOKENIZER_FILES)
        if path is None:
            raise UserError(
                f"there is no folder {places[0]}, nor {places[1]}; put {', '.join(FILES)} and {sets} of the published "
                f"{self.folder.name} into one of them, or set LVDM_WEIGHTS to the folder that contains it"
            )
        missing = [file for file in FILES if not (path / file).is_file()]
        if not any(all((path / file).is_file() for file in files) for files in TOKENIZER_FILES):
            missing.append(sets)
        if missing:
            raise UserError(f"{path} has no {', no '.join(missing)}; put the files of the published {self.folder.name} there")
        return path


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError  # of a setting that transformers refuses

    try:
        yield
    except UserError:
        raise
    except (*UNREADABLE, SafetensorError, StrictDataclassError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} cannot be read as a CLIP text model ({why}); put the published files there again") from error


def _copy_weights(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Copy all weights of the network. The file may hold an image encoder too; a missing weight is an error."""
    given = {name.removeprefix(PREFIX): weight for name, weight in weights.items()}
    wanted = {name.removeprefix(PREFIX): weight for name, weight in network.named_parameters()}
    wrong = [name for name, weight in wanted.items() if name not in given or given[name].shape != weight.shape]
    if wrong:
        what = f"{len(wrong)} weights that config.json describes, first {wrong[0]}"
        raise UserError(f"{path / 'model.safetensors'} does not hold {what}; put the files of one published model there")
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(given[name])
