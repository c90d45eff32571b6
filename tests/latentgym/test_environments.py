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
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers
from stable_baselines3.common.vec_env import SubprocVecEnv

import latentgym
from gan_backbones import Backbone
from latentgym.envs import LatentEditEnv
from latentgym.envs.edit_env import EditEnv
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


# Vector environments are as SyncVectorEnv is -----------------------------------------------------


def vector_pair(env_id, mode, arguments, num_envs=3, **options):
    """Our vector environment, and Gymnasium's of the single ones."""
    options = {"max_episode_steps": 4, **arguments(env_id), **options}
    ours = gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=mode, **options)
    one = functools.partial(gym.make, env_id, disable_env_checker=True, **options)
    return ours, SyncVectorEnv([one] * num_envs, autoreset_mode=mode)


def play_both(ours, theirs, steps=9):
    """What both return, call by call."""
    ours.action_space.seed(0)
    yield ours.reset(seed=42), theirs.reset(seed=42)
    for _ in range(steps):
        actions = ours.action_space.sample()
        returned = ours.step(actions), theirs.step(actions)
        yield returned
        ended = returned[0][2] | returned[0][3]
        if ours.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            masks = [{"reset_mask": ended.copy()} for _ in range(2)]
            yield ours.reset(options=masks[0]), theirs.reset(options=masks[1])


def assert_same_form(infos, expected):
    """The same keys, kinds of values and masks."""
    # Single environments ask the judge at every step, as any may be the last.
    ended_only = {"is_success", "kept", "drift"}
    for key in expected.keys() - infos.keys():
        assert key.removeprefix("_") in ended_only, key
    for key, value in infos.items():
        other = expected[key]
        assert type(value) is type(other), key
        if isinstance(value, dict):
            assert_same_form(value, other)
            continue
        assert (value.dtype, value.shape) == (other.dtype, other.shape), key
        if key.startswith("_") and key[1:] not in ended_only:
            np.testing.assert_array_equal(value, other, key)
        elif value.dtype == object:
            assert_alike(*([v for v in each if v is not None] for each in (value, other)))


@every_id
@pytest.mark.parametrize("mode", AutoresetMode)
def test_infos_have_the_form_of_sync_vector_env(env_id, mode, arguments):
    ours, theirs = vector_pair(env_id, mode, arguments)
    for returned, expected in play_both(ours, theirs):
        assert_same_form(returned[-1], expected[-1])


@every_id
@pytest.mark.parametrize("mode", AutoresetMode)
def test_each_row_renders_as_its_single_environment(env_id, mode, arguments):
    ours, theirs = vector_pair(env_id, mode, arguments, render_mode="rgb_array")
    silent, _ = vector_pair(env_id, mode, arguments)
    silent.reset(seed=42)
    for number, _ in enumerate(play_both(ours, theirs, 6)):
        frames, expected = ours.render(), theirs.render()
        assert isinstance(frames, tuple) and len(frames) == 3
        for frame, other in zip(frames, expected, strict=True):
            assert frame.dtype == np.uint8
            np.testing.assert_array_equal(frame, other, f"call {number}")
    assert ours.unwrapped.render_grid().ndim == silent.unwrapped.render_grid().ndim == 3
    assert silent.render() is None
    ours.close()
    for frame, other in zip(ours.render(), frames, strict=True):
        np.testing.assert_array_equal(frame, other)  # closing theirs or ours takes no font away


@pytest.mark.filterwarnings("ignore:.*zero frames to save")
@every_id
def test_gymnasiums_vector_video_and_window(env_id, arguments, display, tmp_path, monkeypatch):
    # What the wrappers import besides pygame: to scale pictures, and to write the video.
    scale = SimpleNamespace(resize=lambda picture, size: picture[: size[1], : size[0]])
    monkeypatch.setitem(sys.modules, "cv2", scale)
    monkeypatch.setitem(sys.modules, "moviepy", ModuleType("moviepy"))
    options = {"num_envs": 3, "render_mode": "rgb_array", **arguments(env_id)}
    every = {"episode_trigger": lambda episode: True}
    video = wrappers.RecordVideo(gym.make_vec(env_id, **options), str(tmp_path / "video"), **every)
    inner = gym.make_vec(env_id, **options)
    inner.unwrapped.metadata["render_fps"] = 1000
    window = wrappers.HumanRendering(inner)
    for env in (video, window):
        env.reset(seed=0)
        env.step(np.zeros_like(env.action_space.sample()))
    frames = video.recorded_frames
    assert len(frames) == 2
    height, width, _ = video.unwrapped.render()[0].shape
    assert frames[1].shape in ((height, 3 * width, 3), (3 * height, width, 3))
    for row, frame in enumerate(video.unwrapped.render()):
        top, left = (row * height, 0) if frames[1].shape[1] == width else (0, row * width)
        np.testing.assert_array_equal(frames[1][top : top + height, left : left + width], frame)
    video.recorded_frames.clear()
    for env in (video, window):
        env.close()


@every_id
def test_each_rows_seed_and_generator_are_told(env_id, arguments):
    ours, theirs = vector_pair(env_id, "NextStep", arguments)
    assert len(set(ours.np_random_seed)) == 3  # drawn, and used by the first reset
    generators = ours.np_random
    ours.reset()
    assert ours.np_random == generators
    for env in (ours, theirs):
        env.reset(seed=42)
        assert env.np_random_seed == (42, 43, 44)
        env.reset()
        assert env.np_random_seed == (42, 43, 44)
        env.reset(seed=[7, None, 9])
        assert env.np_random_seed == (7, 43, 9)
    for one, other in zip(ours.np_random, theirs.np_random, strict=True):
        assert isinstance(one, np.random.Generator)
        assert one.bit_generator.state == other.bit_generator.state
    ours.set_state(ours.get_state())
    assert ours.np_random_seed == (-1, -1, -1)  # as Gymnasium has it for generators of unknown seed
    env = gym.make(env_id, **arguments(env_id))
    env.reset(seed=42)
    assert env.np_random_seed == 42


BAD_SEEDS = {
    -1: "Seed must be greater or equal to zero, actual value: -1",
    1.5: "Seed must be a python integer, actual type: <class 'float'>",
    "1": "Seed must be a python integer, actual type: <class 'str'>",
}


@every_id
def test_wrong_seeds_are_one_line_and_change_nothing(env_id, arguments):
    single = gym.make(env_id, **arguments(env_id))
    vector = gym.make_vec(env_id, num_envs=2, **arguments(env_id))
    for env in (single, vector):
        env.reset(seed=5)
    for seed, line in BAD_SEEDS.items():
        with pytest.raises(gym.error.Error, match=f"^{re.escape(line)}$"):
            single.reset(seed=seed)
        with pytest.raises(gym.error.Error, match=f"^{re.escape(line)}$"):
            vector.reset(seed=[3, seed])
    for seed in (1.5, "12", {1, 2}, np.float64(1)):
        with pytest.raises(
            ValueError, match=r"^seed is [^\n]*; allowed: None, an integer, or a seq"
        ):
            vector.reset(seed=seed)
    with pytest.raises(ValueError, match=r"^seed has 3 values; expected num_envs=2$"):
        vector.reset(seed=[1, 2, 3])
    assert vector.np_random_seed == (5, 6) and single.np_random_seed == 5
    for env in (single, vector):
        state = env.unwrapped.get_state()
        env.reset(seed=5)
        np.testing.assert_equal(env.unwrapped.get_state(), state)
    vector.reset(seed=np.int64(7))
    assert vector.np_random_seed == (7, 8)


@every_id
def test_unknown_options_are_refused_by_name(env_id, arguments):
    single = gym.make(env_id, **arguments(env_id))
    vector = gym.make_vec(env_id, num_envs=2, **arguments(env_id))
    allowed = "latent, target" if issubclass(env_class(env_id), EditEnv) else "low, high"
    for env, more in ((single, ""), (vector, ", reset_mask")):
        for key in ("latnt", "mask", 3):
            line = re.escape(f"options has the key {key!r}; allowed: {allowed}{more}")
            with pytest.raises(ValueError, match=f"^{line}$"):
                env.reset(seed=0, options={key: 1})
    with pytest.raises(ValueError, match="options has the key 'reset_mask'"):
        single.reset(options={"reset_mask": np.array([True])})


@every_id
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_spec_survives_json(env_id, mode, arguments):
    options = {**arguments(env_id), "max_episode_steps": 5}
    env = gym.make_vec(env_id, num_envs=2, autoreset_mode=mode, **options)
    text = env.spec.to_json()
    again = gym.make_vec(EnvSpec.from_json(text))
    assert again.spec.to_json() == text
    assert again.metadata["autoreset_mode"] is mode and again.num_envs == 2
    np.testing.assert_equal(again.reset(seed=1), env.reset(seed=1))
    actions = env.action_space.sample()
    np.testing.assert_equal(again.step(actions), env.step(actions))


def test_specs_hold_plain_data(tiny_file):
    target = {"hair": np.str_("bun")}
    options = dict(backbone=Path(tiny_file), target=target, delta=np.float32(0.5), device="cpu")
    for env in (gym.make("LatentEdit-v0", **options), gym.make_vec("LatentEdit-v0", **options)):
        spec = EnvSpec.from_json(env.spec.to_json())
        assert spec.kwargs["backbone"] == str(tiny_file) and spec.kwargs["delta"] == 0.5
        assert env.spec.kwargs["target"] == {"hair": "bun"}
        assert env.spec.kwargs["target"] is not target


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


def test_environments_are_found_in_the_package():
    code = "import latentgym; print(latentgym.envs.LatentEditEnv, latentgym.check_vector_env)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LatentEditEnv" in done.stdout and "check_vector_env" in done.stdout
    with pytest.raises(AttributeError, match="module 'latentgym' has no attribute 'environments'"):
        _ = latentgym.environments
