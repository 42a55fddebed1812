"""TriplaneUNet: published numbers and names, any sizes, equal planes in one batch, every part of the condition."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_planes import (
    RECORDED_UNET,
    TINY_UNET,
    check_golden,
    filled,
    plain_planes,
    recorded,
    relative_error,
    tiny_unet,
    wave,
)
from torch import nn

from lvdm.diffusion.losses import L2Loss
from lvdm.diffusion.schedules import SqrtLinear
from lvdm.models.denoisers import TriplaneUNet
from lvdm.models.layers import attention
from lvdm.types import ABSENT, Condition, UserError

T = torch.tensor([500, 3])
FULL = {"num_labels": 3, "context_dim": 6, "fps_embedding": True}


def latent(network, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 4, network.planes.length, generator=torch.Generator().manual_seed(seed))


def condition(network, **changes: torch.Tensor) -> Condition:
    given = {"previous": latent(network, 2), "label": torch.tensor([1, ABSENT]), "context": torch.ones(2, 5, 6)}
    return Condition(**{**given, "fps": torch.tensor([8.0, 2.0]), **changes})


@pytest.mark.parametrize("is_fused", [False, True])
@torch.no_grad()
def test_it_gives_the_published_outputs(parity, monkeypatch, is_fused):
    if is_fused:  # as on a GPU; at this size a CPU is faster without
        monkeypatch.setattr(attention, "PLAIN_SCORES_CPU", 0)
    network, known = recorded(TriplaneUNet(**RECORDED_UNET), parity("pvdm_unet.safetensors"))
    conditional = network(known["x"], known["t"], Condition(previous=known["cond"]))
    assert relative_error(conditional, known["eps_cond"]) < 1e-5
    assert relative_error(network(known["x"], known["t"]), known["eps_uncond"]) < 1e-5


@torch.no_grad()
def test_training_losses_are_the_published_ones(parity):
    network, _ = recorded(TriplaneUNet(**RECORDED_UNET), parity("pvdm_unet.safetensors"))
    known = {name.removeprefix("train/"): tensor for name, tensor in load_file(parity("pvdm_sampling.safetensors")).items()}
    schedule, t = SqrtLinear(end=0.0195), known["t"]
    torch.testing.assert_close(schedule.alpha(torch.arange(1000)) ** 2, known["alphas_cumprod"].double(), rtol=1e-6, atol=0)
    alpha, sigma = schedule.alpha_sigma(t, known["x0"])
    x_t = alpha * known["x0"] + sigma * known["noise"]
    assert relative_error(x_t, known["x_t"]) < 1e-6
    for name, cond in {"loss_cond": Condition(previous=known["cond"]), "loss_uncond": None}.items():
        assert L2Loss()(network(x_t, t, cond), known["noise"]).mean().item() == pytest.approx(known[name].item(), rel=1e-5)


@torch.no_grad()
def test_it_gives_the_golden_numbers(parity):
    golden = json.loads(parity("pvdm_golden.json").read_text())["pvdm_unet_small"]
    network = filled(TriplaneUNet(**RECORDED_UNET), ["zeros"])
    x, previous = wave(0.017, 1, 4, 2048), wave(0.029, 1, 4, 2048)
    check_golden(network(x, torch.tensor([500]), Condition(previous=previous)), golden["t500_cond"])
    check_golden(network(x, torch.tensor([3])), golden["t3_uncond"])


def test_it_has_the_published_names_shapes_and_count(parity):
    names = parity("README.md").parent.parent / "reference" / "pvdm_unet_keys.json"
    if not names.exists():
        pytest.skip("no list of published names next to the parity files")
    with torch.device("meta"):
        ours = {f"diffusion_model.{name}": list(weight.shape) for name, weight in TriplaneUNet().state_dict().items()}
    published = json.loads(names.read_text())
    assert ours == {name: shape for name, shape in published.items() if name != "diffusion_model.zeros"}


def test_the_published_size_has_the_published_count():
    with torch.device("meta"):
        assert sum(weight.numel() for weight in TriplaneUNet().parameters()) == 528_273_412


@pytest.mark.parametrize("planes", [(4, 8, 8), (8, 8, 4), (8, 8, 8), (4, 8, 12), (2, 6, 4)])
def test_planes_of_equal_shape_in_one_batch_equal_one_by_one(planes, monkeypatch):
    network = tiny_unet(*planes).double()
    x = latent(network).double()
    gradients, outputs = [], []
    for is_plain in (False, True):
        if is_plain:
            plain_planes(monkeypatch)
        outputs.append(network(x, T, Condition(previous=x.flip(0))))
        outputs[-1].square().sum().backward()
        gradients.append(nn.utils.parameters_to_vector(parameter.grad for parameter in network.parameters()))
        network.zero_grad()
    assert relative_error(outputs[0], outputs[1]) < 1e-12
    assert relative_error(gradients[0], gradients[1]) < 1e-12


@torch.no_grad()
def test_without_attention_across_planes_each_plane_is_denoised_alone():
    network = tiny_unet()
    for across in (*network.input_attns, network.mid_attn, *network.output_attns):
        if not isinstance(across, nn.Identity):
            nn.init.zeros_(across.proj_out.weight)
            nn.init.zeros_(across.proj_out.bias)
    x = latent(network)
    for changed in range(3):
        planes = network.planes.split(x.clone())
        planes[changed] += 1
        before, after = (network.planes.split(network(each, T)) for each in (x, torch.cat([p.flatten(2) for p in planes], 2)))
        assert [not torch.allclose(*pair) for pair in zip(before, after, strict=True)] == [plane == changed for plane in range(3)]


@torch.no_grad()
def test_a_clip_without_a_previous_one_has_zeros():
    network = tiny_unet()
    x = latent(network)
    assert torch.equal(network(x, T), network(x, T, Condition(previous=torch.zeros_like(x))))
    alone = tiny_unet(previous=False)
    assert alone.input_blocks[0].get_parameter("0.weight").shape[1] == 4
    with pytest.raises(UserError, match="takes no previous clip"):
        alone(x, T, Condition(previous=x))


@pytest.mark.parametrize("part", ["previous", "label", "context", "fps"])
@torch.no_grad()
def test_every_part_of_the_condition_reaches_every_plane(part):
    network = tiny_unet(**FULL)
    changes = {"label": torch.tensor([0, ABSENT]), "context": 2 * torch.rand(2, 5, 6), "fps": torch.tensor([4.0, 2.0])}
    changes["previous"] = latent(network, 3)
    x = latent(network)
    made = [network(x, T, condition(network, **change)) for change in ({}, {part: changes[part]})]
    assert all(not torch.allclose(*pair) for pair in zip(*(network.planes.split(each[:1]) for each in made), strict=True))


@torch.no_grad()
def test_new_branches_change_nothing_at_the_start_of_training():
    torch.manual_seed(0)
    network = TriplaneUNet((4, 8, 12), **TINY_UNET, context_dim=6, fps_embedding=True)
    x = latent(network)
    given = condition(network, label=None)
    others = [Condition(previous=given.previous, context=3 * given.context, fps=given.fps / 2), given]
    nn.init.normal_(network.out[2].weight)
    assert torch.equal(*(network(x, T, each) for each in others))


def test_checkpointing_changes_no_gradient():
    plain = tiny_unet(**FULL)
    recomputed = TriplaneUNet((4, 8, 12), **TINY_UNET, **FULL, checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    for network in (plain, recomputed):
        network(latent(network), T, condition(network)).square().mean().backward()
    for ours, theirs in zip(recomputed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@torch.no_grad()
def test_dropout_acts_in_training_alone():
    network = tiny_unet(dropout=0.5)
    x = latent(network)
    assert not torch.equal(network.train()(x, T), network(x, T))
    assert torch.equal(network.eval()(x, T), network(x, T))


@torch.no_grad()
def test_it_compiles_in_one_piece():
    network = tiny_unet(2, 4, 4, num_labels=3, channel_mult=[1, 1], num_res_blocks=0)
    x, cond = latent(network), Condition(previous=latent(network, 2), label=torch.tensor([1, ABSENT]))
    compiled = torch.compile(network, backend="eager", fullgraph=True)  # which traces, and needs no C++ compiler
    assert torch.equal(compiled(x, T, cond), network(x, T, cond))


@torch.no_grad()
def test_it_is_near_in_bfloat16():
    network = tiny_unet(**FULL)
    x, cond = latent(network), condition(network)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(network(x, T, cond).float(), network(x, T, cond)) < 0.05


def test_what_does_not_fit_is_refused_in_words():
    network = tiny_unet()
    x = latent(network)
    for sentence, call in {
        r"planes of \(4, 8, 9\) frames, rows and columns do not divide by 2": lambda: tiny_unet(4, 8, 9),
        r"takes \(b, 4, 176\)": lambda: network(x[:, :3], T),
        r"the planes of 4 frames of 8 x 12 are \(b, c, 176\)": lambda: network(x[:, :, :-1], T),
        r"the previous clip is \(1, 4, 176\), expected": lambda: network(x, T, Condition(previous=x[:1])),
        "5 heads do not divide 64 channels": lambda: tiny_unet(num_heads=5, attention_resolutions=[]),
        "names the down factors": lambda: tiny_unet(attention_resolutions=[4]),
        "planes is .*, expected a list of 3": lambda: TriplaneUNet([16, 32]),
    }.items():
        with pytest.raises(UserError, match=sentence):
            call()
