"""Sampled latents to videos: what a codec returns is checked before it becomes frames.

Letters: v videos, c channels, n latents, t frames, h w.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from lvdm.batching import Batches
from lvdm.types import UserError, VideoCodec, check_decoded, video_shape


def decode_each(codec: VideoCodec, latents: Tensor, name: str) -> Iterator[Tensor]:
    """Yield the video (1, 3, t, h, w) of each latent; one is decoded at a time."""
    shape = (1, 3, *video_shape(codec, latents.shape[1:]))
    for video in Batches("videos to decode").over(len(latents), lambda rows: codec.decode(latents[rows]), most=1):
        yield check_finite_frames(check_decoded(video, shape, codec), name)


def decode_stream(codec: VideoCodec, latents: Iterable[Tensor], window: Sequence[int], name: str) -> Iterator[Tensor]:
    """Yield chunks (v, 3, t, h, w) with any t of the videos whose latents these are; `window` is the shape of a latent."""
    _, height, width = video_shape(codec, window)
    count = 0

    def counted() -> Iterator[Tensor]:
        nonlocal count
        for chunk in latents:
            count += chunk.shape[2]
            yield chunk

    frames = 0
    for video in codec.decode_stream(counted()):
        checked = check_decoded(video, (None, 3, None, height, width), codec)
        frames += checked.shape[2]
        yield check_finite_frames(checked, name)
    if frames != (expected := codec.frames_of(count)):
        words = f"{type(codec).__name__} decodes {count} latents to {frames} frames, and its factors say {expected}"
        raise UserError(f"{words}; correct its decode_stream, or them")


def check_finite_frames(video: Tensor, name: str) -> Tensor:
    """Return decoded frames; refuse NaN and infinity, which would become levels like any other."""
    if not bool(torch.isfinite(video).all()):
        raise UserError(f"the codec of {name} decodes finite latents to frames that are not finite; try float32 or another codec")
    return video
