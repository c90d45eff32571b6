import json
import random
import time
from dataclasses import astuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from edits import make_vec
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from safetensors import safe_open
from safetensors.torch import save_file
from scripted import Chain, Counting, vector
from stable_baselines3.common.evaluation import evaluate_policy

from agents import Reinforce, evaluate
from agents.hyperparameters import settings
from agents.reinforce import Episodes, rewards_to_go, whole_returns
from agents.space_json import space_from_json, space_to_json
from gan_backbones.utils.files import CHECKED

EVERY_MODE = pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.name)


def small(env=None, **options):
    return Reinforce(env or Counting(), **{"net_arch": (8,), "n_episodes": 4, "seed": 0, **options})


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent._saved_network().parameters()])


def said(call, *args, **options):
    """The one line that a ValueError says."""
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is played -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize("mode", [None, *AutoresetMode], ids=lambda m: m.name if m else "single")
def test_episodes_are_recorded_as_they_happened(mode, ends):
    envs = [Counting(length, ends, tag, start=4) for tag, length in enumerate((3, 1, 5))]
    envs = envs if mode else envs[:1]
    agent = small(vector(*envs, mode=mode) if mode else envs[0], n_episodes=7)
    for batch in range(2):
        before = [(len(env.log), env.episode) for env in envs]
        steps = agent.num_timesteps
        episodes = agent._play()
        assert agent.num_timesteps - steps == sum(
            len(env.log) - count for env, (count, _) in zip(envs, before, strict=True)
        )
        counted = episodes.mask
        columns = (episodes.observations, episodes.actions, episodes.rewards, episodes.dones)
        found = zip(*(column[counted].tolist() for column in columns), strict=True)
        happened = []
        for row, (env, (count, episode)) in enumerate(zip(envs, before, strict=True)):
            share = (7 + row) // 3 if mode else 7
            happened += [
                (o.tolist(), action - 4, reward, bool(n[2] == env.length))
                for o, action, reward, n, _ in env.log[count:]
                if episode < o[1] <= episode + share
            ]
        assert sorted(found) == sorted(happened)
        assert (episodes.timesteps[counted] == episodes.observations[counted][:, 2]).all()
        assert [env.seeds[0] for env in envs] == [0, 1, 2][: len(envs)]
        assert not any(seed is not None for env in envs for seed in env.seeds[1:])
        returns = [env.length * (env.length + 1) / 2 for env in envs]
        assert set(agent.episode_returns) == set(returns)
        assert len(agent.episode_returns) == 7 * (batch + 1)


def test_learning_ends_with_whole_episodes():
    env, rounds = Counting(3), []
    agent = small(env, n_episodes=4).learn(25, callback=lambda a: rounds.append(a.num_timesteps))
    assert rounds == [12, 24, 36]
    agent.learn(1, callback=[lambda a: rounds.append("first"), lambda a: rounds.append("second")])
    assert rounds[3:] == ["first", "second"]
    assert agent.num_timesteps == len(env.log) == 48


class Reusing(Counting):
    """Always returns the same array."""

    def observe(self):
        self.array = getattr(self, "array", np.zeros(3, np.float32))
        self.array[:] = super().observe()
        return self.array


def test_observations_are_copied():
    env = gym.vector.SyncVectorEnv(
        [lambda: Reusing(4)], copy=False, autoreset_mode=AutoresetMode.DISABLED
    )
    episodes = small(env, n_episodes=1)._play()
    assert episodes.observations[:, 0, 2].tolist() == [0, 1, 2, 3]


class Bad(Counting):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, self.bad, *rest


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_reward_that_is_not_finite(bad):
    envs = [Counting(), Bad(tag=1)]
    envs[1].bad = bad
    agent = small(vector(*envs))
    before = weights(agent)
    assert said(agent.learn, 10) == f"the environment returned the reward {bad}; it must be finite"
    assert torch.equal(weights(agent), before)


# Returns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_returns_by_hand(gamma):
    rng = np.random.default_rng(0)
    lengths = [[4, 1, 3], [2, 5, 1], [8]]
    rewards, ended, beyond, ages = (torch.zeros(8, 3) for _ in range(4))
    expected = np.zeros((2, 8, 3))
    for row, shares in enumerate(lengths):
        step = 0
        for length in shares:
            paid, after = rng.normal(size=length), rng.normal()
            own = slice(step, step + length)
            rewards[own, row] = torch.tensor(paid, dtype=torch.float32)
            ages[own, row] = torch.arange(length, dtype=torch.float32)
            ended[step + length - 1, row] = 1
            beyond[step + length - 1, row] = after
            for age in range(length):
                later = [*paid[age:], after]
                expected[0, step + age, row] = sum(gamma**k * r for k, r in enumerate(later))
            expected[1, own, row] = expected[0, step, row]
            step += length
    to_go = rewards_to_go(rewards, ended.bool(), beyond, gamma)
    np.testing.assert_allclose(to_go, expected[0], atol=1e-5)
    np.testing.assert_allclose(whole_returns(to_go, ages), expected[1], atol=1e-5)


@pytest.mark.parametrize(
    ("ends", "options", "beyond"),
    [
        ("truncated", {}, 10 * 3),
        ("terminated", {}, 0),
        ("truncated", {"baseline": False}, 0),
        ("truncated", {"reward_to_go": False}, 0),
    ],
)
@EVERY_MODE
def test_only_truncation_leaves_something_beyond(mode, ends, options, beyond):
    env = vector(Counting(3, ends), Counting(3, ends), mode=mode)
    agent = small(env, net_arch=(), gamma=0.5, **options)
    if agent.baseline:
        with torch.no_grad():
            agent.baseline_network[0].weight.copy_(torch.tensor([[0.0, 0.0, 10.0]]))  # the count
            agent.baseline_network[0].bias.zero_()
    episodes = agent._play()
    found = agent._returns(episodes)[episodes.mask]
    to_go = [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * beyond)), 2 + 0.5 * (3 + 0.5 * beyond)]
    to_go.append(3 + 0.5 * beyond)
    expected = to_go if agent.reward_to_go else to_go[:1]
    assert set(found.tolist()) == set(expected)


# The gradient -------------------------------------------------------------------------------------


class Forward(gym.Env):
    """Random moves from state 0 to higher states, seen one-hot, until one leads out of them.

    Small enough for the exact gradient: what is expected of a state follows from those after it.
    """

    STATES, ACTIONS = 6, 2
    rng = np.random.default_rng(5)
    # [state, action, what comes next]: one of the three states after it.
    MOVES = rng.dirichlet(np.ones(3), (STATES, ACTIONS))
    REWARDS = rng.normal(2.0, 1.0, (STATES, ACTIONS))

    def __init__(self):
        self.observation_space = spaces.Box(0, 1, (self.STATES,), np.float32)
        self.action_space = spaces.Discrete(self.ACTIONS)

    def observe(self):
        return np.eye(self.STATES + 3, self.STATES, dtype=np.float32)[self.state]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return self.observe(), {}

    def step(self, action):
        reward = self.REWARDS[self.state, action]
        self.state += 1 + self.np_random.choice(3, p=self.MOVES[self.state, action])
        return self.observe(), float(reward), self.state >= self.STATES, False, {}

    @classmethod
    def values(cls, policy, gamma):
        """The exact values of all states, which know their gradient; 0 outside."""
        chances = policy(torch.eye(cls.STATES)).probs.double()
        values = [torch.zeros((), dtype=torch.double)] * (cls.STATES + 3)
        for state in reversed(range(cls.STATES)):
            values[state] = sum(
                chance * (reward + gamma * sum(p * v for p, v in zip(move, later, strict=True)))
                for chance, reward, move, later in zip(
                    chances[state],
                    cls.REWARDS[state],
                    cls.MOVES[state],
                    [values[state + 1 : state + 4]] * cls.ACTIONS,
                    strict=True,
                )
            )
        return values[: cls.STATES]


GAMMA = 0.8


def gradient(loss, policy):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, policy.parameters())])


@pytest.fixture(scope="module")
def played():
    """A policy and 4000 of its episodes, five at a time."""
    env = vector(*(Forward() for _ in range(50)), mode=AutoresetMode.SAME_STEP)
    agent = Reinforce(env, net_arch=(), n_episodes=50, seed=0)
    with torch.no_grad():
        agent.policy.net[0].weight.normal_(generator=torch.Generator().manual_seed(1))
    batches = []
    for _ in range(80):
        episodes = astuple(agent._play())
        groups = zip(*(column.split(5, dim=1) for column in episodes), strict=True)
        batches += [Episodes(*group) for group in groups]
    return agent.policy, batches


def estimates(played, exact_baseline=False, **options):
    """One gradient from each five episodes, ``[B, P]``; per episode, not per step."""
    policy, batches = played
    agent = Reinforce(
        Forward(),
        gamma=GAMMA,
        net_arch=(),
        baseline=exact_baseline,
        normalize_advantage=False,
        **{"discount_states": True, **options},
    )
    agent.policy = policy
    if exact_baseline:
        with torch.no_grad():
            values = torch.stack(Forward.values(policy, GAMMA))
            agent.baseline_network[0].weight.copy_(values[None])
            agent.baseline_network[0].bias.zero_()
    found = []
    for episodes in batches:
        returns = agent._returns(episodes)[episodes.mask]
        loss = agent._policy_loss(episodes, returns) * episodes.mask.sum() / 5
        found.append(-gradient(loss, policy).double())
    return torch.stack(found)


def deviation(found, exact):
    """The largest distance of the mean from the exact gradient, in standard errors."""
    errors = found.std(dim=0) / len(found) ** 0.5
    return float(((found.mean(dim=0) - exact).abs() / errors).max())


def test_the_gradient_has_the_exact_mean_and_ever_lower_variance(played):
    policy, _ = played
    exact = gradient(Forward.values(policy, GAMMA)[0], policy).double()
    whole = estimates(played, reward_to_go=False)
    to_go = estimates(played)
    baseline = estimates(played, exact_baseline=True)
    for found in (whole, to_go, baseline):
        assert deviation(found, exact) < 4  # of 14 numbers
    spread = [float(found.var(dim=0).sum()) for found in (whole, to_go, baseline)]
    assert spread[0] > 1.2 * spread[1] > 1.2 * 1.2 * spread[2]
    # Such a test would notice: without the discount of states the mean is another.
    assert deviation(estimates(played, discount_states=False), exact) > 8


def test_the_entropy_bonus(played):
    policy, batches = played
    agent = small(Forward(), net_arch=(), baseline=False)
    agent.policy = policy
    found = []
    for agent.ent_coef in (0.0, 0.3):
        returns = agent._returns(batches[0])[batches[0].mask]
        found.append(agent._policy_loss(batches[0], returns).item())
    chances = policy(batches[0].observations[batches[0].mask]).probs
    entropy = -(chances * chances.log()).sum(dim=1).mean().item()
    assert found[0] - found[1] == pytest.approx(0.3 * entropy, rel=1e-4)


def test_normalised_advantages_do_not_depend_on_the_rewards_scale(played):
    policy, batches = played
    agent = small(Forward(), net_arch=(), baseline=False)
    agent.policy = policy
    returns = agent._returns(batches[0])[batches[0].mask]
    losses = [agent._policy_loss(batches[0], r).item() for r in (returns, 100 * returns - 7)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    agent.normalize_advantage = False
    losses = [agent._policy_loss(batches[0], r).item() for r in (returns, 100 * returns)]
    assert losses[1] == pytest.approx(100 * losses[0], rel=1e-4)


def test_the_baseline_is_fitted_after_it_was_used():
    agent = small(Chain(), max_grad_norm=1e9, normalize_advantage=False)
    episodes = agent._play()
    returns = agent._returns(episodes)[episodes.mask]
    expected = gradient(agent._policy_loss(episodes, returns), agent.policy)
    before = weights(agent)
    agent._update(episodes)
    found = torch.cat([p.grad.flatten() for p in agent.policy.parameters()])
    torch.testing.assert_close(found, expected)
    assert (weights(agent) != before).any()


# What is learned ----------------------------------------------------------------------------------


def chains(count=8):
    return vector(*(Chain() for _ in range(count)), mode=AutoresetMode.SAME_STEP)


def test_the_baseline_learns_the_values_of_a_chain():
    gamma = 0.7
    agent = Reinforce(
        chains(),
        learning_rate=1e-9,
        gamma=gamma,
        n_episodes=256,
        baseline_steps=20,
        net_arch=(32,),
        seed=0,
    ).learn(20_000)
    moves = np.zeros((5, 5))
    for state in range(5):
        moves[state, max(state - 1, 0)] += 0.5
        if state < 4:
            moves[state, state + 1] += 0.5
    values = np.linalg.solve(np.eye(5) - gamma * moves, np.array([0, 0, 0, 0, 0.5]))
    with torch.no_grad():
        found = agent._values(torch.eye(5)).numpy()
    # Without the values beyond the cut after three steps, state 0 would be worth nothing.
    np.testing.assert_allclose(found, values, atol=0.04)


@pytest.mark.parametrize("options", [{}, {"baseline": False}, {"reward_to_go": False}], ids=str)
def test_a_chain_is_learned(options):
    agent = Reinforce(
        chains(), learning_rate=0.02, gamma=0.7, n_episodes=32, net_arch=(32,), seed=0, **options
    ).learn(6000)
    first = 0 if agent.baseline and agent.reward_to_go else 2  # else three steps are all there is
    assert agent.predict(np.eye(5))[0].tolist()[first:] == [1] * (5 - first)


class Aim(gym.Env):
    """One step: the nearer the action is to a point that the observation shifts, the better."""

    LOW, HIGH = np.array([[0.0, -1.0]], np.float32), np.array([[4.0, 0.0]], np.float32)

    def __init__(self):
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Box(self.LOW, self.HIGH, dtype=np.float32)
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shift = self.np_random.choice([-1.0, 1.0])
        return np.array([self.shift], np.float32), {}

    def step(self, action):
        assert action in self.action_space
        self.taken.append(action)
        aim = np.array([[2.0 + self.shift, -0.25]])
        distance = ((action - aim) / (self.HIGH - self.LOW)) ** 2
        return np.zeros(1, np.float32), -float(distance.sum()), True, False, {}


def test_continuous_actions_are_learned():
    env = vector(*(Aim() for _ in range(32)), mode=AutoresetMode.SAME_STEP)
    agent = Reinforce(env, learning_rate=0.03, n_episodes=32, net_arch=(8,), seed=0).learn(5000)
    actions, _ = agent.predict(np.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(actions[:, 0], [[1, -0.25], [3, -0.25]], atol=0.25)
    assert (agent.policy.log_std < -0.8).all()


def test_continuous_actions_are_clipped_for_the_environment_only():
    env = Aim()
    agent = small(env, n_episodes=400)
    actions = agent._play().actions[:, 0]
    assert actions.shape == (400, 2)
    assert 0.25 < (actions.abs() > 1).float().mean() < 0.4  # of a standard normal, 0.317
    middle, half = np.array([2, -0.5]), np.array([2, 0.5])
    expected = np.clip(middle + half * actions.numpy(), Aim.LOW, Aim.HIGH)
    np.testing.assert_allclose(np.concatenate(env.taken), expected, atol=1e-6)


@pytest.mark.parametrize(
    "bounds", [(-np.inf, np.inf), (0, np.inf), (-3.4e38, 3.4e38)], ids=["none", "half", "huge"]
)
def test_boxes_without_width(bounds):
    env = Counting()
    env.action_space = spaces.Box(*bounds, (2,), np.float32)
    actions, _ = small(env).predict(np.zeros((2000, 3)), deterministic=False)
    assert actions.dtype == np.float32
    positive = actions[actions > 0]
    assert np.quantile(positive, 0.68) == pytest.approx(1.0, abs=0.15)
    assert (actions >= bounds[0]).all()


def test_the_learning_rate_falls_linearly():
    agent = small(Counting(3), n_episodes=4, learning_rate=0.01, final_learning_rate=0.002)
    rates = []
    agent.learn(120, callback=lambda a: rates.append(a.optimizer.param_groups[0]["lr"]))
    np.testing.assert_allclose(rates, 0.01 - 0.008 * np.arange(10) / 10)


@pytest.mark.parametrize("env_id", ["LatentEdit-v0", "LatentEditContinuous-v0"])
@EVERY_MODE
def test_edits_are_learned_from(mode, env_id, tiny_file):
    env = make_vec(env_id, tiny_file, autoreset_mode=mode)
    agent = small(env)
    before = weights(agent)
    agent.learn(50)
    assert agent.num_timesteps == 84  # two batches; two episodes of 7 steps in each of 3 rows
    assert weights(agent).isfinite().all()
    assert (weights(agent) != before).any()
    assert len(evaluate(agent, env, 3)) == 3


@EVERY_MODE
def test_environments_of_tensors(mode, tiny_file):
    usual, tensors = (
        small(make_vec("LatentEdit-v0", tiny_file, autoreset_mode=mode, tensors=given)).learn(50)
        for given in (False, True)
    )
    assert torch.equal(weights(usual), weights(tensors))


# Seeds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Chain, Aim])
def test_the_seed_decides(kind):
    first, again, other = (small(kind(), seed=seed).learn(50) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    fresh = [weights(small(seed=None)) for _ in range(2)]
    assert not torch.equal(*fresh)


@pytest.mark.parametrize("kind", [Chain, Aim])
def test_global_random_states_stay_untouched(kind, tmp_path):
    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    agent = small(kind()).learn(50)
    agent.predict(np.zeros((5, *agent.observation_space.shape)), deterministic=False)
    agent.save(tmp_path / "agent")
    Reinforce.load(tmp_path / "agent", kind()).learn(50)
    assert states() == before


# predict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 5, -2])
def test_predict(start):
    agent = small(Counting(start=start))
    torch.nn.init.normal_(agent.policy.net[-1].weight, generator=torch.Generator().manual_seed(0))
    observations = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * 10
    actions, state = agent.predict(observations, state="kept")
    assert state == "kept"
    assert (actions.shape, actions.dtype) == ((40,), np.int64)
    assert len(set(actions.tolist())) > 1
    with torch.no_grad():
        best = agent.policy.net(torch.from_numpy(observations)).argmax(dim=1).numpy() + start
    assert (actions == best).all()
    for observation, action in zip(observations, actions, strict=True):
        single, _ = agent.predict(observation)
        assert single.shape == ()
        assert single == action
        assert agent.action_space.contains(single)


def test_predict_continuous():
    agent = small(Aim())
    torch.nn.init.normal_(agent.policy.net[-1].weight, generator=torch.Generator().manual_seed(0))
    actions, _ = agent.predict(np.array([[-1.0], [1.0]]))
    assert (actions.shape, actions.dtype) == ((2, 1, 2), np.float32)
    assert (actions[0] != actions[1]).all()
    single, _ = agent.predict(np.array([-1.0]))
    np.testing.assert_array_equal(single, actions[0])
    assert single in agent.action_space


def test_predict_draws_unless_deterministic():
    agent = small(Counting(start=5), net_arch=())
    with torch.no_grad():
        agent.policy.net[0].weight.zero_()
        agent.policy.net[0].bias.copy_(torch.log(torch.tensor([0.2, 0.7, 0.1])))
    observations = np.ones((4000, 3), np.float32)
    assert set(agent.predict(observations)[0].tolist()) == {6}
    actions, _ = agent.predict(observations, deterministic=False)
    np.testing.assert_allclose(np.bincount(actions - 5) / 4000, [0.2, 0.7, 0.1], atol=0.03)


def test_predict_refuses_other_observations():
    line = said(small().predict, np.zeros((2, 4)))
    assert line == "observation has shape (2, 4); expected (3,) or (N, 3)"


def test_others_evaluate_it():
    agent = small(Counting(3, start=2))
    mean, deviation = evaluate_policy(agent, Counting(3, start=2), 5, warn=False)
    assert (mean, deviation) == (6.0, 0.0)
    assert evaluate(agent, Counting(3, start=2), 5).mean("return") == 6.0


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("kind", [Counting, Aim])
def test_a_loaded_agent_acts_and_learns_alike(kind, baseline, tmp_path):
    agent = small(kind(), baseline=baseline).learn(40)
    agent.save(tmp_path / "agent")
    loaded = Reinforce.load(tmp_path / "agent", kind())
    assert torch.equal(weights(loaded), weights(agent))
    assert loaded.hyperparameters == agent.hyperparameters
    assert loaded.observation_space == agent.observation_space
    assert loaded.action_space == agent.action_space
    assert loaded.num_timesteps == agent.num_timesteps
    observations = np.random.default_rng(0).normal(size=(50, *agent.observation_space.shape))
    np.testing.assert_array_equal(loaded.predict(observations)[0], agent.predict(observations)[0])
    loaded.learn(10)
    assert loaded.num_timesteps >= agent.num_timesteps + 10
    assert not torch.equal(weights(loaded), weights(agent))


def test_numpy_hyperparameters_are_saved(tmp_path):
    small(seed=np.int64(3), learning_rate=np.float32(0.01), net_arch=np.array([8])).save(
        tmp_path / "agent"
    )
    loaded = Reinforce.load(tmp_path / "agent").hyperparameters
    assert (loaded["seed"], loaded["net_arch"]) == (3, [8])


def test_a_loaded_agent_without_environment(tmp_path):
    small().save(tmp_path / "agent")
    line = said(Reinforce.load(tmp_path / "agent").learn, 10)
    assert line == "the agent has no environment; pass env to load(), or call set_env()"


def test_an_agent_made_without_environment():
    late, usual = small(), small()
    late = Reinforce(None, **usual.hyperparameters)
    late.set_env(Counting())
    assert torch.equal(weights(late.learn(50)), weights(usual.learn(50)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=-2),
        spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
        spaces.Box(np.array([0.1, -2], np.float32), np.array([0.3, 7], np.float32)),
        spaces.Box(0, 255, (4,), np.uint8),
    ],
    ids=str,
)
def test_spaces_as_json(space):
    found = space_from_json(space_to_json(space))
    assert found == space
    assert found.dtype == space.dtype


def edit(path, change):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata["format"] = metadata["format"].removesuffix(CHECKED)  # or any change is damage
    change(metadata, tensors)
    save_file(tensors, path, metadata)


def edit_hyperparameters(path, **changes):
    def change(metadata, _):
        values = {**json.loads(metadata["hyperparameters"]), **changes}
        metadata["hyperparameters"] = json.dumps(values)

    edit(path, change)


DAMAGE = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        "damaged or not a safetensors file (",
    ),
    "another agent": (
        lambda path: edit(path, lambda m, _: m.update(format="latentgym-dqn-1")),
        "not a REINFORCE agent; its format is 'latentgym-dqn-1', expected 'latentgym-reinforce-2'",
    ),
    "missing weight": (
        lambda path: edit(path, lambda _, t: t.pop("policy.net.0.weight")),
        "the weights do not fit the agent: ",
    ),
    "no baseline": (
        lambda path: edit_hyperparameters(path, baseline=False),
        "the weights do not fit the agent: ",
    ),
    "other network": (
        lambda path: edit_hyperparameters(path, net_arch=[16]),
        "the weights do not fit the agent: ",
    ),
    "unknown hyper-parameter": (
        lambda path: edit_hyperparameters(path, speed=3),
        "its description is damaged (TypeError(",
    ),
    "hyper-parameters no JSON": (
        lambda path: edit(path, lambda m, _: m.update(hyperparameters="{")),
        "its description is damaged (JSONDecodeError(",
    ),
    "no action space": (
        lambda path: edit(path, lambda m, _: m.pop("action_space")),
        "its description is damaged (KeyError('action_space'))",
    ),
    "space is a list": (
        lambda path: edit(path, lambda m, _: m.update(observation_space="[]")),
        "its description is damaged (TypeError(",
    ),
    "unknown space": (
        lambda path: edit(path, lambda m, _: m.update(action_space='{"type": "Dict"}')),
        "its description is damaged (ValueError(",
    ),
    "no actions": (
        lambda path: edit(
            path, lambda m, _: m.update(action_space='{"type": "Discrete", "n": 0, "start": 0}')
        ),
        "its description is damaged (",
    ),
    "steps are text": (
        lambda path: edit(path, lambda m, _: m.update(num_timesteps="many")),
        "its description is damaged (ValueError(",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_gives_one_line_that_names_the_file(kind, tmp_path):
    path = tmp_path / "agent.safetensors"
    small(net_arch=(8, 4)).save(path)
    damage, expected = DAMAGE[kind]
    damage(path)
    assert said(Reinforce.load, path).startswith(f"{path}: {expected}")


# Refusals -----------------------------------------------------------------------------------------


def with_spaces(observations=None, actions=None):
    env = Counting()
    env.observation_space = observations or env.observation_space
    env.action_space = actions or env.action_space
    return env


@pytest.mark.parametrize(
    "space",
    [spaces.Box(0, 9, (2,), np.int64), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)],
    ids=str,
)
def test_other_action_spaces_are_refused(space):
    line = said(Reinforce, with_spaces(actions=space))
    assert line == f"action space is {space}; REINFORCE needs Discrete or a float Box"


def test_images_are_refused():
    space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    line = said(Reinforce, with_spaces(observations=space))
    assert line == f"observation space is {space}; REINFORCE takes no images"


@pytest.mark.parametrize(
    "env",
    [
        with_spaces(observations=spaces.Box(0, 1, (4,))),
        with_spaces(actions=spaces.Discrete(4)),
        with_spaces(actions=spaces.Box(0, 1, (3,))),
    ],
    ids=["observations", "actions", "kind"],
)
def test_an_environment_of_other_spaces_is_refused(env):
    agent = small()
    assert said(agent.set_env, env) == (
        f"the environment has observations {env.observation_space.shape} and actions "
        f"{env.action_space}; the agent was made for (3,) and Discrete(3)"
    )
    agent.learn(20)  # in the one that it had


def test_more_environments_than_episodes():
    line = said(small, vector(*(Counting() for _ in range(5))))
    assert line == "n_episodes is 4; it must be at least the number of environments, 5"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *((name, 0, "at least 1") for name in ("n_episodes", "baseline_steps")),
        *((name, -1, "at least 0") for name in ("ent_coef", "seed", "final_learning_rate")),
        *(("gamma", value, "from 0 to 1") for value in (-0.1, 1.1, float("nan"))),
        *(
            (name, value, "above 0")
            for name in ("learning_rate", "baseline_learning_rate", "max_grad_norm")
            for value in (0, float("nan"))
        ),
    ],
)
def test_hyperparameters_out_of_range(name, value, allowed):
    assert (
        said(Reinforce, Counting(), **{name: value}) == f"{name} is {value}; it must be {allowed}"
    )


@pytest.mark.parametrize("value", [(0,), (64, -1)])
def test_widths_out_of_range(value):
    line = said(Reinforce, Counting(), net_arch=value)
    assert line == f"net_arch is {list(value)}; each width must be at least 1"


# The control task ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_cartpole_is_solved(seed):
    began = time.perf_counter()
    known = settings("reinforce", "CartPole-v1")
    env = gym.make_vec("CartPole-v1", known.num_envs)
    agent = Reinforce(env, seed=seed, **known.hyperparameters).learn(known.timesteps)
    result = evaluate(agent, gym.make_vec("CartPole-v1", 100), 100, seed=2000)
    print(
        f"seed {seed}: {result.mean('return'):.1f} after {agent.num_timesteps} steps, "
        f"{time.perf_counter() - began:.0f} s"
    )
    assert result.mean("return") >= 475
