"""UNet3D: the published outputs, names and sizes; time per frame; conditions told and absent; options that start silent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from lvdm.models.denoisers import UNet3D
from lvdm.types import ABSENT, Condition, UserError

TINY = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (2,), "temporal_length": 4}
TOY = {
    "model_channels": 32,
    "channel_mult": (1, 4),
    "num_res_blocks": 1,
    "attention_resolutions": (),
    "joint_attention_resolutions": (2,),
    "temporal_conv": True,
    "mask_channel": True,
    "noise_level": "time",
    "position_embedding": True,
    "fps_embedding": True,
}
PREDICT = {"mask_channel": True, "noise_level": "embedding", "temporal_length": 4}
TEXT = {
    "model_channels": 320,
    "channel_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "attention_resolutions": (4, 2, 1),
    "num_heads": 8,
    "text_attention": True,
    "context_dim": 768,
    "scale_shift_norm": False,
}


def awake(network: UNet3D) -> UNet3D:
    """With its zero-started layers drawn at random, so that every branch counts; in eval mode."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return network.eval()


def latent(batch: int = 2, frames: int = 4, size: int = 8) -> Tensor:
    return torch.randn(batch, 4, frames, size, size)


def given(*frames: int, batch: int = 2, of: int = 4) -> Tensor:
    mask = torch.zeros(batch, 1, of, 1, 1)
    mask[:, :, list(frames)] = 1
    return mask


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    return ((ours - recorded).norm() / recorded.norm()).item()


# The published model -------------------------------------------------------------------------------------------------


def recorded_network(path) -> tuple[UNet3D, dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        settings = json.loads(file.metadata()["meta"])
    is_masked = "mask" in tensors
    network = UNet3D(
        in_channels=settings["in_channels"] - is_masked,
        out_channels=settings["out_channels"],
        model_channels=settings["model_channels"],
        channel_mult=settings["channel_mult"],
        num_res_blocks=settings["num_res_blocks"],
        attention_resolutions=settings["attention_resolutions"],
        num_heads=settings["num_heads"],
        temporal_length=settings["temporal_length"],
        mask_channel=is_masked,
        noise_level="embedding" if is_masked else None,
        text_attention=settings["use_temporal_transformer"],
        context_dim=settings.get("context_dim"),
        scale_shift_norm=settings.get("use_scale_shift_norm", False),
    )
    network.load_state_dict({name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")})
    return network.eval(), tensors


@pytest.mark.parametrize("name", ["short", "masked", "text"])
@torch.no_grad()
def test_published_weights_give_the_published_output(parity, name):
    network, recorded = recorded_network(parity(f"lvdm_unet_{name}.safetensors"))
    cond = Condition(mask=recorded.get("mask"), frame_noise=recorded.get("noise_level"), context=recorded.get("context"))
    assert relative_error(network(recorded["x"], recorded["t"], cond), recorded["eps"]) < 1e-5


@pytest.mark.parametrize("level", [None, torch.tensor([ABSENT, ABSENT])])
@torch.no_grad()
def test_without_a_level_the_published_network_has_no_such_term(parity, level):
    network, recorded = recorded_network(parity("lvdm_unet_masked.safetensors"))
    cond = Condition(mask=recorded["mask"], frame_noise=level)
    assert relative_error(network(recorded["x"], recorded["t"], cond), recorded["eps_without_level"]) < 1e-5


PUBLISHED = {  # options, parameters, SHA-256 of the sorted lines "name [shape]" in the published checkpoint
    "short": ({"temporal_length": 4}, 548_904_580, "3ed59c2969c54bf4"),
    "predict": (PREDICT, 549_163_908, "4da073fc1bcdf769"),
    "infill": (PREDICT | {"temporal_length": 5}, 549_181_060, "a02c8cb06a0de21c"),
    "text": (TEXT, 958_924_964, "6f170404f71d8d21"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_parameters(name):
    options, count, digest = PUBLISHED[name]
    with torch.device("meta"):
        weights = UNet3D(**options).state_dict()
    lines = sorted(f"{key} {list(value.shape)}" for key, value in weights.items())
    assert sum(value.numel() for value in weights.values()) == count
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


# Time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_bf16", [False, True])
@pytest.mark.parametrize("batch, frames, size", [(1, 1, 4), (1, 5, 8), (3, 4, 4), (2, 9, 8)])
@torch.no_grad()
def test_a_constant_time_per_frame_equals_the_scalar_to_the_bit(batch, frames, size, is_bf16):
    network, x, t = awake(UNet3D(**TINY, temporal_conv=True)), latent(batch, frames, size), torch.arange(batch) * 300 + 7
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        assert torch.equal(network(x, t), network(x, t[:, None].repeat(1, frames)))


@torch.no_grad()
def test_given_frames_have_their_own_time():
    """Told as noise_level "time", it is the network that is given the same times per frame."""
    network, x, t = awake(UNet3D(**TINY, mask_channel=True, noise_level="time")), latent(), torch.tensor([500, 900])
    mask, level = given(0, 3), torch.tensor([20, ABSENT])
    told = network(x, t, Condition(mask=mask, frame_noise=level))
    network.inputs = replace(network.inputs, noise_level=None)
    times = torch.tensor([[20, 500, 500, 20], [900, 900, 900, 900]])
    assert torch.equal(told, network(x, times, Condition(mask=mask)))
    assert not torch.allclose(told, network(x, t, Condition(mask=mask)))


@torch.no_grad()
def test_each_sample_is_told_its_own_level_or_none():
    network, x, t = awake(UNet3D(**TINY, mask_channel=True, noise_level="embedding")), latent(), torch.tensor([500, 900])
    mixed = network(x, t, Condition(mask=given(0), frame_noise=torch.tensor([100, ABSENT])))
    both = network(x, t, Condition(mask=given(0), frame_noise=torch.tensor([100, 100])))
    none = network(x, t, Condition(mask=given(0)))
    assert torch.equal(mixed[0], both[0]) and torch.equal(mixed[1], none[1])
    assert not torch.allclose(mixed[0], none[0])


# Conditions ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_mask_over_frames_and_over_pixels_are_the_same():
    network, x, t = awake(UNet3D(**TINY, mask_channel=True)), latent(), torch.tensor([3, 600])
    told = network(x, t, Condition(mask=given(0)))
    assert torch.equal(told, network(x, t, Condition(mask=given(0).expand(-1, -1, -1, 8, 8))))
    assert torch.equal(network(x, t), network(x, t, Condition(mask=given())))
    assert not torch.allclose(told, network(x, t))


@torch.no_grad()
def test_labels_fps_and_positions_start_silent_then_count():
    x, t = latent(), torch.tensor([3, 600])
    plain = awake(UNet3D(**TINY))
    told = UNet3D(**TINY, num_labels=3, fps_embedding=True, position_embedding=True)
    told.load_state_dict(plain.state_dict(), strict=False)
    no_class, a_class = (Condition(label=torch.tensor([label, 2]), fps=torch.tensor([8.0, 2.0])) for label in (ABSENT, 1))
    told.eval()
    assert torch.equal(told(x, t, no_class)[0], plain(x, t)[0])
    assert not torch.allclose(told(x, t, a_class)[0], plain(x, t)[0])
    silent = told(x, t, a_class)
    awake(told)
    assert not torch.allclose(told(x, t, a_class), silent)
    other_fps = Condition(label=a_class.label, fps=torch.tensor([4.0, 2.0]))
    assert not torch.allclose(told(x, t, a_class)[0], told(x, t, other_fps)[0])


@torch.no_grad()
def test_text_reaches_the_output_and_the_same_block_works_without_text():
    options = TINY | {"text_attention": True, "transformer_depth": 2}
    x, t = latent(), torch.tensor([3, 600])
    network = awake(UNet3D(**options, context_dim=6))
    first, second = (Condition(context=torch.randn(2, 5, 6)) for _ in range(2))
    assert not torch.allclose(network(x, t, first), network(x, t, second))
    assert awake(UNet3D(**options))(x, t).shape == x.shape


@pytest.mark.parametrize(
    "options, cond, words",
    [
        ({}, Condition(mask=given(0)), "takes no mask"),
        ({}, Condition(frames=torch.zeros(2, 4, 4, 8, 8)), "takes no mask"),
        ({}, Condition(label=torch.tensor([0, 1])), "has no classes"),
        ({}, Condition(context=torch.zeros(2, 5, 6)), "takes no text"),
        ({"text_attention": True, "context_dim": 6}, None, "takes text and got none"),
        ({"fps_embedding": True}, None, "frames per second"),
    ],
)
def test_a_condition_that_cannot_be_read_is_refused(options, cond, words):
    with pytest.raises(UserError, match=words):
        UNet3D(**TINY, **options)(latent(), torch.tensor([1, 2]), cond)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"attention_resolutions": (8,)}, "down factors"),
        ({"noise_level": "embeding", "mask_channel": True}, "noise_level is 'embeding', expected null or one of embedding, time"),
        ({"noise_level": "time"}, "needs a mask"),
        ({"context_dim": 6}, "text_attention is off"),
        ({"transformer_depth": 2}, "leave it at 1"),
        ({"text_attention": True, "joint_attention_resolutions": (2,)}, "takes no text"),
        ({"model_channels": 24}, "multiple of 32"),
        ({"num_heads": 7}, "do not divide"),
    ],
)
def test_an_option_that_cannot_take_effect_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        UNet3D(**TINY | options)


@pytest.mark.parametrize("shape, times", [((2, 3, 4, 8, 8), 4), ((2, 4, 4, 7, 8), 4), ((2, 4, 4, 8, 8), 5)])
def test_a_latent_or_time_of_another_shape_is_refused(shape, times):
    with pytest.raises(UserError):
        UNet3D(**TINY)(torch.zeros(shape), torch.zeros(2, times))


# The network as a whole ----------------------------------------------------------------------------------------------


def test_at_start_the_output_is_zero_in_the_input_dtype_and_densely_laid_out():
    out = UNet3D(**TINY)(latent(), torch.tensor([1, 2]))
    assert not out.any() and out.dtype == torch.float32 and out.is_contiguous()


@torch.no_grad()
def test_temporal_convolutions_start_as_if_absent_then_let_frames_see_each_other():
    x, t = latent(), torch.tensor([3, 600])
    options = TINY | {"joint_attention_resolutions": (2,)}
    plain, timed = awake(UNet3D(**options)), UNet3D(**options, temporal_conv=True)
    timed.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(x, t), timed.eval()(x, t))
    awake(timed)
    moved = x.clone()
    moved[:, :, 2] += 1
    assert not torch.allclose(timed(x, t)[:, :, 0], timed(moved, t)[:, :, 0], atol=1e-4)


@torch.no_grad()
def test_the_place_of_a_frame_is_felt_only_through_what_was_asked_for():
    """Frames in another order give outputs in that order, unless positions are embedded."""
    x, t, order = latent(), torch.tensor([3, 600]), [2, 0, 3, 1]
    blind = awake(UNet3D(**TINY, relative_position=False))
    assert torch.allclose(blind(x, t)[:, :, order], blind(x[:, :, order], t), atol=1e-4)
    for option in ({"position_embedding": True, "relative_position": False}, {}, {"joint_attention_resolutions": (2,)}):
        aware = awake(UNet3D(**TINY, **option))
        assert not torch.allclose(aware(x, t)[:, :, order], aware(x[:, :, order], t), atol=1e-3)


@pytest.mark.parametrize("options", [TOY, TINY | {"text_attention": True, "context_dim": 6}, TINY])
def test_checkpointing_gives_the_same_gradients(options):
    plain, saving = UNet3D(**options), UNet3D(**options, checkpointing=True)
    saving.load_state_dict(awake(plain).state_dict())
    x, t = latent(), torch.tensor([3, 600])
    cond = Condition(
        fps=torch.tensor([8.0, 2.0]) if options is TOY else None,
        context=torch.randn(2, 5, 6) if "context_dim" in options else None,
    )
    for network in (plain, saving):
        network.train()(x, t, cond).square().mean().backward()
    for (name, one), two in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad), name


def test_forward_never_asks_the_device_for_a_value():
    """On the meta device there are no values: a read-back would raise."""
    with torch.device("meta"):
        network = UNet3D(**TOY | {"noise_level": "embedding", "num_labels": 3, "attention_resolutions": (1,)})
        level, label, fps = torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), torch.ones(2)
        cond = Condition(mask=given(0).to("meta"), frame_noise=level, label=label, fps=fps)
        assert network(latent().to("meta"), level, cond).shape == (2, 4, 4, 8, 8)
        network.inputs = replace(network.inputs, noise_level="time", num_noise_levels=None)
        assert network(latent().to("meta"), level, cond).shape == (2, 4, 4, 8, 8)


@pytest.mark.parametrize("options", [TOY, TINY, TINY | {"text_attention": True, "context_dim": 6}])
@torch.no_grad()
def test_a_network_in_bf16_or_under_autocast_stays_near_float32(options):
    """The latent comes and goes in float32: samplers add up many steps."""
    network, x, t = awake(UNet3D(**options)), latent(), torch.tensor([3, 600])
    cond = Condition(
        fps=torch.tensor([8.0, 2.0]) if options is TOY else None,
        context=torch.randn(2, 5, 6) if "context_dim" in options else None,
    )
    exact = network(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x, t, cond)
    low = network.bfloat16()(x, t, cond)
    for out in (mixed, low):
        assert out.dtype == torch.float32 and relative_error(out, exact) < 0.03


def test_every_parameter_of_the_toy_learns():
    network = awake(UNet3D(**TOY)).train()
    cond = Condition(mask=given(0), frame_noise=torch.tensor([3, ABSENT]), fps=torch.tensor([8.0, 2.0]))
    network(latent(), torch.tensor([3, 600]), cond).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
