"""Strategies that change a good input: trees of settings, texts, and bytes."""

from __future__ import annotations

import copy
import datetime
import re
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from fuzz.audit import ROOT

Path = tuple[Any, ...]
Draw = Any  # hypothesis' draw of a composite strategy

# Targets: classes of ours in the wrong place, modules of torch, and classes that start, load, open or write something.
OURS = sorted(
    f"{file.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}.{name}"
    for file in (ROOT / "lvdm").rglob("*.py")
    for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
)
MODULES = [f"torch.nn.{name}" for name in dir(torch.nn) if name[0].isupper()]
FOREIGN = [
    *(
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "builtins.exec",
        "pickle.loads",
        "importlib.import_module",
        "runpy.run_path",
    ),
    *(
        "torch.load",
        "torch.hub.load",
        "torch.cuda.memory.CUDAPluggableAllocator",
        "torch.PyTorchFileWriter",
        "torch.classes.load_library",
    ),
    *("torch.distributed.TCPStore", "torch.distributed.FileStore", "torch.distributed.launcher.api.elastic_launch"),
    *("torch.utils.cpp_extension.load_inline", "torch.package.PackageImporter", "torch.jit.load", "torch.utils.data.DataLoader"),
    *(
        "torch.multiprocessing.Process",
        "torch.utils.tensorboard.SummaryWriter",
        "torch.serialization.safe_globals",
        "torch.Tensor",
    ),
    *("pytorch_lightning.cli.LightningCLI", "pytorch_lightning.loggers.CSVLogger", "pytorch_lightning.Trainer"),
    *(
        "transformers.AutoModel",
        "transformers.pipeline",
        "transformers.Trainer",
        "transformers.AutoTokenizer",
        "transformers.AgentHub",
    ),
    *("diffusers.DiffusionPipeline", "diffusers.AutoencoderKL", "lvdm.cli.command.Stopped", "lvdm.api.load", "lvdm.config"),
    *("lvdm", "torch", "..", "torch.nn", "torch.nn.Identity", "no.such.Thing", "lvdm.models._x.Y", "ⅼvdm.models.Codec", "", " "),
    *("torch.optim.Adam", "torch.optim.lr_scheduler.LambdaLR", "pytorch_lightning.callbacks.LambdaCallback"),
]
GADGET = {
    "target": "torch.optim.lr_scheduler.LambdaLR",
    "params": {"lr_lambda": {"target": "torch.distributed.launcher.api.elastic_launch", "params": {"entrypoint": "touch"}}},
}
HIDDEN = {
    "target": "torch.nn.Identity",
    "params": {"anything": {"target": "torch.PyTorchFileWriter", "params": {"name": "@AT@/../BOOM"}}},
}

NUMBERS = [0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**40, 2**63, 2**64, 10**40, -(2**70), 0.5, -0.5, 1e-320, 1e308, -0.0]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    " ",
    "???",
    "null",
    "true",
    "1e3",
    "²",
    "١",
    "\x00",
    "a\nb",
    "a" * 5000,
    "..",
    "/",
    "~",
    "/dev/null",
    "\ud7ff",
    "💥",
    "%s{}",
]
TEXTS += [
    "${nothing}",
    "${.}",
    "${..}",
    "${model}",
    "${trainer.max_steps}",
    "${oc.env:HOME}",
    "${oc.env:NOPE}",
    "${",
    "\\${a}",
    "${a:b}",
]
OTHERS = [None, True, False, [], {}, [[]], {"target": None}, {"params": {}}, {"target": 3, "params": 4}, b"\x00\xff", (1, 2)]
OTHERS += [
    datetime.date(1, 1, 1),
    datetime.datetime(9999, 12, 31, 23, 59),
    {1: 2, None: 3},
    {"a": {"a": {"a": {}}}},
    GADGET,
    HIDDEN,
]


def nested(kind: type, depth: int) -> Any:
    """Lists in lists, or mappings in mappings."""
    tree: Any = 1
    for _ in range(depth):
        tree = [tree] if kind is list else {"a": tree}
    return tree


values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(OTHERS),
    st.sampled_from([*FOREIGN, *OURS]).map(lambda target: {"target": target}),
    st.builds(nested, st.sampled_from([list, dict]), st.sampled_from([10, 60, 150])),
    st.integers(-(10**4), 10**4),
    st.floats(),
    st.text(max_size=8),
)
keys = st.one_of(
    st.sampled_from(["target", "params", "model", "", "__class__", "a.b", "<<", "self", "args", "kwargs", 1, None, True, 1.5]),
    st.text(max_size=5),
)


def paths(tree: Any, at: Path = ()) -> list[Path]:
    """Of every node, the root first."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at, *(path for key, value in items for path in paths(value, (*at, key)))]


def node(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def mutated(draw: Draw, tree: Any, most: int = 3) -> Any:
    """One to `most` changes of a tree: values, keys, kinds, targets, subtrees in other places."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(paths(tree)))
        if not path:
            continue
        parent, key = node(tree, path[:-1]), path[-1]
        change = draw(st.sampled_from(["value", "value", "value", "delete", "rename", "wrap", "copy", "target", "add"]))
        if change == "value":
            parent[key] = copy.deepcopy(draw(values))
        elif change == "delete":
            del parent[key]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(keys)] = parent.pop(key)
        elif change == "wrap":
            wrappers = [lambda v: [v], lambda v: {"a": v}, lambda v: {"target": "torch.nn.Identity", "params": {"a": v}}, str]
            parent[key] = draw(st.sampled_from(wrappers))(parent[key])
        elif change == "copy":
            parent[key] = copy.deepcopy(node(tree, draw(st.sampled_from(paths(tree)))))
        elif change == "target":
            _retarget(tree, draw(st.integers(0, 30)), draw(st.sampled_from([*FOREIGN, *OURS, *MODULES])))
        elif isinstance(parent[key], dict):
            parent[key][draw(keys)] = copy.deepcopy(draw(values))
    return tree


def _retarget(tree: Any, number: int, target: str) -> None:
    """Another class in one of the nodes that have one."""
    nodes = [node(tree, path) for path in paths(tree)]
    nodes = [each for each in nodes if isinstance(each, dict) and "target" in each]
    if nodes:
        nodes[number % len(nodes)]["target"] = target


# Texts of YAML -------------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
WHOLE = [  # documents of their own
    *("", "3", "text", "[1, 2]", "null", "---\na: 1\n---\nb: 2", "a: [1", "%YAML 9.9\n---\na: 1", "2024-13-45", "? [a]\n: 1"),
    *("!!python/object/apply:os.system ['touch @AT@/../BOOM']", "a: !!python/name:os.system", "&a [*a]", "&a {b: *a}", LAUGHS),
    *(
        "a: 2024-99-99",
        "a: 99:99:99",
        "a: !!binary '!'",
        "a: !!float x",
        "a: !!timestamp 0000-00-00",
        "a: !!int ''",
        "a: !!set {1, 2}",
    ),
    *("a: 1\na: 2", "a:\n\t- 1", "\ufeffa: 1", "a: \x00", "a: &b 1\nc: *d", "<<: 3", "<<: [1]", "<<: &a {<<: *a}", "[" * 3000),
    *("a: " * 50, "- a\nb: c", "a: 1e999999999", "a: 0x" + "f" * 5000, "a: " + "9" * 5000, "a: 0o9", "a: .inf", "!!omap [a: 1]"),
]
LINES = [  # below good settings
    *(
        "model: *nothing",
        "<<: {model: 3}",
        "<<: *x",
        "zz: &z {a: *z}",
        "zz: !!python/object:os.system {}",
        "zz: 2024-13-45",
        "zz: 1:99:99",
    ),
    *(
        "out: !!binary aGk=",
        "trainer: !!str {}",
        "name: 2024-01-01",
        "seed: 1_000",
        "seed: 0b2",
        "? {a: 1}\n: 2",
        "\x85",
        "zz: ${zz}",
    ),
    *(
        "name: ${name}",
        "define: ${model}",
        "model: ${define}",
        "define: {a: '${define.b}', b: '${define.a}'}",
        "zz: '${..zz}'",
        "...",
        "---",
    ),
]


@st.composite
def config_text(draw: Draw, tree: Any) -> bytes:
    """A file of settings: a mutated tree as YAML, now and then with damage in the text itself."""
    kind = draw(st.sampled_from(["tree"] * 9 + ["lines", "itself", "whole", "bytes"]))
    if kind == "whole":
        return draw(st.sampled_from(WHOLE)).encode()
    if kind == "itself":
        tree = copy.deepcopy(tree)
        node(tree, draw(st.sampled_from([path for path in paths(tree) if isinstance(node(tree, path), dict)])))["itself"] = tree
        return as_yaml(tree)
    text = as_yaml(draw(mutated(tree)) if kind == "tree" else tree)
    if kind == "lines":
        return text + draw(st.sampled_from(LINES)).encode() + b"\n"
    return draw(damaged(text)) if kind == "bytes" else text


def as_yaml(tree: Any) -> bytes:
    return yaml.dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


@st.composite
def override(draw: Draw, tree: Any) -> str:
    """`key=value`, nearly right."""
    path = draw(st.sampled_from(paths(tree)[1:] or [("a",)]))
    key = ".".join(map(str, path)) + draw(st.sampled_from(["", "", "", ".0", ".a", ".", ".target"]))
    value = draw(st.one_of(values.map(lambda value: as_yaml(value).decode("utf-8", "replace").strip()), st.sampled_from(WHOLE)))
    return f"{key}={value}".replace("\x00", "")


# Bytes ---------------------------------------------------------------------------------------------------------------------


@st.composite
def positions(draw: Draw, start: int, stop: int) -> int:
    """Anywhere alike; hypothesis prefers small numbers where the range is wide."""
    digits = [draw(st.integers(0, 99)) for _ in range(4)]
    return start + sum(digit * 100**place for place, digit in enumerate(digits)) * (stop - start) // 100**4


@st.composite
def damaged(draw: Draw, content: bytes, start: int = 0, stop: int | None = None) -> bytes:
    """Flipped bits, other bytes, a cut, a part twice or left out; in `start` to `stop` of the content."""
    stop = max(start + 1, min(len(content), stop if stop is not None else len(content)))
    if not content:
        return draw(st.binary(max_size=20))
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = min(draw(positions(start, stop)), max(0, len(changed) - 1))
        what = draw(st.sampled_from(["bit", "bit", "byte", "extreme", "cut", "twice", "out", "insert"]))
        length = draw(st.integers(1, 64))
        if not changed:
            break
        if what == "bit":
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "byte":
            changed[at] = draw(st.integers(0, 255))
        elif what == "extreme":
            changed[at : at + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x80\0\0\0"]))
        elif what == "cut":
            del changed[at:]
        elif what == "twice":
            changed[at:at] = changed[at : at + length]
        elif what == "out":
            del changed[at : at + length]
        else:
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(changed)


@st.composite
def one_bit_off(draw: Draw, content: bytes, stop: int | None = None) -> bytes:
    """A single flipped bit, before `stop`."""
    changed = bytearray(content)
    changed[draw(positions(0, stop or len(content)))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)
