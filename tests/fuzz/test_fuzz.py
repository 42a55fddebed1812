"""A minute of fuzzing, by the script itself: every family holds, and the harness notices what does not hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fuzz.__main__ import FAMILIES
from fuzz.audit import ROOT
from fuzz.cases import Case, commands, run
from fuzz.verbs import SilentDamage
from lvdm.types import UserError


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script wrote after few inputs of a fixed seed. It is a process of its own, with its own limit on memory."""
    out = tmp_path_factory.mktemp("fuzz")
    command = ["bash", str(ROOT / "shellscripts" / "fuzz.sh"), "--examples", "20", "--seed", "1", "--out", str(out)]
    environment = {**os.environ, "LVDM_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return {**json.loads((out / "figures.json").read_text()), "said": done.stdout}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_input_of_a_family_fails(family: str, figures: dict[str, Any]) -> None:
    assert figures["families"][family]["inputs"] >= 5
    failures = [failure for failure in figures["failures"] if failure["family"] == family]
    said = [f"{each['failure']}\n{Path(each['case']).with_name('details.txt').read_text()[-800:]}" for each in failures]
    assert not failures, "\n\n".join(said)


def test_the_script_says_its_figures(figures: dict[str, Any]) -> None:
    total = sum(each["inputs"] for each in figures["families"].values())
    assert total > 200 and f"{total} inputs in " in figures["said"].splitlines()[-1]


def planted(work: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What the harness says of a command that does this."""
    monkeypatch.setitem(commands(), "make_toy", lambda _: work())
    monkeypatch.setattr("fuzz.cases.CPU_SECONDS", 1)
    return run(Case("make_toy", ()), tmp_path / "at", tmp_path).failure


def say(*lines: str, status: int) -> int:
    print(*lines, sep="\n", file=sys.stderr)
    return status


def spin() -> None:
    while True:
        pass


def raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("work", "failure"),
    [
        (lambda: 0, None),
        (lambda: say("a warning", "it: one sentence", status=2), None),
        (lambda: say("a warning", status=2), "0 sentences"),
        (lambda: say("it: one", "it: two", status=2), "2 sentences"),
        (lambda: say("it: " + "ab" * 5000, status=2), "a sentence of over"),
        (lambda: say("Traceback (most recent call last)", "it: one", status=2), "a traceback"),
        (lambda: 1, "status 1"),
        (lambda: raises(KeyError("a")), "KeyError"),
        (lambda: raises(UserError("a")), "UserError"),
        (lambda: raises(SilentDamage("a")), "SilentDamage"),
        (spin, "TooSlow"),
        (lambda: say("it: no", status=2) if os.system("true") else 0, "violation: os.system"),
    ],
)
def test_the_harness_notices(work: Any, failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(work, tmp_path, monkeypatch)
    assert found is None if failure is None else found is not None and found.startswith(failure)


def test_a_saved_case_is_the_case(tmp_path: Path) -> None:
    files = {"a.bin": bytes(range(256)), "b": "link:a.bin", "\udcff.mp4": b"", "p": "fifo:"}
    case = Case("train", ("@AT@/a.bin", "\ud7ff"), files)
    case.save(tmp_path / "case.json")
    assert Case.load(tmp_path / "case.json") == case
