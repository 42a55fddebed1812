"""CLIP's text transformer, frozen, through the `transformers` package (LVDM, text-to-video: ViT-L/14, 77 tokens of 768).

The network is no part of the module that trains with it: its weights are in no checkpoint, model file, average or gradient sync.
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

from lvdm.models.build_limits import no_larger_than
from lvdm.models.features.weights import weights_folder
from lvdm.types import UserError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

PUBLISHED = "clip-vit-large-patch14"
AT_ONCE = 32  # captions in the network
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # one of these sets, and beside it
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
HUB = ("attn_implementation", "dtype", "torch_dtype")  # the first may name code on a hub; the weights have their own type
PREFIX = "text_model."  # of the weights' names in files and in some versions of transformers


class _Loaded(NamedTuple):
    tokenizer: CLIPTokenizer
    network: CLIPTextModel


class ClipText:
    """Captions to the last hidden state of CLIP's text transformer, float32 (b, n, d).

    A caption is padded to n tokens and cut where it has more; the padding is attended to, as in the published models. Nothing is
    read before the first use.

    Args:
        folder: of the published files: a path, or a folder's name in LVDM_WEIGHTS, where one that is not there is looked for too.
    """

    def __init__(self, folder: str | Path = PUBLISHED) -> None:
        self.folder = Path(folder).expanduser()
        self.device = torch.device("cpu")

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        tokenizer, network = self._loaded
        n = network.config.max_position_embeddings
        tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=n, return_tensors="pt").input_ids
        with torch.autocast(self.device.type, enabled=False):  # the same embedding wherever it is asked for
            parts = [network(input_ids=part.to(self.device)).last_hidden_state for part in tokens.split(AT_ONCE)]
        return torch.cat(parts)

    def to(self, device: torch.device | str) -> ClipText:
        """Compute there from now on."""
        self.device = torch.device(device)
        if "_loaded" in vars(self):
            self._loaded.network.to(self.device)
        return self

    def fingerprint(self) -> str:
        """Hash of weights, vocabulary and settings: equal ones give the same embeddings, whatever the version of transformers."""
        return self._fingerprint

    def __deepcopy__(self, memo: dict[int, Any]) -> ClipText:
        """Itself: what is frozen need not be there twice, as in the averaged copy of a module."""
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
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    @cached_property
    def _loaded(self) -> _Loaded:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # slow to import, and few need it

        path = self._find()
        with _one_sentence(path), torch.random.fork_rng(devices=[]):  # a network starts at random
            described = json.loads((path / "config.json").read_text())
            described = described.get("text_config", described)  # of a whole CLIP, whose text part is wanted
            known = inspect.signature(CLIPTextConfig).parameters
            settings = CLIPTextConfig(**{name: described[name] for name in known if name in described and name not in HUB})
            weights = load_file(path / "model.safetensors")
            with no_larger_than(weights, path / "model.safetensors"):
                network = CLIPTextModel(settings)
            tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        _copy_weights(network, weights, path)
        if len(tokenizer) > network.config.vocab_size:
            known = f"{len(tokenizer)} tokens and the network {network.config.vocab_size}"
            raise UserError(f"the tokenizer in {path} has {known}; put the files of one published model there")
        return _Loaded(tokenizer, network.float().eval().requires_grad_(False).to(self.device))

    def _find(self) -> Path:
        """The folder, with all that is needed in it."""
        places = [self.folder, weights_folder() / self.folder.name]
        path = next((place for place in places if place.is_dir()), None)
        sets = " or ".join(" and ".join(each) for each in TOKENIZER_FILES)
        if path is None:
            raise UserError(
                f"there is no folder {places[0]}, nor {places[1]}; put {', '.join(FILES)} and {sets} of the published "
                f"{self.folder.name} into one of them, or name the folder around it by LVDM_WEIGHTS"
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
    """All of the network's, out of a file that may hold an image encoder too; a missing one must not stay random."""
    given = {name.removeprefix(PREFIX): weight for name, weight in weights.items()}
    wanted = {name.removeprefix(PREFIX): weight for name, weight in network.named_parameters()}
    wrong = [name for name, weight in wanted.items() if name not in given or given[name].shape != weight.shape]
    if wrong:
        what = f"{len(wrong)} weights that config.json describes, first {wrong[0]}"
        raise UserError(f"{path / 'model.safetensors'} does not hold {what}; put the files of one published model there")
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(given[name])
