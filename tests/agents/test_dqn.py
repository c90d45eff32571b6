import json
import random
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import tiny_backbone
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from safetensors import safe_open
from safetensors.torch import save_file
from scripted import Chain, Counting, Sides, vector
from stable_baselines3.common.evaluation import evaluate_policy

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, EvalCallback, Reinforce, evaluate
from agents.hyperparameters import settings
from agents.replay import Batch
from gan_backbones.utils.files import CHECKED

SMALL = {"net_arch": (8,), "learning_starts": 10, "batch_size": 8, "seed": 0, "dueling": False}


def small(env=None, **options):
    return DQN(env or Counting(), **{**SMALL, **options})


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent.q_network.parameters()])


def said(call, *args, **options):
    """The one line that a ValueError says."""
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is stored -----------------------------------------------------------------------------------


def stored(agent):
    """All distinct transitions, as tuples."""
    batch = agent.buffer.sample(50 * len(agent.buffer), torch.Generator().manual_seed(0))
    columns = (
        batch.observations,
        batch.actions,
        batch.rewards,
        batch.next_observations,
        batch.discounts,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {(tuple(o), a, r, tuple(n), round(d, 6)) for o, a, r, n, d in rows}


def logged(envs, gamma):
    return {
        (tuple(o.tolist()), int(a - env.action_space.start), r, tuple(n.tolist()), gamma * (not t))
        for env in envs
        for o, a, r, n, t in env.log
    }


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize("mode", [None, *AutoresetMode], ids=lambda m: m.name if m else "single")
def test_transitions_are_stored_as_they_happened(mode, ends):
    envs = [Counting(length, ends, tag, start=4) for tag, length in enumerate((3, 1, 5))]
    envs = envs if mode else envs[:1]
    agent = small(vector(*envs, mode=mode) if mode else envs[0], gamma=0.75)
    agent.learn(60)
    happened = sum(len(env.log) for env in envs)
    assert agent.num_timesteps == len(agent.buffer) == happened >= 60
    assert stored(agent) == logged(envs, 0.75)
    ended = {(o, a, r, n) for o, a, r, n, d in stored(agent) if d == 0}
    if ends == "truncated":
        assert not ended
    else:
        lengths = np.array([env.length for env in envs])
        assert ended
        assert all(n[2] == lengths[int(n[0])] for _, _, _, n in ended)
    returns = {env.length * (env.length + 1) / 2 for env in envs}
    assert set(agent.episode_returns) == returns


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.name)
def test_learning_in_two_parts_loses_nothing(mode):
    envs = [Counting(3, tag=0), Counting(4, "truncated", tag=1)]
    agent = small(vector(*envs, mode=mode), gamma=0.5)
    for _ in range(9):
        agent.learn(5)
    assert stored(agent) == logged(envs, 0.5)
    assert envs[0].seeds[0] == 0
    assert envs[1].seeds[0] == 1
    assert not any(seed is not None for env in envs for seed in env.seeds[1:])


def test_integer_observations():
    env = Counting(3, dtype=np.uint8)
    agent = small(env, gamma=0.5).learn(40)
    assert stored(agent) == logged([env], 0.5)
    assert agent.predict(np.array([0, 200, 3], np.uint8))[0].shape == ()


def test_double_observations():
    env = Counting(3, dtype=np.float64)
    agent = small(env, gamma=0.5).learn(40)
    assert stored(agent) == logged([env], 0.5)
    assert agent.predict(np.zeros((2, 3)))[0].shape == (2,)


class Bad(Counting):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, self.bad, *rest


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("count", [1, 100])
def test_a_reward_that_is_not_finite(bad, count):
    envs = [Counting(tag=i) for i in range(count - 1)] + [Bad()]
    envs[-1].bad = bad
    agent = small(vector(*envs), buffer_size=1000)
    assert said(agent.learn, 10) == f"the environment returned the reward {bad}; it must be finite"
    assert len(agent.buffer) == 0


# What is learned ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("double_q", "dueling"), [(True, False), (False, True)])
def test_values_of_a_chain(double_q, dueling):
    gamma = 0.7
    agent = DQN(
        Chain(),
        learning_rate=5e-3,
        learning_starts=200,
        batch_size=64,
        gamma=gamma,
        train_freq=1,
        gradient_steps=1,
        target_update_interval=50,
        tau=1.0,
        double_q=double_q,
        dueling=dueling,
        exploration_initial_eps=1.0,
        exploration_final_eps=1.0,
        net_arch=(32,),
        seed=0,
    ).learn(2500)
    best = gamma ** np.arange(4, -1, -1)  # of state s: 1 after 4 - s more steps
    expected = np.stack([gamma * best[[0, 0, 1, 2, 3]], best], axis=1)
    with torch.no_grad():
        found = agent.q_network(torch.eye(5)).numpy()
    # Bootstrapping from truncation as from termination would make state 0 worth half as much.
    np.testing.assert_allclose(found, expected, atol=0.04)
    assert agent.predict(np.eye(5))[0].tolist() == [1] * 5


@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 3},
        {"prioritized_replay": True},
        {"noisy": True},
        {"n_steps": 2, "prioritized_replay": True, "noisy": True, "dueling": True},
    ],
    ids=lambda options: " ".join(options),
)
def test_every_switch_learns_a_chain(options):
    agent = DQN(
        vector(*(Chain() for _ in range(4))),
        learning_rate=5e-3,
        learning_starts=200,
        gamma=0.7,
        target_update_interval=50,
        exploration_fraction=0.5,
        net_arch=(32,),
        seed=0,
        **options,
    ).learn(2500)
    assert agent.predict(np.eye(5))[0].tolist() == [1] * 5
    with torch.no_grad():
        found = agent.q_network(torch.eye(5)).amax(dim=1).numpy()
    np.testing.assert_allclose(found, 0.7 ** np.arange(4, -1, -1), atol=0.1)


IMAGE = spaces.Box(0, 255, (16, 16, 1), np.uint8)


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.name)
@pytest.mark.parametrize(
    "space",
    [
        IMAGE,
        spaces.Box(0, 255, (3, 16, 20), np.uint8),
        spaces.Dict({"image": IMAGE, "side": spaces.Box(0, 1, (1,))}),
    ],
    ids=["last", "first", "dict"],
)
def test_images_and_dicts(space, mode, tmp_path):
    envs = [Sides(space) for _ in range(4)]
    agent = DQN(
        vector(*envs, mode=mode),
        learning_rate=3e-3,
        learning_starts=100,
        batch_size=32,
        train_freq=4,
        gradient_steps=2,
        gamma=0.0,
        exploration_initial_eps=1.0,
        exploration_final_eps=1.0,
        net_arch=(32,),
        seed=0,
    ).learn(800)
    agent.save(tmp_path / "agent")
    loaded = DQN.load(tmp_path / "agent")
    assert loaded.observation_space == space
    for learner in (agent, loaded):
        assert evaluate(learner, vector(*envs, mode=mode), 40, seed=1).mean("return") == 1
    observation, _ = envs[0].reset()
    assert loaded.predict(observation)[0].shape == ()


def test_environments_of_tensors():
    options = dict(num_envs=4, backbone=tiny_backbone(), terminate_on_success=True)
    learned = [
        small(gym.make_vec("LatentEdit-v0", tensors=tensors, autoreset_mode=mode, **options)).learn(
            200
        )
        for mode in AutoresetMode
        for tensors in (False, True)
    ]
    for usual, tensors in (learned[:2], learned[2:4], learned[4:]):
        assert torch.equal(weights(usual), weights(tensors))


def test_noise_explores_instead_of_epsilon():
    agent = small(noisy=True, learning_starts=20).learn(40)
    assert agent.exploration_rate == 0
    observations = np.random.default_rng(0).random((1, 3)).astype(np.float32)
    values = []
    network = agent.q_network
    network.register_forward_hook(lambda _, args, found: values.append(found))
    for deterministic in (True, True, False, False):
        agent.predict(observations, deterministic=deterministic)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[2], values[3])
    assert not torch.equal(values[0], values[2])


def test_priorities_follow_the_errors():
    agent = small(prioritized_replay=True, prioritized_replay_alpha=1.0, learning_rate=1e-9)
    betas, sample = [], agent.buffer.sample
    agent.buffer.sample = lambda size, rng, beta: betas.append(beta) or sample(size, rng, beta)
    agent.learn(300)
    np.testing.assert_allclose(betas, np.linspace(0.4, 1, 301)[9:-1], atol=1e-9)
    batch = sample(2000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        best = agent.q_network(batch.next_observations).argmax(dim=1, keepdim=True)
        following = agent.target_network(batch.next_observations).gather(1, best)[:, 0]
        found = agent.q_network(batch.observations).gather(1, batch.actions[:, None])[:, 0]
    errors = (batch.rewards + batch.discounts * following - found).abs().numpy()
    leaves = agent.buffer._tree.leaves[batch.indices]
    # Those that were never drawn still have the priority of new ones.
    drawn = leaves != leaves.max()
    assert drawn.mean() > 0.3
    np.testing.assert_allclose(leaves[drawn], errors[drawn] + 1e-6, rtol=1e-3)


def linear_agent(**options):
    """Q-values of one-hot states are the columns written here."""
    options = {"learning_rate": 1e-9, **options}
    agent = small(Chain(), net_arch=(), **options)
    tables = [[1.0, 5.0], [2.0, 3.0]], [[10.0, 20.0], [40.0, 30.0]]  # [state][action]
    networks = (agent.q_network, agent.target_network)
    for network, table in zip(networks, tables, strict=True):
        with torch.no_grad():
            network.advantage.bias.zero_()
            network.advantage.weight.zero_()
            network.advantage.weight[:, :2] = torch.tensor(table).T
    return agent


@pytest.mark.parametrize(
    ("double_q", "targets"),
    [
        # In state 0 the network prefers action 1, in state 1 action 1: target values 20 and 30.
        (True, [0.5 + 0.9 * 20, 0.5 + 0.9 * 30, 0.5]),
        # The target network's own maxima: 20 and 40.
        (False, [0.5 + 0.9 * 20, 0.5 + 0.9 * 40, 0.5]),
    ],
)
def test_targets_by_hand(double_q, targets):
    agent = linear_agent(double_q=double_q)
    states = torch.eye(5)[:2]
    batch = Batch(
        observations=states[[1, 0, 0]],
        next_observations=states[[0, 1, 1]],
        actions=torch.tensor([0, 1, 0]),
        rewards=torch.full((3,), 0.5),
        discounts=torch.tensor([0.9, 0.9, 0.0]),
    )
    errors = agent._update(batch)
    estimates = torch.tensor([2.0, 5.0, 1.0])
    torch.testing.assert_close(errors, torch.tensor(targets) - estimates)
    errors = np.abs(np.array([2.0, 5.0, 1.0]) - targets)
    losses = np.where(errors < 1, errors**2 / 2, errors - 0.5)
    assert float(agent.losses[-1]) == pytest.approx(losses.mean())
    batch.weights = torch.tensor([1.0, 0.5, 0.25])
    agent._update(batch)
    assert float(agent.losses[-1]) == pytest.approx((losses * [1, 0.5, 0.25]).mean())


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_target_updates(tau):
    agent = linear_agent(tau=tau, target_update_interval=4, learning_starts=1000)
    source, before = (n.advantage.weight.clone() for n in (agent.q_network, agent.target_network))
    moves = []
    agent.learn(12, callback=lambda a: moves.append(a.target_network.advantage.weight.clone()))
    expected = before
    for step, found in enumerate(moves, 1):
        if step % 4 == 0:
            expected = expected + tau * (source - expected)
        torch.testing.assert_close(found, expected)
    assert torch.equal(agent.q_network.advantage.weight, source)


def test_the_learning_rate_falls_linearly():
    agent = small(learning_rate=0.01, final_learning_rate=0.002, learning_starts=0)
    rates = []
    agent.learn(80, callback=lambda a: rates.append(a.optimizer.param_groups[0]["lr"]))
    np.testing.assert_allclose(rates, 0.01 - 0.008 * np.arange(80) / 80)


def test_updates_begin_and_recur_as_asked():
    agent = small(learning_starts=20, train_freq=5, gradient_steps=3)
    before, losses = weights(agent), []
    agent.learn(19, callback=lambda a: losses.append(len(a.losses)))
    assert torch.equal(weights(agent), before)
    agent.learn(21, callback=lambda a: losses.append(len(a.losses)))
    assert losses == [3 * max(step // 5 - 3, 0) for step in range(1, 41)]


def test_exploration_falls_linearly():
    agent = small(
        Counting(10**9),
        net_arch=(),
        learning_starts=0,
        train_freq=10**9,
        exploration_fraction=0.5,
        exploration_initial_eps=0.8,
        exploration_final_eps=0.2,
    )
    with torch.no_grad():
        agent.q_network.advantage.weight.zero_()
        agent.q_network.advantage.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    env = agent.env.envs[0]
    agent.learn(4000)
    explored = np.array([action != 1 for _, action, *_ in env.log]).reshape(4, 1000).mean(axis=1)
    np.testing.assert_allclose(explored, np.array([0.65, 0.35, 0.2, 0.2]) * 2 / 3, atol=0.05)


# Seeds --------------------------------------------------------------------------------------------


def test_the_seed_decides():
    first, again, other = (
        small(vector(Counting(), Counting(5)), seed=seed).learn(100) for seed in (1, 1, 2)
    )
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    fresh = [weights(small(seed=seed)) for seed in (None, None)]
    assert not torch.equal(*fresh)


def test_global_random_states_stay_untouched(tmp_path):
    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    agent = small().learn(50)
    agent.predict(np.zeros((5, 3)), deterministic=False)
    agent.save(tmp_path / "agent")
    DQN.load(tmp_path / "agent", Counting()).learn(50)
    assert states() == before


# predict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 5, -2])
def test_predict(start):
    agent = small(Counting(start=start))
    observations = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * 10
    actions, state = agent.predict(observations, state="kept")
    assert state == "kept"
    assert actions.shape == (40,)
    assert actions.dtype == np.int64
    assert len(set(actions.tolist())) > 1
    with torch.no_grad():
        best = agent.q_network(torch.from_numpy(observations)).argmax(dim=1).numpy() + start
    assert (actions == best).all()
    for observation, action in zip(observations, actions, strict=True):
        single, _ = agent.predict(observation)
        assert single.shape == ()
        assert single == action
        assert agent.action_space.contains(single)


def test_predict_explores_unless_deterministic():
    agent = small(Counting(start=5), exploration_final_eps=0.5)
    observations = np.ones((3000, 3), np.float32)
    (best,) = set(agent.predict(observations)[0].tolist())
    actions, _ = agent.predict(observations, deterministic=False)
    shares = np.bincount(actions - 5, minlength=3) / 3000
    expected = np.full(3, 0.5 / 3)
    expected[best - 5] += 0.5
    np.testing.assert_allclose(shares, expected, atol=0.04)


def test_predict_refuses_other_observations():
    line = said(small().predict, np.zeros((2, 4)))
    assert line == "observation has shape (2, 4); expected (3,) or (N, 3)"


def test_stable_baselines_evaluates_it():
    agent = small(Counting(3, start=2))
    mean, deviation = evaluate_policy(agent, Counting(3, start=2), 5, warn=False)
    assert (mean, deviation) == (6.0, 0.0)


# Files --------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    small(Counting(start=2), net_arch=(8, 4)).learn(40).save(tmp_path / "agent.safetensors")
    return tmp_path / "agent.safetensors"


OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 10


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_loaded_agent_acts_alike(dtype, dueling, tmp_path):
    agent = small(Counting(dtype=dtype, start=-1), dueling=dueling).learn(40)
    agent.save(tmp_path / "agent")
    loaded = DQN.load(tmp_path / "agent")
    assert (loaded.predict(OBSERVATIONS)[0] == agent.predict(OBSERVATIONS)[0]).all()
    assert torch.equal(weights(loaded), weights(agent))
    assert loaded.hyperparameters == agent.hyperparameters
    assert loaded.observation_space == agent.observation_space
    assert loaded.action_space == agent.action_space
    assert loaded.num_timesteps == agent.num_timesteps
    loaded.save(tmp_path / "again")
    assert (
        DQN.load(tmp_path / "again").predict(OBSERVATIONS)[0] == loaded.predict(OBSERVATIONS)[0]
    ).all()


def test_unbounded_observations_are_saved(tmp_path):
    env = Counting()
    env.observation_space = spaces.Box(-np.inf, np.inf, (3,))
    small(env).save(tmp_path / "agent")
    assert DQN.load(tmp_path / "agent").observation_space == env.observation_space


def test_numpy_hyperparameters_are_saved(tmp_path):
    small(seed=np.int64(3), learning_rate=np.float32(0.01), net_arch=np.array([8])).save(
        tmp_path / "agent"
    )
    loaded = DQN.load(tmp_path / "agent").hyperparameters
    assert (loaded["seed"], loaded["net_arch"]) == (3, [8])
    assert loaded["learning_rate"] == pytest.approx(0.01)


def test_a_loaded_agent_goes_on_learning(path):
    loaded = DQN.load(path, Counting(start=2))
    before = weights(loaded)
    loaded.learn(9)
    assert torch.equal(weights(loaded), before)  # learning_starts counts what replay can hold
    loaded.learn(31)
    assert loaded.num_timesteps == 80
    assert not torch.equal(weights(loaded), before)


def test_a_loaded_agent_without_environment(path):
    line = said(DQN.load(path).learn, 10)
    assert line == "the agent has no environment; pass env to load(), or call set_env()"


def test_an_agent_made_without_environment():
    late, usual = DQN(None, **SMALL), small()
    late.set_env(Counting())
    assert torch.equal(weights(late.learn(50)), weights(usual.learn(50)))


def test_learning_goes_on_in_another_environment(path):
    agent = DQN.load(path, Counting(start=2))
    agent.learn(20)
    envs = [Counting(start=2, tag=1), Counting(4, start=2, tag=2)]
    agent.set_env(vector(*envs))
    agent.learn(20)
    assert agent.num_timesteps == 60 + sum(len(env.log) for env in envs) >= 80


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
    "empty": (lambda path: path.write_bytes(b""), "damaged or not a safetensors file ("),
    "text": (lambda path: path.write_text("hello " * 9), "damaged or not a safetensors file ("),
    "foreign": (
        lambda path: save_file({"weight": torch.zeros(2)}, path),
        "not a DQN agent; its format is None, expected 'latentgym-dqn-4'",
    ),
    "backbone": (
        lambda path: edit(path, lambda m, _: m.update(format="latentgym-backbone-1")),
        "not a DQN agent; its format is 'latentgym-backbone-1', expected 'latentgym-dqn-4'",
    ),
    "missing weight": (
        lambda path: edit(path, lambda _, t: t.pop("body.0.weight")),
        "the weights do not fit the agent: ",
    ),
    "weight of another shape": (
        lambda path: edit(path, lambda _, t: t.update({"body.0.weight": torch.zeros(3)})),
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
    "hyper-parameter out of range": (
        lambda path: edit_hyperparameters(path, gamma=3),
        "its description is damaged (ValueError('gamma is 3; ",
    ),
    "hyper-parameters no JSON": (
        lambda path: edit(path, lambda m, _: m.update(hyperparameters="{")),
        "its description is damaged (JSONDecodeError(",
    ),
    "no hyper-parameters": (
        lambda path: edit(path, lambda m, _: m.pop("hyperparameters")),
        "its description is damaged (KeyError('hyperparameters'))",
    ),
    "no action space": (
        lambda path: edit(path, lambda m, _: m.pop("action_space")),
        "its description is damaged (KeyError('action_space'))",
    ),
    "space is a list": (
        lambda path: edit(path, lambda m, _: m.update(observation_space="[]")),
        "its description is damaged (TypeError(",
    ),
    "no actions": (
        lambda path: edit(path, lambda m, _: m.update(action_space='{"n": 0, "start": 0}')),
        "its description is damaged (",
    ),
    "steps are text": (
        lambda path: edit(path, lambda m, _: m.update(num_timesteps="many")),
        "its description is damaged (ValueError(",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_gives_one_line_that_names_the_file(kind, path):
    damage, expected = DAMAGE[kind]
    damage(path)
    assert said(DQN.load, path).startswith(f"{path}: {expected}")


# Refusals -----------------------------------------------------------------------------------------


def with_spaces(observations=None, actions=None):
    env = Counting()
    env.observation_space = observations or env.observation_space
    env.action_space = actions or env.action_space
    return env


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)], ids=str
)
def test_other_action_spaces_are_refused(space):
    line = said(DQN, with_spaces(actions=space))
    assert line == f"action space is {space}; DQN needs Discrete"


@pytest.mark.parametrize("kind", [DQN, Reinforce])
@pytest.mark.parametrize(
    "space",
    [spaces.Text(3), spaces.Tuple([spaces.Dict({"a": spaces.Discrete(2)})])],
    ids=["text", "nested"],
)
def test_other_observation_spaces_are_refused(space, kind):
    line = said(kind, with_spaces(observations=space))
    assert line == (
        f"observation space is {space}; it must be Box, Discrete, MultiBinary or MultiDiscrete, "
        "or a Dict or Tuple of these"
    )


@pytest.mark.parametrize(
    "env",
    [
        with_spaces(observations=spaces.Box(0, 1, (4,))),
        with_spaces(actions=spaces.Discrete(4)),
        with_spaces(actions=spaces.Discrete(3, start=1)),
    ],
    ids=["observations", "actions", "start"],
)
def test_an_environment_of_other_sizes_is_refused(env):
    agent = small()
    assert said(agent.set_env, env) == (
        f"the environment has observations {env.observation_space.shape} and actions "
        f"{env.action_space}; the agent was made for (3,) and Discrete(3)"
    )
    agent.learn(20)  # in the one that it had


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *((name, 0, "at least 1") for name in ("buffer_size", "batch_size", "train_freq")),
        *((name, -1, "at least 1") for name in ("gradient_steps", "target_update_interval")),
        ("n_steps", 0, "at least 1"),
        ("prioritized_replay_alpha", 1.1, "from 0 to 1"),
        ("prioritized_replay_beta0", -0.1, "from 0 to 1"),
        ("learning_starts", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        *((name, value, "from 0 to 1") for name in ("gamma", "tau") for value in (-0.1, 1.1)),
        ("gamma", float("nan"), "from 0 to 1"),
        ("exploration_fraction", 2, "from 0 to 1"),
        ("exploration_initial_eps", 1.5, "from 0 to 1"),
        ("exploration_final_eps", -0.5, "from 0 to 1"),
        *(("learning_rate", value, "above 0") for value in (0, -1e-3, float("nan"))),
        ("final_learning_rate", -1e-3, "at least 0"),
        ("max_grad_norm", 0, "above 0"),
    ],
)
def test_hyperparameters_out_of_range(name, value, allowed):
    assert said(DQN, Counting(), **{name: value}) == f"{name} is {value}; it must be {allowed}"


@pytest.mark.parametrize("value", [(0,), (64, -1)])
def test_widths_out_of_range(value):
    line = said(DQN, Counting(), net_arch=value)
    assert line == f"net_arch is {list(value)}; each width must be at least 1"


@pytest.mark.parametrize("net_arch", [(), (8,), (128, 128)])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("norm", [0.1, 1e9])
@pytest.mark.parametrize("weighted", [False, True])
def test_updates_against_torch(norm, dueling, net_arch, weighted):
    options = dict(max_grad_norm=norm, dueling=dueling, net_arch=net_arch)
    agent, twin = small(**options), small(**options)
    batch = Batch(
        observations=torch.rand(6, 3),
        next_observations=torch.rand(6, 3),
        actions=torch.tensor([0, 1, 2, 0, 1, 2]),
        rewards=torch.rand(6) * 9,
        discounts=torch.full((6,), 0.5),
        weights=torch.rand(6) if weighted else None,
    )
    network = twin.q_network
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(3):
        estimates = network(batch.observations)[range(6), batch.actions]
        targets = agent._targets(batch)
        optimizer.zero_grad()
        losses = torch.nn.functional.smooth_l1_loss(estimates, targets, reduction="none")
        (losses * batch.weights if weighted else losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), norm)
        optimizer.step()
        agent._update(batch)
        torch.testing.assert_close(weights(agent), weights(twin))


def test_a_buffer_smaller_than_one_step():
    line = said(small, vector(*(Counting() for _ in range(4))), buffer_size=3)
    assert line == "buffer_size is 3; it must be at least the number of environments, 4"


# The control task ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_solved(seed):
    began = time.perf_counter()
    known = settings("dqn", "CartPole-v1")
    agent = DQN(gym.make("CartPole-v1"), seed=seed, **known.hyperparameters)
    keep = EvalCallback(
        gym.make_vec("CartPole-v1", 10), eval_freq=2000, n_eval_episodes=10, seed=1000
    )
    agent.learn(known.timesteps, callback=keep)
    keep.restore(agent)
    result = evaluate(agent, gym.make_vec("CartPole-v1", 20), 20, seed=2000)
    print(f"seed {seed}: {result.mean('return'):.1f} in {time.perf_counter() - began:.0f} s")
    assert result.mean("return") >= 475
