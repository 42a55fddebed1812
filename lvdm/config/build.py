"""From nodes to objects: a node is a mapping of `target`, a class path, and `params`, the constructor's arguments."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lvdm.config.files import to_dict
from lvdm.config.keys import join, nearest, show
from lvdm.config.moved import current_node
from lvdm.config.targets import import_class
from lvdm.types import UserError

NODE_KEYS = ("target", "params")
BUILD_ERRORS = (  # what a constructor raises for arguments that it cannot take
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def is_node(value: object) -> bool:
    """Return whether a value of a config names an object to build."""
    return isinstance(value, Mapping) and "target" in value


def read_node(node: Mapping[str, Any], *, key: str = "", allow: Sequence[str] = ()) -> tuple[type, dict[str, Any]]:
    """Return the class and the arguments that a node names."""
    for name in node:
        if name not in NODE_KEYS:
            meant = join(key, nearest(str(name), NODE_KEYS) or join("params", name))
            raise UserError(f"{join(key, name)} is not read: next to a target only params is; did you mean {meant}?")
    node = current_node(node)
    params = node.get("params")
    if not isinstance(params, (Mapping, type(None))):
        here = join(key, "params")
        raise UserError(f"{here} is {show(params)}, expected the constructor's arguments; write them as name: value")
    return import_class(node["target"], key=join(key, "target"), allow=allow), dict(params or {})


def instantiate(node: Any, /, *, allow: Sequence[str] = (), **provided: Any) -> Any:
    """Return the object that a node names, building nested nodes first; `provided` are arguments that are not in the config.

    Plain mappings and lists are returned with the nodes in them built.
    """
    key = _key_of(node)
    if OmegaConf.is_config(node):
        node = to_dict(node)
    assert is_node(node) or not provided, f"only a node takes further arguments, not {node!r}"
    return _build(node, key, allow, provided)


def _build(value: Any, key: str, allow: Sequence[str], provided: Mapping[str, Any]) -> Any:
    if is_node(value):
        return _construct(value, key, allow, provided)
    if isinstance(value, Mapping):
        return {name: _build(item, join(key, name), allow, {}) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_build(item, join(key, index), allow, {}) for index, item in enumerate(value)]
    return value


def _construct(node: Mapping[str, Any], key: str, allow: Sequence[str], provided: Mapping[str, Any]) -> Any:
    cls, params = read_node(node, key=key, allow=allow)
    for name in params.keys() & provided.keys():
        raise UserError(f"{join(key, 'params', name)} is given by lvdm itself; remove it")
    arguments = {name: _build(item, join(key, "params", name), allow, {}) for name, item in params.items()}
    try:
        return cls(**arguments, **provided)
    except UserError as error:
        raise UserError(f"{key or cls.__name__}: {error}") from error
    except BUILD_ERRORS as error:
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0] + _where(error, allow)
        raise UserError(
            f"{key or cls.__name__}: cannot build {cls.__name__} with these arguments ({reason}); change them"
        ) from error


def _where(error: BaseException, allow: Sequence[str]) -> str:
    """Return the line of the user's own code that raised an error, so that a mistake there is found."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = tuple(f"{package}." for package in allow)
    own = [frame for frame in frames if f"{frame.f_globals.get('__name__', '')}.".startswith(packages)]
    return f", {own[-1].f_code.co_filename}:{own[-1].f_lineno}" if own else ""


def _key_of(node: Any) -> str:
    """Return the dotted key of a part of a config (OmegaConf's own full key loses the dot of a list's item)."""
    parts: list[object] = []
    while isinstance(node, (DictConfig, ListConfig)) and node._get_parent() is not None:
        parts.insert(0, node._key())
        node = node._get_parent()
    return join(*parts)
