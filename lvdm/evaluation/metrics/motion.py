"""Fréchet motion distance: of how much and how unsteadily videos change, cell by cell. Ours, and not published.

It needs no weights. All still videos look the same to it, so report it next to FVD and never instead of it.
Letters: b clips, t frames, I the grey of a frame of 64 x 64 pixels, 0 to 255. Each of 4 x 4 cells has two features, means over
time and pixels: the change |I(t+1) - I(t)|, and the unsteadiness |I(t+1) - 2 I(t) + I(t-1)|, 0 for a steady change.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.evaluation.metrics.frechet import FRECHET
from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.protocols.protocol import PROTOCOLS, EvalProtocol
from lvdm.models.features.extractors import EXTRACTORS, ExtractorRecord, Frozen

SIDE, CELLS = 64, 4


class Motion(nn.Module):
    """(b, 3, t, h, w) in 0..255 -> (b, 32): the change in each cell, row by row, then the unsteadiness."""

    def forward(self, video: Tensor) -> Tensor:
        grey = F.interpolate(video.float().mean(1), (SIDE, SIDE), mode="bilinear", antialias=True)  # (b, t, SIDE, SIDE)
        change = grey.diff(dim=1)
        parts = (F.adaptive_avg_pool2d(part.abs().mean(1), CELLS).flatten(1) for part in (change, change.diff(dim=1)))
        return torch.cat(list(parts), dim=1)


METRICS.add(replace(FRECHET, name="fmd", what="Fréchet motion distance: of changes between frames; ours", random=None))
EXTRACTORS.add(
    ExtractorRecord(
        name="motion",
        what="changes between frames in 4 x 4 cells, without weights",
        load=lambda: Frozen(Motion()),
        dim=2 * CELLS**2,
        min_frames=3,
        metrics=("fmd",),
    )
)
PROTOCOLS.add(
    EvalProtocol(
        name="motion2048",
        version=1,
        metrics=("fmd",),
        extractor="motion",
        frames=16,
        num_real=2048,
        num_fake=2048,
        resolution=SIDE,
        resize="crop, bilinear",
        order="shuffled",
        ddof=1,
        source="this project; not published",
        notes="Numbers of other frame rates are not comparable: motion is measured a frame. Compression noise counts as motion.",
    )
)
