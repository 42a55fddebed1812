"""The classes that a config may name: an allow-list, which every target must pass before it is imported.

Model files contain configs, so a target is not trusted. It may name a class that a room of lvdm lists in its BUILDABLE, a
class of the families below, or a class of a package that the user allows by name.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lvdm.config.keys import nearest, show
from lvdm.config.moved import current_path
from lvdm.types import UserError

OWN = "lvdm"
ROOMS = ("data", "diffusion", "models", "training")  # each has BUILDABLE: its classes, as paths below the room


@dataclass(frozen=True)
class Family:
    """Classes of another library that a config may name.

    Args:
        pattern: regular expression that the whole target matches before anything is imported.
        home: package that defines the class.
        bases: paths of classes; the class extends one of them.
    """

    pattern: str
    home: str
    bases: tuple[str, ...]

    def has(self, cls: type) -> bool:
        return _is_under(path_of(cls), self.home) and issubclass(cls, tuple(map(pkgutil.resolve_name, self.bases)))


def _lightning(part: str, base: str, names: str) -> Family:
    pattern = rf"pytorch_lightning\.{part}\.({'|'.join(names.split())})"
    return Family(pattern, f"pytorch_lightning.{part}", (f"pytorch_lightning.{part}.{base}",))


FAMILIES = (
    Family(r"torch\.nn\.(modules\.\w+\.)?\w+", "torch.nn.modules", ("torch.nn.Module",)),
    Family(r"torch\.optim\.(\w+\.)?\w+", "torch.optim", ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler")),
    _lightning(
        "callbacks",
        "Callback",
        "DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler LearningRateMonitor ModelSummary RichModelSummary "
        "RichProgressBar StochasticWeightAveraging TQDMProgressBar Timer",
    ),
    _lightning("strategies", "Strategy", "DDPStrategy SingleDeviceStrategy"),
    Family(
        r"transformers\.(models\.(\w+\.)+)?(?=[A-Z])\w*(Model|Config|For[A-Z])\w*",
        "transformers.models",
        ("transformers.PreTrainedModel", "transformers.PretrainedConfig"),
    ),
    Family(
        r"diffusers\.(models\.(\w+\.)+)?(?=[A-Z])\w*(Model|Autoencoder|UNet|Transformer)\w*",
        "diffusers.models",
        ("diffusers.ModelMixin",),
    ),
)
PLACES = (
    *("torch.nn", "torch.optim", "torch.optim.lr_scheduler", "pytorch_lightning.callbacks", "pytorch_lightning.strategies"),
    *("transformers", "diffusers"),
)
HUB_LIBRARIES = ("transformers", "diffusers")
LIMITED_LIBRARIES = ("pytorch_lightning", *HUB_LIBRARIES)  # their classes fit only annotations of the same library
REACHES_HUB = (  # at any depth of their settings
    *("auto_map", "trust_remote_code", "attn_implementation", "_attn_implementation", "experts_implementation"),
    *("_attn_implementation_internal", "_experts_implementation_internal", "kernel_config", "use_kernels", "quantization_config"),
    *("backbone", "use_pretrained_backbone", "use_timm_backbone", "architecture", "model_args"),
)
ALLOW = 'allow=["NAME"]'  # how Python allows a package; commands say it their way
ALLOWED = (
    "classes of lvdm that are meant for it, modules of torch.nn, optimizers of torch.optim, some callbacks and strategies "
    "of pytorch_lightning, models of transformers and diffusers"
)


def import_class(target: object, *, key: str = "target", allow: Sequence[str] = ()) -> type:
    """Return the class that `target` names; `key` is its place in the config, for the error."""
    path = check_target(target, key=key, allow=allow)
    module_name, _, name = path.rpartition(".")
    module = _import_module(module_name, path, key)
    try:
        found = getattr(module, name)
    except AttributeError as error:
        raise UserError(f"{key} is {path}, but {module_name} has no {name}; {_nearest_class(module, name)}") from error
    except (ImportError, RuntimeError) as error:  # transformers and diffusers import their classes at first use
        raise UserError(f"{key} is {path}, which cannot be imported: {error}; install what it needs") from error
    if not isinstance(found, type):
        raise UserError(f"{key} is {path}, which is a {type(found).__name__}, not a class; {_nearest_class(module, name)}")
    if not is_allowed(found, allow):
        really = "" if path_of(found) == path else f" (really {path_of(found)})"
        raise UserError(f"{key} is {path}{really}, but a config may name {_names(allow)}; name one of those")
    return found


def import_packages(packages: Sequence[str]) -> None:
    """Import packages that the user allows by name; samplers, metrics, extractors and protocols register themselves there."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{package}.".startswith(f"{error.name}."):
                raise UserError(f"{package} cannot be imported: {error}; install what it needs") from error
            raise UserError(f"there is no module {package}; install it, or run where Python finds it") from error
        except Exception as error:  # whatever the user's own module raises
            raise UserError(f"{package} cannot be imported: {type(error).__name__}: {error}; correct it") from error


def check_target(target: object, *, key: str = "target", allow: Sequence[str] = ()) -> str:
    """Return the path to import for a target that a config may name; refuse any other, without importing it."""
    if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        raise UserError(f"{key} is {show(target)}, expected the dotted path of a class, for example torch.nn.Linear")
    if any(_is_under(target, package) for package in allow):
        return target
    if _is_under(target, OWN):
        return _own_path(target, key)
    if "._" in target or not any(re.fullmatch(family.pattern, target) for family in FAMILIES):
        raise UserError(f"{key} is {target}, but a config may name {_names(allow)}; {_advice(target)}")
    return target


def is_allowed(cls: type, allow: Sequence[str] = ()) -> bool:
    """Return whether a config may build this class, wherever it was found."""
    path = path_of(cls)
    is_own = any(path in _buildable(room) for room in ROOMS if _is_under(path, f"{OWN}.{room}"))
    return is_own or is_from(cls, allow) or any(family.has(cls) for family in FAMILIES)


def is_from(cls: type, packages: Sequence[str]) -> bool:
    """Return whether one of these packages defines the class."""
    return any(_is_under(path_of(cls), package) for package in packages)


def refuse_remote_code(cls: type, settings: Iterable[tuple[str, Any]]) -> None:
    """Refuse the settings (dotted key, value) of another library's model that make it fetch code or weights."""
    if is_from(cls, HUB_LIBRARIES):
        for key, _ in settings:
            if key.rpartition(".")[2] in REACHES_HUB:
                raise UserError(f"{key} can make {cls.__name__} load code or weights from a hub; no config may, so leave it out")


def is_same_class(first: str, second: str) -> bool:
    """Return whether two targets name one class, by today's or an earlier path, in full or by its room."""
    return first == second or _full_path(first) == _full_path(second)


def _full_path(target: str) -> str:
    try:
        return check_target(target)
    except UserError:  # of a package of the user's, or not a class at all
        return target


def path_of(cls: type) -> str:
    """Return the target of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _own_path(target: str, key: str) -> str:
    """Return the full path of a class of lvdm, whose target may leave out folders and the file below its room."""
    place, _, name = current_path(target).rpartition(".")
    every = [path for room in ROOMS for path in _buildable(room)]
    found = [path for path in every if path.endswith(f".{name}") and _is_under(path, place)]
    if not found:
        near = nearest(name, {path.rpartition(".")[2] for path in every})
        alike = [path for path in every if path.endswith(f".{near}")]
        advice = f"did you mean {' or '.join(alike)}?" if alike else "name a class that is listed in a BUILDABLE of lvdm"
        raise UserError(f"{key} is {target}, which is no class of lvdm that a config may name; {advice}")
    return found[0]


def _buildable(room: str) -> tuple[str, ...]:
    return tuple(f"{OWN}.{room}.{path}" for path in importlib.import_module(f"{OWN}.{room}").BUILDABLE)


def _is_under(path: str, package: str) -> bool:
    return path == package or path.startswith(f"{package}.")


def _names(allow: Sequence[str]) -> str:
    return ", ".join((ALLOWED, *(f"classes of {package}" for package in allow)))


def _advice(target: str) -> str:
    place, _, name = target.rpartition(".")
    near = nearest(place, PLACES)
    if near not in (None, place):
        return f"did you mean {near}.{name}?"
    return f"a package of your own is allowed by its name: {ALLOW}"


def _import_module(name: str, path: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ModuleNotFoundError) and _is_under(name, missing):
            advice = "correct the path" if "." in missing else f"install {missing} (pip install {missing}), or correct the path"
            raise UserError(f"{key} is {path}, but there is no module {missing}; {advice}") from error
        raise UserError(f"{key} is {path}, which cannot be imported: {error}; install what it needs") from error


def _nearest_class(module: ModuleType, name: str) -> str:
    """Return a hint that names the nearest class of a module; a capital letter marks a class."""
    near = nearest(name, (each for each in dir(module) if each[:1].isupper()))
    return f"did you mean {module.__name__}.{near}?" if near else "name a class"
