"""Statistics of a real set, saved and loaded: all that a Fréchet distance needs of it, without its videos.

A file of safetensors: `mean` (runs, d) and `covariance` (runs, d, d), which divides by n, in float64. Its metadata say n, the
protocol, the network with its hash, and the fingerprint of the videos. They hold the hashes of all that the file contains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lvdm.evaluation.measure import KnownSide, RealSide, facts_of
from lvdm.evaluation.metrics.feature_sets import rows_of
from lvdm.evaluation.metrics.frechet import Moments
from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.metrics.scores import ScoreOptions
from lvdm.evaluation.protocols.named import read_protocol
from lvdm.evaluation.protocols.protocol import EvalProtocol, differences
from lvdm.evaluation.results.provenance import ExtractorFacts, RealSource
from lvdm.evaluation.results.records import record
from lvdm.files import DamagedFile, check_description, check_tensors, why_not_written, with_hashes, write_whole
from lvdm.models.features.extractors import Extractor
from lvdm.rules import FLAG, MAPPING, PATH, integer, listed, require, require_each
from lvdm.types import UserError

FORMAT = 1
KEY = "lvdm_statistics"  # in the metadata
BROKEN = (  # what a foreign file can raise
    OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, AssertionError, RecursionError, UserError,
)  # fmt: skip
RULES = {
    "num_clips": integer(2),
    "counts": listed(integer(2, 2**40), 1, 10_000),  # of rows of features, of each run
    "protocol": MAPPING,
    "extractor": MAPPING,
    "source": MAPPING,
}
OF_FAKE = ("name", "metrics", "num_fake", "fake_stride", "fake_clips")  # fields that say nothing of real clips


@dataclass(frozen=True)
class Statistics:
    """Means and covariances of the features of a real set, for every run of a protocol; `num_clips` are those of a run."""

    protocol: EvalProtocol
    extractor: ExtractorFacts
    source: RealSource
    num_clips: int
    moments: tuple[Moments, ...]

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the statistics, whole or not at all, with hashes that detect damage; the suffix is .safetensors."""
        require_free(path := Path(path), overwrite=overwrite)
        tensors = {
            "mean": torch.from_numpy(np.stack([one.mean for one in self.moments])),
            "covariance": torch.from_numpy(np.stack([one.covariance(0) for one in self.moments])),
        }
        facts = {"extractor": asdict(self.extractor), "source": asdict(self.source), "num_clips": self.num_clips}
        facts |= {"format": FORMAT, "protocol": self.protocol.as_dict(), "counts": [one.count for one in self.moments]}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda new: save_file(tensors, new, {KEY: json.dumps(with_hashes(facts, tensors))}))
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot write {path}: {why_not_written(error)}; free space or choose another folder") from error

    def side(self, protocol: EvalProtocol, extractor: Extractor, options: ScoreOptions) -> KnownSide:
        """Return the real side of a measurement, once it has the protocol and the network of these statistics."""
        if found := [each for each in differences(self.protocol, protocol) if each.split()[0] not in OF_FAKE]:
            raise UserError(f"the statistics were measured under another protocol: {'; '.join(found)}; measure the videos")
        if (now := facts_of(extractor)) != self.extractor:
            nets = " and ".join(f"{one.name} (sha256 {str(one.sha256)[:12]})" for one in (self.extractor, now))
            raise UserError(f"the statistics and this measurement have two networks, {nets}; take one, or measure the videos")
        if unfit := [name for name in options.metrics if METRICS[name].kind == "distance" and not METRICS[name].takes_moments]:
            raise UserError(f"{unfit[0]} needs the clips, and statistics hold their mean and covariance; leave it out")
        if options.resamples or options.extrapolate:
            what = "bootstrap" if options.resamples else "extrapolate"
            raise UserError(f"{what} draws from the clips, which statistics do not hold; leave it out, or give the videos")
        return KnownSide(self.source, self.moments, self.num_clips)


def statistics_of(real: RealSide, protocol: EvalProtocol, extractor: Extractor) -> Statistics:
    """Return the statistics of measured real clips."""
    moments = tuple(Moments.of(rows_of(one)) for one in real.features)
    return Statistics(protocol, facts_of(extractor), real.source, real.num_clips, moments)


def require_free(path: str | Path, *, overwrite: bool) -> None:
    """Refuse a file that statistics cannot be saved to, such as one that exists, before hours of measuring."""
    require(PATH, path=path)
    require(FLAG, overwrite=overwrite)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"statistics go into a file that ends in .safetensors, not {path.name}; rename it")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists and is kept; choose another name, or give overwrite=True")


def read_statistics(path: str | Path) -> Statistics:
    """Return statistics that `Statistics.save` wrote; damage is refused by name."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in ("mean", "covariance")}
        check_description(facts, path)
        check_tensors(tensors, facts, path, all_of_them=True)
        require_each(RULES, facts)
        assert facts["format"] == FORMAT, f"format {facts['format']}"
        found = Statistics(
            protocol=read_protocol(facts["protocol"]),
            extractor=record(ExtractorFacts, facts["extractor"], "extractor"),
            source=record(RealSource, facts["source"], "source"),
            num_clips=facts["num_clips"],
            moments=tuple(_moments(facts["counts"], tensors["mean"].numpy(), tensors["covariance"].numpy())),
        )
        assert found.num_clips <= found.protocol.num_real, f"{found.num_clips} clips of {found.protocol.num_real}"
        assert len(found.moments) == found.protocol.runs, f"{len(found.moments)} runs of {found.protocol.runs}"
        assert found.moments[0].dim == found.extractor.dim, f"{found.moments[0].dim} features of {found.extractor.dim}"
        return found
    except DamagedFile:
        raise
    except BROKEN as error:
        why = f"{error}".split("; ")[0]
        how = "make them by `statistics`; only generated videos may come from a model file"
        raise UserError(f"{path} holds no statistics of real videos ({why:.150}): {how}") from error


def _moments(counts: Sequence[int], means: np.ndarray, covariances: np.ndarray) -> Iterator[Moments]:
    """Yield the moments of each run, once they are such as a measurement gives."""
    runs, dim = (*means.shape, 0, 0)[:2]
    shapes = f"mean {means.dtype} {means.shape} and covariance {covariances.dtype} {covariances.shape} of {len(counts)} runs"
    assert (means.shape, covariances.shape) == ((len(counts), dim), (runs, dim, dim)), shapes
    assert means.dtype == covariances.dtype == np.float64, shapes
    assert np.isfinite(means).all() and np.isfinite(covariances).all(), "numbers that are not finite"
    for count, mean, covariance in zip(counts, means, covariances, strict=True):
        variance, rounding = covariance.diagonal(), 1e-9 * (np.abs(covariance).max() + (mean**2).max())
        is_one = np.abs(covariance - covariance.T).max() <= rounding and variance.min() >= -rounding
        assert is_one, "a covariance that is not symmetric, or a negative variance"
        yield Moments(count, mean * count, (covariance + np.outer(mean, mean)) * count)
