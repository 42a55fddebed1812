"""Statistics of a real set, saved and loaded: all that a Fréchet distance needs of it, without its videos.

A file of safetensors: `mean` (runs, d) and `covariance` (runs, d, d), which divides by n, in float64. Its metadata say n, the
protocol, the network with its hash, and the fingerprint of the videos.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import safe_open, save_file

from lvdm.evaluation.measure import KnownSide, RealSide, facts_of
from lvdm.evaluation.metrics.feature_sets import rows_of
from lvdm.evaluation.metrics.frechet import Moments
from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.metrics.scores import ScoreOptions
from lvdm.evaluation.protocols.named import read_protocol
from lvdm.evaluation.protocols.protocol import EvalProtocol, differences
from lvdm.evaluation.results.provenance import ExtractorFacts, RealSource
from lvdm.evaluation.results.records import record
from lvdm.files import why_not_written, write_whole
from lvdm.models.features.extractors import Extractor
from lvdm.types import UserError

FORMAT = 1
KEY = "lvdm_statistics"  # in the metadata
OF_FAKE = ("name", "metrics", "num_fake", "fake_stride", "fake_clips")  # fields that say nothing of real clips


@dataclass(frozen=True)
class Statistics:
    """Means and covariances of the features of a real set, for every run of a protocol; `num_clips` are those of a run."""

    protocol: EvalProtocol
    extractor: ExtractorFacts
    source: RealSource
    num_clips: int
    moments: tuple[Moments, ...]

    def save(self, path: str | Path) -> None:
        """Write the statistics, whole or not at all; the suffix is .safetensors."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise UserError(f"statistics go into a file that ends in .safetensors, not {path.name}; rename it")
        arrays = {
            "mean": np.stack([one.mean for one in self.moments]),
            "covariance": np.stack([one.covariance(0) for one in self.moments]),
        }
        facts = {"extractor": asdict(self.extractor), "source": asdict(self.source), "num_clips": self.num_clips}
        facts |= {"format": FORMAT, "protocol": self.protocol.as_dict(), "counts": [one.count for one in self.moments]}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda new: save_file(arrays, new, {KEY: json.dumps(facts)}))
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


def read_statistics(path: str | Path) -> Statistics:
    """Return statistics that `Statistics.save` wrote."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
            means, covariances = file.get_tensor("mean"), file.get_tensor("covariance")
        assert facts["format"] == FORMAT, f"format {facts['format']}"
        counts = zip(facts["counts"], means, covariances, strict=True)
        return Statistics(
            protocol=read_protocol(facts["protocol"]),
            extractor=record(ExtractorFacts, facts["extractor"], f"{path}: extractor"),
            source=record(RealSource, facts["source"], f"{path}: source"),
            num_clips=facts["num_clips"],
            moments=tuple(_moments(*one) for one in counts),
        )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AssertionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} holds no statistics of real videos ({error}); make them by `statistics`") from error


def _moments(count: int, mean: np.ndarray, covariance: np.ndarray) -> Moments:
    assert covariance.shape == (len(mean), len(mean)), f"covariance {covariance.shape} of {len(mean)} features"
    return Moments(count, mean * count, (covariance + np.outer(mean, mean)) * count)
