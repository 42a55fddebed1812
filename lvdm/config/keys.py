"""Dotted keys such as `trainer.max_steps` and `data.sets.0.path`: how to join, walk and guess them; values, how to show them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lvdm.types import UserError

SHOWN = 12  # how many valid names a sentence can carry
DEEPEST = 50  # levels of nesting; the shipped configs have 9


def join(*parts: object) -> str:
    """`join("data", "", 0)` is `data.0`."""
    return ".".join(text for text in map(str, parts) if text)


def dotted(full_key: str | None) -> str:
    """OmegaConf writes `data.sets[0].path`."""
    return re.sub(r"\[(\d+)\]", r".\1", full_key or "")


def items(tree: Any) -> Iterator[tuple[Any, Any]]:
    """The (key or index, value) pairs of a mapping or list; nothing for a leaf."""
    if isinstance(tree, Mapping):
        yield from tree.items()
    elif isinstance(tree, (list, tuple)):
        yield from enumerate(tree)


def walk(tree: Any, key: str = "", *, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every (dotted key, value) below the root, parents first."""
    if depth > DEEPEST:
        raise UserError(f"{key[:60]}... is nested more than {DEEPEST} levels deep; no setting is, so mend the file")
    for part, value in items(tree):
        yield join(key, part), value
        yield from walk(value, join(key, part), depth=depth + 1)


def show(value: Any) -> str:
    """A value as YAML would have it, short enough for a sentence."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that a misspelt name most likely means, whatever the case of its letters; None if nothing is near."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def hint(name: str, options: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown name: the nearest valid one, or else what there is."""
    options = list(options)
    near = nearest(name, options)
    if near is not None:
        return f"did you mean {join(prefix, near)}?"
    if not options:
        return "nothing may stand here"
    more = ", ..." if len(options) > SHOWN else ""
    return f"what may stand here: {', '.join(options[:SHOWN])}{more}"
