import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare

import latentgym  # noqa: F401  registers the environments
from agents import evaluate
from agents.search import MyopicGradientPolicy, RandomPolicy, adam_ascent

TASK = {"target": {"hair": "fro"}, "directions": "coordinates"}


def edits(tiny_file, num_envs=32, **options):
    options = {"max_episode_steps": 20, **TASK, **options}
    return gym.make_vec("LatentEdit-v0", num_envs=num_envs, backbone=tiny_file, **options)


def potentials(env, latents=None):
    """Of the rows' current latents, or of others in their place."""
    core = env.unwrapped.core
    latents = core.latents if latents is None else latents
    rows = torch.arange(len(latents))
    with torch.no_grad():
        return core.potential(core.assess(latents, rows), rows).sum(dim=0)


# adam_ascent --------------------------------------------------------------------------------------


def test_adam_climbs_the_potential(tiny_file):
    env = edits(tiny_file)
    env.reset(seed=3)
    before = potentials(env).numpy()
    result = adam_ascent(env, 30, seed=3)
    gained = potentials(env).numpy() - before
    np.testing.assert_allclose(result.values["return"], gained, atol=1e-4)
    assert (gained > 0).mean() > 0.95
    random = evaluate(RandomPolicy(env.single_action_space), edits(tiny_file), 32, seed=3)
    assert result.mean("return") > random.mean("return") + 1


def test_adam_reports_as_an_agents_evaluation_does(tiny_file):
    env = edits(tiny_file)
    result = adam_ascent(env, 5, seed=3)
    assert len(result) == 32
    assert set(result.values["length"]) == {5}
    agent = evaluate(RandomPolicy(env.single_action_space), env, 32, seed=3)
    assert set(result.values) == {name for name in agent.values if not name.startswith("rewards/")}
    # The same starts.
    starts = [sorted(found.values["scores/start_realism"]) for found in (result, agent)]
    np.testing.assert_allclose(*starts, atol=1e-5)
    core = env.unwrapped.core
    drift = result.values["drift"]
    assert (drift > 0).all()
    assert (drift <= 5 * 0.1 * core.latents.shape[1] ** 0.5 * 1.01).all()  # Adam's longest way


def test_adam_stays_within_the_bounds(tiny_file):
    env = edits(tiny_file, latent_bound=1.5)
    adam_ascent(env, 20, learning_rate=1.0)
    latents = env.unwrapped.core.latents
    assert latents.abs().max() == 1.5
    assert not latents.requires_grad


def test_adam_is_deterministic(tiny_file):
    first, again, other = (
        adam_ascent(edits(tiny_file, 4), 3, seed=seed).values["return"] for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


# MyopicGradientPolicy -----------------------------------------------------------------------------


@pytest.mark.parametrize("directions", ["coordinates", "sefa", "attributes"])
def test_the_myopic_choice_gains_most(directions, tiny_file):
    count = 5 if directions == "sefa" else None
    env = edits(tiny_file, directions=directions, num_directions=count)
    env.reset(seed=0)
    core, step = env.unwrapped.core, 1e-3
    gains = []
    for direction in core.directions:
        up, down = (potentials(env, core.latents + s * step * direction) for s in (1, -1))
        slope = (up - down) / (2 * step)
        gains += [slope, -slope]  # action 2 i goes up, 2 i + 1 down
    gains = torch.stack(gains, dim=1).numpy()
    observations = env.unwrapped._observations()
    actions, _ = MyopicGradientPolicy(env.unwrapped).predict(observations, deterministic=True)
    assert actions.shape == (32,)
    best = gains.max(axis=1)
    chosen = np.take_along_axis(gains, actions[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, best, rtol=0.05, atol=0.02)
    assert len(set((actions % 2).tolist())) == 2


def test_the_myopic_policy_beats_chance(tiny_file):
    env = edits(tiny_file, 16, delta=0.2)
    myopic = evaluate(MyopicGradientPolicy(env.unwrapped), env, 16, seed=1)
    random = evaluate(RandomPolicy(env.single_action_space), env, 16, seed=1)
    assert myopic.mean("return") > random.mean("return") + 1


def test_looking_does_not_move_the_edit(tiny_file):
    env = edits(tiny_file, 4)
    observations, _ = env.reset(seed=0)
    before = env.unwrapped.core.latents.clone()
    MyopicGradientPolicy(env.unwrapped).predict(observations)
    assert torch.equal(env.unwrapped.core.latents, before)


# RandomPolicy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 7])
def test_random_actions_are_uniform(start):
    policy = RandomPolicy(spaces.Discrete(6, start=start), seed=1)
    actions = np.concatenate([policy.predict(np.zeros((100, 3)))[0] for _ in range(60)])
    assert set(actions.tolist()) == set(range(start, start + 6))
    assert chisquare(np.bincount(actions - start)).pvalue > 1e-3


def test_random_actions_are_reproducible():
    def drawn(seed):
        return RandomPolicy(spaces.Discrete(6), seed).predict(np.zeros((50, 3)))[0].tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_random_actions_draw_nothing_from_the_environment(tiny_file):
    env = edits(tiny_file, 3)
    observations, _ = env.reset(seed=0)
    env.single_action_space.seed(5)
    sources = [env.single_action_space.np_random, *env.unwrapped._rngs]
    before = [str(source.bit_generator.state) for source in sources]
    RandomPolicy(env.single_action_space, seed=5).predict(observations)
    assert [str(source.bit_generator.state) for source in sources] == before
