"""The contract of every environment that latentgym registers, whichever it is."""

import ast
import dataclasses
import functools
import multiprocessing
import pickle
import random
import re
import subprocess
import sys
import warnings

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import SubprocVecEnv

import latentgym
from gan_backbones import Backbone
from latentgym.envs import LatentEditEnv
from latentgym.envs.single import EditEnv
from latentgym.task import OBSERVATION_PARTS, EditTask

IDS = [i for i, spec in gym.registry.items() if str(spec.entry_point).startswith("latentgym.")]
every_id = pytest.mark.parametrize("env_id", IDS)
HEADINGS = [
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Info",
    "Arguments",
    "Version History",
]


def env_class(env_id):
    return load_env_creator(gym.spec(env_id).entry_point)


@pytest.fixture
def arguments(tiny_file):
    """What makes an environment a cheap one, by its id."""

    def arguments(env_id):
        return {"backbone": tiny_file} if issubclass(env_class(env_id), EditEnv) else {}

    return arguments


@pytest.fixture(scope="module")
def worker():
    """A process that knows nothing of latentgym."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.fixture
def display(monkeypatch):
    """No screen, and no waiting for the next frame."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for env_id in IDS:
        monkeypatch.setitem(env_class(env_id).metadata, "render_fps", 1000)


def rollout(env, steps=50, seed=0):
    """All that a random policy is given."""
    env.action_space.seed(seed)
    results = [env.reset(seed=seed)]
    for _ in range(steps):
        results.append(env.step(env.action_space.sample()))
        if results[-1][2] or results[-1][3]:
            results.append(env.reset())
    return results


def leaves(tree):
    """All values in nested dicts, lists and tuples."""
    if isinstance(tree, dict):
        tree = [value for _, value in sorted(tree.items())]
    return (
        [leaf for part in tree for leaf in leaves(part)] if type(tree) in (tuple, list) else [tree]
    )


def assert_alike(one, other):
    """The same values, up to the rounding of another batch size."""
    for value, expected in zip(leaves(one), leaves(other), strict=True):
        value, expected = np.asarray(value), np.asarray(expected)
        assert value.dtype == expected.dtype and value.shape == expected.shape
        atol = 1 if value.dtype == np.uint8 else 1e-3
        np.testing.assert_allclose(value.astype(float), expected.astype(float), atol=atol)


def test_there_are_environments():
    assert {"LatentEdit-v0", "LatentEditContinuous-v0", "LatentEditGoal-v0"} <= set(IDS)


@every_id
def test_check_env_of_the_defaults_without_a_warning(env_id, display):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # CartPole's velocities are unbounded, as Gymnasium's own are.
        warnings.filterwarnings("ignore", ".*observation space m..imum value is -?infinity")
        check_env(gym.make(env_id).unwrapped)


@every_id
def test_class_docstring_is_a_documentation_page(env_id):
    lines = [line.strip() for line in env_class(env_id).__doc__.splitlines()]
    headings = [line[3:] for line in lines if line.startswith("## ")]
    assert [part for heading in headings for part in heading.split(", ")] == HEADINGS
    version = env_id.rsplit("-", 1)[1]
    assert any(line.startswith(f"- {version}: ") for line in lines)
    assert env_class(env_id).metadata["render_fps"] > 0


@every_id
def test_one_seed_one_episode(env_id, arguments):
    runs = [rollout(gym.make(env_id, **arguments(env_id))) for _ in range(2)]
    np.testing.assert_equal(*runs)
    other = rollout(gym.make(env_id, **arguments(env_id)), seed=1)
    with pytest.raises(AssertionError):
        np.testing.assert_equal(other, runs[0])


@every_id
def test_spec_survives_json_and_pickle(env_id, arguments):
    env = gym.make(env_id, **arguments(env_id))
    expected = rollout(env, 5)
    for spec in (EnvSpec.from_json(env.spec.to_json()), pickle.loads(pickle.dumps(env.spec))):
        again = gym.make(spec)
        np.testing.assert_equal(rollout(again, 5), expected)
        assert again.spec.to_json() == env.spec.to_json()


@every_id
def test_pickled_environment_goes_on_where_it_was(env_id, arguments):
    env = gym.make(env_id, max_episode_steps=8, **arguments(env_id))
    actions = [env.action_space.sample() for _ in range(8)]
    env.reset(seed=1)
    for action in actions[:3]:
        env.step(action)
    again = pickle.loads(pickle.dumps(env))
    for action in actions[3:]:
        result = env.step(action)
        np.testing.assert_equal(again.step(action), result)
    assert result[2] or result[3]  # the step limit's count went along
    np.testing.assert_equal(again.reset(), env.reset())


@every_id
def test_spawned_worker_makes_it_by_the_module_prefix(env_id, arguments, worker):
    made = worker.apply(gym.make, (f"latentgym:{env_id}",), arguments(env_id))
    np.testing.assert_equal(rollout(made, 5), rollout(gym.make(env_id, **arguments(env_id)), 5))


def test_stable_baselines_workers_are_spawned(arguments):
    env_id = "LatentEdit-v0"
    one = functools.partial(gym.make, f"latentgym:{env_id}", **arguments(env_id))
    cloudpickle.loads(cloudpickle.dumps(one))().close()
    workers = SubprocVecEnv([one], start_method="spawn")
    try:
        workers.seed(8)
        env = one()
        np.testing.assert_array_equal(workers.reset()[0], env.reset(seed=8)[0])
        observations, rewards, *_ = workers.step(np.array([3]))
        observation, reward, *_ = env.step(3)
        np.testing.assert_array_equal(observations[0], observation)
        assert rewards[0] == np.float32(reward)
    finally:
        workers.close()


@every_id
def test_make_vec_in_every_mode(env_id, arguments):
    modes = ["sync", "async"]
    if gym.spec(env_id).vector_entry_point:
        modes += ["vector_entry_point", None]
    expected, actions = None, None
    for mode in modes:
        env = gym.make_vec(env_id, 2, mode, **arguments(env_id))
        assert isinstance(env.metadata["autoreset_mode"], AutoresetMode)
        if actions is None:
            env.action_space.seed(0)
            actions = env.action_space.sample()
        results = [env.reset(seed=3)[0], *env.step(actions)[:4]]
        assert results[0] in env.observation_space
        expected = expected or results
        assert_alike(results, expected)
        env.close()


def test_forked_workers_can_compute(tiny_file):
    # Threads do not survive a fork: without precautions the product in the worker never returns.
    script = """
import multiprocessing, sys, torch
import gymnasium as gym
import latentgym
torch.set_num_threads(2)
product = torch.ones(500, 500) @ torch.ones(500, 500)
gym.make("LatentEdit-v0", backbone=sys.argv[1])
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.apply(torch.matmul, (torch.ones(500, 500), torch.ones(500, 500))).equal(product)
"""
    subprocess.run([sys.executable, "-c", script, tiny_file], check=True, timeout=300)


@every_id
def test_vector_environment_has_its_autoreset_mode(env_id, arguments):
    if not gym.spec(env_id).vector_entry_point:
        pytest.skip("Gymnasium's own vector environments are used")
    for mode in AutoresetMode:
        env = gym.make_vec(env_id, 2, **arguments(env_id), autoreset_mode=mode)
        assert env.autoreset_mode is env.metadata["autoreset_mode"] is mode
        assert env.spec.id == env_id and env.num_envs == 2


@every_id
def test_rendering_in_every_mode(env_id, arguments, display):
    silent = rollout(gym.make(env_id, **arguments(env_id)), 3)
    modes = env_class(env_id).metadata["render_modes"]
    assert {"human", "rgb_array"} <= set(modes)
    for mode in (None, *modes, "rgb_array_list"):
        env = gym.make(env_id, render_mode=mode, **arguments(env_id))
        np.testing.assert_equal(rollout(env, 3), silent)
        if mode is not None:
            frames = env.render()
        if mode == "human":
            assert frames is None
        elif mode is not None:
            frames = [frames] if mode == "rgb_array" else frames
            assert len(frames) == (1 if mode == "rgb_array" else 4)
            for frame in frames:
                assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
        env.close()
        env.close()
    with pytest.raises(ValueError, match="render_mode is 'ansi'; allowed: None, "):
        env_class(env_id)(render_mode="ansi", **arguments(env_id))


def test_registration_is_idempotent():
    specs = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latentgym.register_all()
    assert gym.registry.keys() == specs.keys()
    assert all(gym.registry[env_id] is spec for env_id, spec in specs.items())


@every_id
def test_global_random_state_is_left_alone(env_id, arguments):
    def state():
        return random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()  # noqa: NPY002

    options = arguments(env_id)
    if "backbone" in options:  # another one, whose directions nobody has computed yet
        options = {**options, "backbone": Backbone.read(options["backbone"])}
    before = state()
    rollout(gym.make(env_id, **options), 5)
    if gym.spec(env_id).vector_entry_point:
        env = gym.make_vec(env_id, 2, **options)
        env.reset()
        env.step(env.action_space.sample())
    np.testing.assert_equal(state(), before)


def test_table_of_arguments_is_complete_and_true():
    table = LatentEditEnv.__doc__.split("## Arguments")[1].split("## Version")[0]
    documented = {}
    for names, defaults in re.findall(r"^ *\| (`.+?) \| (.+?) \| ", table, re.MULTILINE):
        values = ["OBSERVATION_PARTS"] if defaults == "all parts" else defaults.split(", ")
        for name, value in zip(re.findall(r"`(\w+)`", names), values, strict=True):
            assert name not in documented
            documented[name] = value.strip("`")
    for name, value in documented.items():
        everything = value == "OBSERVATION_PARTS"
        documented[name] = OBSERVATION_PARTS if everything else ast.literal_eval(value)
    fields = {field.name: field.default for field in dataclasses.fields(EditTask)}
    assert documented == fields | {"render_mode": None}
