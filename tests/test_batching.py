"""Batches follow the memory, and none changes a video. Memory is a stub: a network that refuses batches above a limit."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_long_video import latents_of, tiny_model
from torch import Tensor, nn

from lvdm.batching import Batches, fitting
from lvdm.jobs import encode_batches
from lvdm.jobs.encode_batches import encode_pieces, groups
from lvdm.models import codec as codec_module
from lvdm.models.codec import Codec
from lvdm.sampling.pipeline import VideoModel, auto_batch
from lvdm.types import Condition


class Limited:
    """A network with memory for `most` rows; it notices only at its third call, when noise of the seed has been used."""

    def __init__(self, network: Any, most: int) -> None:
        self.network, self.inputs, self.most = network, network.inputs, most
        self.calls, self.refused = 0, []

    def __call__(self, x: Tensor, t: Tensor, cond: Condition | None = None) -> Tensor:
        self.calls += 1
        if len(x) > self.most and self.calls > 2:
            self.refused.append(len(x))
            raise torch.OutOfMemoryError("no more")
        return self.network(x, t, cond)


class LimitedDecoder(nn.Module):
    """An autoencoder that decodes `most` videos at once."""

    def __init__(self, autoencoder: Any, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.sizes, self.refused = autoencoder, most, [], []
        for name in ("temporal_factor", "spatial_factor", "latent_channels", "decode_halo"):
            setattr(self, name, getattr(autoencoder, name))

    def encode(self, video: Tensor) -> Any:
        return self.inner.encode(video)

    def decode(self, latent: Tensor) -> Tensor:
        if len(latent) > self.most:
            self.refused.append(len(latent))
            raise torch.OutOfMemoryError("no more")
        self.sizes.append((len(latent), latent.shape[2]))
        return self.inner.decode(latent)


def limited(most: int) -> Callable[[slice], list[int]]:
    def run(rows: slice) -> list[int]:
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError("no more")
        return list(range(rows.start, rows.stop))

    return run


@pytest.mark.parametrize("count", [0, 1, 2, 7, 16])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("size", [None, 1, 4, 9])
def test_every_item_comes_once_in_order_and_the_size_is_kept(count: int, most: int, size: int | None) -> None:
    batches = Batches()
    made = list(batches.over(count, limited(most), size))
    assert sum(made, []) == list(range(count))
    first = min(count, size or count)
    halved = first
    while halved > most:
        halved = -(-halved // 2)
    assert not made or len(made[0]) == halved
    assert batches.size == (None if first <= most else halved)
    assert max((len(each) for each in batches.over(count, limited(most))), default=0) <= most


def test_one_item_that_does_not_fit_is_an_error_and_so_is_a_batch_that_must_not_shrink(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(torch.OutOfMemoryError):
        list(Batches().over(4, limited(0)))
    assert "4 items at once do not fit the memory; continuing with 2" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):
        list(Batches(shrinks=False).over(4, limited(3)))


def test_what_the_allocator_holds_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 MiB the driver has 10 free and torch 50, of which 20 are in use: 40 are free."""
    for name, value in (("mem_get_info", (10 << 20, 100 << 20)), ("memory_reserved", 50 << 20), ("memory_allocated", 20 << 20)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    gpu = torch.device("cuda", 0)
    assert fitting(5, gpu, bytes_per_unit=1 << 20, units_on_cpu=1) == 8
    assert fitting(41, gpu, bytes_per_unit=1 << 20, units_on_cpu=1) == 1, "one item is tried in any case"
    assert auto_batch(640, gpu) == 4, "a latent element needs 16 KiB, so 640 of them 10 MiB"
    assert fitting(5, torch.device("cpu"), bytes_per_unit=1 << 20, units_on_cpu=35) == 7


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_short_videos_are_the_same_when_memory_runs_out(guidance: float) -> None:
    model = tiny_model()
    small = Limited(model.denoiser, most=2)
    options: dict[str, Any] = {"sampler": "ddim", "eta": 1.0, "seed": 3, "batch_size": 5}
    made = replace(model, denoiser=small, batches=Batches()).sample_latents(5, **options)
    assert small.refused == [5, 3]
    assert (made - model.sample_latents(5, **options)).abs().max() < 1e-4


@pytest.mark.parametrize("most", [1, 3])
def test_keys_and_gaps_of_long_videos_are_the_same_when_memory_runs_out(most: int) -> None:
    model = tiny_model()
    options: dict[str, Any] = {"sampler": "ddim", "eta": 1.0, "gap_batch": 3, "steps": 3}
    whole = latents_of(model, [0, 1, 2, 3], frames=70, **options)
    small = Limited(model.denoiser, most)
    assert (latents_of(replace(model, denoiser=small), [0, 1, 2, 3], frames=70, **options) - whole).abs().max() < 1e-4
    assert {4, 12} <= set(small.refused), "4 videos of a key window, and 3 gap windows of each"
    assert len(small.refused) <= 7, "what fitted is kept: each size is tried once for keys and once for gaps"


def test_a_model_in_step_with_others_stops_when_memory_runs_out() -> None:
    model = tiny_model()
    stiff = replace(model, denoiser=Limited(model.denoiser, 2), batches=Batches(shrinks=False))
    with pytest.raises(torch.OutOfMemoryError):
        stiff.sample_latents(3, batch_size=3)
    with pytest.raises(torch.OutOfMemoryError):
        latents_of(stiff, [0, 1, 2])


def decoded(model: VideoModel, autoencoder: nn.Module, latent: Tensor) -> Tensor:
    codec = Codec(autoencoder, scale=model.codec.scale, decode_window=3)
    return torch.cat(list(codec.decode_stream(latent.split(2, dim=2))), dim=2)


def test_long_videos_are_decoded_in_parts_when_memory_runs_out() -> None:
    model = tiny_model()
    latent = torch.randn(5, 2, 11, 2, 2, generator=torch.Generator().manual_seed(0))
    small = LimitedDecoder(model.codec.autoencoder, most=2)
    whole = model.codec.decode(latent)
    assert (decoded(model, small, latent) - whole).abs().max() < 1e-5
    assert small.refused == [5, 3] and {rows for rows, _ in small.sizes} == {2, 1}, "2 fits and is kept"


@pytest.mark.parametrize("latents", [1, 3, 4, 20])
def test_a_window_is_decoded_in_parts_when_memory_runs_out_for_one_video(latents: int) -> None:
    """A latent of this autoencoder sees two on each side, so one to decode takes five; there is memory for more."""
    autoencoder = tiny_model().codec.autoencoder
    assert autoencoder.decode_halo == 2

    class Small(LimitedDecoder):
        def decode(self, latent: Tensor) -> Tensor:
            if len(latent) * latent.shape[2] > 4 + latents:
                raise torch.OutOfMemoryError("no more")
            return super().decode(latent)

    codec = Codec(Small(autoencoder, most=9), decode_window=8)
    latent = torch.randn(2, 2, 21, 2, 2, generator=torch.Generator().manual_seed(0))
    made = torch.cat(list(codec.decode_stream(latent.split(2, dim=2))), dim=2)
    assert (made - Codec(autoencoder).decode(latent)).abs().max() < 1e-5


def test_a_window_that_only_the_whole_video_makes_exact_is_never_cut() -> None:
    autoencoder = LimitedDecoder(tiny_model().codec.autoencoder, most=0)
    autoencoder.decode_halo = None
    with pytest.raises(torch.OutOfMemoryError):
        list(Codec(autoencoder).decode_stream([torch.zeros(2, 2, 8, 2, 2)]))
    assert autoencoder.refused == [2, 1], "fewer videos, never fewer latents"


def test_long_videos_are_decoded_as_many_at_once_as_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latent of one video is 4 frames of 16 x 16 pixels; there is memory for 12 of them, whatever the window's length."""
    model = tiny_model()
    latent = torch.randn(5, 2, 9, 2, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(codec_module, "DECODE_PIXELS", 12 * 4 * 16 * 16)
    counted = LimitedDecoder(model.codec.autoencoder, most=5)
    made = decoded(model, counted, latent)
    assert all(rows * latents <= 12 for rows, latents in counted.sizes) and not counted.refused
    assert {rows for rows, _ in counted.sizes} >= {1, 2}
    assert (made - model.codec.decode(latent)).abs().max() < 1e-5


# Encoding -------------------------------------------------------------------------------------------------------------------


class LimitedEncoder(LimitedDecoder):
    """An autoencoder that encodes `most` clips at once."""

    def encode(self, video: Tensor) -> Any:
        if len(video) > self.most:
            self.refused.append(len(video))
            raise torch.OutOfMemoryError("no more")
        self.sizes.append((len(video), video.shape[2]))
        return self.inner.encode(video)


def test_pieces_of_videos_are_encoded_in_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two videos of 60 frames in pieces of 8 with 4 around: the inner pieces have one length and go together, in any batch."""
    codec = tiny_model().codec
    videos = list(torch.rand(2, 3, 60, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    one_by_one = encode_pieces(videos, codec, 8, 4)
    small = LimitedEncoder(codec.autoencoder, most=2)
    monkeypatch.setattr(encode_batches, "fitting", lambda pixels, device, **limits: 5)
    together = encode_pieces(videos, Codec(small, scale=codec.scale), 8, 4)
    assert small.refused == [5, 3] and (2, 16) in small.sizes
    for ours, theirs in zip(together, one_by_one, strict=True):
        assert all((a - b).abs().max() < 1e-5 for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(torch.OutOfMemoryError, match="out of memory with 12 frames at once; lower frames_at_once"):
        encode_pieces(videos, Codec(LimitedEncoder(codec.autoencoder, most=0)), 8, 4)


def test_groups_of_clips_stay_in_one_shard() -> None:
    assert list(groups(range(10), size=3, shard_size=4, count=10)) == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9]]
    assert list(groups([4, 5, 6, 7, 8], size=8, shard_size=4, count=9)) == [[4, 5, 6, 7], [8]]
    assert list(groups(range(3), size=1, shard_size=4, count=3)) == [[0], [1], [2]]
