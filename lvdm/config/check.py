"""Checks of every key, type and target of a config, before anything is built.

A dataclass describes the root: its fields are the keys, and a field without default is required. A field is a plain type, a
class (a node of that kind), `Node` (a node of any kind), another such dataclass, or keyword arguments of a class:

    class Run:
        denoiser: nn.Module
        data: Node
        trainer: Annotated[dict, ArgumentsOf("pytorch_lightning.Trainer")]
        seed: int = 0
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from lvdm.config.annotations import Argument, Mismatch, Node, Signature, choices, describe, is_protocol, mismatch, signature_of
from lvdm.config.build import is_node, read_node
from lvdm.config.files import to_dict
from lvdm.config.keys import hint, items, join, nearest, show, walk
from lvdm.config.targets import check_target, import_class, is_from, refuse_remote_code
from lvdm.types import UserError


@dataclass(frozen=True)
class ArgumentsOf:
    """A mark for Annotated[dict, ArgumentsOf(path)]: a mapping of keyword arguments of the class at `path`."""

    target: str


@dataclass(frozen=True)
class _Rules:
    """The settings of a check: packages that targets may name, and arguments that the caller provides, by node."""

    allow: Sequence[str] = ()
    provided: Mapping[str, Collection[str]] = field(default_factory=dict)

    def class_of(self, node: Mapping[str, Any], key: str) -> type:
        return import_class(node["target"], key=join(key, "target"), allow=self.allow)


def check(
    config: DictConfig | Mapping[str, Any],
    *,
    schema: type,
    allow: Sequence[str] = (),
    provided: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Raise UserError for the first key that is unknown, missing or of a wrong type.

    `provided` maps the dotted key of a node or of a mapping of arguments to the arguments that the caller provides.
    """
    assert is_dataclass(schema), f"the schema is a dataclass, not {schema!r}"
    check_targets(config, allow=allow)
    _check_section(to_dict(config), schema, "", _Rules(allow, provided or {}))


def check_node(
    node: DictConfig | Mapping[str, Any],
    *,
    key: str = "",
    kind: Any = Node,
    allow: Sequence[str] = (),
    provided: Collection[str] = (),
) -> None:
    """Check one node, for example of a model file; `kind` is the annotation that it must fit."""
    check_targets(node, key=key, allow=allow)
    _check_field(to_dict(node), kind, key, _Rules(allow, {key: provided}))


def check_targets(tree: Any, *, key: str = "", allow: Sequence[str] = ()) -> None:
    """Refuse a tree with a target that no config may name, before anything is imported."""
    tree = to_dict(tree) if OmegaConf.is_config(tree) else tree
    for here, value in ((key, tree), *walk(tree, key)):
        if is_node(value):
            check_target(value["target"], key=join(here, "target"), allow=allow)


def with_defaults(config: DictConfig | Mapping[str, Any], schema: type) -> DictConfig:
    """Return the config with the schema's defaults for missing keys."""
    return OmegaConf.create(_filled(to_dict(config), schema))


# Sections: keys described by a dataclass


def _check_section(values: Mapping[str, Any], schema: type, key: str, rules: _Rules) -> None:
    hints = get_type_hints(schema, include_extras=True)
    known = {each.name: each for each in fields(schema)}
    for name in values:
        if name not in known:
            raise UserError(f"{join(key, name)} is not a setting; {_instead(str(name), known, values, key)}")
    for name, each in known.items():
        here = join(key, name)
        if name in values:
            _check_field(values[name], hints[name], here, rules)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise UserError(f"{here} is missing, expected {_describe_field(hints[name])}; add it to the config")


def _check_field(value: Any, annotation: Any, key: str, rules: _Rules) -> None:
    section, arguments = _section_in(annotation), _arguments_in(annotation)
    if value is None and type(None) in choices(annotation):
        return
    if (section or arguments) and (is_node(value) or not isinstance(value, Mapping)):
        raise UserError(f"{key} is {show(value)}, expected {_describe_field(annotation)}; write its keys below {key}")
    if section:
        _check_section(value, section, key, rules)
    elif arguments:
        _check_arguments(value, pkgutil.resolve_name(arguments.target), key, rules.provided.get(key, ()), rules)
    else:
        _refuse(mismatch(value, annotation, key, rules.class_of))
        _check_nodes_in(value, key, rules)


def _section_in(annotation: Any) -> type | None:
    return next((each for each in choices(annotation) if isinstance(each, type) and is_dataclass(each)), None)


def _arguments_in(annotation: Any) -> ArgumentsOf | None:
    annotated = [each for each in (annotation, *choices(annotation)) if get_origin(each) is Annotated]
    marks = [mark for each in annotated for mark in get_args(each)[1:]]
    return next((mark for mark in marks if isinstance(mark, ArgumentsOf)), None)


def _describe_field(annotation: Any) -> str:
    if arguments := _arguments_in(annotation):
        return f"the arguments of {arguments.target}"
    if section := _section_in(annotation):
        return f"a mapping with the keys {', '.join(each.name for each in fields(section))}"
    return describe(annotation)


def _instead(name: str, known: Collection[str], values: Mapping[str, Any], key: str) -> str:
    """Return a hint that names the nearest key, or at the root a deeper key of the same name."""
    deeper = [path for path, _ in walk(values) if path.endswith(f".{name}")]
    if nearest(name, known) is None and not key and deeper:
        return f"did you mean {deeper[0]}?"
    return hint(name, known, key)


def _filled(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    hints, filled = get_type_hints(schema, include_extras=True), dict(values)
    for each in fields(schema):
        if each.name not in filled and each.default is not MISSING:
            filled[each.name] = each.default
        elif each.name not in filled and each.default_factory is not MISSING:
            filled[each.name] = each.default_factory()
        section, value = _section_in(hints[each.name]), filled.get(each.name)
        if is_dataclass(value) and not isinstance(value, type):
            filled[each.name] = asdict(value)
        elif section and isinstance(value, Mapping) and not is_node(value):
            filled[each.name] = _filled(value, section)
    return filled


# Nodes: a class and its constructor's arguments


def _check_nodes_in(value: Any, key: str, rules: _Rules) -> None:
    """Check every node of a tree."""
    if is_node(value):
        return _check_node(value, key, rules)
    for name, item in items(value):
        _check_nodes_in(item, join(key, name), rules)


def _check_node(node: Mapping[str, Any], key: str, rules: _Rules) -> None:
    cls, params = read_node(node, key=key, allow=rules.allow)
    if inspect.isabstract(cls) or is_protocol(cls):
        raise UserError(f"{join(key, 'target')} is {cls.__name__}, which is abstract; name a subclass that implements it")
    refuse_remote_code(cls, walk(params, join(key, "params")))
    _check_arguments(params, cls, join(key, "params"), rules.provided.get(key, ()), rules)


def _check_arguments(params: Mapping[str, Any], cls: type, key: str, provided: Collection[str], rules: _Rules) -> None:
    signature = signature_of(cls)
    is_open = signature.is_open and is_from(cls, rules.allow)  # open keywords of other libraries cannot be checked
    _check_names(params, signature, cls, key, provided, is_open=is_open)
    for name, value in params.items():
        here = join(key, name)
        if name in signature.arguments:
            _refuse(_argument_mismatch(value, signature.arguments[name], here, rules))
        elif any(is_node(each) for each in (value, *(inner for _, inner in walk(value)))):
            raise UserError(f"{here} names a class, but {cls.__name__} does not say what it takes as {name}; leave it out")
        _check_nodes_in(value, here, rules)


def _check_names(
    params: Mapping[str, Any], signature: Signature, cls: type, key: str, provided: Collection[str], *, is_open: bool
) -> None:
    takes = [name for name in signature.arguments if name not in provided]
    for name in params:
        if name in provided:
            raise UserError(f"{join(key, name)} is given by lvdm itself; remove it")
        if name not in takes and not is_open:
            raise UserError(f"{join(key, name)} is no argument of {cls.__name__}; {hint(str(name), takes, key)}")
    for name in takes:
        if signature.arguments[name].is_required and name not in params:
            expected = describe(signature.arguments[name].annotation)
            raise UserError(f"{join(key, name)} is missing, {cls.__name__} needs it ({expected}); add it to the config")


def _argument_mismatch(value: Any, argument: Argument, key: str, rules: _Rules) -> Mismatch | None:
    """Return the mismatch of an argument; the default's own type fits too, even if it breaks the annotation (`eta: int = .5`)."""
    found = mismatch(value, argument.annotation, key, rules.class_of)
    is_like_default = type(value) is type(argument.default)
    if is_like_default and mismatch(argument.default, argument.annotation, key, rules.class_of):
        return None
    return found


def _refuse(found: Mismatch | None) -> None:
    """Raise UserError for a value that does not fit."""
    if found is None:
        return
    expected = describe(found.annotation)
    if is_node(found.value):
        raise UserError(f"{join(found.key, 'target')} is {found.value['target']}, expected {expected}; name such a class")
    if isinstance(found.value, Mapping) and (near := nearest("target", map(str, found.value))):
        meant = join(found.key, "target")
        raise UserError(f"{join(found.key, near)} is not read, because {found.key} is {expected}; did you mean {meant}?")
    advice = f"change it in the config or write {found.key}=VALUE"
    raise UserError(f"{found.key} is {show(found.value)}, expected {expected}; {advice}")
