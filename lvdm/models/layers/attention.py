"""Attention on heads, with and without relative positions (LVDM section 3; Shaw et al. 2018, eq. 3 and 4).

Letters: n queries, m keys, d width of a head; R_k, R_v tables of relative positions, (n, m, d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TINY_SCORES = 32 * 32  # up to this many scores a head, fusing gains nothing, and the batch may exceed a GPU kernel's 65,535
PLAIN_SCORES_CPU = 256 * 256  # up to this many, matmul and softmax beat the CPU's fused kernel (backward in bf16: 4 to 15 times)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., n, heads d) -> (..., heads, n, d), head major."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """(..., heads, n, d) -> (..., n, heads d)."""
    return x.transpose(-3, -2).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v, (..., heads, n, d), by the faster way for this size and device."""
    scores = q.shape[-2] * k.shape[-2]
    if scores <= (PLAIN_SCORES_CPU if q.device.type == "cpu" else TINY_SCORES):
        return attend_plain(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attend_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the same, written out."""
    return attention_weights(q, k, bias) @ v


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias), (..., heads, n, m) in q's dtype; the softmax is in float32."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1)  # its kernels compute in float32 for any input


class RelativePosition(nn.Module):
    """A vector for each distance in time, shared by the heads: R[i, j] = table[clip(j - i, -L, L) + L]."""

    def __init__(self, width: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.embeddings_table = nn.Parameter(torch.empty(2 * max_distance + 1, width))
        nn.init.xavier_uniform_(self.embeddings_table)

    def forward(self, length: int) -> Tensor:
        frame = torch.arange(length, device=self.embeddings_table.device)
        distance = (frame[None, :] - frame[:, None]).clamp(-self.max_distance, self.max_distance)
        return self.embeddings_table[distance + self.max_distance]  # (length, length, d)


def attend_relative(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor, value_positions: Tensor) -> Tensor:
    """a_i = sum_j w_ij (v_j + R_v[i, j]), w = softmax(q k^T / sqrt(d) + key_bias); (..., heads, t, d)."""
    weights = attention_weights(q, k, key_bias)
    return weights @ v + torch.einsum("...ij,ijd->...id", weights, value_positions.to(weights.dtype))


def query_bias(q: Tensor, key_positions: Tensor) -> Tensor:
    """s[i, j] = q_i . R_k[i, j], as in the text model (before its scale)."""
    return torch.einsum("...id,ijd->...ij", q, key_positions.to(q.dtype))


def query_of_key_bias(q: Tensor, key_positions: Tensor) -> Tensor:
    """s[i, j] = q_j . R_k[j, i]: the query at the KEY's position, as the published model without text has it."""
    return query_bias(q, key_positions).transpose(-2, -1)
