"""A codec whose first latent is the first frame alone, through every stage: cache, training, short and long videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_codecs import ALLOW, FirstAlone, write_codec
from tiny_training import UNET, diffusion_config, video_set, write_config, write_videos

import lvdm
from lvdm.cli import encode, sample_long, sample_short, train
from lvdm.data import LatentClips
from lvdm.jobs.encode_batches import encode_pieces
from lvdm.models.codec import Codec
from lvdm.sampling.long_pipeline import latents_covering
from lvdm.sampling.pipeline import to_uint8
from lvdm.types import UserError

NODE = {"target": "tiny_codecs.FirstAlone"}
CODEC = {"target": "lvdm.models.codec.Codec", "params": {"autoencoder": NODE}}


def video(frames: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, 4, 4, generator=torch.Generator().manual_seed(frames))


@given(st.integers(0, 200), st.sampled_from([1, 2, 4, 8]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_frames_and_latents_count_each_other(frames: int, factor: int, alone: bool) -> None:
    codec = Codec(FirstAlone())
    codec.autoencoder.temporal_factor, codec.autoencoder.first_frame_alone = factor, alone
    latents = codec.latents_of(frames)
    slow = [n for n in range(202) if (0 if n == 0 else n * factor if not alone else 1 + (n - 1) * factor) <= frames]
    assert latents == max(slow) and codec.frames_of(latents) <= frames < codec.frames_of(latents + 1)
    assert codec.frames_of(latents_covering(frames, codec)) >= frames
    assert frames == 0 or codec.frames_of(latents_covering(frames, codec) - 1) < frames


def test_a_codec_of_odd_frames_has_their_shapes_and_refuses_others() -> None:
    codec = Codec(FirstAlone())
    assert codec.latent_shape(7, 4, 4) == (24, 4, 2, 2) == tuple(codec.encode(video(7)).shape[1:])
    assert codec.decode(codec.encode(video(7))).shape == (1, 3, 7, 4, 4)
    with pytest.raises(UserError, match="8 frames of 4x4 do not divide into latents of 2 frames after a first frame alone"):
        codec.encode(video(8))


@given(st.integers(1, 9), st.lists(st.integers(1, 5), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_streamed_decoding_equals_whole_decoding(window: int, chunks: list[int]) -> None:
    codec = Codec(FirstAlone(), decode_window=window)
    latent = torch.randn(1, 24, sum(chunks), 2, 2, generator=torch.Generator().manual_seed(0))
    streamed = torch.cat(list(codec.decode_stream(latent.split(chunks, dim=2))), dim=2)
    assert torch.equal(streamed, codec.decode(latent)) and streamed.shape[2] == codec.frames_of(sum(chunks))


@pytest.mark.parametrize(("at_once", "context"), [(2, 0), (4, 2), (8, 4), (100, 0)])
def test_a_video_encoded_in_pieces_is_the_video_encoded_whole(at_once: int, context: int) -> None:
    codec = Codec(FirstAlone())
    ((mean, _),) = encode_pieces([video(22)[0]], codec, at_once, context)
    assert torch.equal(mean, codec.encode(video(22)[:, :, :21])[0]), "the last of 22 frames fills no latent"


def test_every_stage_works_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = write_videos(tmp_path / "videos", frames=24)
    model = write_codec(tmp_path / "codec.safetensors", offset=0.0, node=NODE)
    source = {"codec": CODEC, "data": {"train": video_set(videos), "val": video_set(videos)}, "codec_weights": str(model)}
    latents = tmp_path / "latents"
    assert encode.main([write_config(tmp_path / "encode.yaml", {**source, "out": str(latents), "dtype": "float32"}), *ALLOW]) == 0
    cache = LatentClips(latents / "train", num_latents=12, random_clip=False)
    assert cache.latent_shape == (24, 12, 8, 8) and '"first_frame_alone": true' in (latents / "train" / "index.json").read_text()
    config = diffusion_config(latents, tmp_path, model)
    params = config["model"]["params"]
    params["codec"], params["denoiser"]["params"] = CODEC, {**UNET, "in_channels": 24, "out_channels": 24}
    config["sampling"]["latent_shape"] = [24, 4, 8, 8]
    assert train.main([write_config(tmp_path / "joint.yaml", config), *ALLOW]) == 0
    joint = tmp_path / "joint" / "model.safetensors"
    arguments = [str(joint), "--num", "1", "--format", "npz", "--out", str(tmp_path / "short"), *ALLOW]
    assert sample_short.main(arguments) == 0
    assert np.load(tmp_path / "short" / "seed0-00000.npz")["video"].shape == (7, 16, 16, 3)
    for frames in (30, 31):
        out = tmp_path / f"long{frames}"
        keys = ["--predict", str(joint)]
        assert sample_long.main([*keys, "--frames", str(frames), "--num", "1", "--format", "npz", "--out", str(out), *ALLOW]) == 0
        assert np.load(out / "seed0-00000.npz")["video"].shape == (frames, 16, 16, 3)
    loaded = lvdm.load(joint, allow=["tiny_codecs"])
    start = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    frames = np.stack(list(lvdm.sample_long(loaded, start=start, frames=20)))
    known = loaded.codec.decode(loaded.codec.encode(torch.from_numpy(start[:9]).permute(3, 0, 1, 2)[None] / 127.5 - 1))
    assert len(frames) == 20 and np.array_equal(frames[:9], to_uint8(known)[0]), "nine of ten frames fill latents"
