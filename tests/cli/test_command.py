"""What every command says of errors that are the machine's: one sentence and status 1. Errors of ours stay errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lvdm.cli import command


def raising(error: BaseException) -> Any:
    def work(_: Any) -> command.Report:
        raise error

    return work


def allocate(_: Any) -> command.Report:
    return {"size": len(torch.empty(2**60, dtype=torch.uint8))}


@pytest.mark.parametrize(
    "work",
    [
        allocate,
        raising(MemoryError()),
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        raising(RuntimeError("unable to mmap 4096 bytes from file: Cannot allocate memory (12)")),
    ],
)
def test_too_little_memory_is_one_sentence(work: Any, capsys: pytest.CaptureFixture[str]):
    assert command.run(command.parser("a test", example="none"), work, []) == 1
    said = capsys.readouterr().err
    assert "there is too little memory (" in said and said.count("\n") == 1


def test_a_lost_process_is_one_sentence_where_there_are_several(monkeypatch: Any, capsys: pytest.CaptureFixture[str]):
    error = RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:1\ntrace")
    with pytest.raises(RuntimeError, match="closed by peer"):
        command.run(command.parser("a test", example="none"), raising(error), [])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert command.run(command.parser("a test", example="none"), raising(error), []) == 1
    said = capsys.readouterr().err
    assert "another process of this run has ended" in said and "trace" not in said


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a fault"):
        command.run(command.parser("a test", example="none"), raising(RuntimeError("a fault")), [])
