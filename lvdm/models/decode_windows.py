"""A stream of latents cut into overlapping windows, so that decoding a video of any length takes the same memory.

Letters: b batch, c channels, n latents in time, h w.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Latents that are decoded together, with neighbours on each side."""

    latent: Tensor  # (b, c, halo + n + halo, h, w), less at the ends of the video
    start: int  # its own latents, without the halo: [start, stop) of `latent`
    stop: int
    is_whole: bool  # nothing of the video lies outside


class _Buffer:
    """Latents [first, end) of a stream, read when they are needed."""

    def __init__(self, chunks: Iterable[Tensor]) -> None:
        self._chunks = iter(chunks)
        self._held: list[Tensor] = []
        self.first = self.end = 0
        self.has_ended = False

    def read_to(self, position: int) -> None:
        """Read until the buffer reaches this latent or the stream ends."""
        while self.end < position and not self.has_ended:
            chunk = next(self._chunks, None)
            self.has_ended = chunk is None
            if chunk is not None:
                self._held.append(chunk)
                self.end += chunk.shape[2]

    def take(self, start: int, stop: int) -> Tensor:
        """Return the latents [start, stop) and forget those before."""
        whole = torch.cat(self._held, dim=2)[:, :, start - self.first :]
        self._held, self.first = [whole], start
        return whole[:, :, : stop - start]


def cut_windows(latents: Iterable[Tensor], *, size: int, halo: int) -> Iterator[Window]:
    """Cut a stream into windows of `size` latents, each with up to `halo` neighbours on each side."""
    buffer, done = _Buffer(latents), 0
    while True:
        buffer.read_to(done + size + halo + 1)  # one more than needed, to know whether this window is the last
        stop = min(done + size, buffer.end)
        if stop == done:
            return
        start, reach = max(done - halo, 0), min(stop + halo, buffer.end)
        is_whole = start == 0 and buffer.has_ended and reach == buffer.end
        yield Window(buffer.take(start, reach), done - start, stop - start, is_whole)
        done = stop
