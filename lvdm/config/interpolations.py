"""Interpolations such as `${data.size}` in a config: their limits, their errors, and names that nothing refers to.

`${a.b}` refers to a key from the root, `${.b}` to one next to it. `define` holds the user's own names for them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lvdm.config.keys import dotted, hint, items, join, nearest, show, walk
from lvdm.types import UserError, first_line

logger = logging.getLogger(__name__)

DEFINE = "define"  # the key of the user's own names, for ${define.NAME} elsewhere
MOST_CHARACTERS = 10 << 20  # of a config with its interpolations resolved
OPENING = re.compile(r"(?<!\\)(?:\\\\)*\$\{")  # of an interpolation; an odd number of backslashes makes it text
REFERENCE = re.compile(
    r"(?<!\\)\$\{\s*(\.*)([\w/-]+(?:\.[\w/-]+|\[[\w/-]+\])*)\s*\}"
)  # ${a.b} from the root, ${.b} from where it stands
VARIABLE = re.compile(r"\$\{\s*oc\.env:[^${}]*\}")  # ${oc.env:NAME}, ${oc.env:NAME,default}


def check_defined(tree: dict[str, Any], names: Sequence[str], *, known: Collection[str]) -> None:
    """Refuse a name below `define` that nothing refers to, because it is misspelt; warn if the first file has it (`known`)."""
    texts = [(key, value) for key, value in walk(tree) if isinstance(value, str)]
    used = [_absolute(key, dots, name) for key, value in texts for dots, name in REFERENCE.findall(value)]
    for key in names:
        if any(f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.") for name in used):
            continue
        if key in known:
            logger.warning("%s has no effect, because nothing refers to it", key)
        else:
            options = [name for name in (*used, *known) if name.startswith(f"{DEFINE}.")]
            near = nearest(key.partition(".")[2], (name.partition(".")[2] for name in options))
            advice = f"did you mean {DEFINE}.{near}?" if near else "leave it out, or set the key that you mean"
            raise UserError(f"{key} has no effect, because nothing refers to it; {advice}")


def refuse_explosion(tree: dict[str, Any]) -> None:
    """Refuse interpolations that multiply: ten lines of ${a}${a} each make a thousand copies."""
    values: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for key, value in walk(tree):
        if key in values:  # a key with dots would make the count ambiguous
            raise UserError(f"two settings are called {key[:60]}; write nested keys, without dots")
        values[key] = value

    def size(key: str) -> int:  # characters and values, once interpolations are resolved
        if key not in sizes:
            sizes[key] = 1  # also for a value that refers to itself, which OmegaConf refuses
            value = values.get(key)
            inner = [join(key, part) for part, _ in items(value)]
            if isinstance(value, str) and OPENING.search(value):
                _refuse_other_interpolations(value, key)
            if isinstance(value, str):
                sizes[key] += len(value)
                inner = [_absolute(key, dots, name) for dots, name in REFERENCE.findall(value)]
                if OPENING.search(value) and (absent := [name for name in inner if name not in values]):  # such as a[-1]
                    raise UserError(f"{key} refers to {absent[0]}, which does not exist; {hint(absent[0], values)}")
            sizes[key] += sum(map(size, inner))
        return sizes[key]

    if sum(map(size, map(str, tree))) > MOST_CHARACTERS:
        raise UserError(f"the interpolations of the config make more than {MOST_CHARACTERS:,} characters; shorten them")


def _refuse_other_interpolations(text: str, key: str) -> None:
    """Refuse resolvers and nesting, whose results cannot be bounded in advance."""
    if OPENING.search(VARIABLE.sub("", REFERENCE.sub("", text))):
        raise UserError(f"{key} is {show(text)}; expected only ${{key}}, ${{.key}} or ${{oc.env:NAME,default}} as interpolations")


def _absolute(key: str, dots: str, name: str) -> str:
    """Return the key that `${..name}` at `key` refers to."""
    parents = key.split(".")[: -len(dots)] if dots else []
    return join(*parents, re.sub(r"\[([\w/-]+)\]", r".\1", name))


def unresolved(error: OmegaConfBaseException, config: DictConfig | ListConfig) -> str:
    """Return the message for an interpolation that has no value."""
    key = dotted(error.full_key)
    reason = first_line(error)
    if variable := re.search(r"Environment variable '(.+)' not found", reason):
        return f"{key} needs the environment variable {variable[1]}, which is not set; export it or write {key}=VALUE"
    if unknown := re.search(r"Interpolation key '(.+)' not found", reason):
        known = [name for name, _ in walk(OmegaConf.to_container(config, resolve=False))]
        return f"{key} refers to {unknown[1]}, which does not exist; {hint(unknown[1], known)}"
    return f"{key} cannot be resolved: {reason}; correct it or write {key}=VALUE"
