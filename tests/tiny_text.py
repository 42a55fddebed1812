"""What tests of text share: a CLIP text model of width 16 as files, captioned videos, a denoiser that reads text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tiny_training import CODEC, UNET, Config, diffusion_config, latent_set, video_set
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH, TOKENS = 16, 77
VOCABULARY = [
    *ascii_lowercase,
    *(f"{letter}</w>" for letter in ascii_lowercase),
    "re",
    "red</w>",
    "<|startoftext|>",
    "<|endoftext|>",
]
START, END = len(VOCABULARY) - 2, len(VOCABULARY) - 1
CAPTIONS = {"0.mp4": "red stripes", "1.mp4": "a blue sky", "2.mp4": "red stripes"}  # the fourth has none
CLIPS = {"num_frames": 28, "random_clip": False}
TEXT_UNET = {**UNET, "text_attention": True, "context_dim": WIDTH}


def clip_config(**changed: Any) -> CLIPTextConfig:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
    return CLIPTextConfig(**{"vocab_size": len(VOCABULARY), **sizes, **marks, **changed})


def write_clip(folder: Path, *, seed: int = 0, **changed: Any) -> Path:
    """Random weights and a tokenizer that knows the letters and one word."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CLIPTextModel(clip_config(initializer_factor=10.0, **changed))
    network.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return folder


def write_whole_clip(folder: Path) -> Path:
    """A tiny CLIP as Hugging Face saves it, whose words are single letters."""
    torch.manual_seed(0)
    letters = [chr(code) + end for code in range(97, 123) for end in ("", "</w>")]
    vocabulary = {word: index for index, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 8}
    words = {"vocab_size": len(vocabulary), "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53}
    config = CLIPConfig(text_config={**shared, **words}, vision_config={**shared, "image_size": 32, "patch_size": 16})
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def text_node(folder: Path) -> Config:
    return {"target": "lvdm.models.text.ClipText", "params": {"folder": str(folder)}}


def write_captioned(videos: Path, folder: Path) -> Path:
    """These videos, with captions for all but the last."""
    shutil.copytree(videos, folder)
    lines = [json.dumps({"file": file, "caption": caption}) for file, caption in CAPTIONS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def encode_config(made: Path, videos: Path, clip: Path, out: Path, **changed: Any) -> Config:
    """Clips of captioned videos, with their captions."""
    data = {part: video_set(videos, **CLIPS) for part in ("train", "val")}
    weights = str(made / "autoencoder" / "model.safetensors")
    return {
        **{"codec": CODEC, "codec_weights": weights, "text_encoder": text_node(clip), "data": data, "out": str(out)},
        **{"clips": True, "dtype": "float32", **changed},
    }


def text_config(made: Path, clip: Path, out: Path, data: Config, **model: Any) -> Config:
    """Training of a denoiser that reads text."""
    config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
    denoiser = {"target": "lvdm.models.denoisers.UNet3D", "params": TEXT_UNET}
    fast = {"target": "lvdm.training.AdamW", "params": {"lr": 0.01}}
    config["model"]["params"] |= {"denoiser": denoiser, "optimizer": fast, "text_encoder": text_node(clip), **model}
    config["data"]["params"] |= {"train": data, "val": data}
    return config


def cached(folder: Path, **params: Any) -> Config:
    return latent_set(folder, random_clip=False, **{"context": True, **params})
