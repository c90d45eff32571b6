"""Environments and backbones do the same whatever global state torch is in, and leave it alone."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import tiny_backbone
from edits import IDS, arguments
from torch_states import float64

import gan_backbones
from agents.search.gradient import MyopicGradientPolicy, adam_ascent
from latentgym.assessor import _folded
from latentgym.task import _load

STATES = {
    "float64": float64,
    "meta": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
}


@pytest.fixture(params=STATES, ids=str)
def state(request):
    _load.cache_clear()
    _folded.cache_clear()
    return STATES[request.param]


def current():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )


def single(env_id, file):
    options = arguments(env_id, file, terminate_on_success=True)
    env = gym.make(env_id, max_episode_steps=3, disable_env_checker=True, **options)
    env.action_space.seed(0)
    results = [env.reset(seed=0)]
    for _ in range(3):
        results.append(env.step(env.action_space.sample()))
    base = env.unwrapped
    base.set_state(base.get_state())
    latents = np.zeros((2, 8), np.float32)
    return env, [results, base.score(latents), base.view().current, base.get_state()["core"]]


def vector(env_id, file, tensors=False):
    options = arguments(env_id, file, autoreset_mode="SameStep", tensors=tensors)
    env = gym.make_vec(env_id, num_envs=3, max_episode_steps=2, **options)
    env.action_space.seed(0)
    results = [env.reset(seed=0)]
    for _ in range(3):
        actions = env.action_space.sample()
        results.append(env.step(torch.from_numpy(actions) if tensors else actions))
    return env, [as_arrays(results), env.unwrapped.get_state()["core"], env.render_grid()]


def as_arrays(values):
    if isinstance(values, torch.Tensor):
        return values.numpy()
    if isinstance(values, dict):
        return {key: as_arrays(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)) or getattr(values, "dtype", 0) == np.dtype(object):
        return [as_arrays(value) for value in values]
    return values


def tensors(env_id, file):
    return vector(env_id, file, tensors=True)


@pytest.mark.parametrize("roll_out", [single, vector, tensors])
@pytest.mark.parametrize("env_id", IDS)
def test_environments(state, env_id, roll_out, tiny_file):
    with state():
        before = current()
        env, found = roll_out(env_id, tiny_file)
        assert current() == before
    _, expected = roll_out(env_id, tiny_file)
    np.testing.assert_equal(found, expected)
    env.reset(seed=1)  # what was made inside can be used outside
    for _ in range(3):
        action = env.action_space.sample()
        env.step(torch.from_numpy(action) if roll_out is tensors else action)


def test_backbones_can_be_loaded_inside_and_differentiated_outside(state, tiny_file, tmp_path):
    with state():
        before = current()
        loaded = gan_backbones.load(tiny_file)
        wrapped = gan_backbones.wrap(
            loaded.generator, 8, classifier=loaded.classifier, schema=loaded.schema
        )
        gan_backbones.check_backbone(loaded)
        gan_backbones.check_backbone(wrapped)
        loaded.save(tmp_path / "again.safetensors")
        assert current() == before
    plain = tiny_backbone()
    for backbone in (loaded, wrapped, gan_backbones.load(tmp_path / "again.safetensors")):
        latents = torch.ones(1, 8, requires_grad=True)
        images = backbone.generator(latents)
        images.sum().backward()
        assert latents.grad.isfinite().all()
        assert torch.equal(images, plain.generator(latents))


@pytest.mark.parametrize("directions", ["attributes", "pca", "sefa", "coordinates"])
def test_directions(state, directions, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGYM_CACHE", str(tmp_path / "inside"))
    find = finder(directions)
    with state():
        found = find()
    monkeypatch.setenv("LATENTGYM_CACHE", str(tmp_path / "outside"))
    assert torch.equal(find(), found)


def finder(directions):
    """A function that finds the directions of a new tiny backbone, as an environment does."""
    backbones = [tiny_backbone(), tiny_backbone()]

    def find():
        options = arguments("LatentEdit-v0", backbones.pop(), directions=directions)
        env = gym.make_vec("LatentEdit-v0", num_envs=1, **options, num_probes=300)
        return env.unwrapped.core.directions

    return find


def test_gradient_methods(state, tiny_file):
    def edited():
        options = arguments("LatentEdit-v0", tiny_file, start="lacks_target")
        env = gym.make_vec("LatentEdit-v0", num_envs=2, **options).unwrapped
        values = adam_ascent(env, 3).values
        return values, MyopicGradientPolicy(env).predict(None)[0]

    with state():
        found = edited()
    np.testing.assert_equal(found, edited())
