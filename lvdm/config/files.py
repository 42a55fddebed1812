"""YAML files and `key=value` overrides to one tree of settings, and back to a file (design, section 5).

Files merge left to right: mappings key by key, lists and values are replaced, `???` leaves what an earlier file said.
Then each override sets one key: what stood there is replaced whole, so `objective={target: X}` also drops the old params.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lvdm.config.keys import dotted, hint, items, join, nearest, show, walk
from lvdm.files import why_not_written, write_whole
from lvdm.types import UserError

MISSING = "???"  # OmegaConf's mark for a value that must be given later
UNREADABLE = (  # what OmegaConf raises, and PyYAML for a tag that does not fit its value, such as !!int ''
    OmegaConfBaseException, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, AssertionError,
)  # fmt: skip
LONGEST, MOST = 1 << 20, 10_000  # characters of a config file, and its values once aliases are followed
OPENING = re.compile(r"(?<!\\)(?:\\\\)*\$\{")  # of an interpolation; an odd number of backslashes makes it text
REFERENCE = re.compile(
    r"(?<!\\)\$\{\s*(\.*)([\w/-]+(?:\.[\w/-]+|\[[\w/-]+\])*)\s*\}"
)  # ${a.b} from the root, ${.b} from where it stands
VARIABLE = re.compile(r"\$\{\s*oc\.env:[^${}]*\}")  # ${oc.env:NAME}, ${oc.env:NAME,default}
OVERRIDE = re.compile(r"(?P<key>[\w/][\w/-]*(\.[\w/-]+)*)=(?P<value>.*)", re.DOTALL)


def load_config(paths: Sequence[str | Path | Mapping[str, Any]], overrides: Sequence[str] = ()) -> DictConfig:
    """The files merged left to right, then the overrides; interpolations resolved, nothing left missing."""
    merged = OmegaConf.create({})
    for path in paths:
        merged = _merge(merged, _read(path), path)
    tree = OmegaConf.to_container(merged, resolve=False)
    for override in overrides:
        _apply(tree, override)
    _refuse_missing(tree)
    _refuse_explosion(tree)
    return _without_interpolations(to_dict(OmegaConf.create(tree)))


def to_dict(config: DictConfig | ListConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Plain dicts, lists and values, interpolations resolved."""
    if not OmegaConf.is_config(config):
        return _plain(config)
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(_unresolved(error, config)) from error
    except RecursionError as error:
        raise UserError("the config is nested too deeply, or refers to itself; mend it") from error


def save_config(config: DictConfig | Mapping[str, Any], path: str | Path) -> None:
    """Writes what `load_config([path])` reads back as the same settings; the file appears whole or not at all."""
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


def _read(path: str | Path | Mapping[str, Any]) -> DictConfig:
    if isinstance(path, Mapping):
        return OmegaConf.create(dict(path))
    path = Path(path)
    try:
        return OmegaConf.create(_checked_yaml(path))
    except UserError:  # which is a ValueError too
        raise
    except FileNotFoundError as error:
        raise UserError(f"no config file {path}; {_nearest_file(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read as text ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_line(error)}: this is not YAML: {_problem(error)}; mend the file") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply for a config; mend the file") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: {_first_line(error)}; mend the file") from error


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
        raise UserError(f"{path} holds more than {MOST:,} values once its aliases are followed; mend the file")
    return text


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return the number of values in a YAML tree, each alias counted as what it stands for; `known` has those counted before."""
    if id(node) not in known:
        known[id(node)] = 1  # also of a node that contains itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _merge(base: DictConfig, new: DictConfig, path: str | Path) -> DictConfig:
    try:
        return OmegaConf.merge(base, new)
    except (TypeError, OmegaConfBaseException) as error:
        clash = _clash(OmegaConf.to_container(base, resolve=False), OmegaConf.to_container(new, resolve=False))
        what = f"{clash} is a list in one and a mapping in the other" if clash else _first_line(error)
        raise UserError(f"{path} cannot be merged with the files before it: {what}; make them agree") from error


def _clash(base: Any, new: Any) -> str | None:
    """The first key that is a list on one side and a mapping on the other."""
    ours = dict(walk(base))
    return next((key for key, value in walk(new) if {type(value), type(ours.get(key))} == {list, dict}), None)


def _nearest_file(path: Path) -> str:
    """Follows the path down to the first part that does not exist, and names what there is instead."""
    there = next((parent for parent in path.parents if parent.is_dir()), Path("."))
    part, *rest = path.relative_to(there).parts
    near = nearest(part, sorted(entry.name for entry in there.iterdir()))
    if near is None:
        return f"look in {there.resolve()}"
    whole = there / near / Path(*rest)
    return f"did you mean {whole if whole.exists() else there / near}?"


# Overrides


def _apply(tree: dict[str, Any], override: str) -> None:
    """Sets one key of the tree, in place."""
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
    place[_entry(place, last, override, join(*parents))] = value


def _parse(text: str, override: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]
    except yaml.YAMLError as error:
        raise UserError(f"the value in {_quoted(override)} is not YAML: {_problem(error)}; quote it if it is text") from error
    except RecursionError as error:
        raise UserError(f"the value in {_quoted(override)} is nested too deeply; shorten it") from error
    except UNREADABLE as error:
        raise UserError(
            f"the value in {_quoted(override)} cannot be used: {_first_line(error)}; quote it if it is text"
        ) from error


def _quoted(override: str) -> str:
    return repr(override if len(override) <= 100 else f"{override[:97]}...")


def _entry(place: Any, part: str, override: str, key: str) -> Any:
    """The key of a mapping or index of a list that `part` names in `place`."""
    if isinstance(place, dict):
        return next((known for known in place if str(known) == part), part)
    if not isinstance(place, list):
        raise UserError(
            f"{_quoted(override)} goes through {key}, which is {show(place)}, not a mapping or list; set {key} itself"
        )
    if not part.isdecimal() or int(part) >= len(place):
        have = f"has {len(place)} items, counted from 0"
        raise UserError(f"{_quoted(override)} asks for item {part} of {key}, which {have}; take one of those or set {key} itself")
    return int(part)


# Missing values and interpolations


def _refuse_missing(tree: dict[str, Any]) -> None:
    missing = [key for key, value in walk(tree) if value == MISSING]
    if missing:
        raise UserError(f"no value yet for {', '.join(missing)} (marked ???); set it in a later file or write {missing[0]}=VALUE")


def _refuse_explosion(tree: dict[str, Any]) -> None:
    """Refuse interpolations that multiply: ten lines of ${a}${a} each make a thousand copies."""
    values: dict[str, Any] = {}
    known: dict[str, int] = {}
    for key, value in walk(tree):
        if key in values:  # a key may hold dots; which of the two would be counted?
            raise UserError(f"two settings are called {key[:60]}; write the keys one below the other, without dots")
        values[key] = value

    def size(key: str) -> int:  # characters and values, once interpolations are resolved
        if key not in known:
            known[key] = 1  # also of a value that refers to itself, which OmegaConf names
            value = values.get(key)
            inner = [join(key, part) for part, _ in items(value)]
            if isinstance(value, str) and OPENING.search(value):
                _refuse_other_interpolations(value, key)
            if isinstance(value, str):
                known[key] += len(value)
                inner = [_absolute(key, dots, name) for dots, name in REFERENCE.findall(value)]
                if OPENING.search(value) and (absent := [name for name in inner if name not in values]):  # such as a[-1]
                    raise UserError(f"{key} refers to {absent[0]}, which is not there; {hint(absent[0], values)}")
            known[key] += sum(map(size, inner))
        return known[key]

    if sum(map(size, map(str, tree))) > 10 * LONGEST:
        raise UserError(f"the interpolations of the config make more than {10 * LONGEST:,} characters; mend them")


def _refuse_other_interpolations(text: str, key: str) -> None:
    """Refuse resolvers and nesting, whose results cannot be bounded before they are made."""
    if OPENING.search(VARIABLE.sub("", REFERENCE.sub("", text))):
        raise UserError(f"{key} is {show(text)}; only ${{key}}, ${{.key}} and ${{oc.env:NAME,default}} may stand in a config")


def _absolute(key: str, dots: str, name: str) -> str:
    """Return the key that `${..name}` at `key` refers to."""
    parents = key.split(".")[: -len(dots)] if dots else []
    return join(*parents, re.sub(r"\[([\w/-]+)\]", r".\1", name))


def _unresolved(error: OmegaConfBaseException, config: DictConfig | ListConfig) -> str:
    """One sentence for an interpolation that has no value."""
    key = dotted(error.full_key)
    reason = _first_line(error)
    if variable := re.search(r"Environment variable '(.+)' not found", reason):
        return f"{key} needs the environment variable {variable[1]}, which is not set; export it or write {key}=VALUE"
    if unknown := re.search(r"Interpolation key '(.+)' not found", reason):
        known = [name for name, _ in walk(OmegaConf.to_container(config, resolve=False))]
        return f"{key} refers to {unknown[1]}, which is not there; {hint(unknown[1], known)}"
    return f"{key} cannot be resolved: {reason}; mend it or write {key}=VALUE"


def _without_interpolations(tree: dict[str, Any]) -> DictConfig:
    """A config of exactly these values: a text that happens to hold `${` stays that text."""
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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or _first_line(error)


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}"
