"""FID and KID of frames: how far single frames are from real ones, whatever their motion. Every frame of a clip is a sample.

FID is the Fréchet distance of Inception's features (Heusel et al. 2017). KID is the polynomial kernel distance of the same,
averaged over random subsets (Binkowski et al. 2018, section 4). Letters: n clips, t frames, d features.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from lvdm.evaluation.metrics.feature_sets import rows_of
from lvdm.evaluation.metrics.frechet import FRECHET, Moments, between
from lvdm.evaluation.metrics.kernel import polynomial_mmd
from lvdm.evaluation.metrics.metric import METRICS, Metric
from lvdm.evaluation.protocols.protocol import PROTOCOLS, EvalProtocol
from lvdm.models.features import inception
from lvdm.models.features.extractors import EXTRACTORS, ExtractorRecord, Frozen
from lvdm.models.features.random_networks import random_inception
from lvdm.seeding import numpy_generator

SUBSETS, SUBSET = 100, 1000  # how many, and frames of each set in one; the usual numbers


def fid(real: np.ndarray | Moments, fake: np.ndarray, *, ddof: int) -> float:
    """Return the Fréchet distance of features of frames (n, t, d), or of the moments of real ones."""
    return between(real if isinstance(real, Moments) else rows_of(real), rows_of(fake), ddof=ddof)


def kid(real: np.ndarray, fake: np.ndarray, *, seed: int) -> float:
    """Return the kernel distance of features of frames (n, t, d), the mean over random subsets if there are more than SUBSET."""
    x, y = rows_of(real), rows_of(fake)
    size = min(SUBSET, len(x), len(y))
    if max(len(x), len(y)) <= size:
        return polynomial_mmd(x, y)
    rng = numpy_generator(seed)
    return float(np.mean([polynomial_mmd(_some(x, size, rng), _some(y, size, rng)) for _ in range(SUBSETS)]))


def _some(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    return rows[rng.choice(len(rows), size, replace=False)]


_inception = partial(ExtractorRecord, dim=inception.WIDTH, min_frames=1, metrics=("fid", "kid"))
EXTRACTORS.add(
    _inception(
        "inception",
        "Inception-v3 for ImageNet of TensorFlow, as FID is measured with, frame by frame",
        lambda path: Frozen(inception.load_inception(path), inception.prepared),
        details=f"inception fid {inception.SIDE}",
        weights={"pt_inception-2015-12-05-6726825d.pth": inception.load_inception},
    )
)
EXTRACTORS.add(
    _inception(
        "random-inception",
        "Inception-v3 with random weights",
        lambda seed, width: Frozen(random_inception(seed, width=width), inception.prepared),
        is_random=True,
    )
)
_OF_FRAMES = replace(FRECHET, random="random-inception", at_infinity=None, of_frames=True)
METRICS.add(replace(_OF_FRAMES, name="fid", what="Fréchet inception distance of frames (Heusel et al. 2017)", compute=fid))
METRICS.add(
    Metric(
        name="kid",
        what="kernel inception distance of frames (Binkowski et al. 2018)",
        kind="distance",
        compute=kid,
        random="random-inception",
        reads=("seed",),
        of_frames=True,
    )
)
PROTOCOLS.add(
    EvalProtocol(
        name="frames2048",
        version=1,
        metrics=("fid", "kid"),
        extractor="inception",
        frames=16,
        num_real=2048,
        num_fake=2048,
        resolution=256,
        resize="bilinear, crop",
        order="shuffled",
        ddof=1,
        source="this project; not published. Network, resizing and distances are those of torch-fidelity",
        notes="Every frame of a clip counts, so neighbours are alike and 2048 clips are fewer independent samples than frames.",
    )
)
