"""What our agents are given and where they run: types and ranges, devices, torch's global state."""

import contextlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from scripted import Chain, Counting, vector

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, CheckpointCallback, EvalCallback, Reinforce, TensorBoardCallback

DQN_OPTIONS = dict(net_arch=(8,), learning_starts=10, batch_size=8, seed=0)
AGENTS = {
    "dqn": lambda env, **options: DQN(env, **{**DQN_OPTIONS, **options}),
    "reinforce": lambda env, **options: Reinforce(
        env, **{"n_episodes": 4, "net_arch": (8,), "seed": 0, **options}
    ),
}
KINDS = pytest.mark.parametrize("kind", AGENTS)


def weights(agent):
    networks = agent._networks().values()
    return torch.cat([p.detach().flatten() for n in networks for p in n.parameters()])


def said(call, *args, **options):
    """The one line that a ValueError says."""
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Types --------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    ("value", "line"),
    [
        (-5, "total_timesteps is -5; it must be at least 0"),
        (1.5, "total_timesteps is 1.5; it must be a whole number"),
        (True, "total_timesteps is True; it must be a whole number"),
        ("x", "total_timesteps is 'x'; it must be a whole number"),
        (float("nan"), "total_timesteps is nan; it must be a whole number"),
        (float("inf"), "total_timesteps is inf; it must be a whole number"),
    ],
)
def test_timesteps_that_are_refused(kind, value, line):
    agent = AGENTS[kind](Counting())
    assert said(agent.learn, value) == line
    assert agent.num_timesteps == 0


@KINDS
def test_timesteps_that_are_taken(kind):
    env = Counting()
    agent = AGENTS[kind](env)
    assert agent.learn(0, callback=None) is agent
    assert not env.seeds  # nothing happened
    agent.learn(np.int64(12)).learn(12.0)
    assert agent.num_timesteps == 24


@KINDS
@pytest.mark.parametrize("callback", [3, ["x"], "abc"])
def test_callbacks_that_are_refused(kind, callback):
    line = said(AGENTS[kind](Counting()).learn, 10, callback=callback)
    assert line == f"callback is {callback!r}; it must be a function or a list of functions"


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("buffer_size", 1e4, 10_000),
        ("batch_size", 32.0, 32),
        ("n_steps", np.float32(3), 3),
        ("gradient_steps", np.int8(2), 2),
        ("learning_rate", 1, 1.0),
        ("gamma", np.float64(0.5), 0.5),
        ("double_q", np.bool_(False), False),
        ("net_arch", np.array([8.0, 4.0]), [8, 4]),
        ("net_arch", [], []),
        ("max_grad_norm", float("inf"), float("inf")),
    ],
)
def test_hyperparameters_are_converted_where_nothing_is_lost(name, given, value):
    found = getattr(DQN(Counting(), **{name: given}), name)
    assert found == value
    assert type(found) is type(value)


NOT_WHOLE, NO_NUMBER = "it must be a whole number", "it must be a number"
WRONG = [
    ("learning_rate", "fast", NO_NUMBER),
    ("learning_rate", True, NO_NUMBER),
    ("learning_rate", float("inf"), "it must be finite"),
    ("learning_rate", 10**400, "it must be finite"),
    ("final_learning_rate", "0.1", NO_NUMBER),
    ("gamma", None, NO_NUMBER),
    ("net_arch", "64", "it must be a list of whole numbers"),
    ("net_arch", 64, "it must be a list of whole numbers"),
    ("net_arch", {"pi": [64]}, "it must be a list of whole numbers"),
    ("net_arch", [64, 1.5], "each width must be a whole number"),
    ("net_arch", ["64"], "each width must be a whole number"),
    ("seed", 1.5, NOT_WHOLE),
    ("seed", "0", NOT_WHOLE),
    ("seed", 2**64, "it must be from 0 to 4294967295"),
    ("seed", -1, "it must be at least 0"),
]


@pytest.mark.parametrize(
    ("kind", "name", "value", "reason"),
    [(kind, *wrong) for kind in AGENTS for wrong in WRONG]
    + [
        ("dqn", "buffer_size", 1.5, NOT_WHOLE),
        ("dqn", "buffer_size", "1e4", NOT_WHOLE),
        ("dqn", "buffer_size", float("inf"), NOT_WHOLE),
        ("dqn", "batch_size", True, NOT_WHOLE),
        ("dqn", "train_freq", None, NOT_WHOLE),
        ("dqn", "double_q", 1, "it must be True or False"),
        ("reinforce", "baseline", "no", "it must be True or False"),
        ("reinforce", "n_episodes", 2.5, NOT_WHOLE),
        ("reinforce", "ent_coef", float("inf"), "it must be finite"),
    ],
)
def test_hyperparameters_of_the_wrong_type(kind, name, value, reason):
    line = said(AGENTS[kind], Counting(), **{name: value})
    assert line.startswith(f"{name} is ")
    assert line.endswith(f"; {reason}")


@KINDS
def test_other_arguments_of_the_wrong_type(kind, tmp_path):
    agent = AGENTS[kind](Counting())
    line = said(agent.predict, np.zeros(3), deterministic="no")
    assert line == "deterministic is 'no'; it must be True or False"
    reason = "is 0; it must be at least 1"
    assert said(CheckpointCallback, tmp_path / "x", 0) == f"save_freq {reason}"
    assert said(EvalCallback, Counting(), 0) == f"eval_freq {reason}"
    assert said(EvalCallback, Counting(), 5, n_eval_episodes=0) == f"n_eval_episodes {reason}"
    assert said(TensorBoardCallback, tmp_path, 0) == f"log_freq {reason}"


@KINDS
@pytest.mark.parametrize("device", ["cuda:99", "nowhere", 3.5])
def test_a_device_that_cannot_be_used(kind, device, tmp_path):
    agent = AGENTS[kind](Counting())
    agent.save(tmp_path / "agent")
    for call in (
        lambda: AGENTS[kind](Counting(), device=device),
        lambda: type(agent).load(tmp_path / "agent", device=device),
    ):
        assert said(call).startswith(f"device is '{device}'; torch cannot use it: ")


# Values that are not finite -----------------------------------------------------------------------


class Turning(Counting):
    """Observes ``bad`` from the seventh step on."""

    bad = np.nan

    def observe(self):
        observation = super().observe()
        if len(self.log) >= 7:
            observation[2] = self.bad
        return observation


@KINDS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("count", [1, 2])
def test_observations_that_are_not_finite(kind, bad, count):
    envs = [Counting(100) for _ in range(count - 1)] + [Turning(20)]
    envs[-1].bad = bad
    agent = AGENTS[kind](vector(*envs), **({"learning_starts": 50} if kind == "dqn" else {}))
    before = weights(agent)
    assert said(agent.learn, 100) == f"observation contains {bad}; it must be finite"
    assert torch.equal(weights(agent), before)
    if kind == "dqn":
        assert len(agent.buffer) == 6 * count
        batch = agent.buffer.sample(100, torch.Generator().manual_seed(0))
        assert batch.next_observations.isfinite().all()


class Paying(Chain):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 1e38, *rest


@KINDS
def test_divergence_stops_before_the_networks_are_spoilt(kind):
    options = {"gamma": 1.0}
    if kind == "dqn":
        options |= {"learning_rate": 1e25, "max_grad_norm": float("inf")}
    else:
        options |= {"baseline_learning_rate": 1e30, "normalize_advantage": False}
    agent = AGENTS[kind](Paying(), **options)
    with pytest.raises(FloatingPointError, match="diverged: the gradient's norm is") as stop:
        agent.learn(2000)
    assert "\n" not in str(stop.value)
    assert weights(agent).isfinite().all()


@KINDS
def test_spoilt_networks_do_not_replace_a_file(kind, tmp_path):
    agent = AGENTS[kind](Chain())
    agent.learn(20)
    agent.save(tmp_path / "agent")
    before = (tmp_path / "agent").read_bytes()
    with torch.no_grad():
        next(next(iter(agent._networks().values())).parameters())[0] = np.nan
    saves = [agent.save] + ([agent.save_checkpoint] if kind == "dqn" else [])
    for save in saves:
        assert "has values that are not finite; nothing was saved" in said(save, tmp_path / "agent")
    assert (tmp_path / "agent").read_bytes() == before


# torch's global state -----------------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES = {
    "float64": default_dtype,
    "meta": default_device,
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
}
VARIANTS = {
    "dqn": {},
    "rainbow": dict(prioritized_replay=True, n_steps=2, noisy=True, dueling=True, buffer_size=50),
    "reinforce": {"discount_states": True},
}


def torch_state():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_agents_are_the_same_in_every_state_of_torch(variant, state, tmp_path):
    def make():
        kind = AGENTS["reinforce" if variant == "reinforce" else "dqn"]
        return kind(vector(Counting(3, "truncated"), Counting(4)), **VARIANTS[variant])

    usual = make().learn(60)
    with STATES[state]():
        before = torch_state()
        inside = make()
        inside.learn(60)
        actions = inside.predict(np.ones((3, 3)), deterministic=False)[0]
        inside.save(tmp_path / "agent")
        loaded = type(inside).load(tmp_path / "agent", vector(Counting(), Counting()))
        loaded.learn(20)
        assert torch_state() == before
    assert weights(inside).dtype == torch.float32
    assert torch.equal(weights(inside), weights(usual))
    np.testing.assert_array_equal(actions, usual.predict(np.ones((3, 3)), deterministic=False)[0])
    # What was made there goes on elsewhere, and the other way round.
    outside = inside.learn(40)
    with STATES[state]():
        usual.learn(40)
    assert torch.equal(weights(outside), weights(usual))
    loaded.learn(20)


@pytest.mark.parametrize("state", STATES)
def test_resuming_in_every_state_of_torch(state, tmp_path):
    def env():
        return gym.make("latentgym/CartPole-v1", max_episode_steps=20)

    options = {**DQN_OPTIONS, **VARIANTS["rainbow"]}
    whole = DQN(env(), **options).learn(80)
    with STATES[state]():
        agent = DQN(env(), **options)
        with pytest.raises(ZeroDivisionError):
            agent.learn(
                80,
                callback=[
                    lambda agent: 1 // (agent.num_timesteps < 50),
                    CheckpointCallback(tmp_path / "checkpoint", 40),
                ],
            )
        resumed = DQN.resume(tmp_path / "checkpoint", env())
    resumed.learn()
    assert torch.equal(weights(resumed), weights(whole))
