"""VideoMAE against transformers' own, CLIP similarity of a tiny model against its formula."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_text import write_whole_clip
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, VideoMAEConfig, VideoMAEModel

from lvdm.models.features.clip_similarity import ClipSimilarity
from lvdm.models.features.videomae import VideoMAE, load_videomae, positions
from lvdm.types import UserError

# VideoMAE -----------------------------------------------------------------------------------------------------------------


def test_videomae_is_that_of_transformers():
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    oracle = VideoMAEModel(VideoMAEConfig(image_size=42, patch_size=14, num_frames=16, layer_norm_eps=1e-6, **sizes)).eval()
    network = VideoMAE(width=32, depth=3, heads=4, hidden=48, side=42).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = {
        **{"patch_embed.proj": "embeddings.patch_embeddings.projection", ".attn.proj": ".attention.output.dense"},
        **{".mlp.fc1": ".intermediate.dense", ".mlp.fc2": ".output.dense"},
        **{".norm1": ".layernorm_before", ".norm2": ".layernorm_after", "blocks.": "encoder.layer."},
    }
    state = {}
    for name, value in network.state_dict().items():
        renamed = name
        for ours, their in theirs.items():
            renamed = renamed.replace(ours, their)
        layer = renamed.split(".attn.")[0] + ".attention.attention."
        if name.endswith("qkv.weight"):
            state |= {f"{layer}{part}.weight": each for part, each in zip(("query", "key", "value"), value.chunk(3), strict=True)}
        elif name.endswith(("q_bias", "v_bias")):
            state[f"{layer}{'query' if 'q_bias' in name else 'value'}.bias"] = value
        elif not name.startswith("fc_norm"):
            state[renamed] = value
    oracle.load_state_dict(state)
    video = torch.rand(2, 3, 16, 42, 42)
    with torch.no_grad():
        tokens = oracle(video.transpose(1, 2)).last_hidden_state
        expected = network.fc_norm(tokens.mean(1))
        torch.testing.assert_close(network(video), expected, rtol=1e-4, atol=1e-5)
        assert network.fc_norm.eps == 1e-6 and network(torch.rand(1, 3, 32, 42, 42)).shape == (1, 32)


def test_positions_of_longer_clips_lie_between_those_of_the_trained_ones():
    """Along time alone, at (i + 1/2) 8 / (n + .1) - 1/2."""
    grid = (8, 2, 3)
    table = positions(grid, 12, times=8)
    assert table[5, 4].item() == pytest.approx(math.sin(5 / 10000 ** (4 / 12)))
    assert table[5, 5].item() == pytest.approx(math.cos(5 / 10000 ** (4 / 12)))
    trained = table.view(*grid, 12).numpy()
    longer = positions(grid, 12, times=20).view(20, 2, 3, 12).numpy()
    for time in range(20):
        at = min(max((time + 0.5) * 8 / 20.1 - 0.5, 0), 7)
        low, high = int(at), min(int(at) + 1, 7)
        np.testing.assert_allclose(longer[time], trained[low] * (1 - at + low) + trained[high] * (at - low), atol=1e-9)


def test_videomae_of_the_published_size():
    with torch.device("meta"):
        network = VideoMAE()
        assert network(torch.empty(2, 3, 16, 224, 224)).shape == (2, 1408)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert len(network.blocks) == 40 and network.grid == (8, 16, 16)
    assert shapes["patch_embed.proj.weight"] == (1408, 3, 2, 14, 14) and shapes["blocks.39.mlp.fc1.weight"] == (6144, 1408)
    assert shapes["blocks.0.attn.qkv.weight"] == (4224, 1408) and shapes["blocks.0.attn.q_bias"] == (1408,)
    per_block = 4 * 1408**2 + 2 * 1408 * 6144 + 6144 + (2 + 1 + 1 + 4) * 1408  # biases of q and v, proj, fc2, two norms
    assert sum(p.numel() for p in network.parameters()) == 40 * per_block + (3 * 2 * 14 * 14 + 1) * 1408 + 2 * 1408


def test_another_transformer_is_refused_by_name(tmp_path: Path):
    torch.save(VideoMAE(width=16, depth=1, heads=2, hidden=8).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"vit.pth does not hold VideoMAE-v2 ViT-g: patch_embed.proj.weight is \(16, 3,"):
        load_videomae(tmp_path / "vit.pth")


# CLIP ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole_clip(tmp_path_factory.mktemp("weights") / "clip-vit-base-patch32")


def cosine_by_hand(folder: Path, frame: Tensor, caption: str) -> float:
    """One frame of 32 x 32, which needs no resizing, and one caption through the saved model's parts."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    image = ((frame.float() / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(image).pooler_output)
        read = model.text_projection(model.text_model(**tokenizer([caption], return_tensors="pt")).pooler_output)
    return float(F.cosine_similarity(seen, read))


def test_clip_similarity_is_the_mean_over_frames_of_cosines(saved_clip, monkeypatch):
    monkeypatch.setenv("LVDM_WEIGHTS", str(saved_clip.parent))
    videos = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8)
    captions = ["a disc", "the sky"]
    expected = [
        np.mean([cosine_by_hand(saved_clip, frame, text) for frame in v]) for v, text in zip(videos, captions, strict=True)
    ]
    for at_once in (1, 4, 32):
        similarity = ClipSimilarity(frames_at_once=at_once)
        got = similarity(videos, captions)
        assert got.tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.isfinite(similarity(videos, ["words" * 50, ""])).all(), "long captions are cut to what the model reads"
    assert similarity.name == "clip clip-vit-base-patch32" and len(similarity.sha256) == 64
    with pytest.raises(UserError, match="2 videos and 1 captions came"):
        similarity(videos, captions[:1])


def test_without_clip_or_with_part_of_it_one_sentence_says_what_to_put_where(saved_clip, monkeypatch, tmp_path):
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path))
    lacks = (
        r"clip-vit-base-patch32 lacks config.json, .*, model.safetensors or pytorch_model.bin of CLIP: .*LVDM_WEIGHTS, or leave"
    )
    with pytest.raises(UserError, match=lacks):
        ClipSimilarity()
    broken = tmp_path / "clip-vit-base-patch32"
    shutil.copytree(saved_clip, broken)
    weights = broken / "model.safetensors"
    whole = load_file(saved_clip / "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="does not hold a whole CLIP"):
        ClipSimilarity()
    save_file({name: value for name, value in whole.items() if name != "text_projection.weight"}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="1 tensors are missing, first text_projection.weight"):
        ClipSimilarity()
