"""The package: what it needs stands in requirements.txt, the version in lvdm/version.py, the commands here."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
DIFFUSERS = "diffusers>=0.35"
COMMANDS = (
    "train",
    "encode",
    "sample_short",
    "sample_long",
    "convert",
    "make_toy",
    "score_toy",
    "benchmark",
    "compare_long",
    "eval",
)


def requirements() -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "lvdm" / "version.py").read_text(), re.MULTILINE)
    assert found, "lvdm/version.py must say __version__"
    return found.group(1)


setup(
    name="lvdm",
    version=version(),
    description="Latent video diffusion: train an autoencoder, diffusion on its latents, generate videos of a thousand frames",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["lvdm", "lvdm.*"]),
    package_data={"lvdm": ["py.typed"]},
    install_requires=requirements(),
    extras_require={
        "diffusers": [DIFFUSERS],  # published autoencoders as codecs: lvdm.models.autoencoders.DiffusersVAE
        "test": [
            *("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff>=0.9", "mypy>=1.15"),
            *("webdataset>=1.0", "scikit-learn>=1.5", "torchmetrics>=1.8", DIFFUSERS),
        ],
    },
    entry_points={"console_scripts": [f"lvdm-{name.replace('_', '-')} = lvdm.cli.start:{name}" for name in COMMANDS]},
)
