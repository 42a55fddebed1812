"""Measure from Python what a Fréchet distance needs of real videos. `scripts/eval.py statistics` calls this."""

from __future__ import annotations

from lvdm.evaluation.measure import measure_real
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.statistics import Statistics, statistics_of
from lvdm.jobs.evaluate import CLIPS, USUAL, EvalSettings, Videos
from lvdm.processes import process_group
from lvdm.types import UserError


def statistics(
    real: Videos,
    protocol: str | EvalProtocol = CLIPS,
    *,
    num: int | None = None,
    allow_fewer: bool = False,
    features: str | None = None,
    settings: EvalSettings = USUAL,
) -> Statistics:
    """Return the statistics of real videos under a protocol, which `evaluate` takes instead of them once they are saved.

    statistics("data/sky", "styleganv-fvd2048-16f").save("sky.safetensors")
    evaluate("sky.safetensors", "samples", "styleganv-fvd2048-16f")
    """
    with process_group():
        chosen = settings.protocol(protocol, features)
        source = settings.open_real(real, chosen)
        if source is None:
            raise UserError(f"{chosen.name} looks at no real videos, so they have no statistics; take another protocol")
        network = settings.extractor(chosen)
        return statistics_of(measure_real(chosen, source, network, settings.measuring(num, allow_fewer)), chosen, network)
