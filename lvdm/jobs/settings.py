"""Config files, mappings and overrides to one checked config."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from omegaconf import DictConfig, OmegaConf

from lvdm.config import check, import_packages, load_config
from lvdm.types import UserError

OneConfig: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | DictConfig
Config: TypeAlias = OneConfig | Sequence[OneConfig]  # several are merged left to right
Overrides: TypeAlias = Mapping[str, Any] | Sequence[str] | None  # {"trainer.max_steps": 500} or ["trainer.max_steps=500"]


def read_settings(
    config: Config,
    overrides: Overrides = None,
    *,
    schema: type,
    allow: Sequence[str] = (),
    provided: Mapping[str, Collection[str]] | None = None,
) -> DictConfig:
    """Return the merged config with the overrides, after checking every key against the schema."""
    import_packages(allow)
    merged = load_config([each if isinstance(each, str) else _plain(each) for each in as_list(config)], as_words(overrides))
    check(merged, schema=schema, allow=allow, provided=provided)
    return merged


def as_list(config: Config) -> list[OneConfig]:
    """Return one config or several as a list."""
    return [config] if isinstance(config, str | os.PathLike | Mapping | DictConfig) else list(config)


def as_words(overrides: Overrides) -> list[str]:
    """Return overrides as the words key=value; JSON is YAML too."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=_text, ensure_ascii=False)}" for key, value in overrides.items()]
    return list(overrides or ())


def _plain(config: OneConfig) -> str | dict[str, Any]:
    """Return a path as text, and a mapping with tuples as lists and paths as text."""
    if isinstance(config, os.PathLike):
        return os.fspath(config)
    tree = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    return json.loads(json.dumps(tree, default=_text))


def _text(value: object) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=False)
    raise UserError(f"a config holds plain values, not a {type(value).__name__}; name its class as target, with its params")
