"""YAML files and `key=value` overrides to one tree of settings, and back to a file (design, section 5).

Files merge left to right: mappings merge key by key, lists and values are replaced, and `???` keeps the earlier value.
Then each override replaces the value of one key. A new `target`, in a file or an override, drops the params of the old one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lvdm.config.interpolations import DEFINE, check_defined, refuse_explosion, unresolved
from lvdm.config.keys import items, join, nearest, show, walk
from lvdm.config.targets import is_same_class
from lvdm.files import why_not_written, write_whole
from lvdm.types import UserError, first_line

MISSING = "???"  # OmegaConf's mark for a value that must be given later
UNREADABLE = (  # what OmegaConf raises, and PyYAML for a tag that does not fit its value, such as !!int ''
    OmegaConfBaseException, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, AssertionError,
)  # fmt: skip
LONGEST, MOST = 1 << 20, 10_000  # characters of a config file, and its values once aliases are followed
OVERRIDE = re.compile(r"(?P<key>[\w/][\w/-]*(\.[\w/-]+)*)=(?P<value>.*)", re.DOTALL)


def load_config(paths: Sequence[str | Path | Mapping[str, Any]], overrides: Sequence[str] = ()) -> DictConfig:
    """Return the merged files or mappings with the overrides; interpolations are resolved, and no value is missing."""
    merged = OmegaConf.create({})
    defined: list[list[str]] = []  # by file: the names below `define`
    for path in paths:
        new = _read(path)
        defined.append([join(DEFINE, name) for name, _ in items(_tree(new).get(DEFINE))])
        merged = _merge(merged, new, path)
    tree = _tree(merged)
    keys: list[str] = []
    for override in overrides:
        keys.append(_apply(tree, override, earlier=keys))
    later = [*chain.from_iterable(defined[1:]), *(key for key in keys if key.startswith(f"{DEFINE}."))]
    check_defined(tree, later, known=defined[0] if defined else [])
    _refuse_missing(tree)
    refuse_explosion(tree)
    return _without_interpolations(to_dict(OmegaConf.create(tree)))


def to_dict(config: DictConfig | ListConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return plain dicts, lists and values, with interpolations resolved."""
    if not isinstance(config, DictConfig | ListConfig):
        return _plain(config)
    try:
        tree: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return tree
    except OmegaConfBaseException as error:
        raise UserError(unresolved(error, config)) from error
    except RecursionError as error:
        raise UserError("the config is nested too deeply, or refers to itself; correct it") from error


def save_config(config: DictConfig | Mapping[str, Any], path: str | Path) -> None:
    """Write settings such that `load_config([path])` returns them; the file is complete or absent."""
    path = Path(path)
    text = OmegaConf.to_yaml(_without_interpolations(to_dict(config)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot write the config to {path}: {why_not_written(error)}; choose a folder that can be written"
        ) from error


# Reading and merging


def _tree(config: DictConfig) -> dict[str, Any]:
    """Return plain dicts, lists and values, with interpolations as text."""
    tree: Any = OmegaConf.to_container(config, resolve=False)
    return tree


def _read(path: str | Path | Mapping[str, Any]) -> DictConfig:
    if isinstance(path, Mapping):
        return OmegaConf.create(dict(path))
    path = Path(path)
    try:
        found: Any = OmegaConf.create(_checked_yaml(path))
        return found
    except UserError:  # which is a ValueError too
        raise
    except FileNotFoundError as error:
        raise UserError(f"no config file {path}; {_nearest_file(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read as text ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_line(error)}: this is not YAML: {_problem(error)}; correct the file") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply for a config; correct the file") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: {first_line(error)}; correct the file") from error


def _checked_yaml(path: Path) -> str:
    """Return the text of a YAML file that holds a mapping of a bounded size."""
    if not path.is_file() and path.exists():
        raise UserError(f"config file {path} cannot be read, because it is a folder or a special file; give a YAML file")
    with path.open(encoding="utf-8") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise UserError(f"{path} has more than {LONGEST:,} characters, so it is no config; give a YAML file of settings")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not (root is None or isinstance(root, yaml.MappingNode)):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else f"only {show(root.value)}"
        raise UserError(f"{path} holds {kind}, expected keys with values at its top; give each entry a key")
    if _size(root, {}) > MOST:
        raise UserError(f"{path} holds more than {MOST:,} values once its aliases are followed; correct the file")
    return text


def _size(node: yaml.Node | None, sizes: dict[int, int]) -> int:
    """Return the number of values in a YAML tree with its aliases expanded; `sizes` caches those of its nodes."""
    if id(node) not in sizes:
        sizes[id(node)] = 1  # also of a node that contains itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def _merge(base: DictConfig, new: DictConfig, path: object) -> DictConfig:
    ours, theirs = _tree(base), _tree(new)
    try:
        merged: Any = OmegaConf.merge(_without_replaced_params(ours, theirs), new)
        return merged
    except (TypeError, OmegaConfBaseException) as error:
        clash = _clash(ours, theirs)
        what = f"{clash} is a list in one and a mapping in the other" if clash else first_line(error)
        raise UserError(f"{path} cannot be merged with the files before it: {what}; make them agree") from error


def _without_replaced_params(base: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base without the params of each node whose target is another one in `new`."""
    kept = {}
    for name, value in base.items():
        both = isinstance(value, dict) and isinstance(new.get(name), Mapping)
        kept[name] = _without_replaced_params(value, new[name]) if both else value
    if _is_other_target(base, new.get("target")):
        kept.pop("params", None)
    return kept


def _is_other_target(node: Mapping[str, Any], target: Any) -> bool:
    """Return whether a target replaces that of a node by another class."""
    old = node.get("target")
    return isinstance(old, str) and isinstance(target, str) and MISSING not in (old, target) and not is_same_class(old, target)


def _clash(base: Any, new: Any) -> str | None:
    """Return the first key that is a list on one side and a mapping on the other."""
    ours = dict(walk(base))
    return next((key for key, value in walk(new) if {type(value), type(ours.get(key))} == {list, dict}), None)


def _nearest_file(path: Path) -> str:
    """Return a hint that names the nearest existing path, from the first part that does not exist."""
    there = next((parent for parent in path.parents if parent.is_dir()), Path("."))
    part, *rest = path.relative_to(there).parts
    near = nearest(part, sorted(entry.name for entry in there.iterdir()))
    if near is None:
        return f"look in {there.resolve()}"
    whole = there / near / Path(*rest)
    return f"did you mean {whole if whole.exists() else there / near}?"


# Overrides


def _apply(tree: dict[str, Any], override: str, *, earlier: Sequence[str]) -> str:
    """Set one key of the tree, in place, and return the key; `earlier` are the keys that were set before."""
    found = OVERRIDE.fullmatch(override)
    if found is None:
        raise UserError(f"{_quoted(override)} is no override; write key=value, for example trainer.max_steps=100")
    *parents, last = found["key"].split(".")
    value = _parse(found["value"], override)
    place: Any = tree
    for depth, part in enumerate(parents):
        part = _entry(place, part, override, join(*parents[:depth]))
        if isinstance(place, dict) and place.get(part) in (None, MISSING):
            place[part] = {}
        place = place[part]
    if last == "target" and isinstance(place, dict) and _is_other_target(place, value):
        if lost := [key for key in earlier if key.startswith(join(*parents, "params."))]:
            raise UserError(f"{_quoted(override)} would drop {lost[0]}, which was set before; write the target first")
        place.pop("params", None)
    place[_entry(place, last, override, join(*parents))] = value
    return found["key"]


def _parse(text: str, override: str) -> Any:
    try:
        return _tree(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except yaml.YAMLError as error:
        raise UserError(f"the value in {_quoted(override)} is not YAML: {_problem(error)}; quote it if it is text") from error
    except RecursionError as error:
        raise UserError(f"the value in {_quoted(override)} is nested too deeply; shorten it") from error
    except UNREADABLE as error:
        raise UserError(
            f"the value in {_quoted(override)} cannot be used: {first_line(error)}; quote it if it is text"
        ) from error


def _quoted(override: str) -> str:
    return repr(override if len(override) <= 100 else f"{override[:97]}...")


def _entry(place: Any, part: str, override: str, key: str) -> Any:
    """Return the key of a mapping or the index of a list that `part` names in `place`."""
    if isinstance(place, dict):
        return next((key for key in place if str(key) == part), part)
    if not isinstance(place, list):
        raise UserError(
            f"{_quoted(override)} goes through {key}, which is {show(place)}, not a mapping or list; set {key} itself"
        )
    if not part.isdecimal() or int(part) >= len(place):
        have = f"has {len(place)} items, counted from 0"
        raise UserError(f"{_quoted(override)} names item {part} of {key}, which {have}; name one of those or set {key} itself")
    return int(part)


# Missing values and plain trees


def _refuse_missing(tree: dict[str, Any]) -> None:
    missing = [key for key, value in walk(tree) if value == MISSING]
    if missing:
        raise UserError(f"no value yet for {', '.join(missing)} (marked ???); set it in a later file or write {missing[0]}=VALUE")


def _without_interpolations(tree: dict[str, Any]) -> DictConfig:
    """Return a config of exactly these values: text that contains `${` stays text."""
    return OmegaConf.create(_plain(tree, escape=True))


def _plain(tree: Any, escape: bool = False) -> Any:
    if isinstance(tree, Mapping):
        return {key: _plain(value, escape) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_plain(value, escape) for value in tree]
    if escape and isinstance(tree, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree)
    return tree


# What the libraries' errors say, in one line


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or first_line(error)


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}"
