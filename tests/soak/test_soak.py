"""Six kills and one of each other harm, by the script itself; and the comparison notices what differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from soak.__main__ import OTHERS
from soak.processes import ROOT, Run, is_running
from soak.works import WORKS, Work, differences

KINDS = ("adversary", "joint", "encode", "sample long", *OTHERS)  # of which six kills are enough for a twin


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script wrote."""
    out = tmp_path_factory.mktemp("soak")
    command = ["bash", str(ROOT / "shellscripts" / "soak.sh"), "--kills", "6", "--others", "1", "--seed", "1", "--out", str(out)]
    command += [word for kind in KINDS for word in ("--kind", kind)]
    environment = {**os.environ, "LVDM_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return {**json.loads((out / "figures.json").read_text()), "said": done.stdout}


@pytest.mark.parametrize("kind", KINDS)
def test_a_harmed_run_ends_as_its_twin(kind: str, figures: dict[str, Any]) -> None:
    assert figures["kinds"][kind]["tries"] >= 1
    assert not [one for one in figures["failures"] if one["kind"] == kind]


def test_the_script_says_its_figures(figures: dict[str, Any]) -> None:
    harmed = sum(row["harms"] for row in figures["kinds"].values())
    assert sum(row["harms"] for kind, row in figures["kinds"].items() if kind in WORKS) >= 6
    assert f"{harmed} harms in {len(figures['tries'])} tries" in figures["said"].splitlines()[-1]


def test_a_difference_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    work = Work("", "", [], tmp_path, "")

    def content(value: float, row: str, metric: float) -> dict[str, Any]:
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        parts = ("global_step", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "loops")
        torch.save(
            {"state_dict": {"w": torch.tensor([value])}, **dict.fromkeys(parts, 0)}, tmp_path / "checkpoints" / "last.ckpt"
        )
        (tmp_path / "metrics.csv").write_text(f"step,loss\n0,{row}\n")
        (tmp_path / "result.json").write_text(json.dumps({"seconds": value, "metrics": {"fvd": metric}}))
        return work.content()

    whole = content(1.0, "2", 3.0)
    assert not differences(whole, content(1.0, "2", 3.0))
    assert differences(whole, content(1.5, "2", 3.0))[0].startswith("/checkpoints/last.ckpt/state_dict/w")
    assert differences(whole, content(1.0, "4", 3.0))[0].startswith("/metrics.csv/1")
    assert differences(whole, content(1.0, "2", 5.0))[0].startswith("/result.json/fvd")
    (tmp_path / "metrics.csv").unlink()
    assert any(each.startswith("/metrics.csv") for each in differences(whole, work.content()))


def test_a_killed_process_is_gone_and_a_refusal_has_its_status(tmp_path: Path) -> None:
    run = Run("make_toy", [str(tmp_path / "toy"), "--videos", "100000", "--frames", "40"], tmp_path / "said.txt")
    assert run.wait(0.5) is None and is_running(run.pid)
    assert run.kill() and run.status == -9 and not is_running(run.pid)
    refused = Run("make_toy", [str(tmp_path / "other"), "--videos", "0"], tmp_path / "said.txt")
    assert refused.wait(60) == 2 and "0" in refused.text()
