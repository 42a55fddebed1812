"""Metrics, extractors and protocols of a user's own package: imported only if the user allows the package by name.

A module adds its records when it is imported (`METRICS.add`, `EXTRACTORS.add`, `PROTOCOLS.add`). An extractor or a protocol may
also be named by its dotted path, such as `mypackage.MyExtractor`, and an extractor by a YAML of its `target` and `params`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path

from lvdm.config import check_node, instantiate, load_config
from lvdm.evaluation.protocols.protocol import PROTOCOLS, EvalProtocol
from lvdm.models.features.extractors import EXTRACTORS, Extractor, OwnExtractor, add_extractor
from lvdm.types import UserError


def protocol_name(name: str, allow: Sequence[str]) -> str:
    """Return the name of a registered protocol; one that is named by its dotted path is registered first."""
    if "." not in name or name in PROTOCOLS:
        return name
    found = _found(name, allow)
    if not isinstance(found, EvalProtocol):
        raise UserError(f"{name} is a {type(found).__name__}, expected an EvalProtocol; correct the path")
    return PROTOCOLS.add(found).name


def extractor_name(name: str, allow: Sequence[str]) -> str:
    """Return the name of a registered extractor; one that is named by its dotted path, or by a config, is registered first."""
    if Path(name).suffix in (".yaml", ".yml"):
        return _configured(Path(name), allow)
    return name if "." not in name or name in EXTRACTORS else add_extractor(name, _found(name, allow))


def _configured(path: Path, allow: Sequence[str]) -> str:
    """Register what a YAML of `target` and `params` builds, under the name of the file."""
    node = load_config([str(path)])
    check_node(node, kind=Extractor, allow=allow)
    EXTRACTORS[path.name] = OwnExtractor(path.name, lambda: instantiate(node, allow=allow))
    return path.name


def _found(path: str, allow: Sequence[str]) -> object:
    if not any(path.startswith(f"{package}.") for package in allow):
        allowed = f"only {', '.join(allow)} may be imported" if allow else "no package of yours may be imported"
        raise UserError(f"{path} is not lvdm's own, and {allowed}; allow its package by name")
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError) as error:
        raise UserError(f"there is no {path} ({error}); correct the path") from error
