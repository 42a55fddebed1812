"""Nodes are built inside out, and every error of the check names its key."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Protocol

import pytest
import torch
from diffusers import AutoencoderKL
from omegaconf import OmegaConf
from transformers import CLIPTextModel

from lvdm.config import (
    ArgumentsOf,
    Node,
    check,
    check_node,
    instantiate,
    to_dict,
    with_defaults,
)
from lvdm.types import UserError

HERE = __name__  # the module that holds the classes below

# Classes to build


class Shape:
    pass


class Disc(Shape):
    def __init__(self, radius: float, *, centre: tuple[int, int] = (0, 0)):
        if radius <= 0:
            raise UserError(f"a disc of radius {radius} is empty; give more than 0")
        self.radius, self.centre = radius, centre


class Speaker(Protocol):
    volume: int

    def speak(self, words: str) -> str: ...


class Parrot:
    def speak(self, words: str) -> str:
        return words


class Canvas:
    def __init__(
        self,
        shapes: Sequence[Shape],
        size: int | None = None,
        norm: Literal["clip", "frame"] = "clip",
        names: dict[str, int] | None = None,
        path: str | Path = ".",
        speaker: Speaker | None = None,
        draw: Callable[[int], int] | None = None,
        wrongly_annotated: int = 0.5,
        believed: Unknown | None = None,  # noqa: F821
        target: Optional[str] = None,  # noqa: UP045
    ):
        self.shapes, self.size, self.names, self.target = shapes, size, names, target


class Open:
    def __init__(self, **options: Any):
        self.options = options


class Brittle:
    def __init__(self):
        raise TypeError("it takes none")


@dataclass
class Section:
    rate: float
    warmup: int = 0


@dataclass
class Root:
    canvas: Canvas
    anything: Node
    trainer: Annotated[dict, ArgumentsOf("pytorch_lightning.Trainer")]
    section: Section
    second: Section | None = None
    optimizer: Node | None = None
    seed: int = 0
    tags: list[str] = field(default_factory=list)


def disc(**params: Any) -> dict[str, Any]:
    return {"target": f"{HERE}.Disc", "params": params}


def good() -> dict[str, Any]:
    return {
        "canvas": {
            "target": f"{HERE}.Canvas",
            "params": {"shapes": [disc(radius=1), disc(radius=2.5, centre=[1, 2])], "size": 3},
        },
        "anything": {"target": "torch.nn.Linear", "params": {"in_features": 2, "out_features": 3}},
        "trainer": {"max_steps": 3, "precision": "bf16-mixed", "limit_val_batches": 0.5},
        "section": {"rate": 1},
    }


def set_in(tree: Any, key: str, value: Any) -> Any:
    """A copy of the tree with one dotted key set."""
    part, _, rest = key.partition(".")
    tree = copy.deepcopy(tree)
    place = int(part) if isinstance(tree, list) else part
    tree[place] = set_in(tree[place] if isinstance(tree, list) else tree.get(place, {}), rest, value) if rest else value
    return tree


# Building


def test_instantiate_builds_inside_out_and_leaves_the_rest_plain():
    config = OmegaConf.create(good())
    config.canvas.params.names = {"a": 1}
    config.canvas.params.target = "an argument of this name"
    before = to_dict(config)
    canvas = instantiate(config.canvas, allow=[HERE])
    assert [type(shape) for shape in canvas.shapes] == [Disc, Disc] and type(canvas.shapes) is list
    assert canvas.shapes[1].centre == [1, 2] and canvas.names == {"a": 1} and type(canvas.names) is dict
    assert canvas.target == "an argument of this name"
    assert to_dict(config) == before


def test_instantiate_of_a_list_or_mapping_builds_what_is_in_it():
    built = instantiate({"shapes": [disc(radius=1)], "size": 3}, allow=[HERE])
    assert type(built["shapes"][0]) is Disc and built["size"] == 3
    assert instantiate([1, {"a": None}]) == [1, {"a": None}] and instantiate(3) == 3


def test_instantiate_takes_what_the_config_does_not_say():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = instantiate({"target": "torch.optim.SGD", "params": {"lr": 0.5}}, params=[weight])
    assert optimizer.param_groups[0]["params"] == [weight]
    with pytest.raises(UserError, match=r"params\.lr is given by lvdm"):
        instantiate({"target": "torch.optim.SGD", "params": {"lr": 0.5}}, params=[weight], lr=1.0)
    with pytest.raises(AssertionError):
        instantiate({"lr": 0.5}, params=[weight])


def test_instantiate_on_the_meta_device_allocates_nothing():
    with torch.device("meta"):
        assert instantiate(good()["anything"]).weight.is_meta


def test_a_constructors_error_is_one_sentence_that_carries_the_key():
    config = OmegaConf.create(set_in(good(), "canvas.params.shapes.1.params.radius", -1))
    with pytest.raises(UserError, match=r"^canvas\.params\.shapes\.1: a disc of radius -1 is empty; give more than 0$"):
        instantiate(config.canvas, allow=[HERE])
    with pytest.raises(UserError, match=r"^Disc: a disc"):
        instantiate(disc(radius=0), allow=[HERE])
    with pytest.raises(
        UserError, match=rf"^at: cannot build Brittle with these arguments \(TypeError: it takes none, {__file__}:\d+\)"
    ):
        instantiate(OmegaConf.create({"at": {"target": f"{HERE}.Brittle"}}).at, allow=[HERE])


# Checking


def test_a_good_config_passes_and_is_left_as_found():
    config = good()
    check(config, schema=Root, allow=[HERE])
    check(OmegaConf.create(config), schema=Root, allow=[HERE])
    assert config == good()


SHAPE = "canvas.params.shapes.1"
GOOD = [
    ("seed", 7),
    ("tags", []),
    ("tags", ["a"]),
    ("second", None),
    ("second", {"rate": 0.5, "warmup": 3}),
    ("optimizer", None),
    ("optimizer", {"target": "torch.nn.ReLU"}),
    ("optimizer", {"target": "torch.nn.ReLU", "params": None}),
    ("trainer", {}),
    ("trainer.callbacks", [{"target": "pytorch_lightning.callbacks.EarlyStopping", "params": {"monitor": "loss"}}]),
    ("trainer.logger", False),
    ("trainer.max_time", {"hours": 1}),
    ("canvas.params.size", None),
    ("canvas.params.norm", "frame"),
    ("canvas.params.names", {"a": 1}),
    ("canvas.params.path", "x"),
    ("canvas.params.speaker", {"target": f"{HERE}.Parrot"}),
    ("canvas.params.draw", {"target": "torch.nn.ReLU"}),
    ("canvas.params.wrongly_annotated", 0.1),
    ("canvas.params.believed", 3),
    ("anything", {"target": f"{HERE}.Open", "params": {"device": "cpu"}}),
    (f"{SHAPE}.params.centre", [3, 4]),
]


@pytest.mark.parametrize("key, value", GOOD)
def test_what_fits_passes(key: str, value: Any):
    check(set_in(good(), key, value), schema=Root, allow=[HERE])


BAD = [  # what is set, the key that is blamed, what is said
    ("sed", 1, "sed", "did you mean seed"),
    ("max_steps", 1, "max_steps", "did you mean trainer.max_steps"),
    ("zzz", 1, "zzz", "valid keys: canvas, anything"),
    ("seed", "7", "seed", 'is "7", expected int'),
    ("seed", True, "seed", "is true, expected int"),
    ("seed", 1.5, "seed", "is 1.5, expected int"),
    ("seed", None, "seed", "is null, expected int"),
    ("tags", "a", "tags", 'is "a", expected a list of str'),
    ("tags", ["a", 2], "tags.1", "is 2, expected str"),
    ("section", 3, "section", "a mapping with the keys rate, warmup"),
    ("section", None, "section", "is null"),
    ("section.rate", "x", "section.rate", "expected float"),
    ("section.rat", 1, "section.rat", "did you mean section.rate"),
    ("section", {"warmup": 1}, "section.rate", "is missing, expected float"),
    ("second", {"warmup": 1}, "second.rate", "is missing"),
    ("trainer", 3, "trainer", "the arguments of pytorch_lightning.Trainer"),
    ("trainer.max_stesp", 3, "trainer.max_stesp", "did you mean trainer.max_steps"),
    ("trainer.max_steps", "3", "trainer.max_steps", "expected int"),
    ("trainer.precision", "bf61", "trainer.precision", "'bf16-mixed'"),
    ("trainer.devices", [0, "a"], "trainer.devices.1", "expected int"),
    ("trainer.callbacks", [{"target": "torch.nn.ReLU"}], "trainer.callbacks.0.target", "expected a target of kind Callback"),
    (
        "trainer.callbacks",
        [{"target": "pytorch_lightning.callbacks.EarlyStopping", "params": {"montor": "x"}}],
        "trainer.callbacks.0.params.montor",
        "did you mean trainer.callbacks.0.params.monitor",
    ),
    ("anything", 3, "anything", "expected a target with its params"),
    ("anything", {}, "anything", "expected a target with its params"),
    ("anything", {"traget": "x"}, "anything.traget", "did you mean anything.target"),
    ("anything.parms", {}, "anything.parms", "did you mean anything.params"),
    ("anything.bias", True, "anything.bias", "did you mean anything.params.bias"),
    ("anything.params", [1], "anything.params", "expected the constructor's arguments"),
    ("anything.params.bais", True, "anything.params.bais", "did you mean anything.params.bias"),
    ("anything.params.bias", "no", "anything.params.bias", "expected bool"),
    ("anything", {"target": "torch.nn.Linear", "params": {"in_features": 1}}, "anything.params.out_features", "is missing"),
    ("anything", {"target": "torch.nn.Identity", "params": {"x": 1}}, "anything.params.x", "no key is valid here"),
    ("anything", {"target": f"{HERE}.Open", "params": {"x": disc(radius=1)}}, "anything.params.x", "does not say what it takes"),
    ("anything", {"target": f"{HERE}.Open", "params": {"x": [{"y": disc(radius=1)}]}}, "anything.params.x", "leave it out"),
    ("anything", {"target": "transformers.CLIPTextConfig"}, "anything.target", "expected a target with its params"),
    ("anything", {"target": "torch.nn.Flatten", "params": {"x": 1}}, "anything.params.x", "start_dim, end_dim"),
    ("anything", {"target": f"{HERE}.Brittle", "params": {"x": 1}}, "anything.params.x", "no key is valid here"),
    ("canvas", {"target": f"{HERE}.Disc", "params": {"radius": 1}}, "canvas.target", "expected a target of kind Canvas"),
    ("canvas.params.size", "3", "canvas.params.size", "expected int or null"),
    ("canvas.params.norm", "clop", "canvas.params.norm", "'clip' or 'frame'"),
    ("canvas.params.names", {"a": "b"}, "canvas.params.names.a", "expected int"),
    ("canvas.params.names", [1], "canvas.params.names", "expected a mapping of int by str or null"),
    ("canvas.params.path", 3, "canvas.params.path", "expected str or a path"),
    (
        "canvas.params.speaker",
        disc(radius=1),
        "canvas.params.speaker.target",
        r"expected a target of kind Speaker \(a class with",
    ),
    ("canvas.params.speaker", "x", "canvas.params.speaker", r"expected a target of kind Speaker \(a class with speak\) or null"),
    ("canvas.params.draw", disc(radius=1), "canvas.params.draw.target", "Callable"),
    ("canvas.params.wrongly_annotated", "x", "canvas.params.wrongly_annotated", "expected int"),
    ("canvas.params.believed", {"target": "os.system"}, "canvas.params.believed.target", "a config may name"),
    ("canvas.params.shapes", disc(radius=1), "canvas.params.shapes.target", "expected a list of a target of kind Shape"),
    (f"{SHAPE}", 3, SHAPE, "expected a target of kind Shape"),
    (f"{SHAPE}.target", "torch.nn.ReLU", f"{SHAPE}.target", "expected a target of kind Shape"),
    (f"{SHAPE}.target", f"{HERE}.Dsc", f"{SHAPE}.target", f"did you mean {HERE}.Disc"),
    (f"{SHAPE}.params.radius", "big", f"{SHAPE}.params.radius", "expected float"),
    (f"{SHAPE}.params.radus", 1, f"{SHAPE}.params.radus", f"did you mean {SHAPE}.params.radius"),
    (f"{SHAPE}.params.centre", [1, 2, 3], f"{SHAPE}.params.centre", r"a list of 2 \(int, int\)"),
    (f"{SHAPE}.params.centre", [1, 0.5], f"{SHAPE}.params.centre.1", "expected int"),
]


@pytest.mark.parametrize("key, value, blamed, words", BAD)
def test_what_does_not_fit_is_named_in_one_sentence(key: str, value: Any, blamed: str, words: str):
    with pytest.raises(UserError, match=words) as error:
        check(set_in(good(), key, value), schema=Root, allow=[HERE])
    said = str(error.value)
    assert f" {blamed} " in f" {said.replace(';', ' ')} " and "\n" not in said


def test_every_missing_root_key_is_named():
    for name in good():
        config = {key: value for key, value in good().items() if key != name}
        with pytest.raises(UserError, match=f"^{name} is missing"):
            check(config, schema=Root, allow=[HERE])


def test_what_the_caller_provides_is_neither_missing_nor_allowed():
    provided = {"optimizer": {"params"}, "trainer": {"logger", "callbacks"}}
    config = set_in(good(), "optimizer", {"target": "torch.optim.AdamW", "params": {"lr": 1e-3}})
    with pytest.raises(UserError, match=r"optimizer\.params\.params is missing"):
        check(config, schema=Root, allow=[HERE])
    check(config, schema=Root, allow=[HERE], provided=provided)
    for key, value in (("optimizer.params.params", []), ("trainer.logger", True)):
        with pytest.raises(UserError, match=f"^{key} is given by lvdm itself"):
            check(set_in(config, key, value), schema=Root, allow=[HERE], provided=provided)


def test_abstract_classes_and_protocols_are_refused():
    with pytest.raises(UserError, match=r"anything\.target is .* abstract"):
        check_node({"target": f"{HERE}.Speaker"}, key="anything", allow=[HERE])
    with pytest.raises(UserError, match=r"anything\.target is .* abstract"):
        check_node({"target": "lightning_fabric.strategies.Strategy"}, key="anything", allow=["lightning_fabric"])


class Reader:
    def __init__(self, text: CLIPTextModel, image: AutoencoderKL | None = None, anything: Any = None):
        self.text, self.image = text, image


def reader(**params: Any) -> dict[str, Any]:
    settings = {"target": "transformers.CLIPTextConfig", "params": {"hidden_size": 32, **params}}
    return {"text": {"target": "transformers.CLIPTextModel", "params": {"config": settings}}}


VAE = {"target": "diffusers.AutoencoderKL", "params": {"block_out_channels": [32], "force_upcast": False}}


def test_models_of_published_libraries_stand_where_an_argument_asks_for_them():
    node = {"target": f"{HERE}.Reader", "params": {**reader(), "image": VAE}}
    check_node(node, allow=[HERE])
    assert instantiate(node, allow=[HERE]).text.config.hidden_size == 32
    with pytest.raises(UserError, match="did you mean transformers.CLIPTextModel"):
        check_node({"target": "transformers.ClipTextModel"}, kind=CLIPTextModel)
    for anywhere in (VAE, reader()["text"], {"target": f"{HERE}.Reader", "params": {**reader(), "anything": VAE}}):
        for kind in (Node, torch.nn.Module, Any):
            with pytest.raises(UserError, match="expected"):
                check_node(anywhere, key="at", kind=kind, allow=[HERE])


@pytest.mark.parametrize(
    "key", ["auto_map", "attn_implementation", "_attn_implementation_internal", "model_args", "architecture"]
)
def test_settings_that_fetch_code_or_weights_are_refused_wherever_they_are_hidden(key: str):
    for params in ({key: "a/b"}, {"id2label": {"0": {key: "a/b"}}}):
        with pytest.raises(UserError, match=f"{key} can make CLIPTextModel load code or weights from a hub"):
            check_node({"target": f"{HERE}.Reader", "params": reader(**params)}, allow=[HERE])


def test_with_defaults_says_every_key_and_changes_none_that_is_there():
    full = to_dict(with_defaults(set_in(good(), "seed", 5), Root))
    assert full == {**good(), "seed": 5, "tags": [], "second": None, "optimizer": None, "section": {"rate": 1, "warmup": 0}}
    check(full, schema=Root, allow=[HERE])
