"""Config files and overrides against slow merges of plain dicts; what cannot be read is one sentence."""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lvdm.config import load_config, save_config, to_dict
from lvdm.types import UserError


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def set_in(tree: Any, key: str, value: Any) -> Any:
    """A copy of the tree with one dotted key set."""
    part, _, rest = key.partition(".")
    tree = copy.deepcopy(tree)
    place = int(part) if isinstance(tree, list) else part
    tree[place] = set_in(tree[place] if isinstance(tree, list) else tree.get(place, {}), rest, value) if rest else value
    return tree


# Some of YAML's writers in Python fold three rare line ends that its writers in C keep.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), max_size=5)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet="ab1-.: #'\"\n", max_size=4)
)
NAMES = st.sampled_from(["a", "b", "c", "d-1"])


def trees(leaves: st.SearchStrategy, names: st.SearchStrategy = NAMES) -> st.SearchStrategy:
    inner = st.recursive(leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(names, t, max_size=3), max_leaves=8)
    return st.dictionaries(names, inner, max_size=4)


class Clash(Exception):
    pass


def slow_merge(base: Any, new: Any) -> Any:
    """The definition: mappings key by key, the rest replaced, a list against a mapping refused."""
    if isinstance(base, dict) and isinstance(new, dict):
        both = {key: slow_merge(base[key], new[key]) for key in base if key in new}
        return {**base, **new, **both}
    if {type(base), type(new)} == {list, dict}:
        raise Clash
    return new


@settings(max_examples=50, deadline=None)
@given(st.lists(trees(LEAVES), min_size=1, max_size=3))
def test_files_merge_like_plain_dicts_from_left_to_right(layers: list[dict]):
    with tempfile.TemporaryDirectory() as folder:
        paths = [file(Path(folder), f"{i}.yaml", json.dumps(layer)) for i, layer in enumerate(layers)]
        try:
            expected: dict = {}
            for layer in layers:
                expected = slow_merge(expected, layer)
        except Clash:
            with pytest.raises(UserError, match="list in one and a mapping in the other"):
                load_config(paths)
        else:
            assert to_dict(load_config(paths)) == expected


def leaf_keys(tree: Any, key: str = "") -> list[str]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else []
    return [found for part, value in pairs for found in (f"{key}{part}", *leaf_keys(value, f"{key}{part}."))]


@settings(max_examples=50, deadline=None)
@given(st.data(), trees(LEAVES), trees(LEAVES))
def test_an_override_sets_one_key_and_nothing_else(data: st.DataObject, tree: dict, values: dict):
    for value in values.values():
        key = data.draw(st.sampled_from([*leaf_keys(tree), "new", "new.deep"]))
        if key == "new.deep" and not isinstance(tree.get("new"), (dict, type(None))):
            continue
        before, override = json.dumps(tree), f"{key}={json.dumps(value)}"
        if key == "new.deep":
            tree = set_in(tree, "new", tree.get("new") or {})
        tree = set_in(tree, key, value)
        with tempfile.TemporaryDirectory() as folder:
            assert to_dict(load_config([file(Path(folder), "a.yaml", before)], [override])) == tree


@settings(max_examples=60, deadline=None)
@given(trees(LEAVES | st.just(math.inf) | TEXT | st.text(alphabet="\\${}a", max_size=6), TEXT.filter(bool)))
def test_a_saved_config_reads_back_the_same(tree: dict):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run" / "config.yaml"
        save_config(tree, path)
        assert to_dict(load_config([path])) == tree
        assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "text, value",
    [("1e-4", 1e-4), ("3", 3), ("true", True), ("null", None), ("", None), ("[1, a]", [1, "a"]), ("{x: 1}", {"x": 1})]
    + [("'1'", "1"), ("a=b", "a=b"), ("${old}", 7), (".inf", math.inf)],
)
def test_override_values_are_yaml(tmp_path: Path, text: str, value: Any):
    assert load_config([file(tmp_path, "a.yaml", "old: 7")], [f"key={text}"]).key == value


def test_an_override_replaces_a_whole_node_and_reaches_into_lists(tmp_path: Path):
    path = file(tmp_path, "a.yaml", "a: {target: X, params: {old: 1}}\nsets: [{path: p}, {path: q}]\n3: {x: 1}")
    config = load_config([path], ["a={target: Y}", "sets.1.path=r", "3.x=2"])
    assert to_dict(config) == {"a": {"target": "Y"}, "sets": [{"path": "p"}, {"path": "r"}], 3: {"x": 2}}


NODE = "m:\n  schedule: {target: lvdm.diffusion.schedules.Cosine, params: {snr_shift: 3.0}}\n  other: 1"
LINEAR = "lvdm.diffusion.schedules.Linear"


def test_another_target_drops_the_old_params_in_a_file_and_in_an_override(tmp_path: Path):
    first = file(tmp_path, "a.yaml", NODE)
    bare = file(tmp_path, "b.yaml", f"m: {{schedule: {{target: {LINEAR}}}}}")
    full = file(tmp_path, "c.yaml", f"m: {{schedule: {{target: {LINEAR}, params: {{beta_end: 0.1}}}}}}")
    assert load_config([first, bare]).m == {"schedule": {"target": LINEAR}, "other": 1}
    assert load_config([first, full]).m == {"schedule": {"target": LINEAR, "params": {"beta_end": 0.1}}, "other": 1}
    assert load_config([first], [f"m.schedule.target={LINEAR}"]).m.schedule == {"target": LINEAR}
    both = [f"m.schedule.target={LINEAR}", "m.schedule.params.beta_end=0.1"]
    assert load_config([first], both).m.schedule == {"target": LINEAR, "params": {"beta_end": 0.1}}
    with pytest.raises(UserError, match=r"would drop m\.schedule\.params\.beta_end"):
        load_config([first], both[::-1])


@pytest.mark.parametrize("same", ["lvdm.diffusion.schedules.Cosine", "lvdm.diffusion.schedule.Cosine", "???"])
def test_the_same_target_under_any_of_its_names_keeps_the_params(same: str, tmp_path: Path):
    first, second = file(tmp_path, "a.yaml", NODE), file(tmp_path, "b.yaml", f"m: {{schedule: {{target: '{same}'}}}}")
    assert load_config([first, second]).m.schedule.params == {"snr_shift": 3.0}
    template = file(tmp_path, "c.yaml", "m: {target: '???', params: {a: 1}}")
    assert load_config([template], ["m.target=x.Y"]).m == {"target": "x.Y", "params": {"a": 1}}


def test_a_name_below_define_that_nothing_refers_to_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = file(tmp_path, "a.yaml", "define: {latents: here, unused: 1}\ndata: {root: '${define.latents}/train'}")
    assert load_config([first], ["define.latents=there"]).data.root == "there/train"
    with pytest.raises(UserError, match="define.latent has no effect.*did you mean define.latents"):
        load_config([first], ["define.latent=there"])
    with pytest.raises(UserError, match="define.latent has no effect"):
        load_config([first, file(tmp_path, "b.yaml", "define: {latent: there}")])
    save_config(load_config([first]), saved := tmp_path / "saved.yaml")
    load_config([saved], ["define.latents=there"])
    assert caplog.messages == ["define.latents has no effect, because nothing refers to it"]
    with pytest.raises(UserError, match="define.xyz has no effect.*set the key that you mean"):
        load_config([saved], ["define.xyz=there"])
    assert load_config([first], ["define.new=1", "data.size=${define.new}"]).data.size == 1


def test_interpolations_resolve_after_the_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LVDM_TEST_DATA", "/videos")
    path = file(tmp_path, "a.yaml", "data: {size: 8, root: '${oc.env:LVDM_TEST_DATA}'}\nmodel: {size: '${data.size}'}")
    config = load_config([path], ["data.size=16"])
    assert to_dict(config) == {"data": {"size": 16, "root": "/videos"}, "model": {"size": 16}}
    assert OmegaConf.to_container(config, resolve=False) == to_dict(config)


def test_a_missing_value_may_be_filled_by_a_later_file_or_an_override(tmp_path: Path):
    first, second = file(tmp_path, "a.yaml", "a: ???\nb:\n  c: ???"), file(tmp_path, "b.yaml", "a: 1\nb:\n  c: ???")
    assert to_dict(load_config([first, second], ["b.c=2"])) == {"a": 1, "b": {"c": 2}}
    with pytest.raises(UserError, match=r"no value yet for b\.c"):
        load_config([first, second])


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\nb: [1\nc: 2", "broken.yaml, line 3"),
        ("a: 1\na: 2", "duplicate key a"),
        ("- 1", "holds a list"),
        ("a: !!python/object/apply:os.system [ls]", "line 1"),
        ("a: ${b", "broken.yaml.*correct the file"),
        ("a: '${dat.size}'\ndata: {size: 1}", "a refers to dat.size.*did you mean data.size"),
        ("x: [{a: '${oc.env:LVDM_NOT_SET}'}]", "x.0.a needs the environment variable LVDM_NOT_SET"),
        ("a: '${b}'\nb: '${a}'", "a cannot be resolved"),
        ("a: '${nope:1}'", "a is .*nope:1.*; expected only .* as interpolations"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, words: str):
    with pytest.raises(UserError, match=words) as error:
        load_config([file(tmp_path, "broken.yaml", text)])
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_nearest(tmp_path: Path):
    (tmp_path / "configs").mkdir()
    there = file(tmp_path / "configs", "short_sky.yaml", "a: 1")
    for wrong in ("configs/shrt_sky.yaml", "config/short_sky.yaml", "configs/short_sky"):
        with pytest.raises(UserError, match=f"did you mean {there}"):
            load_config([tmp_path / wrong])
    with pytest.raises(UserError, match="look in"):
        load_config([tmp_path / "configs/zzz"])
    with pytest.raises(UserError, match="cannot be read"):
        load_config([tmp_path])


@pytest.mark.parametrize(
    "override, words",
    [
        ("--lr", "is no override"),
        ("lr", "is no override"),
        ("=3", "is no override"),
        ("a..b=3", "is no override"),
        ("+a=3", "is no override"),
        ("a=[1", r"value in 'a=\[1' is not YAML"),
        ("a=x: y: z", "is not YAML"),
        ("a.b=3", "goes through a, which is 1"),
        ("s.2.x=3", "item 2 of s, which has 2 items"),
        ("s.-1=3", "item -1 of s"),
        ("s.x=3", "item x of s"),
        ("a=${x", "cannot be used"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, words: str):
    with pytest.raises(UserError, match=words) as error:
        load_config([file(tmp_path, "a.yaml", "a: 1\ns: [{x: 1}, {x: 2}]")], [override])
    assert repr(override) in str(error.value) and "\n" not in str(error.value)


def test_saving_where_one_cannot_write_leaves_nothing(tmp_path: Path):
    file(tmp_path, "taken", "a file")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "taken" / "config.yaml", tmp_path / "folder"):
        with pytest.raises(UserError, match="cannot write the config"):
            save_config({"a": 1}, path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "taken"]


@pytest.mark.parametrize(
    "text",
    [
        "!!int ''",
        "!!bool ''",
        "!!float ''",
        "!!timestamp 'x'",
        "!!timestamp 2001-13-45",
        "!!binary 'é'",
        "!!omap 1",
        "!!pairs [1]",
        "!!set 1",
        "!!python/object:os.system {}",
        "!!int 1:99:x",
        "!!str {}",
    ],
)
def test_a_tag_that_does_not_fit_its_value_is_one_sentence(text: str, tmp_path: Path):
    for load in (lambda: load_config([file(tmp_path, "a.yaml", f"a: {text}")]), lambda: load_config([], [f"a={text}"])):
        with pytest.raises(UserError) as error:
            load()
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


def levels(first: str, each: str) -> str:
    """Return ten lines, each ten times the one before."""
    return first + "".join(each.replace("NEW", f"a{i + 1}").replace("OLD", f"a{i}") for i in range(9))


QUOTED = '"${OLD}"'
LAUGHS = levels("a0: &a0 [x, x]\n", f"NEW: &NEW [{', '.join(['*OLD'] * 10)}]\n")
MULTIPLIED = levels("a0: xxxxxxxxxx\n", f"NEW: {'${OLD}' * 10}\n")
NODES = levels("a0: [x, x]\n", f"NEW: [{', '.join([QUOTED] * 10)}]\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", 'holds only "5"'),
        ("true", "holds only"),
        ("just words", "holds only"),
        ("- 1", "holds a list"),
        ("a: &a [*a]", "recursive"),
        ("a: ${a}", "Recursive interpolation"),
        ("a: ${b}\nb: ${a}", "Recursive interpolation"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: " + "{b: " * 3000 + "}" * 3000, "nested too deeply"),
        (LAUGHS, "values once its aliases are followed"),
        (MULTIPLIED, "the interpolations of the config make more than"),
        (NODES, "the interpolations of the config make more than"),
        ("a: " + "x" * (1 << 21), "so it is no config"),
        ("a: [" + "x, " * 20_000 + "]", "values once its aliases are followed"),
        (MULTIPLIED.replace("${", "${ ").replace("}", " }"), "the interpolations of the config make more than"),
        (MULTIPLIED.replace("${", "${oc.select:"), "expected only .* as interpolations"),
        (NODES.replace("${", "${oc.create:${").replace("}", "}}"), "expected only .* as interpolations"),
        (levels("a0: {k: xxxxxxxxxx}\n", f"NEW: {{k: '{'${OLD[k]}' * 10}'}}\n"), "interpolations of the config make"),
        ("a.b: x\na: {b: y}", "two settings are called a.b"),
        ("a: [x]\nb: '${a[-1]}'", "b refers to a.-1, which does not exist"),
        ("a: [x]\nb: '${a[00]}'", "b refers to a.00, which does not exist"),
        ("a: " + "${" * 20 + "a" + "}" * 20, "expected only .* as interpolations"),
    ],
)
def test_what_multiplies_nests_or_is_no_mapping_is_one_sentence_at_once(text: str, words: str, tmp_path: Path):
    start = time.process_time()
    with pytest.raises(UserError, match=words):
        load_config([file(tmp_path, "a.yaml", text)])
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "override", ["a" * 9000, "a=[" + "x" * 9000, "a=" + "{b: " * 4000, "a." * 4000 + "b=1", "a=!!int " + "x" * 9000]
)
def test_what_a_long_override_lacks_is_a_short_sentence(override: str):
    with pytest.raises(UserError) as error:
        load_config([], [override])
    assert len(str(error.value)) < 500


def test_a_pipe_or_folder_is_no_config(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path):
        with pytest.raises(UserError, match="a folder or a special file"):
            load_config([path])


def test_what_looks_like_an_interpolation_but_is_text_stays_and_variables_are_read(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("A_NAME", "value")
    text = "a: ${oc.env:A_NAME}\nb: ${ oc.env:NOTHING_SUCH,seven }\nc: '\\${oc.select:x} \\${no} ${a}'\n"
    text += "d: {e: 1, f: '${.e}'}\ng: '${d[e]}'\n"
    assert to_dict(load_config([file(tmp_path, "a.yaml", text)])) == {
        **{"a": "value", "b": "seven", "c": "${oc.select:x} ${no} value", "d": {"e": 1, "f": 1}, "g": 1},
    }
