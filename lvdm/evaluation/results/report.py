"""A result as a row for a paper's table, and the comparison of two results of equal conditions.

Letters: a, b two results; l, h the ends of an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lvdm.evaluation.protocols.protocol import differences
from lvdm.evaluation.results.provenance import ExtractorFacts
from lvdm.evaluation.results.result import NOT_COMPARABLE, Result, Value
from lvdm.types import UserError

DIGITS = 4  # of a number in a table, all of those before its point
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {c: f"\\{c}" for c in "&%$#_{}"}


@dataclass(frozen=True)
class TableLine:
    """A result as one row of a table, twice, and the names of its columns."""

    columns: tuple[str, ...]
    latex: str
    markdown: str


@dataclass(frozen=True)
class Difference:
    """One metric of two results; the interval of the difference only where both have one of the same level."""

    a: float
    b: float
    difference: float  # b - a
    interval: tuple[float, float] | None
    level: float | None


def table_line(result: Result, label: str) -> TableLine:
    """Return the metrics, by the names they may be published by, then what they depend on; `label` says what was measured."""
    facts = _facts(result)
    notes = ["" if result.can_compare(name) else f" ({NOT_COMPARABLE})" for name in result.values]
    numbers = [_number(value) + note for value, note in zip(result.values.values(), notes, strict=True)]
    columns = ("", *result.metrics, *facts)
    cells = (label, *numbers, *facts.values())
    markdown = [part.replace("|", r"\|") for part in cells]
    in_latex = [_escaped(part).replace("±", r"$\pm$") for part in cells]
    return TableLine(columns, " & ".join(in_latex) + r" \\", f"| {' | '.join(markdown)} |")


def _facts(result: Result) -> dict[str, str]:
    """Return what numbers depend on, by the heads of the columns."""
    if result.prompts is not None:
        first, last = result.prompts.frames
        return {"videos": f"{result.num_fake}", "frames": f"{first}" if first == last else f"{first} to {last}"}
    assert result.protocol is not None
    protocol = {"protocol": f"{result.protocol.name} v{result.protocol.version}", "extractor": result.extractor.name}
    if not result.protocol.uses_real:
        return {"clips": f"{result.num_fake}"} | protocol
    made = "reconstructed" if result.fake.kind == "reconstruction" else "generated"
    return {f"clips, real / {made}": f"{result.num_real} / {result.num_fake}"} | protocol


def compare(a: Result, b: Result) -> dict[str, Difference]:
    """Return b - a for every metric that both have; two results of different conditions are refused."""
    if found := _conditions(a, b):
        raise UserError(f"these results cannot be compared, because they differ in {'; '.join(found)}; measure both in one way")
    shared = [name for name in a.metrics if name in b.metrics]
    if not shared:
        what = f"{', '.join(a.metrics) or 'nothing'} and {', '.join(b.metrics) or 'nothing'}"
        raise UserError(f"these results share no metric: they hold {what}; measure the same one for both")
    return {name: _difference(a.metrics[name], b.metrics[name]) for name in shared}


def _conditions(a: Result, b: Result) -> list[str]:
    """Return all conditions in which two results differ, so that their numbers mean different things."""
    if (a.protocol is None) != (b.protocol is None):
        return ["kind: one is of prompts and the other of a protocol"]
    changed = differences(a.protocol, b.protocol) if a.protocol is not None and b.protocol is not None else []
    pairs = [(f"extractor {f.name}", getattr(a.extractor, f.name), getattr(b.extractor, f.name)) for f in fields(ExtractorFacts)]
    pairs += [(key, getattr(a, key), getattr(b, key)) for key in ("num_real", "num_fake", "video_frames")]
    if {a.fake.kind, b.fake.kind} & {"continuation", "infilling"}:
        pairs += [(key, getattr(a.fake, key), getattr(b.fake, key)) for key in ("kind", "given", "samples")]
    if a.prompts is not None and b.prompts is not None:
        pairs += [("frames", a.prompts.frames, b.prompts.frames), ("prompts_sha256", a.prompts.sha256, b.prompts.sha256)]
    if a.real is not None and b.real is not None:
        if None not in (a.real.split, b.real.split):
            pairs.append(("split of the real videos", a.real.split, b.real.split))
        pairs.append(("fingerprint of the real videos", a.real.fingerprint, b.real.fingerprint))
        pairs.append(("pixels of the real clips (manifest)", a.real.manifest_sha256, b.real.manifest_sha256))
    found = [f"{what}: {_short(x)} and {_short(y)}" for what, x, y in pairs if x != y]
    return [f"protocol: {what}" for what in changed] + found


def _difference(a: Value, b: Value) -> Difference:
    d = b.value - a.value
    if a.interval is None or b.interval is None or a.level != b.level:
        return Difference(a.value, b.value, d, None, None)
    (l_a, h_a), (l_b, h_b) = a.interval, b.interval
    # Zou & Donner 2008: the ends of two independent intervals added in square. The real clips that both share make the true
    # interval narrower, so this one is on the safe side.
    low = d - math.hypot(b.value - l_b, h_a - a.value)
    high = d + math.hypot(h_b - b.value, a.value - l_a)
    return Difference(a.value, b.value, d, (low, high), a.level)


def _number(value: Value) -> str:
    """Return 95.23 ± 1.31 [93.02, 97.80], all parts with the decimals that give the value four digits."""
    size = math.floor(math.log10(abs(value.value))) if value.value else 0
    decimals = min(max(DIGITS - 1 - size, 0), 9)
    spread = "" if value.std is None else f" ± {value.std:.{decimals}f}"
    interval = "" if value.interval is None else " [{:.{d}f}, {:.{d}f}]".format(*value.interval, d=decimals)
    return f"{value.value:.{decimals}f}{spread}{interval}"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _short(value: object) -> str:
    """Return a value for a sentence, a hash by its beginning."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
