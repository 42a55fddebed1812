"""CLIP similarity (Radford et al. 2021): how well a video shows its caption, the mean over its frames of the cosine between both.

CLIP is a folder as Hugging Face saves it, read through transformers from LVDM_WEIGHTS and never fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvdm.models.features.weights import DAMAGE, sha256_of, weights_folder
from lvdm.types import UserError

FOLDER = "clip-vit-base-patch32"
SOURCE = "huggingface.co/openai/clip-vit-base-patch32"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # either will do, and the first is read where both are there
FILES = (("config.json",), ("preprocessor_config.json", "processor_config.json"), ("tokenizer.json", "vocab.json"), WEIGHTS)


class ClipSimilarity:
    """uint8 videos (b, t, h, w, 3) and b captions -> (b,) cosines in [-1, 1].

    Args:
        folder: where the model lies; LVDM_WEIGHTS/clip-vit-base-patch32 where absent.
        frames_at_once: images that go through the network together.
    """

    def __init__(self, folder: Path | None = None, *, device: torch.device | str = "cpu", frames_at_once: int = 32) -> None:
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer  # slow to import, and few need it

        folder = folder or weights_folder() / FOLDER
        missing = [" or ".join(names) for names in FILES if not any((folder / name).is_file() for name in names)]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(missing)} of CLIP: put all files of {SOURCE} there, name the folder above it by "
                "LVDM_WEIGHTS, or leave the CLIP similarity out"
            )
        try:
            # The folder may name code on a hub; these two forbid it.
            own: dict[str, Any] = {"local_files_only": True, "attn_implementation": "sdpa"}
            pair: Any = CLIPModel.from_pretrained(folder, output_loading_info=True, **own)
            self.model, loaded = pair
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            self.images = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except DAMAGE as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{folder} does not hold a whole CLIP ({reason}); put all files of {SOURCE} there") from error
        if loaded["missing_keys"]:  # transformers would go on with random ones
            raise UserError(
                f"{folder} does not hold a whole CLIP ({len(loaded['missing_keys'])} tensors are missing, first "
                f"{sorted(loaded['missing_keys'])[0]}); put all files of {SOURCE} there"
            )
        self.model.eval().requires_grad_(False).to(device)
        self.device, self.frames_at_once = torch.device(device), frames_at_once
        self.name = f"clip {folder.name}"
        self.sha256 = sha256_of(next(folder / name for name in WEIGHTS if (folder / name).is_file()))

    @torch.no_grad()
    def __call__(self, videos: Tensor, captions: Sequence[str]) -> Tensor:
        if len(videos) != len(captions):
            raise UserError(f"{len(videos)} videos and {len(captions)} captions came; the CLIP similarity needs one for each")
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt")
        texts = _unit(self.model.get_text_features(**tokens.to(self.device)))  # (b, d)
        frames = videos.flatten(0, 1).split(self.frames_at_once)
        images = torch.cat([_unit(self.model.get_image_features(self._pixels(part))) for part in frames])
        return torch.einsum("btd,bd->bt", images.unflatten(0, (len(videos), -1)), texts).mean(1).float().cpu()

    def _pixels(self, frames: Tensor) -> Tensor:
        """Return frames uint8 (n, h, w, 3) resized, cropped and scaled by the folder's own settings."""
        shown = self.images(list(frames.permute(0, 3, 1, 2).cpu()), return_tensors="pt")
        return shown["pixel_values"].to(self.device)


def _unit(features: Any) -> Tensor:
    """Return features of length 1; newer transformers put them into `pooler_output`."""
    return F.normalize(features if isinstance(features, Tensor) else features.pooler_output, dim=-1)
