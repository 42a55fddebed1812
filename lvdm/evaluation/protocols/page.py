"""`docs/protocols.md`: every named protocol with what its source does, and where it says so."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from lvdm.evaluation.protocols.facts import FACTS, REPOSITORIES, Fact
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.evaluation.protocols.protocol import EvalProtocol

INTRODUCTION = """\
# Protocols and their sources

This page is made of `lvdm/evaluation/protocols/facts.py` by `lvdm.evaluation.protocols.page.page()`, and a test compares
both with the code. [evaluation.md](evaluation.md) says how to measure by a protocol. Lines are those of these commits:
"""


def page() -> str:
    """Return the text of `docs/protocols.md`."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    yield "| short name | repository | commit |\n|---|---|---|"
    yield from (f"| {short} | {repository} | `{commit}` |" for short, (repository, commit) in REPOSITORIES.items())
    for name, facts in FACTS.items():
        yield from _section(PROTOCOLS[name], facts)
    yield ""


def _section(protocol: EvalProtocol, facts: tuple[Fact, ...]) -> Iterator[str]:
    yield f"\n## `{protocol.name}`, version {protocol.version}\n"
    yield textwrap.fill(f"{protocol.source}. {protocol.notes}", width=110, break_on_hyphens=False) + "\n"
    yield "| what the source does | where it says so | fields that follow |\n|---|---|---|"
    for fact in facts:
        fields = ", ".join(f"`{key}={value!r}`" for key, value in fact.fields.items())
        yield f"| {fact.says} | {fact.where} | {fields} |"
