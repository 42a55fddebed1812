"""Protocols check themselves, change only with their version, and tell where two of them differ."""

import hashlib
import json
from dataclasses import fields

import pytest

from lvdm.evaluation.protocols.named import CUSTOM_BASE, PROTOCOLS, EvalProtocol, differences, get_protocol, read_protocol
from lvdm.evaluation.protocols.protocol import LATER
from lvdm.types import UserError


def protocol(base: str = "lvdm-fvd2048", **changes: object) -> EvalProtocol:
    return get_protocol(base, **changes)


# Whoever changes a field of a named protocol counts its version up and writes the new hash here, beside the old ones.
PUBLISHED = {
    ("styleganv-fvd2048-16f", 1): "85d5d2e40388",
    ("styleganv-fvd2048-128f", 1): "6df73dcbeb0d",
    ("styleganv-fvd2048-128f-sub8", 1): "afc9a59a526e",
    ("lvdm-fvd2048", 1): "174dc8d5aeab",
    ("pvdm-fvd2048", 1): "44f5e1333337",
    ("tats", 1): "762463f22cd2",
    ("latte", 1): "4f8ff32cf315",
    ("cdfvd2048", 1): "e29e50932757",
    ("tgan2-is", 1): "4e9ac21be106",
    ("styleganv-is", 1): "4e310277354b",
    ("pvdm-is", 1): "2dba5c107919",
    ("motion2048", 1): "53c472753300",
    ("pvdm-fvd2048", 2): "0ae2d46f688e",
    ("pvdm-fvd2048-128f", 1): "4fc4f103b05e",
    ("pvdm-rfvd", 1): "d7abe09b558e",
    ("tats", 2): "fa084e4cff44",
    ("tats-frames", 1): "e8e2ba67e0be",
    ("cdfvd2048", 2): "f7b8b68363b7",
    ("tgan2-is", 2): "5e738339d5fc",
    ("frames2048", 1): "a57daee02ef8",
}


def content(protocol: EvalProtocol) -> str:
    """Of the fields that the first versions had, with their split, and of later ones that say something new."""
    said = {key: value for key, value in protocol.as_dict().items() if key not in ("source", "notes")}
    said = {"split": "train"} | {key: value for key, value in said.items() if value != LATER.get(key, ...)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def test_a_named_protocol_changes_only_with_its_version() -> None:
    now = {(p.name, p.version): content(p) for p in PROTOCOLS.values()}
    assert now == {key: PUBLISHED.get(key) for key in now}


def test_every_protocol_says_where_it_comes_from_and_every_field_is_explained() -> None:
    explained = EvalProtocol.__doc__ or ""
    assert not [f.name for f in fields(EvalProtocol) if f"\n        {f.name}: " not in explained]
    assert not [p.name for p in PROTOCOLS.values() if not p.source or not p.notes]
    assert all(PROTOCOLS[name].name == name for name in PROTOCOLS)


def test_covariance_runs_and_splits_are_those_of_the_publications() -> None:
    biased = {name for name, p in PROTOCOLS.items() if p.uses_real and p.ddof == 0}
    pvdm = {"pvdm-fvd2048", "pvdm-fvd2048-128f"}
    assert biased == {name for name in PROTOCOLS if name.startswith("styleganv-fvd")} | pvdm | {"latte", "cdfvd2048"}
    assert {name: p.runs for name, p in PROTOCOLS.items() if p.runs > 1} == {"lvdm-fvd2048": 10, "tgan2-is": 10}
    assert {name: p.splits for name, p in PROTOCOLS.items() if p.splits > 1} == {"styleganv-is": 10, "pvdm-is": 10}
    assert {name for name, p in PROTOCOLS.items() if p.order == "sorted" and p.uses_real} == {
        name for name in PROTOCOLS if name.startswith("styleganv-fvd") or name in pvdm
    }


def test_any_change_makes_a_protocol_custom_and_no_change_leaves_it() -> None:
    changed = protocol(runs=1, metrics=["fvd"])
    assert changed.name == "custom (from lvdm-fvd2048)" and changed.based_on == "lvdm-fvd2048"
    assert differences(PROTOCOLS["lvdm-fvd2048"], changed)[1:] == ["metrics ('fvd', 'kvd') and ('fvd',)", "runs 10 and 1"]
    assert protocol(runs=10, metrics=["fvd", "kvd"]) == PROTOCOLS["lvdm-fvd2048"]
    assert protocol("custom", runs=1) == protocol(CUSTOM_BASE, runs=1)
    assert "16 frames, 2048 real, 2048 generated, 10 runs" in PROTOCOLS["lvdm-fvd2048"].label()


def test_another_way_of_resizing_leaves_out_what_it_does_not_read() -> None:
    plain = get_protocol("tats", resolution=None, resize="none", antialias=True)
    assert (plain.long_side, plain.crop) == ("floor", "round")
    first_cut = get_protocol("cdfvd2048", resize="crop, lanczos")
    assert (first_cut.long_side, first_cut.crop) == ("floor", "floor")


@pytest.mark.parametrize("made", [*PROTOCOLS.values(), protocol(resolution=None, resize="none", antialias=True)])
def test_a_protocol_survives_json(made: EvalProtocol) -> None:
    assert EvalProtocol.from_dict(json.loads(json.dumps(made.as_dict()))) == made


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        ("lvdm-fdv2048", {}, "did you mean lvdm-fvd2048"),
        ("lvdm-fvd2048", {"fraems": 8}, "did you mean frames"),
        ("lvdm-fvd2048", {"name": "mine"}, "name is nothing that can be changed"),
        ("custom", {}, "say what is to differ from lvdm-fvd2048"),
        ("lvdm-fvd2048", {"frames": "16"}, "frames is '16', expected a whole number"),
        ("lvdm-fvd2048", {"num_real": True}, "num_real is True"),
        ("lvdm-fvd2048", {"frames": 0}, "expected 1 or more"),
        ("lvdm-fvd2048", {"quantise": "truncat"}, "did you mean truncate"),
        ("lvdm-fvd2048", {"metrics": ["fdv"]}, "there is no metric 'fdv'"),
        ("lvdm-fvd2048", {"metrics": []}, "give one or more of"),
        ("lvdm-fvd2048", {"metrics": ["fvd", "is"]}, "is cannot use the extractor 'i3d'"),
        ("lvdm-fvd2048", {"extractor": "i3d-eps1e3"}, "did you mean i3d-eps1e-3"),
        ("lvdm-fvd2048", {"splits": 10}, "splits 10 has no effect on fvd and kvd"),
        ("lvdm-fvd2048", {"metrics": ["kvd"]}, "ddof 1 has no effect on kvd"),
        ("lvdm-fvd2048", {"split": "test"}, "the split belongs to the data"),
        ("lvdm-fvd2048", {"quantise": "none"}, "real clips and resized frames are levels"),
        ("latte", {"long_side": "ceil"}, "long_side 'ceil' has no effect on resize 'crop, lanczos'"),
        ("tats", {"resize": "none", "resolution": None, "crop": "floor"}, "antialias false has no effect|crop 'floor' has no"),
        ("tgan2-is", {"crop": "floor"}, "crop 'floor' has no effect without a resolution"),
        ("tgan2-is", {"stride": 2}, "stride 2 has no effect on is"),
        ("tgan2-is", {"seed": 3}, "seed 3 has no effect"),
        ("lvdm-fvd2048", {"num_real": 1}, "need 2 real clips"),
        ("lvdm-fvd2048", {"resolution": None}, "give both"),
        ("lvdm-fvd2048", {"resize": "lanczos, crop"}, "antialias false has no effect"),
        ("lvdm-fvd2048", {"order": "sorted", "real_clips": "first frames"}, "10 runs would take the same"),
    ],
)
def test_what_makes_no_protocol_is_told(base: str, change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        get_protocol(base, **change)


def earlier(of: str, **changes: object) -> dict[str, object]:
    """A protocol as the first version of lvdm described it: with a split, without later fields."""
    said = {key: value for key, value in PROTOCOLS[of].as_dict().items() if key not in LATER}
    return said | {"split": "train"} | changes


def test_protocols_of_earlier_results_are_read_and_another_split_makes_none_custom() -> None:
    assert read_protocol(earlier("styleganv-fvd2048-16f")) == PROTOCOLS["styleganv-fvd2048-16f"]
    of_ucf = earlier("styleganv-fvd2048-16f", name="custom (from styleganv-fvd2048-16f)", split="train+test")
    assert read_protocol(of_ucf) == PROTOCOLS["styleganv-fvd2048-16f"]
    of_other_frames = earlier("lvdm-fvd2048", name="custom (from lvdm-fvd2048)", split="train+test", frames=32)
    assert read_protocol(of_other_frames) == get_protocol("lvdm-fvd2048", frames=32)
    first_tats = read_protocol(earlier("tats", version=1))
    assert (first_tats.long_side, first_tats.crop) == ("floor", "round"), "as it was measured then"
    assert differences(first_tats, PROTOCOLS["tats"]) == [
        "version 1 and 2",
        "long_side 'floor' and 'ceil'",
        "crop 'round' and 'floor'",
    ]


def test_a_description_with_a_strange_or_missing_field_is_refused() -> None:
    said = PROTOCOLS["latte"].as_dict()
    with pytest.raises(UserError, match="lacks frames, ddof"):
        EvalProtocol.from_dict({key: value for key, value in said.items() if key not in ("frames", "ddof")})
    with pytest.raises(UserError, match="fps is no field"):
        EvalProtocol.from_dict({**said, "fps": 25})
