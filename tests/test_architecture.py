"""The plan of the house, held by the parser: what imports what, how long files and functions are, what is never written."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lvdm"

# Imports go one way. A module directly under lvdm/ is a room of its own; "" is lvdm/__init__.py.
SHARED = ("types", "rules", "planes", "files", "arrays", "processes", "batching", "seeding", "version")
ROOMS = ("config", "data", "models", "diffusion", "checkpoints", "sampling", "training", "evaluation", "toys")
ARROWS = {
    "version": (),
    "types": (),
    "rules": ("types",),
    "planes": ("types",),
    "files": ("types",),
    "arrays": ("files",),
    "processes": ("types",),
    "batching": ("types",),
    "seeding": (),
    "config": SHARED,
    "data": SHARED,
    "models": SHARED,
    "diffusion": SHARED,
    "checkpoints": SHARED,
    "training": (*SHARED, "models", "diffusion", "sampling"),  # sampling makes the previews
    "sampling": (*SHARED, "diffusion"),
    "evaluation": (*SHARED, "config", "data", "models", "checkpoints", "sampling"),  # a data set's YAML is one of its sources
    "toys": (*SHARED, "data", "evaluation", "sampling"),
    "jobs": (*SHARED, *ROOMS),
    "api": (*SHARED, *ROOMS, "jobs"),
    "cli": (*SHARED, *ROOMS, "jobs", "api"),
    "": ("version", "api"),
}
TOP = {
    *("configs", "lvdm", "scripts", "shellscripts", "tests", "docs", ".ci"),
    *("requirements.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore"),
}
# Written so that this file does not find itself.
MACHINE = re.compile(r"(?<![\w.~$}*])/(?:" + "|".join(("home", "root", "Users", "work", "mnt", "scratch", "tmp")) + r")/\w")

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms of ours that a file imports, wherever in it the import stands; `from lvdm import __version__` is free."""
    modules = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = (".".join(path.relative_to(ROOT).parts[: -node.level]) if node.level else "").rstrip(".")
            base = ".".join(part for part in (package, node.module) if part)
            modules |= {f"{base}.{alias.name}" for alias in node.names} if base == "lvdm" else {base}
    ours = {module for module in modules if module.split(".")[0] == "lvdm"} - {"lvdm.__version__"}
    parts = [module.split(".") for module in ours]
    return {part[1] if len(part) > 1 and part[1] in ARROWS else "" for part in parts}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_files(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it the import stands."""
    every, found = {module_of(each) for each in MODULES}, set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & every or {node.module}
    return found & every - {module_of(path)}


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_follow_the_arrows(path):
    assert room(path) in ARROWS, f"{name(path)} is a room that the plan does not know"
    strange = imported(path) - {room(path), *ARROWS[room(path)]}
    assert not strange, f"{name(path)} imports {sorted(strange)}"


def test_the_arrows_have_no_circle():
    done: set[str] = set()
    while len(done) < len(ARROWS):
        ready = {house for house, needs in ARROWS.items() if house not in done and set(needs) <= done}
        assert ready, f"a circle among {set(ARROWS) - done}"
        done |= ready


def test_only_commands_parse_arguments_and_they_stay_small():
    users = [name(path) for path in MODULES if "argparse" in plain_imports(path) and room(path) != "cli"]
    assert not users
    assert sum(len(path.read_text().splitlines()) for path in MODULES if room(path) == "cli") <= 2100


def plain_imports(path: Path) -> set[str]:
    return {alias.name for node in ast.walk(tree(path)) if isinstance(node, ast.Import) for alias in node.names}


def test_tests_mirror_the_rooms():
    folders = {path.parent.name for path in TESTS if path.name.startswith("test_") and path.parent != ROOT / "tests"}
    assert folders == {*ROOMS, "jobs", "cli", "fuzz", "soak"}


def test_no_two_files_import_each_other_and_no_circle_of_more():
    needs = {module_of(path): imported_files(path) for path in MODULES}

    def is_outside(module: str) -> bool:
        return not needs[module] & needs.keys() or not any(module in needed for needed in needs.values())

    while outside := [module for module in needs if is_outside(module)]:
        needs = {module: needed for module, needed in needs.items() if module not in outside}
    assert not needs, f"a circle of imports among {sorted(needs)}"


def test_the_import_finder_sees_every_way_of_importing(monkeypatch):
    source = (
        "import torch, lvdm.data.clips\nfrom lvdm import __version__, sampling\nfrom ..models.codec import Codec\n"
        "from . import schedule\ndef late():\n    from lvdm.training.tasks import Short\n    from lvdm import load"
    )
    path = PACKAGE / "diffusion" / "imaginary.py"
    monkeypatch.setitem(globals(), "tree", lambda _: ast.parse(source))
    assert imported(path) == {"data", "sampling", "models", "diffusion", "training", ""}


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_are_a_few_lines_over_cli(path):
    assert len(path.read_text().splitlines()) <= 10
    assert imported(path) == {"cli"}


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS, *TESTS], ids=name)
def test_files_and_functions_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines < (400 if path in TESTS else 320), f"{name(path)} has {lines} lines"
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions(path)}
    assert all(length <= 60 for length in lengths.values()), f"functions of {name(path)} over 60 lines: {lengths}"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS, *TESTS], ids=name)
def test_nothing_is_caught_without_a_name(path):
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler) and node.type is None]


@pytest.mark.parametrize("path", [path for path in [*MODULES, *SCRIPTS] if "cli" not in path.parts], ids=name)
def test_only_commands_print(path):
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not [call.lineno for call in calls if call.func.id in ("print", "input")]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_constructors_name_every_option(path):
    classes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    made = {node.name: part for node in classes for part in node.body if getattr(part, "name", "") == "__init__"}
    assert not [owner for owner, function in made.items() if function.args.kwarg is not None]


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=name)
def test_every_module_says_what_it_is_and_every_folder_what_it_holds(path):
    assert ast.get_docstring(tree(path)), f"{name(path)} has no first line that says what it is"


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for path in listed.stdout.split("\0") if (ROOT / path).is_file()]


def test_the_top_holds_only_what_the_design_lists():
    assert {path.split("/")[0] for path in tracked()} <= TOP


def test_no_path_of_one_machine():
    found = []
    for path in tracked():
        if Path(path).suffix in (".py", ".sh", ".yaml", ".toml", ".md", ".txt", "") and path != "LICENSE":
            lines = (ROOT / path).read_text().splitlines()
            found += [f"{path}:{number}" for number, line in enumerate(lines, 1) if MACHINE.search(line)]
    assert not found


def test_what_the_readme_names_is_there():
    path = r"(?:scripts|shellscripts|configs|lvdm|tests|docs)/[\w/]+\.(?:py|sh|yaml|md)"
    named = re.findall(path, (ROOT / "README.md").read_text())
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]
