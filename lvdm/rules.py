"""Rules for values from a config or a file, such as `require(integer(1, 64), num_heads=num_heads)`."""

from __future__ import annotations

import os
import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from lvdm.types import UserError


@dataclass(frozen=True)
class Rule:
    """A condition on a value, and the words for it in a message."""

    words: str
    holds: Callable[[Any], bool]


LARGEST = sys.float_info.max
MAPPING = Rule("a mapping", lambda value: isinstance(value, Mapping))
TEXT = Rule("text", lambda value: isinstance(value, str))
PATH = Rule("a path", lambda value: isinstance(value, (str, os.PathLike)) and _is_path(os.fsdecode(value)))
FLAG = Rule("true or false", lambda value: isinstance(value, bool))


def _is_path(text: str) -> bool:
    return bool(text) and "\0" not in text


def integer(least: int, most: int | None = None) -> Rule:
    """Return the rule of an integer in a range; a bool is not an integer here."""
    words = f"an integer of {least} or more" if most is None else f"an integer from {least} to {most}"

    def holds(value: Any) -> bool:
        return _is_a(Integral, value) and least <= value and (most is None or value <= most)

    return Rule(words, holds)


def number(least: float = -LARGEST, most: float = LARGEST) -> Rule:
    """Return the rule of a finite number in a range; NaN and bools are not numbers here."""
    words = f"a number from {least:g} to {most:g}" if most < LARGEST else f"a finite number of {least:g} or more"
    words = "a finite number" if (least, most) == (-LARGEST, LARGEST) else words
    return Rule(words, lambda value: _is_a(Real, value) and least <= value <= most)


def one_of(*choices: str) -> Rule:
    """Return the rule of a text that is one of the choices."""
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def matching(pattern: str) -> Rule:
    """Return the rule of a text that a regular expression matches in full."""
    return Rule(f"text like {pattern}", lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def optional(rule: Rule) -> Rule:
    """Return the rule that allows None too."""
    return Rule(f"null or {rule.words}", lambda value: value is None or rule.holds(value))


def listed(rule: Rule, shortest: int, longest: int) -> Rule:
    """Return the rule of a list whose items follow a rule."""
    count = str(shortest) if shortest == longest else f"{shortest} to {longest}"

    def holds(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and shortest <= len(value) <= longest and all(map(rule.holds, value))

    return Rule(f"a list of {count}, each {rule.words}", holds)


def row(*rules: Rule) -> Rule:
    """Return the rule of a list with one item for each of these rules."""

    def holds(value: Any) -> bool:
        is_row = isinstance(value, (list, tuple)) and len(value) == len(rules)
        return is_row and all(rule.holds(item) for rule, item in zip(rules, value, strict=True))

    return Rule(f"a list of {', '.join(rule.words for rule in rules)}", holds)


CHANNELS = integer(1, 2**16)  # more is a typing error
LAYERS = integer(0, 1000)


def require(rule: Rule, /, **values: Any) -> None:
    """Raise UserError for the first value that breaks the rule; the keyword is the setting's name."""
    for name, value in values.items():
        if not rule.holds(value):
            raise UserError(f"{name} is {_shown.repr(value)}, expected {rule.words}")


def require_each(rules: Mapping[str, Rule], found: Mapping[str, Any]) -> None:
    """Raise UserError for the first value of a mapping that breaks the rule of its name."""
    for name, rule in rules.items():
        if name in found:
            require(rule, **{name: found[name]})


class _Short(reprlib.Repr):
    """Shortens values of any size for messages."""

    def repr_int(self, value: int, level: int) -> str:
        return f"an integer of {value.bit_length()} bits" if value.bit_length() > 200 else repr(value)


_shown = _Short()


def _is_a(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
