import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from backbones import LATENT_DIM
from edits import latents_of, make, make_vec
from stable_baselines3 import PPO, SAC, TD3

from gan_backbones import load
from gan_backbones.latents.directions import direction_matrix
from gan_backbones.networks import Generator

ENV_ID = "LatentEditContinuous-v0"
MATRIX = [[0.5] * LATENT_DIM, [1.0] + [0.0] * (LATENT_DIM - 1), [0.1, -2.0] * (LATENT_DIM // 2)]
DIRECTIONS = ["coordinates", "attributes", "sefa", "pca", MATRIX]
every_set = pytest.mark.parametrize("directions", DIRECTIONS, ids=lambda d: str(d)[:11])


def random_actions(steps, rows, size):
    rng = np.random.default_rng(0)
    # Values of few digits make sums that lie between two floats: the hard case for rounding.
    actions = rng.uniform(-1, 1, (steps, rows, size)).astype(np.float32)
    actions[::3] = np.round(4 * actions[::3]) / 4
    return actions


def bounded(latents, bound):
    if bound == "sphere":
        return latents * math.sqrt(LATENT_DIM) / np.linalg.norm(latents, axis=-1, keepdims=True)
    return latents.clip(-bound, bound)


@every_set
@pytest.mark.parametrize("bound", [1.5, 100.0, "sphere"])
def test_moves_by_delta_times_the_directions_sum(tiny_file, directions, bound):
    matrix = direction_matrix(load(tiny_file), directions).double().numpy()
    if directions == "coordinates":
        np.testing.assert_array_equal(matrix, np.eye(LATENT_DIM))
    env = make(ENV_ID, tiny_file, 20, directions=directions, latent_bound=bound, delta=0.3)
    assert env.action_space.shape == (len(matrix),)
    observation, _ = env.reset(seed=0)
    for action in random_actions(20, 1, len(matrix))[:, 0]:
        expected = bounded(latents_of(env)[0] + 0.3 * action.astype(float) @ matrix, bound)
        observation, *_ = env.step(action)
        np.testing.assert_allclose(observation[:LATENT_DIM], expected, atol=2e-6)
        np.testing.assert_array_equal(observation[:LATENT_DIM], latents_of(env)[0])
        assert observation in env.observation_space


@every_set
@pytest.mark.parametrize("bound", [2.5, "sphere"])
def test_rows_have_exactly_the_latents_of_single_environments(tiny_file, directions, bound):
    options = dict(directions=directions, latent_bound=bound)
    env = make_vec(ENV_ID, tiny_file, 5, None, **options)
    env.reset(seed=10)
    actions = random_actions(30, 5, env.single_action_space.shape[0])
    latents = [latents_of(env)]
    for batch in actions:
        env.step(batch)
        latents.append(latents_of(env))
    latents = np.array(latents)
    assert len(np.unique(latents)) > 0.5 * latents.size  # not all at the bound
    for row in range(5):
        single = make(ENV_ID, tiny_file, 40, **options)
        single.reset(seed=10 + row)
        for step, action in enumerate(actions[:, row]):
            np.testing.assert_array_equal(latents_of(single)[0], latents[step, row])
            single.step(action)
        np.testing.assert_array_equal(latents_of(single)[0], latents[-1, row])


@pytest.mark.parametrize("bound", [2.5, "sphere"])
def test_so_they_have_with_many_directions_in_a_large_space(tiny_file, bound):
    """Where sums of single precision depend on the batch."""
    tiny = load(tiny_file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = dataclasses.replace(tiny, generator=Generator(100, 4, 3, 16), latent_dim=100)
        matrix = torch.nn.functional.normalize(torch.randn(60, 100)).tolist()
    options = dict(directions=matrix, latent_bound=bound)
    env = make_vec(ENV_ID, backbone, 40, None, **options)
    env.reset(seed=0)
    actions = random_actions(6, 40, 60)
    for batch in actions:
        env.step(batch)
    for row in range(40):
        single = make(ENV_ID, backbone, **options)
        single.reset(seed=row)
        for action in actions[:, row]:
            single.step(action)
        np.testing.assert_array_equal(latents_of(single)[0], latents_of(env)[row])


def test_standing_still_pays_nothing(tiny_file):
    env = make(ENV_ID, tiny_file)
    before, _ = env.reset(seed=0)
    after, reward, *_, info = env.step(np.zeros(LATENT_DIM))
    np.testing.assert_array_equal(after, before)
    assert reward == 0.0 and info["drift"] == 0.0 and info["kept"] == 1.0


@pytest.mark.parametrize("convert", [np.float64, np.float16, np.ndarray.tolist, torch.from_numpy])
def test_numbers_of_any_type_are_the_same(tiny_file, convert):
    action = np.array([0.5, -0.25, 1, -1, 0, 0, 0.125, 0], np.float32)
    converted = convert(action)
    for rows in (None, 2):
        results = []
        for given in (action, converted):
            env = make_vec(ENV_ID, tiny_file, 2) if rows else make(ENV_ID, tiny_file).unwrapped
            env.reset(seed=0)
            if rows:
                given = torch.stack([given] * 2) if torch.is_tensor(given) else [given] * 2
            results.append(env.step(given))
        np.testing.assert_equal(*results)


HALF = np.full(LATENT_DIM, 0.5, np.float32)
BAD_ACTIONS = {
    "above": HALF + np.float32(0.500001),
    "below": -3 * HALF,
    "nan": HALF * np.float32("nan"),
    "infinite": HALF * np.float32("inf"),
    "too few": HALF[:-1],
    "nested": HALF[None],
    "scalar": 0.5,
    "empty": [],
    "none": None,
    "text": ["0.5"] * LATENT_DIM,
    "complex": HALF * 1j,
    "bool": HALF > 0,
    "objects": HALF.astype(object),
    "ragged": [0.5, [0.5]],
}


@pytest.mark.parametrize("action", BAD_ACTIONS.values(), ids=BAD_ACTIONS)
def test_actions_outside_the_box_are_refused(tiny_file, action):
    env = make(ENV_ID, tiny_file).unwrapped
    vector = make_vec(ENV_ID, tiny_file, 2)
    for each, given in ((env, action), (vector, [action, action])):
        each.reset(seed=0)
        before = latents_of(each)
        with pytest.raises(ValueError, match=r"^actions? (is|are) [^\n]*; allowed: Box[^\n]*$"):
            each.step(given)
        np.testing.assert_array_equal(latents_of(each), before)
        each.step(np.broadcast_to(HALF, each.action_space.shape))  # it goes on


def test_the_message_shows_the_action(tiny_file):
    env = make(ENV_ID, tiny_file, directions=MATRIX).unwrapped
    env.reset(seed=0)
    message = "action is [0.5, 2.0, 0]; allowed: Box(-1.0, 1.0, (3,), float32)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        env.step([0.5, 2.0, 0])


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (PPO, dict(n_steps=16, batch_size=16, n_epochs=1)),
        (SAC, dict(learning_starts=8, batch_size=8)),
        (TD3, dict(learning_starts=8, batch_size=8)),
    ],
)
def test_stable_baselines_learns_on_it(tiny_file, algorithm, options):
    env = make(ENV_ID, tiny_file, directions="attributes")
    model = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, **options)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(24)
    after = model.policy.parameters()
    assert not all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    observation, _ = env.reset()
    assert env.step(model.predict(observation)[0])[0] in env.observation_space
