"""Ctrl-C while a command starts: no traceback, exit status 130, nothing begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_sample_commands import write_model

from lvdm.cli import start

ROOT = Path(__file__).resolve().parents[2]
# Says when Python itself is up: what comes before that is not ours.
SCRIPT = """
import runpy, sys
print("up", flush=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def begin(command: str, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", SCRIPT, str(ROOT / "scripts" / f"{command}.py"), *arguments]
    run = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "up\n"
    return run


@pytest.mark.parametrize("command", ["train", "make_toy"])
def test_an_interrupt_during_imports_is_no_traceback(command: str) -> None:
    began = time.monotonic()
    run = begin(command, "--help")
    run.communicate(timeout=120)
    whole = time.monotonic() - began
    for tried in range(1, 6):
        run = begin(command, "--help")
        time.sleep(whole * tried / 8)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert run.returncode in (130, 0), said  # 0 if it was quicker this time
        assert said in ("interrupted\n", ""), said


@pytest.mark.parametrize(("number", "status", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")])
def test_a_signal_while_videos_are_written_leaves_no_temporary_file(number: int, status: int, said: str, tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model.safetensors"), tmp_path / "out"
    options = ["--frames", "1000000", "--steps", "1", "--format", "npz,frames,mp4", "--out", str(out), "--device", "cpu"]
    run = begin("sample_long", "--predict", str(model), *options)
    for _ in range(600):
        if any(out.glob(".seed0-00000.*")):
            break
        time.sleep(0.1)
    time.sleep(0.3)
    assert len(list(out.iterdir())) >= 3
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == status and errors.endswith(f"{said}\n") and "Traceback" not in errors
    assert not list(out.iterdir())


EXITING = """
import atexit, sys, threading, time
from lvdm.cli import start, command

def work(args):
    threading.Thread(target=time.sleep, args=(30,)).start()  # the interpreter waits for it when it exits
    return {}

class Module:
    @staticmethod
    def main(argv=None):
        status = command.run(command.parser("", example=""), work, argv)
        print("done", flush=True)
        return status

start.import_module = lambda name: Module
sys.exit(start.start("anything"))
"""


def test_an_interrupt_while_the_process_exits_is_no_traceback() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", EXITING], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None and run.stdout.readline() == "done\n"
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=20)
    assert (run.returncode, said) == (130, "interrupted\n")


def test_a_command_called_from_python_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        start.make_toy(["--help"])
    assert signal.getsignal(signal.SIGINT) is before


def test_only_commands_can_be_started() -> None:
    with pytest.raises(AttributeError, match="no command trian"):
        start.trian  # noqa: B018
