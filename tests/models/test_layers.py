"""Layers against slow and independent versions: attention, relative positions, norms, convolutions, embeddings."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.layers import attention
from lvdm.models.layers.convolutions import Downsample, SpaceConv, TimeConv, Upsample, VolumeConv
from lvdm.models.layers.embeddings import GridPosition, OptionalEmbedding, sinusoidal_features
from lvdm.models.layers.norms import GroupNorm32


def heads(n: int, m: int, *, d: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, 3, size, d, requires_grad=True) for size in (n, m, m))


@pytest.mark.parametrize("n, m", [(5, 5), (16, 77), (300, 300)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_attend_equals_the_fused_kernel_and_so_do_its_gradients(n, m, has_bias):
    q, k, v = heads(n, m)
    bias = torch.randn(3, n, m) if has_bias else None
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    expected = torch.autograd.grad(fused.square().sum(), (q, k, v))
    for ours in (attention.attend(q, k, v, bias), attention.attend_plain(q, k, v, bias)):
        assert torch.allclose(ours, fused, atol=1e-5)
        for got, want in zip(torch.autograd.grad(ours.square().sum(), (q, k, v)), expected, strict=True):
            assert torch.allclose(got, want, atol=1e-4)


def test_splitting_heads_is_head_major_and_merging_undoes_it():
    x = torch.randn(2, 5, 12)
    assert torch.equal(attention.split_heads(x, 3)[0, 1, 2], x[0, 2, 4:8])
    assert torch.equal(attention.merge_heads(attention.split_heads(x, 3)), x)


@pytest.mark.parametrize("uses_key_query", [False, True])
@pytest.mark.parametrize("max_distance", [2, 8])
def test_relative_positions_equal_the_written_out_sums(uses_key_query, max_distance):
    """Also beyond the table, where the recorded values are silent: distances are clipped."""
    t, d = 6, 4
    q, k, v = torch.randn(3, 1, t, d).unbind(0)
    r_k, r_v = (attention.RelativePosition(d, max_distance) for _ in range(2))

    def table(relative: attention.RelativePosition, i: int, j: int) -> Tensor:
        return relative.embeddings_table[min(max(j - i, -max_distance), max_distance) + max_distance]

    expected = torch.zeros(1, t, d)
    for i in range(t):
        extra = [q[0, j] @ table(r_k, j, i) if uses_key_query else q[0, i] @ table(r_k, i, j) for j in range(t)]
        scores = torch.stack([q[0, i] @ k[0, j] / math.sqrt(d) + extra[j] for j in range(t)])
        weights = scores.softmax(0)
        expected[0, i] = sum(weights[j] * (v[0, j] + table(r_v, i, j)) for j in range(t))
    bias = (attention.query_of_key_bias if uses_key_query else attention.query_bias)(q, r_k(t))
    assert torch.allclose(attention.attend_relative(q, k, v, bias, r_v(t)), expected, atol=1e-6)


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_group_norm_normalises_a_group_over_the_whole_clip(is_channels_last):
    x, norm = torch.randn(2, 64, 3, 4, 5) * 3 + 1, GroupNorm32(64, eps=1e-6)
    nn.init.normal_(norm.weight)
    groups = x.view(2, 32, -1)
    expected = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    expected = expected.view_as(x) * norm.weight[:, None, None, None]
    layout = torch.channels_last_3d if is_channels_last else torch.contiguous_format
    assert torch.allclose(norm(x.contiguous(memory_format=layout)), expected, atol=1e-5)
    tokens = x.flatten(2).transpose(1, 2)
    assert torch.allclose(norm.tokens(tokens), expected.flatten(2).transpose(1, 2), atol=1e-5)


def test_group_norm_of_bf16_keeps_float32_statistics():
    """A mean of 8 in 30,000 numbers: summed in bf16 the statistics would be off by far more than bf16's rounding."""
    x, norm = (torch.randn(1, 32, 8, 64, 64) + 8).bfloat16(), GroupNorm32(32)
    error = (norm(x).float() - norm(x.float())).abs().max()
    assert norm(x).dtype == torch.bfloat16 and error < 2**-6


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_space_and_time_convolutions_equal_conv3d(is_channels_last):
    x = torch.randn(2, 8, 3, 6, 4)
    x = x.contiguous(memory_format=torch.channels_last_3d) if is_channels_last else x
    time = TimeConv(8)
    assert not time(x).any()
    nn.init.normal_(time.weight)
    for conv in (SpaceConv(8, 5), SpaceConv(8, 5, kernel=1), SpaceConv(8, 5, stride=2), time):
        expected = F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        assert torch.allclose(conv(x), expected, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_volume_convolution_is_torchs_and_its_bf16_gradient_is_near_float32s(frames, stride):
    conv, x = VolumeConv(8, 8, (3, 4, 4), stride, padding=(1, 1, 1)), torch.randn(2, 8, frames, 8, 8)
    gradients = []
    for is_bf16 in (False, True):
        conv.zero_grad()
        del [torch.full((size,), 1e20) for size in (768, 1536, 3072, 6144) for _ in range(40)][:]  # memory full of large numbers
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            y = conv(x)
        if not is_bf16:
            assert torch.allclose(y, F.conv3d(x, conv.weight, conv.bias, stride, 1), atol=1e-5)
        y.float().square().sum().backward()
        gradients.append(conv.weight.grad.clone())
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()


def test_down_and_up_change_space_only():
    x = torch.randn(1, 8, 3, 4, 6)
    assert Downsample(8)(x).shape == (1, 8, 3, 2, 3)
    up = Upsample(8)
    twice = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    assert torch.allclose(up(x), up.conv(twice), atol=1e-6)


def test_sinusoidal_features_are_cosines_then_sines_of_falling_frequency():
    features = sinusoidal_features(torch.tensor([0, 250]), 8)
    frequencies = torch.tensor([1.0, 0.1, 0.01, 0.001])
    assert torch.equal(features[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert torch.allclose(features[1], torch.cat([(250 * frequencies).cos(), (250 * frequencies).sin()]), atol=1e-5)


def test_absent_indices_embed_to_zeros_and_learn_nothing():
    embedding = OptionalEmbedding(4, 6)
    out = embedding(torch.tensor([2, -1]))
    assert torch.equal(out[0], embedding.weight[2]) and not out[1].any()
    out.sum().backward()
    assert not embedding.weight.grad[0].any()


def test_grid_positions_tell_every_token_from_every_other():
    position = GridPosition(16)
    assert not position(2, 3, 4, torch.device("cpu")).any()
    nn.init.normal_(position.proj.weight)
    tokens = position(2, 3, 4, torch.device("cpu"))
    distances = torch.cdist(tokens, tokens) + torch.eye(24) * 1e3
    assert tokens.shape == (24, 16) and distances.min() > 0.1
