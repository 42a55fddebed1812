"""A target names a class of an allowed package, and nothing else is even imported; a misspelt one names the nearest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from lvdm.config import check_node, import_class, instantiate, path_of
from lvdm.types import UserError

HERE = __name__


class Disc:
    pass


def a_function() -> None: ...


def test_nothing_outside_the_allowed_packages_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("harmful", "torchharm"):
        (tmp_path / f"{name}.py").write_text("import sys\nsys.was_harmed = True\nclass Thing: ...\n")
    for target in ("harmful.Thing", "torchharm.Thing", "harmful.Nothing", "torch.harmful.Thing", "lvdm.harmful.Thing"):
        node = {"target": "torch.nn.Sequential", "params": {"args": [{"deep": {"target": target}}]}}
        for use in (check_node, instantiate):
            with pytest.raises(UserError):
                use({"target": target})
            with pytest.raises(UserError):
                use(node)
    assert not hasattr(sys, "was_harmed") and not {"harmful", "torchharm"} & sys.modules.keys()
    check_node({"target": "harmful.Thing"}, allow=["harmful"])
    assert sys.was_harmed
    del sys.was_harmed, sys.modules["harmful"]


@pytest.mark.parametrize(
    "target, words",
    [
        ("os.system", "names a class under lvdm, torch"),
        ("subprocess.Popen", "names a class under"),
        ("builtins.eval", "names a class under"),
        ("torch.load", "is a builtin_function_or_method|is a function"),
        ("torch.hub.load", "is a function, not a class"),
        ("torch.os.system", "there is no module torch.os"),
        ("torch.hub.Path", "is really pathlib"),
        ("torch.nn", "is a module"),
        ("torch.distributed.elastic.multiprocessing.api.PContext", "closed to configs"),
        ("torch._C.Generator", "closed to configs"),
        ("torch", "dotted path of a class"),
        ("torch.nn.Linear()", "dotted path of a class"),
        ("", "dotted path of a class"),
        (3, "dotted path of a class"),
        (["torch.nn.Linear"], "dotted path of a class"),
        ("torch.nn.Linaer", "did you mean torch.nn.Linear"),
        ("torch.nn.linear", "did you mean torch.nn.Linear"),
        ("torch.optm.AdamW", "did you mean torch.optim"),
        ("torh.nn.Linear", "did you mean torch.nn.Linear"),
        ("lvdm.typs.Condition", "did you mean lvdm.types.Condition"),
        ("lvdm.cli.Condition", "did you mean lvdm.types.Condition"),
        ("lvdm.types.Conditon", "did you mean lvdm.types.Condition"),
        (f"{HERE}.a_function", "is a function"),
        (f"{HERE}.Dics", f"did you mean {HERE}.Disc"),
        (f"{HERE}.Path", "is really pathlib"),
    ],
)
def test_a_target_is_a_class_of_an_allowed_package(target: Any, words: str):
    config = OmegaConf.create({"at": [{"target": target}]})
    for act in (lambda: check_node(config.at[0], key="at.0", allow=[HERE]), lambda: instantiate(config.at[0], allow=[HERE])):
        with pytest.raises(UserError, match=words) as error:
            act()
        assert str(error.value).startswith("at.0.target is")


def test_a_module_that_lacks_a_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needy.py").write_text("import no_such_package_of_mine\n")
    with pytest.raises(UserError, match="cannot be imported.*no_such_package_of_mine"):
        import_class("needy.Thing", allow=["needy"])
    with pytest.raises(UserError, match="install absent"):
        import_class("absent.Thing", allow=["absent"])


def test_path_of_is_the_inverse_of_import_class():
    for cls in (torch.nn.Linear, torch.optim.AdamW, UserError):
        assert import_class(path_of(cls)) is cls
