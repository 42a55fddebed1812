"""Random streams: published seeds keep their draws, and streams are told apart as their docstring claims."""

import torch

from lvdm.seeding import clip_generator, numpy_generator, protocol_generator, step_generator


def test_streams_give_the_draws_recorded_before_they_shared_a_module() -> None:
    def two(generator: torch.Generator) -> list[int]:
        return torch.randint(2**62, (2,), generator=generator).tolist()

    assert two(clip_generator(7, 1, 2, 0)) == [1707199607368172387, 1235174934759436113]
    assert two(step_generator(7, 1, 2)) == [2591598589164063931, 3485991452462528204]
    assert numpy_generator(7, (3, 1)).integers(2**62, size=2).tolist() == [1540285037035558223, 4118652173972254431]
    assert numpy_generator(7).integers(2**62, size=2).tolist() == [2882744023523087010, 4137668341471484581]
    assert numpy_generator([7, 1, 2]).integers(2**62, size=2).tolist() == [4256643664333921467, 3322060016905239719]
    assert protocol_generator(7, 0, 1, 1).random_sample(2).tolist() == [0.36677671522678357, 0.35798164829826895]


def test_torch_keeps_32_bits_of_a_seed_which_is_why_sampling_takes_numpy() -> None:
    first, second = (torch.rand(4, generator=torch.Generator().manual_seed(5 + high * 2**32)) for high in (0, 1))
    assert torch.equal(first, second)
    states = {numpy_generator(0, (video,)).bit_generator.state["state"]["state"] for video in range(2000)}
    assert len(states) == 2000 and max(states) > 2**64
