"""What every test shares: where the parity files lie, one thread of torch, a fixed seed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

PARITY = Path(os.environ.get("LVDM_PARITY", Path(__file__).resolve().parents[2] / "shared" / "parity"))


@pytest.fixture
def parity() -> Callable[[str], Path]:
    """Path of a parity file; skips the test where there are none."""

    def find(name: str) -> Path:
        path = PARITY / name
        if not path.exists():
            pytest.skip(f"no parity file {name}: set LVDM_PARITY to the folder of recorded values")
        return path

    return find


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
