"""What encoding computes at once: groups of clips, pieces of long videos, and batches of them that fit the memory.

Letters: c channels, n latents, t frames, h w.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from lvdm.batching import Batches, fitting
from lvdm.data import VideoFolder
from lvdm.models.codec import Codec
from lvdm.types import UserError

ENCODE_BYTES = 2 << 10  # memory for a pixel of a frame in VAE3D, with room to spare
MOST_CLIPS = 64  # read and encoded at once


def clips_at_once(videos: VideoFolder, device: torch.device) -> int:
    """Return how many clips to encode at once; one on a CPU, which is no faster with more."""
    pixels = videos.num_frames * videos.size[0] * videos.size[1]
    return min(MOST_CLIPS, fitting(pixels, device, bytes_per_unit=ENCODE_BYTES, units_on_cpu=1))


def groups(numbers: Iterable[int], size: int, shard_size: int, count: int) -> Iterator[list[int]]:
    """Yield the numbers in groups, each within one shard, because a shard is written when the next number is requested."""
    group: list[int] = []
    for number in numbers:
        group.append(number)
        if len(group) == size or (number + 1) % shard_size == 0 or number + 1 == count:
            yield group
            group = []


def encode_pieces(videos: Sequence[Tensor], codec: Codec, at_once: int, context: int) -> list[tuple[Tensor, Tensor]]:
    """Return mean and std (c, n, h, w) of each video (3, t, h, w), piece by piece. Frames that fill no latent are left out.

    A piece begins on the last frame of a latent if the codec takes its first frame alone. That latent is part of the context.
    """
    factor = codec.temporal_factor
    at_once, before, after = at_once // factor, max(context // factor, codec.first_frame_alone), context // factor
    clips, own = [], []  # each piece with its context, and the latents to keep of it
    for video in videos:
        if (latents := codec.latents_of(video.shape[1])) == 0:
            raise UserError(f"a video of {video.shape[1]} frames is shorter than one latent ({factor} frames)")
        slices = []
        for start in range(0, latents, at_once):
            stop = min(start + at_once, latents)
            first, last = max(0, start - before), min(latents, stop + after)
            clips.append(video[:, first * factor : codec.frames_of(last)])
            slices.append(slice(start - first, stop - first))
        own.append(slices)
    made = iter(_moments(clips, codec))
    pieces = [[[each[:, part] for each in next(made)] for part in slices] for slices in own]
    return [(torch.cat([mean for mean, _ in each], dim=1), torch.cat([std for _, std in each], dim=1)) for each in pieces]


def _moments(clips: Sequence[Tensor], codec: Codec) -> list[tuple[Tensor, Tensor]]:
    """Return mean and std of each clip (3, t, h, w) on the CPU; clips of one shape in batches that fit the memory."""
    device, batches = next(codec.parameters()).device, Batches("clips")
    made: list[tuple[Tensor, Tensor]] = []
    for _, alike in groupby(clips, key=lambda clip: clip.shape):
        group = list(alike)
        most = fitting(group[0][0].numel(), device, bytes_per_unit=ENCODE_BYTES, units_on_cpu=1)
        for mean, std in batches.over(len(group), partial(_moments_of, codec, group, device), most):
            made += zip(mean.float().cpu(), std.float().cpu(), strict=True)
    return made


def _moments_of(codec: Codec, clips: Sequence[Tensor], device: torch.device, rows: slice) -> tuple[Tensor, Tensor]:
    try:
        return codec.moments(torch.stack(list(clips[rows])).to(device))
    except torch.OutOfMemoryError as error:
        if rows.stop - rows.start > 1:
            raise
        words = f"out of memory with {clips[0].shape[1]} frames at once; lower frames_at_once"
        raise torch.OutOfMemoryError(words) from error
