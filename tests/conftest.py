"""What tests share: where the parity files lie, a fixed seed, videos with their latents, configs of tiny runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import adversarial_config, autoencoder_config, diffusion_config, make_latents, write_config, write_videos

PARITY = Path(os.environ.get("LVDM_PARITY", Path(__file__).resolve().parents[2] / "shared" / "parity"))


@pytest.fixture
def parity() -> Callable[[str], Path]:
    """Path of a parity file; skips the test where there are none."""

    def find(name: str) -> Path:
        path = PARITY / name
        if not path.exists():
            pytest.skip(f"no parity file {name}: set LVDM_PARITY to the folder of recorded values")
        return path

    return find


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As each of two processes on two cores has: more of them round otherwise, by about 1e-6."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, a trained autoencoder and latents."""
    folder = tmp_path_factory.mktemp("made")
    make_latents(write_videos(folder / "videos"), folder)
    return folder


@pytest.fixture
def configs(made: Path, tmp_path: Path) -> dict[str, str]:
    """Configs whose runs go below tmp_path."""
    joint = diffusion_config(made / "latents", tmp_path, made / "autoencoder" / "model.safetensors")
    makers = {"autoencoder": autoencoder_config, "adversarial": adversarial_config}
    written = {"joint": joint, **{name: make(made / "videos", tmp_path) for name, make in makers.items()}}
    return {name: write_config(tmp_path / "configs" / f"{name}.yaml", config) for name, config in written.items()}
