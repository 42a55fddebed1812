"""A limit on building: the network that a file describes is at most as large as the weights in the file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from lvdm.types import UserError

REGISTER = (
    register_module_parameter_registration_hook,
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
)


@contextlib.contextmanager
def no_larger_than(weights: Mapping[str, Tensor], path: str | Path) -> Iterator[None]:
    """Raise a UserError as soon as the networks built in the block are larger than these weights, which come from `path`.

    Slack: ten modules, parameters and buffers for each tensor and 1000 more; twice the numbers and a million more. So tied
    weights, containers and buffers that are not saved fit, and time and memory are bounded for any class.
    """
    most_parts, parts = 10 * len(weights) + 1000, 0
    most_numbers, numbers = 2 * sum(tensor.numel() for tensor in weights.values()) + 10**6, 0
    builder = threading.get_ident()  # the hooks are called in all threads

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal parts, numbers
        if threading.get_ident() != builder:
            return
        parts += 1
        numbers += part.numel() if isinstance(part, Tensor) else 0
        if parts > most_parts or numbers > most_numbers:
            raise UserError(
                f"the network is far larger than the {len(weights)} tensors that {path} holds for it; make the file again"
            )

    with contextlib.ExitStack() as hooks:
        for register in REGISTER:
            hooks.callback(register(count).remove)
        yield
