"""Model files whose description is wrong or hostile: each is refused in one sentence, in little time and memory."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import Description, describe, tensors_of, write_text
from torch import nn

import lvdm
from lvdm.checkpoints.model_file import DEEPEST, LONGEST, MOST_VALUES, check_weights, read_info
from lvdm.models.build_limits import no_larger_than
from lvdm.rules import integer, listed, number, one_of, optional, require
from lvdm.types import UserError

NAN = float("nan")
DEEP = "[" * 10_000 + "]" * 10_000
DENOISER, AUTOENCODER = "denoiser.params", "autoencoder.params"

# (dotted key, value, words of the sentence): read_info refuses these itself.
FIELDS: list[tuple[str, Any, str]] = [
    ("kind", None, "of kind None"),
    ("kind", [], r"of kind \[\]"),
    ("sampling", None, "sampling is None, expected a mapping"),
    ("sampling", [1], "sampling is .*, expected a mapping"),
    ("config", "x" * 10_000, "config is 'x.*, expected a mapping"),
    ("scale", "", "scale is '', expected a number"),
    ("scale", 0, "scale is 0, expected"),
    ("scale", NAN, "scale is nan, expected"),
    ("scale", True, "scale is True, expected"),
    ("scale", 10**400, "scale is an integer of 1329 bits, expected"),
    ("shift", float("inf"), "shift is inf, expected"),
    ("step", -1, "step is -1, expected an integer of 0 or more"),
    ("step", 1.5, "step is 1.5, expected"),
    ("version", 3, "version is 3, expected text"),
    ("autoencoder", "lvdm.models.autoencoders.VAE3D", "autoencoder is 'lvdm.*, expected null or a mapping"),
    ("text_fingerprint", {}, "text_fingerprint is {}, expected null or text"),
]
# These are refused by lvdm.load.
SETTINGS: list[tuple[str, Any, str]] = [
    ("sampling.latent_shape", [2, 4, 2], "sampling.latent_shape is .*, expected a list of 4"),
    ("sampling.latent_shape", [2, 4, 0, 2], "sampling.latent_shape is .*, expected a list of 4"),
    ("sampling.latent_shape", [3, 4, 2, 2], "has 3 channels, and its autoencoder's latents have 2"),
    ("sampling.latent_shape", [2, 2**10, 2**10, 2**10], "expected at most 67,108,864 elements"),
    ("sampling.overlap", 4, "sampling.overlap is 4, expected less than the 4 latents"),
    ("sampling.key_stride", 0, "sampling.key_stride is 0"),
    ("sampling.fps", NAN, "sampling.fps is nan"),
    ("sampling.fps", 0, "sampling.fps is 0"),
    ("sampling.eta", 2, "sampling.eta is 2"),
    ("sampling.steps", "", "sampling.steps is ''"),
    ("sampling.gap_steps", 10**12, "sampling.gap_steps is 1000000000000"),
    ("sampling.guidance", NAN, "sampling.guidance is nan"),
    ("sampling.condition_noise", -1, "sampling.condition_noise is -1"),
    ("sampling.lead_in", True, "sampling.lead_in is True"),
    ("sampling.sampler", None, "sampling.sampler is None, expected one of ddim"),
    ("sampling.spacing", "even", "sampling.spacing is 'even'"),
    ("sampling.decode_window", "", "decode_window is '', expected an integer"),
    ("sampling.decode_window", None, "decode_window is None, expected an integer"),
    (f"{DENOISER}.num_heads", 0, "num_heads is 0, expected an integer from 1"),
    (f"{DENOISER}.num_heads", 4096, "4096 heads do not divide 32 channels"),
    (f"{DENOISER}.model_channels", 2**40, "model_channels is 1099511627776, expected an integer from 1"),
    (f"{DENOISER}.model_channels", 0, "model_channels is 0"),
    (f"{DENOISER}.model_channels", 2**16, "far larger than the .* tensors"),
    (f"{DENOISER}.num_res_blocks", 10**6, "num_res_blocks is 1000000, expected an integer from 0"),
    (f"{DENOISER}.num_res_blocks", 1000, "far larger than the .* tensors"),
    (f"{DENOISER}.channel_mult", [1] * 1000, "channel_mult is .*, expected a list of 1 to 16"),
    (f"{DENOISER}.channel_mult", [], "channel_mult is .*, expected a list of 1 to 16"),
    (f"{DENOISER}.temporal_length", 0, "temporal_length is 0"),
    (f"{DENOISER}.dropout", NAN, "dropout is nan"),
    (f"{DENOISER}.noise_level", "x" * 10_000, "noise_level is 'x"),
    (f"{AUTOENCODER}.blocks", 10**6, "blocks is 1000000, expected an integer from 0"),
    (f"{AUTOENCODER}.blocks", 1000, "far larger than the .* tensors"),
    (f"{AUTOENCODER}.channels", [2**40, 8], "channels is .*, expected a list"),
    ("schedule.params.num_steps", 10**12, "num_steps is 1000000000000, expected an integer from 2"),
    ("schedule.params.snr_shift", NAN, "snr_shift is nan"),
    ("schedule", {"target": "lvdm.models.denoisers.UNet3D"}, "schedule.target is .*UNet3D, expected .* kind NoiseSchedule"),
    ("denoiser", {"target": "lvdm.diffusion.schedules.Linear"}, "denoiser.target is .*Linear, expected .* kind Module"),
    ("denoiser", {"target": "torch.nn.Identity"}, "Identity does not say what it takes"),
    ("objective", {"target": "lvdm.diffusion.losses.L1Loss"}, "objective.target is .*L1Loss, expected .* kind Objective"),
    ("objective", None, "does not say how to build its objective"),
    ("text_encoder", {"target": "lvdm.diffusion.schedules.Linear"}, "text_encoder.target .* kind TextEncoder"),
    ("autoencoder", {"params": {}}, "autoencoder"),
    ("autoencoder", {"target": "lvdm.models.denoisers.UNet3D"}, "far larger than the .* tensors|cannot be one"),
]
# Whole texts in place of the description.
TEXTS: dict[str, tuple[Callable[[str], str], str]] = {
    "a list": (lambda text: "[]", "description is .*, expected a mapping"),
    "a number": (lambda text: "NaN", "description is nan, expected a mapping"),
    "nothing": (lambda text: "", "damaged description"),
    "deep": (lambda text: DEEP, "damaged description"),
    "deep inside": (lambda text: f'{text[:-1]}, "config": {"[" * 200 + "]" * 200}}}', f"more than {DEEPEST} levels"),
    "many values": (lambda text: f'{text[:-1]}, "more": {[1] * MOST_VALUES}}}', "more than .* levels or 50,000 values"),
    "long": (lambda text: f'{text[:-1]}, "more": "{"x" * LONGEST}"}}', "characters, at most"),
    "digits": (lambda text: f'{text[:-1]}, "step": {"9" * 5000}}}', "damaged description"),
    "key given twice": (lambda text: f'{text[:-1]}, "scale": ""}}', "scale is ''"),
}


def changed(key: str, value: Any) -> Description:
    described = describe("diffusion")
    *path, last = key.split(".")
    inner = described
    for name in path:
        inner = inner[name]
    inner[last] = value
    return described


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return tensors_of(describe("diffusion"))


@pytest.fixture
def write(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Callable[[str], Path]:
    return lambda text: write_text(tmp_path / "model.safetensors", text, tensors)


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    """The sentence, which came soon and is short."""
    began = time.process_time()
    with pytest.raises(UserError) as error:
        read(path)
    assert time.process_time() - began < 10 and len(str(error.value)) < 700
    assert str(path) in str(error.value)
    return str(error.value)


def test_the_descriptions_as_written_load_and_sample(write) -> None:
    """What follows would show nothing if they did not."""
    model = lvdm.load(write(json.dumps(describe("diffusion"))))
    assert model.sample(num=1, steps=1).shape == (1, 16, 16, 16, 3)
    assert len(list(itertools.islice(lvdm.sample_long(model, frames=20, steps=1), 20))) == 20
    assert lvdm.load(write(json.dumps(describe("autoencoder")))).denoiser is None


@pytest.mark.parametrize(("key", "value", "words"), FIELDS)
def test_a_wrong_field_is_named(key: str, value: Any, words: str, write) -> None:
    path = write(json.dumps(changed(key, value)))
    for read in (read_info, lvdm.load):
        pytest.raises(UserError, read, path).match(words)
        refusal(read, path)


@pytest.mark.parametrize(("key", "value", "words"), SETTINGS)
def test_what_does_not_fit_the_file_is_refused_before_it_is_built(key: str, value: Any, words: str, write) -> None:
    path = write(json.dumps(changed(key, value)))
    pytest.raises(UserError, lvdm.load, path).match(words)
    refusal(lvdm.load, path)


@pytest.mark.parametrize(("change", "words"), TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_description_is_refused(change: Callable[[str], str], words: str, write) -> None:
    path = write(change(json.dumps(describe("diffusion"))))
    pytest.raises(UserError, read_info, path).match(words)
    refusal(read_info, path)


def test_keys_of_other_versions_are_left_unread(write) -> None:
    described = changed("sampling.mood", "good")
    described["more"] = {"of": NAN}
    assert lvdm.load(write(json.dumps(described))).settings.steps == 2


def test_a_level_that_the_network_does_not_know_is_refused_in_sampling(tmp_path: Path) -> None:
    described = changed("sampling.condition_noise", 30)
    described["denoiser"]["params"].update(noise_level="embedding", num_noise_levels=20)
    model = lvdm.load(write_text(tmp_path / "m.safetensors", json.dumps(described), tensors_of(described)))
    with pytest.raises(UserError, match=r"level of given frames is 30, and .* knows 0 \(clean\) to 19"):
        model.sample(num=1, steps=1)


def test_building_is_limited_in_its_own_thread_only() -> None:
    weights = {"weight": torch.zeros(2, 2)}
    with no_larger_than(weights, "m"):
        nn.Linear(2, 2)
        other = threading.Thread(target=lambda: made.append(nn.Linear(2000, 2000)))
        made: list[nn.Module] = []
        other.start()
        other.join()
        assert made
        with pytest.raises(UserError, match="far larger than the 1 tensors that m holds"):
            nn.Linear(2000, 2000)
        with pytest.raises(UserError, match="far larger"):
            nn.Sequential(*(nn.Identity() for _ in range(2000)))
    nn.Linear(2000, 2000)


def test_weights_of_another_type_are_refused() -> None:
    with pytest.raises(UserError, match=r"1 of another type \(first weight, torch.int64 in the file\)"):
        check_weights(nn.Linear(2, 2, bias=False), {"x.weight": torch.zeros(2, 2, dtype=torch.long)}, "x.", "m")


def test_rules_say_what_they_hold() -> None:
    count, part = integer(1, 9), number(0, 1)
    assert [count.holds(value) for value in (1, 9, 0, 10, True, 1.0, "1", None)] == [True, True] + 6 * [False]
    assert [part.holds(value) for value in (0, 0.5, 1, NAN, float("inf"), True, 10**400, "")] == 3 * [True] + 5 * [False]
    assert number().holds(-1e300) and not number().holds(float("-inf"))
    assert optional(count).holds(None) and listed(count, 1, 2).holds((1, 2)) and not listed(count, 1, 2).holds([])
    assert not listed(count, 1, 2).holds("12") and not one_of("a").holds(["a"])
    with pytest.raises(UserError, match="steps is 0, expected a list of 1 to 2, each an integer from 1 to 9"):
        require(listed(count, 1, 2), steps=0)
