"""From a network to denoise: the conversion to x0, and guidance in its one convention."""

from __future__ import annotations

import pytest
import torch

from lvdm.diffusion import process
from lvdm.diffusion.guidance import guided, predict_x0
from lvdm.diffusion.objectives import EpsObjective, VObjective
from lvdm.diffusion.schedules import Linear, SqrtLinear
from lvdm.types import ABSENT, Condition, DenoiserInputs, UserError


class Network:
    """Tells what it was given apart: eps depends on the mask, the level and the label; keeps count of its passes."""

    def __init__(self, noise_level: str | None = None) -> None:
        levels = 1000 if noise_level == "embedding" else None
        self.inputs, self.batches = DenoiserInputs(mask=True, noise_level=noise_level, num_noise_levels=levels), []

    def __call__(self, x, t, cond=None):
        self.batches.append(len(x))
        eps = torch.sin(3 * x)
        for name in ("mask", "frame_noise", "label") if cond is not None else ():
            value = getattr(cond, name)
            if value is not None:
                eps = eps + 0.1 * value.reshape(len(x), 1, -1, 1, 1).to(x)
        return eps


def condition(batch: int = 2, **more) -> Condition:
    mask = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 4, 1, 1).repeat(batch, 1, 1, 1, 1)
    frames = torch.randn(batch, 3, 4, 2, 2, dtype=torch.float64)
    return Condition(frames=frames, mask=mask, frame_noise=torch.full((batch,), 100), **more)


def inputs(batch: int = 2):
    return torch.randn(batch, 3, 4, 2, 2, dtype=torch.float64), torch.randint(999, (batch,))


def test_guidance_off_is_one_pass_and_the_condition():
    network, (x, t), cond = Network(), inputs(), condition()
    predict = predict_x0(network, EpsObjective(), SqrtLinear())
    assert torch.equal(guided(predict, cond, scale=0.0)(x, t), predict(x, t, cond))
    assert network.batches == [2, 2]


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.5, -0.5])
def test_guidance_on_x0_is_the_published_formula_on_eps(scale):
    """eps_c + w (eps_c - eps_u), from two plain calls of the network; both passes of ours are one call."""
    network, schedule, (x, t), cond = Network(), SqrtLinear(), inputs(), condition()
    eps_c, eps_u = network(x, t, cond), network(x, t, None)
    expected = process.x0_from_eps(eps_c + scale * (eps_c - eps_u), x, t, schedule)
    network.batches.clear()
    got = guided(predict_x0(network, EpsObjective(), schedule), cond, scale=scale)(x, t)
    assert network.batches == [4]
    # ABSENT is fed to this network as a number, where a real one adds nothing
    absent = process.x0_from_eps(torch.full_like(x, 0.1 * ABSENT), x, t, schedule) - process.x0_from_eps(
        torch.zeros_like(x), x, t, schedule
    )
    torch.testing.assert_close(got, expected - scale * absent, rtol=1e-9, atol=1e-9)


def test_guidance_minus_one_is_the_unconditional_answer_and_grows_linearly():
    predict, (x, t) = predict_x0(Network(), VObjective(), SqrtLinear()), inputs()
    cond, uncond = condition(label=torch.tensor([3, 4])), condition(label=torch.tensor([0, 0]))
    at = {w: guided(predict, cond, uncond, scale=w)(x, t) for w in (-1.0, 1.0, 2.0, 3.0)}
    torch.testing.assert_close(at[-1.0], predict(x, t, uncond))
    torch.testing.assert_close(at[3.0] - at[2.0], at[2.0] - at[1.0])
    torch.testing.assert_close(at[2.0] - at[1.0], predict(x, t, cond) - predict(x, t, uncond))


def test_guidance_takes_time_per_frame():
    predict, (x, _), cond = predict_x0(Network(), VObjective(), SqrtLinear()), inputs(), condition()
    t = torch.randint(999, (2, 4))
    assert guided(predict, cond, scale=0.5)(x, t).shape == x.shape


def test_with_nothing_to_guide_by_one_pass_is_made_and_a_lost_label_is_told(caplog):
    network, (x, t) = Network(), inputs()
    predict = predict_x0(network, VObjective(), SqrtLinear())
    assert torch.equal(guided(predict, None, scale=0.1)(x, t), predict(x, t, None))
    assert not caplog.records
    guided(predict, Condition(label=torch.tensor([1, 2])), scale=0.1)(x, t)
    assert "give the unconditional text or label" in caplog.text
    assert network.batches == [2, 2, 2]


def test_text_in_one_pass_only_is_refused():
    cond = condition(context=torch.zeros(2, 5, 8))
    with pytest.raises(UserError, match="context in both passes"):
        guided(predict_x0(Network(), VObjective(), SqrtLinear()), cond, Condition(), scale=1.0)


def test_the_given_frames_own_time_serves_the_conversion_only_where_it_is_the_networks():
    schedule, (x, t), cond = SqrtLinear(), inputs(), condition()
    for noise_level, given_time in [("time", 100), ("embedding", None), (None, None)]:
        network = Network(noise_level)
        x0 = predict_x0(network, VObjective(), schedule)(x, t, cond)
        output = network(x, t, cond)
        new = process.x0_from_v(output, x, t, schedule)
        given_t = t if given_time is None else torch.full_like(t, given_time)
        assert torch.equal(x0[:, :, 1:], new[:, :, 1:])
        assert torch.equal(x0[:, :, 0], process.x0_from_v(output, x, given_t, schedule)[:, :, 0])


def test_the_pair_without_an_answer_is_refused_when_the_predictor_is_made():
    with pytest.raises(UserError, match="VObjective"):
        predict_x0(Network(), EpsObjective(), Linear(zero_terminal_snr=True))
