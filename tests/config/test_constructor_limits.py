"""Every number of every class that the shipped configs name, made absurd: built in little time, or refused in a sentence."""

from __future__ import annotations

import copy
import inspect
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lvdm.config import import_class, instantiate
from lvdm.types import UserError

ROOT = Path(__file__).resolve().parents[2]
ABSURD = (0, -1, 10**12, 2**40, float("nan"), float("inf"))
SECONDS, GIB = 10, 1
# What lvdm.config says in a sentence that names the key.
BUILD_ERRORS = (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError, LookupError, AttributeError)
Node = dict[str, Any]


def nodes_in(tree: Any) -> Iterator[Node]:
    if isinstance(tree, dict) and "target" in tree:
        yield tree
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for value in inner:
        yield from nodes_in(value)


def shipped_nodes() -> dict[str, Node]:
    """One node of each class, the shortest, which is the toy's."""
    shipped: dict[str, Node] = {}
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        text = path.read_text().replace('"${seed}"', "0").replace("${seed}", "0").replace("${define.", "x{")
        for node in nodes_in(yaml.safe_load(text)):
            before = shipped.setdefault(node["target"], node)
            shipped[node["target"]] = min(before, node, key=lambda each: len(str(each)))
    return shipped


def numbers_in(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where a number stands in an argument."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from numbers_in(item, (*path, index))


def with_numbers_changed(node: Node, cls: type) -> Iterator[tuple[str, Any, Node]]:
    """Each number of the node and of the constructor's defaults; None may be a number too."""
    defaults = {p.name: p.default for p in inspect.signature(cls).parameters.values() if p.default is not p.empty}
    written = node.get("params", {})
    for name, value in {**defaults, **written}.items():
        may_be_number = value is None and "int" in str(inspect.signature(cls).parameters[name].annotation)
        for path in [()] if may_be_number else numbers_in(value):
            for absurd in ABSURD:
                params = {**copy.deepcopy(written), name: replaced(value, path, absurd)}
                yield f"{name}{list(path) or ''}", absurd, {"target": node["target"], "params": params}


def replaced(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    items = list(value)
    items[path[0]] = replaced(items[path[0]], path[1:], new)
    return items


def try_all() -> list[str]:
    """What went wrong, by class, argument and value."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + GIB * 2**30,) * 2)
    signal.signal(signal.SIGPROF, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    wrong, tried = [], 0
    for target, node in shipped_nodes().items():
        for name, absurd, changed in with_numbers_changed(node, import_class(target)):
            tried, where = tried + 1, f"{target} {name}={absurd}"
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of this process, so that a busy machine does not count
            try:
                with torch.device("meta"):
                    instantiate(changed)
            except UserError as error:
                wrong += [] if 0 < len(str(error)) < 500 else [f"{where}: {error}"]
            except (TimeoutError, MemoryError) as error:
                wrong.append(f"{where}: {type(error).__name__}")
            except BUILD_ERRORS as error:
                print(f"{where}: {type(error).__name__}: {error}")
            signal.setitimer(signal.ITIMER_PROF, 0)
    print(f"tried {tried}")
    return wrong if tried > 500 else [f"only {tried} were tried"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit on memory is Linux's")
def test_absurd_numbers_are_refused_soon_and_in_little_memory() -> None:
    command = [sys.executable, __file__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("target", "params", "words"),
    [
        ("lvdm.models.denoisers.UNet3D", {"num_heads": 0}, "num_heads is 0"),
        ("lvdm.models.denoisers.UNet3D", {"num_res_blocks": -1}, "num_res_blocks is -1"),
        ("lvdm.models.denoisers.UNet3D", {"dropout": 1.5}, "dropout is 1.5, expected a number from 0 to 0.99"),
        ("lvdm.models.autoencoders.VAE3D", {"channels": 2**40}, "channels is 1099511627776"),
        ("lvdm.models.autoencoders.VAE3D", {"downsample": [1, 1, 1]}, "not all 1"),
        ("lvdm.models.autoencoders.PatchVAE3D", {"patches": [[2, 4, 4], [2, 0, 0]]}, r"patch is \[2, 0, 0\]"),
        ("lvdm.diffusion.schedules.Cosine", {"num_steps": 10**12}, "num_steps is 1000000000000"),
        ("lvdm.diffusion.schedules.Cosine", {"snr_shift": float("nan")}, "snr_shift is nan"),
        (
            "lvdm.diffusion.schedules.Linear",
            {"num_steps": 10**5, "start": 0.5, "end": 0.5},
            "expected that it falls at every",
        ),
        ("lvdm.diffusion.training_times.LogitNormalTimes", {"std": float("nan")}, "std is nan"),
        ("lvdm.diffusion.loss_weights.MinSNRWeight", {"gamma": float("inf")}, "gamma is inf"),
        ("lvdm.training.AdamW", {"lr": float("nan")}, "lr is nan"),
        ("lvdm.training.Muon", {"steps": 10**12}, "steps is 1000000000000"),
        ("lvdm.training.Task", {"weight": float("nan")}, "weight is nan"),
        ("lvdm.training.ReconstructionLoss", {"kl": float("nan")}, "kl is nan"),
        ("lvdm.data.VideoFolder", {"root": "r", "num_frames": 4, "size": 2**40}, "size is 1099511627776"),
        ("lvdm.data.VideoFolder", {"root": "r", "num_frames": 4, "size": 4, "time_limit": float("inf")}, "time_limit is inf"),
    ],
)
def test_an_absurd_argument_is_named(target: str, params: Mapping[str, Any], words: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=words):
        instantiate({"target": target, "params": params})


if __name__ == "__main__":
    found = try_all()
    print("\n".join(found))
    sys.exit(bool(found))
