"""A package by someone else that adds a generator, built and installed as users do."""

import functools
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv

import gan_backbones
import latentgym  # noqa: F401  (registers the environments)

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "third-party-generators"
version = "1.0"

[project.entry-points."latentgym.backbones"]
third-party = "third_party_generators:stripes"

[tool.setuptools]
py-modules = ["third_party_generators"]
"""

MODULE = """
import torch
from gan_backbones import wrap


def stripes():
    x = torch.linspace(0, 6, 12)

    def generator(latents):  # 12x12 grey waves, whose slope and phase the latent sets
        phase = latents[:, :1] + (1 + 0.3 * latents[:, 1:]) * x
        return phase.sin()[:, None, None, :].expand(-1, 1, 12, -1)

    def classifier(images):
        left = images[:, 0, :, :6].mean(dim=(1, 2))
        return torch.stack([-5 * left, 5 * left], dim=1)

    return wrap(
        generator, 2, classifier=classifier, schema={"left": ["dark", "light"]}, name="stripes"
    )
"""

TASK = dict(backbone="third-party", target={"left": "light"}, realism_weight=0)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package in a folder on the path, put there by pip without network."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "third_party_generators.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(site)]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("third_party_generators", None)


def test_a_package_adds_a_generator(installed):
    assert {"cartoon-faces", "third-party"} <= set(gan_backbones.list_backbones())
    assert "third_party_generators" not in sys.modules  # listing does not import it
    gan_backbones.check_backbone(gan_backbones.load("third-party"))

    make = functools.partial(gym.make, "latentgym:LatentEdit-v0", **TASK)
    workers = AsyncVectorEnv([make], context="spawn")
    try:
        env = make()
        np.testing.assert_array_equal(workers.reset(seed=8)[0][0], env.reset(seed=8)[0])
        for action in range(env.action_space.n):
            (observation,), (reward,), *_ = workers.step([action])
            expected = env.step(action)
            np.testing.assert_array_equal(observation, expected[0])
            assert reward == expected[1]
    finally:
        workers.close()
