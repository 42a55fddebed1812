"""From a class path in a config to the class, and to nothing else: no function, no foreign package, nothing that runs programs.

A config travels inside model files, so a target is read as a stranger's word: its first name is compared with the
allowed packages before anything is imported.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from lvdm.config.keys import hint, nearest, show
from lvdm.types import UserError

ROOTS = ("lvdm", "torch", "pytorch_lightning", "transformers", "diffusers")
# Parts of those packages whose classes start programs or import code that they are told of.
REFUSED = (
    "torch.distributed.elastic",
    "torch.package",
    "torch.utils.benchmark",
    "pytorch_lightning.cli",
    "diffusers.modular_pipelines",
)
OWN = ROOTS[0]


def import_class(target: object, *, key: str = "target", allow: Sequence[str] = ()) -> type:
    """The class that `target` names; `key` is where it stands in the config, for the error."""
    path = _allowed_path(target, key, allow)
    module_name, _, name = path.rpartition(".")
    module = _import_module(module_name, path, key)
    try:
        found = getattr(module, name)
    except AttributeError as error:
        raise UserError(f"{key} is {path}, but {module_name} has no {name}; {_nearest_class(module, path)}") from error
    except (ImportError, RuntimeError) as error:  # transformers and diffusers import their classes at first use
        raise UserError(f"{key} is {path}, which cannot be imported: {error}; install what it needs") from error
    if not isinstance(found, type):
        raise UserError(f"{key} is {path}, which is a {type(found).__name__}, not a class; {_nearest_class(module, path)}")
    home = path_of(found)
    if not _is_allowed(home, allow):
        raise UserError(f"{key} is {path}, which is really {home}; name a class defined under {_packages(allow)}")
    return found


def path_of(cls: type) -> str:
    """What a target says to name this class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _allowed_path(target: object, key: str, allow: Sequence[str]) -> str:
    if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        raise UserError(f"{key} is {show(target)}, expected the dotted path of a class, for example torch.nn.Linear")
    root = target.partition(".")[0]
    if root not in ROOTS and not _is_allowed(target, allow):
        near = nearest(root, (*ROOTS, *allow))
        advice = f"did you mean {target.replace(root, near, 1)}?" if near else "--allow-module NAME adds a package of yours"
        raise UserError(f"{key} is {target}, but a target names a class under {_packages(allow)}; {advice}")
    is_private = "._" in target and not any(_is_under(target, package) for package in allow)
    if is_private or not _is_allowed(target, allow):
        raise UserError(f"{key} is {target}, a part of {root} that is closed to configs; name one of its public classes")
    return target


def _is_allowed(path: str, allow: Sequence[str]) -> bool:
    is_open = any(_is_under(path, root) for root in ROOTS) and not any(_is_under(path, part) for part in REFUSED)
    return is_open or any(_is_under(path, package) for package in allow)


def _is_under(path: str, package: str) -> bool:
    return path == package or path.startswith(f"{package}.")


def _packages(allow: Sequence[str]) -> str:
    *first, last = (*ROOTS, *allow)
    return f"{', '.join(first)} and {last}"


def _import_module(name: str, path: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ModuleNotFoundError) and _is_under(name, missing):
            raise UserError(f"{key} is {path}, but there is no module {missing}; {_nearest_module(missing, path)}") from error
        raise UserError(f"{key} is {path}, which cannot be imported: {error}; install what it needs") from error


def _nearest_module(missing: str, path: str) -> str:
    """What the user may have meant where a part in the middle of the path is wrong."""
    package, _, name = missing.rpartition(".")
    if not package:
        return f"install {missing}, or run where Python finds it"
    if _is_under(path, OWN):
        return _our_nearest(path)
    parent = importlib.import_module(package)
    modules = (info.name for info in pkgutil.iter_modules(getattr(parent, "__path__", ())))
    near = nearest(name, (known for known in modules if not known.startswith("_")))
    return f"did you mean {package}.{near}?" if near else f"look for the class in {package}"


def _nearest_class(module: ModuleType, path: str) -> str:
    """What the user may have meant where the last part of the path is wrong."""
    if _is_under(path, OWN):
        return _our_nearest(path)
    loaded = vars(module)  # a lazy module lists names that are not there yet; classes are those in capitals
    classes = (name for name in dir(module) if (isinstance(loaded[name], type) if name in loaded else name[:1].isupper()))
    near = nearest(path.rpartition(".")[2], classes)
    return f"did you mean {module.__name__}.{near}?" if near else "name a class"


def _our_nearest(path: str) -> str:
    """The same class name in another module, else the nearest whole path; read from the sources, nothing is imported."""
    ours = list(_our_classes())
    same_name = [known for known in ours if known.rpartition(".")[2].lower() == path.rpartition(".")[2].lower()]
    return f"did you mean {' or '.join(same_name)}?" if same_name else hint(path, ours)


def _our_classes() -> Iterator[str]:
    root = Path(importlib.import_module(OWN).__path__[0])
    for file in sorted(root.rglob("*.py")):
        parts = [part for part in file.relative_to(root.parent).with_suffix("").parts if part != "__init__"]
        for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
            yield ".".join((*parts, name))
