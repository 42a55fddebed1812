"""Dotted keys such as `trainer.max_steps` and `data.sets.0.path`: join them, walk a tree, and find the nearest name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lvdm.types import UserError

SHOWN = 12  # at most so many valid names in a message
DEEPEST = 50  # levels of nesting; the shipped configs have 9


def join(*parts: object) -> str:
    """Return the parts with dots between them: `join("data", "", 0)` is `data.0`."""
    return ".".join(text for text in map(str, parts) if text)


def dotted(full_key: str | None) -> str:
    """Return a dotted key for OmegaConf's `data.sets[0].path`."""
    return re.sub(r"\[(\d+)\]", r".\1", full_key or "")


def items(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the (key or index, value) pairs of a mapping or list; a leaf has none."""
    if isinstance(tree, Mapping):
        yield from tree.items()
    elif isinstance(tree, (list, tuple)):
        yield from enumerate(tree)


def walk(tree: Any, key: str = "", *, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every (dotted key, value) below the root, parents first."""
    if depth > DEEPEST:
        raise UserError(f"{key[:60]}... is nested more than {DEEPEST} levels deep; no setting is, so correct the file")
    for part, value in items(tree):
        yield join(key, part), value
        yield from walk(value, join(key, part), depth=depth + 1)


def show(value: Any) -> str:
    """Return a value as YAML would write it, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that is nearest to a misspelt name, ignoring case; None if none is near."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def hint(name: str, options: Iterable[str], prefix: str = "") -> str:
    """Return the end of a message about an unknown name: the nearest valid name, or else all of them."""
    options = list(options)
    near = nearest(name, options)
    if near is not None:
        return f"did you mean {join(prefix, near)}?"
    if not options:
        return "no key is valid here"
    more = ", ..." if len(options) > SHOWN else ""
    return f"valid keys: {', '.join(options[:SHOWN])}{more}"
