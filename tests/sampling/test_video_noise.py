"""The noise that belongs to a video: the same in any company, and nobody else's."""

from __future__ import annotations

import torch

from lvdm.sampling.noise import VideoNoise


def test_a_videos_noise_is_the_same_in_any_company():
    alone = VideoNoise(3, [5], stage=(1, 2))
    together = VideoNoise(3, [4, 5, 0], stage=(1, 2))
    for shape in [(2, 4, 8, 8), (3,), (2, 4, 8, 8)]:
        assert torch.equal(alone((1, *shape))[0], together((3, *shape))[1])


def test_joined_noise_is_the_rows_of_its_parts():
    joined = VideoNoise.join([VideoNoise(0, [1, 2], stage=(0,)), VideoNoise(0, [1], stage=(1,))])
    assert torch.equal(
        joined((3, 7)), torch.cat([VideoNoise(0, [1, 2], stage=(0,))((2, 7)), VideoNoise(0, [1], stage=(1,))((1, 7))])
    )


def test_every_seed_video_stage_and_call_has_noise_of_its_own():
    places = [(s, v, g) for s in (0, 1, 2**32, 2**32 + 1) for v in (0, 1, 2) for g in ((), (0,), (0, 0), (1,), (0, 1), (1, 0))]
    first = {VideoNoise(s, [v], stage=g)((1, 4)).numpy().tobytes() for s, v, g in places}
    assert len(first) == len(places)
    noise = VideoNoise(0, [0])
    assert not torch.equal(noise((1, 9)), noise((1, 9)))


def test_a_videos_noise_is_standard_normal():
    noise = VideoNoise(0, range(4))((4, 50_000))
    assert noise.dtype == torch.float32
    assert noise.mean(dim=1).abs().max() < 0.02 and (noise.var(dim=1) - 1).abs().max() < 0.03
    assert (torch.corrcoef(noise) - torch.eye(4)).abs().max() < 0.02
