"""The plan of a long video: which latents are sampled together, from which known ones (LVDM section 3.3, "hierarchical").

Letters: n known latents of the start, k key stride (latents between keys), g key intervals in one gap window.
Keys are every k-th latent. Windows of keys are sampled one after another, each sharing `overlap` keys with the one before;
windows of all latents then fill the gaps between keys. The last known latent of a start is always a key, so that it
is continued; without a start the keys are 0, k, 2k, ... Everything here is pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lvdm.types import UserError


@dataclass(frozen=True)
class Window:
    """Latents sampled together. Slots that are neither given nor new are sampled and thrown away."""

    positions: tuple[int, ...]  # which latent of the video stands in each slot
    given: tuple[int, ...]  # slots whose latent is known
    new: tuple[int, ...]  # slots whose result is kept


@dataclass(frozen=True)
class Plan:
    """All windows of one long video, each computed when requested, so that a plan of any length takes the same memory."""

    frames: int
    latents: int  # latents that cover the frames; positions from here on are sampled only as keys
    window: int
    overlap: int
    key_stride: int
    gap_window: int | None
    start_latents: int

    @property
    def first_key(self) -> int:
        """Return the position of the first key: 0, or such that the last known latent is a key."""
        return (self.start_latents - 1) % self.key_stride if self.start_latents else 0

    @property
    def known_keys(self) -> int:
        return (self.start_latents - 1) // self.key_stride + 1 if self.start_latents else 0

    @property
    def num_keys(self) -> int:
        """Return the keys until one lies on or after the last latent, and at least as many as one gap window needs."""
        intervals = self._intervals
        return max(intervals, self._gap_intervals if intervals and self.gap_window else 0) + 1

    @property
    def num_key_windows(self) -> int:
        missing = self.num_keys - self.keys_after(1)
        return 1 + max(0, -(-missing // (self.window - self.overlap)))

    @property
    def num_gap_windows(self) -> int:
        return -(-(self._intervals - self._first_interval) // self._gap_intervals) if self.gap_window else 0

    def keys_after(self, windows: int) -> int:
        """Return how many keys are known after that many key windows (not cut at the last one that is kept)."""
        if windows == 0:
            return self.known_keys
        first = self.known_keys - min(self.known_keys, self.overlap) + self.window
        return first + (windows - 1) * (self.window - self.overlap)

    def key_window(self, index: int) -> Window:
        known = self.keys_after(index)
        given = min(known, self.overlap)
        keys = range(known - given, known - given + self.window)
        return Window(
            positions=tuple(self.first_key + key * self.key_stride for key in keys),
            given=tuple(range(given)),
            new=tuple(slot for slot, key in enumerate(keys) if slot >= given and key < self.num_keys),
        )

    def gap_window_at(self, index: int) -> Window:
        """Return a window of gaps, from left to right; the last one moves back, if it must, over gaps that others fill."""
        assert self.gap_window is not None, "a plan without gap window has no gaps"
        first = self._first_interval + index * self._gap_intervals  # the first interval that this window fills
        begin = max(0, min(first, self._intervals - self._gap_intervals))
        origin = self.first_key + begin * self.key_stride
        given = tuple(range(0, self.gap_window, self.key_stride))
        mine = range((first - begin) * self.key_stride, min(self.gap_window, self.latents - origin))
        return Window(
            positions=tuple(range(origin, origin + self.gap_window)),
            given=given,
            new=tuple(slot for slot in mine if slot % self.key_stride),
        )

    def gaps_ready(self, key_windows: int) -> int:
        """Return how many gap windows have all their keys after that many key windows."""
        if not self.gap_window:
            return 0
        whole = (self.keys_after(key_windows) - 1 - self._first_interval) // self._gap_intervals
        return self.num_gap_windows if key_windows >= self.num_key_windows else min(max(whole, 0), self.num_gap_windows)

    @property
    def keys(self) -> list[Window]:
        return [self.key_window(index) for index in range(self.num_key_windows)]

    @property
    def gaps(self) -> list[Window]:
        return [self.gap_window_at(index) for index in range(self.num_gap_windows)]

    def in_order(self) -> Iterator[tuple[str, int, Window]]:
        """Yield ("key" or "gap", its index, the window), each gap as soon as it has its keys."""
        filled = 0
        for index in range(self.num_key_windows):
            yield "key", index, self.key_window(index)
            for gap in range(filled, self.gaps_ready(index + 1)):
                yield "gap", gap, self.gap_window_at(gap)
            filled = self.gaps_ready(index + 1)

    @property
    def _intervals(self) -> int:
        """Return the intervals between neighbouring keys that are needed to reach the last latent."""
        return -(-(self.latents - 1 - self.first_key) // self.key_stride)

    @property
    def _first_interval(self) -> int:
        return max(self.known_keys - 1, 0)

    @property
    def _gap_intervals(self) -> int:
        return (self.gap_window - 1) // self.key_stride if self.gap_window else 1


def plan(
    frames: int,
    *,
    latents: int,
    window: int,
    overlap: int,
    key_stride: int = 1,
    gap_window: int | None = None,
    start_latents: int = 0,
) -> Plan:
    """Return the plan of a video of `frames` frames.

    Args:
        latents: how many cover these frames.
        window: latents that the predicting network sees at once.
        overlap: keys that a window is given from the one before.
        key_stride: latents from one key to the next; 1 makes every latent a key (plain autoregressive).
        gap_window: latents that the infilling network sees at once, a multiple of key_stride plus one; None without gaps.
        start_latents: latents of a given start; they are never sampled.
    """
    _check(frames, window, overlap, key_stride, gap_window)
    if start_latents >= latents:
        raise UserError(
            f"the start already has {start_latents} of the {latents} latents of the {frames} requested frames; "
            "request more frames, or continue fewer of the start (start_frames)"
        )
    return Plan(frames, latents, window, overlap, key_stride, gap_window, start_latents)


def _check(frames: int, window: int, overlap: int, key_stride: int, gap_window: int | None) -> None:
    if frames < 1:
        raise UserError(f"a video needs at least one frame, not {frames}")
    if key_stride < 1:
        raise UserError(f"key_stride is {key_stride}; it counts the latents from one key to the next, so give 1 or more")
    if not 1 <= overlap < window:
        raise UserError(f"windows of {window} latents cannot share {overlap}; give an overlap from 1 to {window - 1}")
    if key_stride > 1 and gap_window is None:
        raise UserError(f"with a key every {key_stride} latents an infill model must fill the gaps; give one or key_stride 1")
    if key_stride == 1 and gap_window is not None:
        raise UserError("with key_stride 1 there is no gap to fill; leave the infill model out or give a larger key_stride")
    if gap_window is not None and (gap_window <= key_stride or (gap_window - 1) % key_stride):
        raise UserError(
            f"an infill window of {gap_window} latents does not begin and end on keys {key_stride} apart; "
            f"its length must be a multiple of {key_stride} plus one"
        )
