"""Vector environments that give and take tensors, and never wait for the device."""

import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import LATENT_DIM, tiny_backbone
from edits import IDS, make_vec, sampled
from gymnasium.vector import AutoresetMode

from latentgym.core import EditCore

MODES = list(AutoresetMode)
every_id = pytest.mark.parametrize("env_id", IDS)
every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)


def as_arrays(tree):
    """What an environment of tensors returned, as one of arrays would; every leaf is a tensor."""
    if isinstance(tree, tuple):
        return tuple(as_arrays(value) for value in tree)
    if not isinstance(tree, dict):
        assert type(tree) is torch.Tensor and tree.device.type == "cpu" and not tree.requires_grad
        return tree.numpy().copy()
    return {key: as_arrays(value) for key, value in tree.items()}


def final_observations(batch, ended):
    """The ended rows of a batch, one by one; else None."""
    rows = np.full(len(ended), None, dtype=object)
    for row in np.flatnonzero(ended):
        one = {key: value[row] for key, value in batch.items()} if isinstance(batch, dict) else None
        rows[row] = batch[row] if one is None else one
    return list(rows)


def tensors_in(tree):
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [t for part in tree for t in tensors_in(part)] if isinstance(tree, tuple) else [tree]


def assert_equal(returned, expected):
    """The same values as those of the environment of arrays, types included."""
    arrays, expected = as_arrays(returned), list(expected)
    if "final_obs" in expected[-1]:
        expected[-1] = {**expected[-1], "final_obs": list(expected[-1]["final_obs"])}
        final = final_observations(arrays[-1]["final_obs"], arrays[-1]["_final_obs"])
        arrays[-1]["final_obs"] = final
    np.testing.assert_equal(arrays, tuple(expected))
    if len(arrays) > 2:
        assert returned[1].dtype == torch.float32
        assert returned[2].dtype == returned[3].dtype == torch.bool


@every_id
@every_mode
def test_same_as_arrays_and_no_memory_is_used_again(tiny_file, env_id, mode):
    options = dict(autoreset_mode=mode, terminate_on_success=True, delta=1.5, directions="sefa")
    env = make_vec(env_id, tiny_file, tensors=True, **options)
    arrays = make_vec(env_id, tiny_file, tensors=False, **options)
    seen, kept = set(), []  # kept alive, so that no memory is given out anew

    def compare(returned, expected):
        assert_equal(returned, expected)
        memory = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(returned)}
        assert not memory & seen
        seen.update(memory)
        kept.append(returned)
        for tensor in tensors_in(returned):
            tensor.fill_(1)  # nobody else reads it

    compare(env.reset(seed=3), arrays.reset(seed=3))
    ends = np.zeros(2, dtype=int)
    for actions in sampled(arrays, 30):
        expected = arrays.step(actions)
        compare(env.step(torch.from_numpy(actions)), expected)
        ends += [expected[2].sum(), expected[3].sum()]
        ended = expected[2] | expected[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            masks = [torch.from_numpy(ended.copy()), ended.copy()]
            options = [{"reset_mask": mask} for mask in masks]
            compare(env.reset(options=options[0]), arrays.reset(options=options[1]))
            assert masks[0].tolist() == ended.tolist()
    assert ends.all()


@every_id
def test_observations_are_in_the_observation_space(tiny_file, env_id):
    env = make_vec(env_id, tiny_file, tensors=True)
    env.reset(seed=0)
    observation, *_ = env.step(torch.from_numpy(sampled(env, 1)[0]))
    observation = as_arrays(observation)
    assert observation in env.observation_space


BAD_ACTIONS = {
    "floats": torch.zeros(2),
    "negative": torch.tensor([0, -1]),
    "too great": torch.tensor([16, 0]),
    "too few": torch.zeros(1, dtype=torch.int64),
    "nested": torch.zeros(1, 2, dtype=torch.int64),
    "bool": torch.zeros(2, dtype=torch.bool),
    "none": None,
    "text": ["0", "1"],
}


@pytest.mark.parametrize("actions", BAD_ACTIONS.values(), ids=BAD_ACTIONS)
def test_wrong_actions_are_refused_on_the_cpu(tiny_file, actions):
    env = make_vec("LatentEdit-v0", tiny_file, 2, tensors=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^actions are [^\n]*; allowed: MultiDiscrete[^\n]*$"):
        env.step(actions)
    env.step(torch.zeros(2, dtype=torch.int32))


@pytest.mark.parametrize("device_waits", [True, False])
def test_actions_with_a_gradient_leave_none_behind(tiny_file, device_waits):
    env = make_vec("LatentEditContinuous-v0", tiny_file, 2, tensors=True)
    env._never_waits = not device_waits
    env.reset(seed=0)
    for _ in range(3):
        returned = env.step(torch.full((2, LATENT_DIM), 0.5, requires_grad=True))
        assert not any(tensor.requires_grad for tensor in tensors_in(returned))
    assert not env.core.latents.requires_grad


# Away from the CPU --------------------------------------------------------------------------------


@pytest.fixture
def on_meta(monkeypatch):
    """An environment that has begun on a device whose values nobody can look at."""

    def on_meta(env_id, **options):
        env = make_vec(env_id, tiny_backbone(), 4, None, tensors=True, device="meta", **options)
        with monkeypatch.context() as patch:  # a reset may wait
            patch.setattr(EditCore, "raise_unless_finite", lambda self: None)
            env.reset(seed=0)
        return env

    return on_meta


def actions_on(device, env):
    return torch.from_numpy(sampled(env, 1)[0]).to(device)


@every_id
@pytest.mark.parametrize("bound", [2.5, "sphere"])
def test_a_step_never_waits_for_the_device(on_meta, env_id, bound):
    identity = {} if "Goal" in env_id else {"identity_weight": 1.0}
    env = on_meta(env_id, latent_bound=bound, **identity)
    actions = actions_on("meta", env)
    with pytest.raises((RuntimeError, NotImplementedError)):
        actions.sum().item()  # what waiting would do there
    for _ in range(3):
        returned = env.step(actions)
    shapes = {tuple(tensor.shape)[:1] for tensor in tensors_in(returned)}
    assert {tensor.device.type for tensor in tensors_in(returned)} == {"meta"}
    assert shapes == {(4,)}
    expected = make_vec(env_id, tiny_backbone(), 4, None, tensors=True, **identity)
    expected.reset(seed=0)
    others = expected.step(actions_on("cpu", expected))
    for one, other in zip(tensors_in(returned), tensors_in(others), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype


def test_terminating_on_success_has_to_wait(on_meta):
    env = on_meta("LatentEdit-v0", terminate_on_success=True)
    with pytest.raises((RuntimeError, NotImplementedError)):
        env.step(actions_on("meta", env))


@pytest.mark.parametrize(
    ("env_id", "actions", "message"),
    [
        (IDS[0], torch.zeros(4), "torch.float32 (4,); expected a tensor torch.int64 (4,)"),
        (IDS[0], torch.zeros(3).long(), "torch.int64 (3,); expected a tensor torch.int64 (4,)"),
        (IDS[0], [0, 0, 0, 0], "[0, 0, 0, 0]; expected a tensor torch.int64 (4,)"),
        (IDS[0], np.zeros((2, 2)), "array([[0., 0.], [0., 0.]]); expected a tensor torch.int64"),
        (IDS[0], None, "None; expected a tensor torch.int64 (4,)"),
        (IDS[1], torch.zeros(4, 8).double(), "torch.float64 (4, 8); expected a tensor torch.float"),
        (IDS[1], torch.zeros(8), "torch.float32 (8,); expected a tensor torch.float32 (4, 8)"),
    ],
    ids=str,
)
def test_wrong_tensors_are_refused(on_meta, env_id, actions, message):
    env = on_meta(env_id)
    if isinstance(actions, torch.Tensor):
        actions = actions.to("meta")
    with pytest.raises(ValueError, match=f"^actions are {re.escape(message)}"):
        env.step(actions)
    env.step(actions_on("meta", env))  # it goes on


@every_mode
def test_what_is_not_finite_shows_at_once_and_is_raised_at_the_episodes_end(
    tiny_file, monkeypatch, mode
):
    options = dict(tensors=True, autoreset_mode=mode)
    env, untouched = (make_vec("LatentEdit-v0", tiny_file, 2, 4, **options) for _ in "ab")
    for each in (env, untouched):  # as away from the CPU
        each._never_waits, each.core.check_at_once = True, False
        each.reset(seed=0)
    zeros = torch.zeros(2, dtype=torch.int64)
    assert torch.isfinite(env.step(zeros)[1]).all()
    discriminator = env.core.assessor.networks["discriminator"]
    with monkeypatch.context() as patch:
        spoilt = torch.tensor([1.0, float("nan")])
        patch.setitem(
            env.core.assessor.networks, "discriminator", lambda x: discriminator(x) * spoilt
        )
        assert torch.isfinite(env.step(zeros)[1]).tolist() == [True, False]
    env.step(zeros)  # finite again, but the episode is not to be trusted
    with pytest.raises(FloatingPointError, match=r"^the backbone's networks returned a score that"):
        env.step(zeros)
    with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before step$"):
        env.step(zeros)
    for one, other in zip(env.reset(seed=8), untouched.reset(seed=8), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for _ in range(4 if mode == AutoresetMode.DISABLED else 9):
        rewards = env.step(zeros)[1], untouched.step(zeros)[1]
        assert torch.equal(*rewards) and torch.isfinite(rewards[0]).all()
