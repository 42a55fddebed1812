"""An audit hook for opening foreign files: `with audited(folder) as violations` refuses and records what no file may cause.

Refused are: code from outside Python's own folders and lvdm, programs, shared libraries from elsewhere, sockets, and changes of
files outside `allowed_roots`. Python cannot remove an audit hook, so one is installed at first use and is idle outside `audited`.
Libraries in C report nothing to it, so sockets, shared libraries and child processes are also compared before and after.
"""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Folders whose code may run and whose libraries may be loaded.
CODE = tuple(
    {
        *(os.path.realpath(path) for path in sysconfig.get_paths().values()),
        *(os.path.realpath(path) for path in site.getsitepackages()),
        *(os.path.realpath(sys.base_prefix + "/lib"), os.path.realpath(sys.prefix + "/lib")),
        *(str(ROOT / name) for name in ("lvdm", "tests", "scripts")),
    }
)
SYSTEM_LIBRARIES = tuple(os.path.realpath(path) for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"))

# Code without a file that Python and its libraries compile for themselves, each with the module that does so.
GENERATED = {
    "dataclasses": "the methods of a dataclass",
    "collections": "the constructor of a named tuple",
    "typing": "annotations given as text",
    "torch.fx.operator_schemas": "the signatures of torch's own operators",
}
PROGRAMS = {"ffmpeg": "writes videos; the binary of imageio-ffmpeg or of the system, with arguments that lvdm makes"}
WRITABLE = ("/dev/null",)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Refused(PermissionError):
    """Something that a foreign file must not cause was about to happen."""


@dataclass
class Watch:
    """What one `audited` allows, and what happened against it."""

    roots: tuple[str, ...]
    secrets: tuple[str, ...]
    block: bool
    violations: list[str] = field(default_factory=list)


_watch: Watch | None = None
_is_installed = False
_busy = threading.local()


@contextmanager
def audited(*allowed_roots: str | Path, secrets: tuple[str | Path, ...] = (), block: bool = True) -> Iterator[list[str]]:
    """Yield the list of violations, which grows as they happen; with `block` each one also raises `Refused` where it happens.

    Args:
        allowed_roots: folders and files that may be changed.
        secrets: files that must not be read.
        block: refuse what is recorded.
    """
    global _watch
    assert _watch is None, "audited cannot be nested"
    _install()
    roots = tuple(os.path.realpath(root) for root in allowed_roots)
    watch = Watch(roots, tuple(os.path.realpath(path) for path in secrets), block)
    before, bytecode = _outside_python(), sys.dont_write_bytecode
    sys.dont_write_bytecode, _watch = True, watch
    try:
        yield watch.violations
    finally:
        sys.dont_write_bytecode, _watch = bytecode, None
        watch.violations += sorted(_outside_python() - before)


def _install() -> None:
    global _is_installed
    if not _is_installed:
        sys.addaudithook(_hook)
        _is_installed = True


def _hook(event: str, arguments: tuple) -> None:
    watch = _watch
    if watch is None or event not in CHECKS or getattr(_busy, "now", False):
        return
    _busy.now = True
    try:
        why = CHECKS[event](watch, *arguments)
    finally:
        _busy.now = False
    if why:
        watch.violations.append(f"{event}: {why}")
        if watch.block:
            raise Refused(f"{event}: {why}")


# Files ---------------------------------------------------------------------------------------------------------------------


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _path(given: object) -> str | None:
    """The real path of an argument of an event; None for file descriptors."""
    if not isinstance(given, (str, bytes, os.PathLike)):
        return None
    try:
        return os.path.realpath(os.fsdecode(given))
    except ValueError:  # a NUL inside: the call fails by itself
        return None


def _changed(watch: Watch, *paths: object) -> str | None:
    outside = [path for path in map(_path, paths) if path and not _is_below(path, (*watch.roots, *WRITABLE))]
    return f"changes {outside[0]}" if outside else None


def _open(watch: Watch, path: object, mode: object, flags: object) -> str | None:
    if isinstance(mode, str) and set(mode) & set("wax+") or isinstance(flags, int) and flags & WRITING:
        return _changed(watch, path)
    return f"reads {path!r}" if watch.secrets and _path(path) in watch.secrets else None


def _at(position: int, count: int = 1) -> Callable[..., str | None]:
    """A check of an event whose arguments are `count` paths, then, from `position` on, descriptors of their folders."""

    def check(watch: Watch, *arguments: object) -> str | None:
        folders = arguments[position : position + count]
        return None if any(folder not in (-1, None) for folder in folders) else _changed(watch, *arguments[:count])

    return check


def _made(watch: Watch, path: object, *_: object) -> str | None:
    """A folder that is already there is not changed by making it."""
    found = _path(path)
    return None if found is None or os.path.isdir(found) else _changed(watch, path)


def _linked(watch: Watch, _target: object, link: object, *_: object) -> str | None:
    return _changed(watch, link)


# Code, programs, libraries, sockets ----------------------------------------------------------------------------------------


def _exec(_: Watch, code: object) -> str | None:
    name = getattr(code, "co_filename", "")
    if name.startswith("<frozen ") or not name.startswith("<") and _is_below(os.path.realpath(name), CODE):
        return None
    caller = _caller()
    if any(caller == module or caller.startswith(f"{module}.") for module in GENERATED):
        return None
    return f"runs code of {name!r}, asked for by {caller}"


def _caller() -> str:
    """The module of the nearest frame that is not of this file."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))


def _import(_: Watch, module: str, file: object, *__: object) -> str | None:
    """Of modules in Python `exec` tells; a file is given for those that are shared libraries."""
    path = _path(file)
    return f"loads {path} as {module}" if path and not _is_below(path, CODE) else None


def _library(_: Watch, name: object, *__: object) -> str | None:
    if name is None or "/" not in os.fsdecode(name):
        return None  # this program itself, or one of the system's by its name
    path = _path(name)
    return None if path is None or _is_below(path, (*CODE, *SYSTEM_LIBRARIES)) else f"loads {path}"


def _program(_: Watch, program: object, arguments: object = (), *__: object) -> str | None:
    name = os.path.basename(os.fsdecode(program if isinstance(program, (str, bytes, os.PathLike)) else str(arguments)))
    return None if any(re.match(rf"{known}\b", name) for known in PROGRAMS) else f"starts {program!r} {arguments!r}"


def _always(_: Watch, *arguments: object) -> str:
    return ", ".join(f"{argument!r:.80}" for argument in arguments)


CHECKS: dict[str, Callable[..., str | None]] = {
    "open": _open,
    **{event: _at(1) for event in ("os.remove", "os.rmdir", "shutil.rmtree")},
    "os.rename": _at(2, count=2),
    "os.mkdir": _made,
    "os.symlink": _linked,
    "os.link": _linked,
    **{event: (lambda watch, path, *_: _changed(watch, path)) for event in ("os.truncate", "os.chmod", "os.chown", "os.utime")},
    "exec": _exec,
    "import": _import,
    "ctypes.dlopen": _library,
    "subprocess.Popen": _program,
    "os.exec": _program,
    "os.posix_spawn": _program,
    "os.spawn": lambda watch, _mode, program, arguments, *_: _program(watch, program, arguments),
    **{event: _always for event in ("os.system", "pty.spawn", "pickle.find_class", "webbrowser.open")},
    **{f"socket.{event}": _always for event in ("connect", "bind", "sendto", "sendmsg", "getaddrinfo", "gethostbyname")},
}


def _outside_python() -> set[str]:
    """Sockets, foreign libraries and children that this process has, whichever language opened them (Linux)."""
    found = set()
    for descriptor in _entries("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith("socket:"):
                found.add(f"holds {target}")
    with suppress(OSError), open("/proc/self/maps") as maps:
        files = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
        found |= {f"has loaded {file}" for file in files if not _is_below(file, (*CODE, *SYSTEM_LIBRARIES))}
    for task in _entries("/proc/self/task"):
        with suppress(OSError), open(f"{task}/children") as children:
            found |= {f"has the child process {child}" for child in children.read().split()}
    return found


def _entries(folder: str) -> list[str]:
    return [entry.path for entry in os.scandir(folder)] if os.path.isdir(folder) else []
