"""Set-up: what it says where it cannot work, what it reuses, and that the package offers what setup.py promises.

setup.sh runs here with stand-ins on PATH (a Python that is too old, a pip without a network, a full disk) and in copies of the
repository's top, so that nothing is installed.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("python3", *(f"python3.{minor}" for minor in range(10, 15)))
TOOLS = ("bash", "cat", "cut", "sha256sum", "dirname", "awk", "df", "find", "mkdir", "touch", "ls", "rm", "cp", "grep")

OLD = """#!/bin/sh
case "$*" in *version_info\\ \\<*) exit 1 ;; *print*) echo 3.8.19 ;; esac"""

BARE = """#!/bin/sh
case "$*" in *ensurepip*) exit 1 ;; *print*) echo 3.11.2 ;; esac"""

SHIM = """#!/bin/sh
echo "command not found" >&2
exit 127"""

# Behaves as Python where it is asked for its version, makes environments that hold itself, and has a pip that does as told.
GOOD = """#!/bin/sh
case "$*" in
    *print*) echo 3.11.2 ;;
    *"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo home >"$3/pyvenv.cfg" ;;
    *"pip install"*) echo "$*" >>"$PIP_CALLS"; echo "$PIP_SAYS"; sleep "${PIP_TAKES:-0}"; exit "${PIP_STATUS:-0}" ;;
esac"""

NO_NETWORK = (
    "WARNING: Retrying after connection broken by 'NewConnectionError: Temporary failure in name resolution'\n"
    "ERROR: Could not find a version that satisfies the requirement setuptools>=68 (from versions: none)"
)
DISK_FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
DF = '#!/bin/sh\necho "Filesystem 1024-blocks Used Available Capacity Mounted"\necho "/dev/sda 9 9 {blocks} 99% /"'


class Machine:
    """A checkout and a PATH that holds only what the test puts there."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin = folder / "a checkout", folder / "bin"
        self.venv, self.calls = self.checkout / ".venv", folder / "pip_calls"
        (self.checkout / "shellscripts").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("requirements.txt", "setup.py", "pyproject.toml", "shellscripts/setup.sh", "shellscripts/help.bash"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in (*TOOLS, "tail", "tee", "flock", "sleep"):
            (self.bin / name).symlink_to(shutil.which(name))
        self.put("df", DF.format(blocks=100_000_000))

    def put(self, name: str, script: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def start(self, **env: str) -> subprocess.CompletedProcess:
        env = {"PATH": str(self.bin), "HOME": str(self.bin), "PIP_CALLS": str(self.calls), "PIP_SAYS": "", **env}
        script = self.checkout / "shellscripts" / "setup.sh"
        return subprocess.run(["bash", script], env=env, cwd="/", capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def installs(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def refuses(result: subprocess.CompletedProcess, *words: str) -> None:
    """Non-zero, and its last line alone says why."""
    assert result.returncode == 2, result.stderr
    sentence = result.stderr.strip().splitlines()[-1]
    assert sentence.startswith("lvdm: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in sentence


def test_too_old_a_python_is_named_and_nothing_is_made(machine):
    for name in NAMES:
        machine.put(name, OLD if name == "python3" else SHIM)
    refuses(machine.start(), "python3 is 3.8.19", "3.10")
    assert not machine.venv.exists()


def test_no_python_at_all(machine):
    refuses(machine.start(), "no Python found", "PYTHON=")
    assert not machine.venv.exists()


def test_a_python_without_venv_names_the_package_to_install(machine):
    machine.put("python3", BARE)
    refuses(machine.start(), "python3 (3.11.2)", "python3-venv")
    assert not machine.venv.exists()


def test_a_newer_python_is_found_behind_an_old_one_and_a_dead_shim(machine):
    machine.put("python3", OLD)
    machine.put("python3.14", SHIM)
    machine.put("python3.12", GOOD)
    assert machine.start().returncode == 0
    assert machine.installs() == 1


def test_a_chosen_python_is_the_only_one_tried(machine, tmp_path):
    machine.put("python3", GOOD)
    old = tmp_path / "old python"
    old.write_text(OLD)
    old.chmod(0o755)
    refuses(machine.start(PYTHON=str(old)), "old python is 3.8.19")


def test_a_full_disk_is_found_before_anything_is_made(machine):
    machine.put("python3", GOOD)
    machine.put("df", DF.format(blocks=3_100_000))
    refuses(machine.start(), "3 GB free", "8 GB", "VENV=")
    assert not machine.venv.exists()


@pytest.mark.parametrize("said, words", [(NO_NETWORK, "network"), (DISK_FULL, "disk filled up"), ("ERROR: no wheel", "no wheel")])
def test_a_failing_pip_is_one_sentence_and_the_next_start_completes(machine, said, words):
    machine.put("python3", GOOD)
    refuses(machine.start(PIP_SAYS=said, PIP_STATUS="1"), words, "install.log")
    assert said in (machine.venv / "install.log").read_text()
    assert machine.start().returncode == 0
    assert machine.installs() == 2


def test_a_second_start_installs_nothing_until_the_requirements_change(machine):
    machine.put("python3", GOOD)
    assert machine.start().returncode == 0
    assert machine.start(PIP_STATUS="1").returncode == 0
    assert machine.installs() == 1
    with (machine.checkout / "requirements.txt").open("a") as requirements:
        requirements.write("another\n")
    assert machine.start().returncode == 0
    assert machine.installs() == 2


def test_the_tools_of_the_tests_are_installed_only_when_asked_for(machine):
    machine.put("python3", GOOD)
    assert machine.start().returncode == 0
    assert "[test]" not in machine.calls.read_text()
    assert machine.start(LVDM_EXTRAS="test").returncode == 0
    assert machine.calls.read_text().strip().endswith(f"-e {machine.checkout}[test]")
    assert machine.start().returncode == machine.start(LVDM_EXTRAS="test").returncode == 0
    assert machine.installs() == 2


def test_an_environment_whose_making_was_killed_is_made_anew(machine):
    machine.put("python3", GOOD)
    assert machine.start().returncode == 0
    (machine.venv / "bin" / "python").unlink()  # what a kill, or a Python that has gone, leaves
    (machine.venv / "lib").mkdir()
    assert machine.start().returncode == 0
    assert (machine.venv / "bin" / "python").exists()
    assert not (machine.venv / "lib").exists()


def test_a_folder_that_is_no_environment_is_left_as_it_was(machine, tmp_path):
    machine.put("python3", GOOD)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("precious")
    refuses(machine.start(VENV=str(mine)), "no virtual environment", "VENV=")
    assert (mine / "thesis.tex").read_text() == "precious"


def test_two_starts_at_once_install_once(machine):
    machine.put("python3", GOOD)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: machine.start(PIP_TAKES="1"), range(2)))
    assert [result.returncode for result in results] == [0, 0]
    assert machine.installs() == 1


def test_a_given_python_is_used_as_it_is_and_quickly():
    env = {**os.environ, "LVDM_PYTHON": sys.executable}
    start = time.perf_counter()
    result = subprocess.run(["bash", ROOT / "shellscripts" / "setup.sh"], env=env, cwd="/", capture_output=True, text=True)
    assert result.returncode == 0 and sys.executable in result.stderr
    assert time.perf_counter() - start < 3


def test_every_requirement_parses_and_setup_reads_them(tmp_path):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [Requirement(line.split("#")[0]) for line in lines if not line.startswith("#")]
    assert all(str(requirement.specifier).startswith(">=") for requirement in listed)
    # setuptools' own words, from a copy so that no egg-info is left in the repository
    shutil.copytree(ROOT / "lvdm", tmp_path / "lvdm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, "setup.py", "-q", "egg_info"], cwd=tmp_path, check=True, capture_output=True)
    required = (tmp_path / "lvdm.egg-info" / "requires.txt").read_text().split("[", 1)[0].split()
    assert {Requirement(line).name for line in required} == {requirement.name for requirement in listed}
    packages = (tmp_path / "lvdm.egg-info" / "SOURCES.txt").read_text()
    for folder in (ROOT / "lvdm").rglob("__init__.py"):
        assert str(folder.relative_to(ROOT)) in packages


def test_every_folder_of_modules_is_a_package():
    for module in (ROOT / "lvdm").rglob("*.py"):
        assert (module.parent / "__init__.py").exists(), f"{module.parent} would not be installed: it has no __init__.py"


def commands() -> list[str]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    found = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "COMMANDS"]
    return list(ast.literal_eval(found[0]))


@pytest.mark.parametrize("name", commands())
def test_every_console_script_is_a_function_and_has_its_script(name):
    source = (ROOT / "lvdm" / "cli" / f"{name}.py").read_text()
    functions = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert "main" in functions
    assert re.search(rf"\blvdm\.cli\.start import {name} as main\b", (ROOT / "scripts" / f"{name}.py").read_text())


def test_every_script_is_a_console_script():
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == set(commands())
