"""The arguments of a constructor, and whether a value from YAML fits an annotation.

YAML has null, bool, int, float, text, lists and mappings; a node stands for an object of its class. So a list fits any
sequence, an int fits float, text fits a path, and a class fits a node whose target is that class or below it.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from torch import nn

from lvdm.config.build import is_node
from lvdm.config.keys import items, join
from lvdm.config.targets import LIMITED_LIBRARIES

ClassOf = Callable[[Mapping[str, Any], str], type]  # (node, its dotted key) -> its class


class Node:
    """An annotation for any object that a config names by target and params."""


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor."""

    annotation: Any
    is_required: bool
    default: Any


@dataclass(frozen=True)
class Signature:
    """The arguments that a constructor takes by name; an open signature has **kwargs or cannot be read, and takes more."""

    arguments: Mapping[str, Argument]
    is_open: bool


@dataclass(frozen=True)
class Mismatch:
    """A value that does not fit its annotation, and its key."""

    key: str
    value: Any
    annotation: Any


# Constructors


def signature_of(cls: type[Any]) -> Signature:
    """Return the arguments that `cls(...)` takes by name."""
    if cls.__init__ is nn.Module.__init__:  # written as (*args, **kwargs), but takes nothing
        return Signature({}, is_open=False)
    try:
        parameters = inspect.signature(cls).parameters.values()
    except ValueError:  # classes written in C
        return Signature({}, is_open=True)
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    arguments = {p.name: Argument(_annotation(p, cls), p.default is p.empty, p.default) for p in by_name}
    return Signature(arguments, is_open=any(p.kind is p.VAR_KEYWORD for p in parameters))


def _annotation(parameter: inspect.Parameter, cls: type[Any]) -> Any:
    """Return the annotation as an object; Any if there is none, or if its names exist for type checkers only."""
    written = parameter.annotation
    if not isinstance(written, str):
        return Any if written is parameter.empty else written
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names |= vars(sys.modules.get(base.__module__, typing))
    names |= getattr(inspect.unwrap(cls.__init__), "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"it": written})
    try:
        return typing.get_type_hints(holder, globalns=names)["it"]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any


# Values


def mismatch(value: Any, annotation: Any, key: str, class_of: ClassOf) -> Mismatch | None:
    """Return the first part of `value` that does not fit, or None. `class_of` returns the class of a nested node."""
    annotation = _bare(annotation)
    wrong = Mismatch(key, value, annotation)
    base, inner = get_origin(annotation) or annotation, get_args(annotation)
    if base in (Any, object) or isinstance(base, TypeVar):
        nodes = ((here, node) for here, node in _outermost_nodes(value, key) if _needs_own_annotation(class_of(node, here)))
        return next((Mismatch(here, node, annotation) for here, node in nodes), None)
    if base in (Union, types.UnionType):
        return _mismatch_of_all(value, inner, wrong, class_of)
    if base is Literal:
        return None if any(value == choice and type(value) is type(choice) for choice in inner) else wrong
    if is_node(value):
        return None if _is_kind(class_of(value, key), base) else wrong
    if _is_list(base):
        return _mismatch_in_list(value, inner, wrong, class_of)
    if _is_mapping(base):
        return _mismatch_in_mapping(value, inner, wrong, class_of)
    return None if _is_plain(value, base) else wrong


def _outermost_nodes(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (key, node) of the nodes in a value, but not of the nodes inside them."""
    if is_node(value):
        yield key, value
    else:
        for part, item in items(value):
            yield from _outermost_nodes(item, join(key, part))


def choices(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    annotation = _bare(annotation)
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _bare(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    return type(None) if annotation is None else annotation


def _mismatch_of_all(value: Any, members: Sequence[Any], wrong: Mismatch, class_of: ClassOf) -> Mismatch | None:
    """Return None if one member of a union fits; if only one member fails at a part of the value, return that part."""
    found = [mismatch(value, member, wrong.key, class_of) for member in members]
    if None in found:
        return None
    deeper = [each for each in found if each is not None and each.key != wrong.key]
    return deeper[0] if len(deeper) == 1 else wrong


def _mismatch_in_list(value: Any, inner: Sequence[Any], wrong: Mismatch, class_of: ClassOf) -> Mismatch | None:
    if not isinstance(value, (list, tuple)):
        return wrong
    is_fixed = get_origin(wrong.annotation) is tuple and len(inner) > 1 and inner[-1] is not Ellipsis
    if is_fixed and len(inner) != len(value):
        return wrong
    kinds = inner if is_fixed else [inner[0] if inner else Any] * len(value)
    pairs = enumerate(zip(value, kinds, strict=True))
    found = (mismatch(item, kind, join(wrong.key, index), class_of) for index, (item, kind) in pairs)
    return next(filter(None, found), None)


def _mismatch_in_mapping(value: Any, inner: Sequence[Any], wrong: Mismatch, class_of: ClassOf) -> Mismatch | None:
    if not isinstance(value, Mapping):
        return wrong
    of_key, of_value = inner if len(inner) == 2 else (Any, Any)
    if any(mismatch(name, of_key, wrong.key, class_of) for name in value):
        return wrong
    found = (mismatch(item, of_value, join(wrong.key, name), class_of) for name, item in value.items())
    return next(filter(None, found), None)


def _is_list(base: Any) -> bool:
    """Return whether the annotation takes a list; str and bytes are sequences in Python, but not in YAML."""
    if not isinstance(base, type) or issubclass(base, (str, bytes, Mapping)):
        return False
    return base in (Iterable, Collection) or issubclass(base, (Sequence, Set))


def _is_mapping(base: Any) -> bool:
    return typing.is_typeddict(base) or (isinstance(base, type) and issubclass(base, Mapping))


def _is_plain(value: Any, base: Any) -> bool:
    """Return whether a value that is not a node is of this kind; kinds that are not classes accept everything."""
    if not isinstance(base, type):
        return True
    if base is float:
        return type(value) in (int, float)
    if base in (bool, int, str):
        return type(value) is base
    if issubclass(base, os.PathLike):
        return isinstance(value, (str, base))
    return not is_protocol(base) and isinstance(value, base)


def _is_kind(cls: type, base: Any) -> bool:
    """Return whether an object of this class fits the annotation `base`.

    Models of transformers and diffusers can fetch code and weights when they are built, and parts of Lightning use disk and
    network. They fit only an annotation with a class of the same library, such as one in a user's own network.
    """
    if _needs_own_annotation(cls) and cls.__module__.partition(".")[0] != getattr(base, "__module__", "").partition(".")[0]:
        return False
    if base is Node or not isinstance(base, type):
        return True
    if is_protocol(base):
        return all(any(name in vars(kind) for kind in cls.__mro__) for name in _methods_of(base))
    return issubclass(cls, base)


def _needs_own_annotation(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in LIMITED_LIBRARIES


def is_protocol(base: type) -> bool:
    """Return whether this is a typing.Protocol."""
    return getattr(base, "_is_protocol", False)


def _methods_of(protocol: type) -> list[str]:
    functions = [name for name, member in vars(protocol).items() if inspect.isfunction(member)]
    return [name for name in functions if name == "__call__" or not name.startswith("_")]


# Descriptions for messages


def describe(annotation: Any) -> str:
    """Return an annotation in words."""
    annotation = _bare(annotation)
    base, inner = get_origin(annotation) or annotation, get_args(annotation)
    if base is Any:
        return "anything"
    if base in (Union, types.UnionType):
        return " or ".join(describe(choice) for choice in inner)
    if base is Literal:
        return " or ".join(repr(choice) for choice in inner)
    if base is type(None):
        return "null"
    if base is Node:
        return "a target with its params"
    if _is_list(base):
        return _describe_list(base, inner)
    if _is_mapping(base):
        return "a mapping" if len(inner) != 2 else f"a mapping of {describe(inner[1])} by {describe(inner[0])}"
    if base in (bool, int, float, str):
        return base.__name__
    if isinstance(base, type) and is_protocol(base) and (methods := _methods_of(base)):
        return f"a target of kind {base.__name__} (a class with {', '.join(methods)})"
    if isinstance(base, type):
        return "a path" if issubclass(base, os.PathLike) else f"a target of kind {base.__name__}"
    return str(annotation).replace("typing.", "")


def _describe_list(base: type, inner: Sequence[Any]) -> str:
    if not inner:
        return "a list"
    if base is tuple and len(inner) > 1 and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)} ({', '.join(describe(kind) for kind in inner)})"
    return f"a list of {describe(inner[0])}"
