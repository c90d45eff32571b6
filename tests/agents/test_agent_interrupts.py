"""An interrupted `learn` is followed by another: nothing joins two episodes, nothing is lost."""

import random
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from scripted import Counting, vector

import agents
import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, Reinforce
from agents.replay import SumTree

OURS = agents.__path__[0]

DQN_OPTIONS = dict(net_arch=(4,), learning_starts=8, batch_size=8, buffer_size=40, seed=0)
EVERY_MODE = pytest.mark.parametrize("mode", [None, *AutoresetMode])


class Stopping(Counting):
    """Interrupts at step number ``at``, in the middle of it."""

    at = None

    def step(self, action):
        result = super().step(action)
        if self.at is not None:
            self.at -= 1
            if self.at == 0:
                raise KeyboardInterrupt
        return result


def environment(mode, kind=Counting, **options):
    envs = [kind(4, "truncated", tag=0, **options), kind(3, tag=1, **options)]
    return (vector(*envs, mode=mode), envs) if mode else (envs[0], envs[:1])


def check_transitions(agent, n_steps=1):
    """Observations tell tag, episode and count: each transition stays in its episode."""
    if not len(agent.buffer):
        return
    batch = agent.buffer.sample(30 * len(agent.buffer), torch.Generator().manual_seed(0))
    before, after = batch.observations.numpy(), batch.next_observations.numpy()
    assert (before[:, :2] == after[:, :2]).all()
    steps = after[:, 2] - before[:, 2]
    assert ((steps >= 1) & (steps <= n_steps)).all()
    counts = zip(before[:, 2].astype(int), after[:, 2].astype(int), strict=True)
    rewards = [sum(range(first + 1, last + 1)) for first, last in counts]
    np.testing.assert_array_equal(batch.rewards, rewards)
    ended = (after[:, 0] == 1) & (after[:, 2] == 3)  # only these terminate
    assert ((batch.discounts == 0) == ended).all()


@EVERY_MODE
@pytest.mark.parametrize("at", [1, 4, 30])
def test_interrupted_in_a_step(mode, at):
    env, envs = environment(mode, Stopping)
    envs[-1].at = at
    for agent in (
        DQN(env, n_steps=2, gamma=1.0, **DQN_OPTIONS),
        Reinforce(env, n_episodes=4, net_arch=(4,), seed=0),
    ):
        envs[-1].at = at
        with pytest.raises(KeyboardInterrupt):
            agent.learn(200)
        steps = agent.num_timesteps
        agent.learn(60)
        assert agent.num_timesteps >= steps + 60
        if isinstance(agent, DQN):
            check_transitions(agent, 2)


@pytest.mark.parametrize("call", ["reset", "step"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_interrupted_below_the_wrappers_of_gym_make(call, count):
    class Stubborn(Counting):
        waiting = count

        def interrupt(self, name):
            self.waiting -= name == call
            if name == call and self.waiting == 0:
                raise KeyboardInterrupt

        def reset(self, **options):
            self.interrupt("reset")
            return super().reset(**options)

        def step(self, action):
            self.interrupt("step")
            return super().step(action)

    for kind in ("dqn", "reinforce"):
        agent = KINDS[kind](PassiveEnvChecker(OrderEnforcing(Stubborn())))
        with pytest.raises(KeyboardInterrupt):
            agent.learn(20)
        agent.learn(20)


class Interrupt:
    """Raises KeyboardInterrupt before the n-th line of our own, or of ``code``, is executed."""

    def __init__(self, count, code=None):
        self.count, self.code = count, code

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if self.code is not None and frame.f_code is not self.code:
            return None
        if event == "line":
            self.count -= 1
            if self.count == 0:
                raise KeyboardInterrupt
        return self

    def __enter__(self):
        sys.settrace(self)

    def __exit__(self, *_):
        sys.settrace(None)
        return False


KINDS = {
    "dqn": lambda env: DQN(env, gamma=1.0, **DQN_OPTIONS),
    "n_steps": lambda env: DQN(env, gamma=1.0, n_steps=3, **DQN_OPTIONS),
    "prioritized": lambda env: DQN(env, gamma=1.0, prioritized_replay=True, **DQN_OPTIONS),
    "reinforce": lambda env: Reinforce(env, n_episodes=2, net_arch=(4,), seed=0),
}


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_at_any_line(kind, mode):
    rng = random.Random(f"{kind} {mode}")
    env, _ = environment(mode)
    agent = KINDS[kind](env)
    interrupts = 0
    for _ in range(16):
        try:
            with Interrupt(rng.randrange(1, 3000)):
                agent.learn(60)
        except KeyboardInterrupt:
            interrupts += 1
        if kind in ("dqn", "n_steps"):  # priorities are only right again when learning begins
            check_transitions(agent, agent.n_steps)
    assert interrupts > 8
    steps = agent.num_timesteps
    agent.learn(40)
    assert agent.num_timesteps >= steps + 40
    if kind != "reinforce":
        check_transitions(agent, agent.n_steps)
    if kind == "prioritized":
        check_priorities(agent.buffer)


def check_priorities(buffer):
    """Only what is stored has a priority, and the sums are right."""
    rows, sums = np.arange(len(buffer._tree.leaves)), buffer._tree._sums
    stored = (buffer._oldest + np.arange(len(buffer))) % buffer.capacity
    assert (buffer._tree.leaves[np.setdiff1d(rows, stored)] == 0).all()
    np.testing.assert_array_equal(sums[1 : len(rows)], sums[2::2] + sums[3::2])


def test_interrupted_while_priorities_are_set():
    agent = KINDS["prioritized"](Counting(4, "truncated"))
    for lines in range(150, 300):
        with pytest.raises(KeyboardInterrupt), Interrupt(lines, SumTree.set.__code__):
            agent.learn(300)
        agent.learn(1)
        check_priorities(agent.buffer)


def test_an_interrupted_run_can_be_finished():
    agent = KINDS["dqn"](Counting(tag=1))

    def stop(agent):
        if agent.num_timesteps == 33:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent.learn(100, callback=stop)
    agent.learn()
    assert agent.num_timesteps == 100
    check_transitions(agent)


def test_a_checkpoint_after_an_interrupt_begins_new_episodes(tmp_path):
    env = gym.make("latentgym/CartPole-v1")
    agent = DQN(env, **DQN_OPTIONS)
    with pytest.raises(ZeroDivisionError):
        agent.learn(50, callback=lambda agent: 1 // (agent.num_timesteps < 23))
    env.reset(seed=3)  # used from outside
    agent.save_checkpoint(tmp_path / "checkpoint")
    resumed = DQN.resume(tmp_path / "checkpoint", gym.make("latentgym/CartPole-v1")).learn()
    assert resumed.num_timesteps == 50
    batch = resumed.buffer.sample(2000, torch.Generator().manual_seed(0))
    # A cart moves by its speed: no transition leads to a start that it did not come from.
    moved = batch.next_observations[:, 0] - batch.observations[:, 0]
    torch.testing.assert_close(moved, 0.02 * batch.observations[:, 1], atol=1e-3, rtol=0)


# The environment is used from outside -------------------------------------------------------------


@EVERY_MODE
def test_the_environment_is_used_between_two_calls(mode):
    env, envs = environment(mode)
    agent = DQN(env, gamma=1.0, **{**DQN_OPTIONS, "buffer_size": 1000})
    happened = []
    for _ in range(4):
        before = [len(each.log) for each in envs]
        agent.learn(11)
        happened += [each.log[start:] for each, start in zip(envs, before, strict=True)]
        agents.evaluate(agent, env, 3)
        env.reset(seed=5)
        env.step(env.action_space.sample())
    check_transitions(agent)
    assert len(agent.buffer) == agent.num_timesteps == sum(map(len, happened))


@pytest.mark.parametrize("mode", [None, AutoresetMode.SAME_STEP])
def test_a_callback_with_the_environment_of_learning_is_refused(mode):
    env, envs = environment(mode)
    agent = DQN(env, **DQN_OPTIONS)
    for other in (env, envs[0]):
        with pytest.raises(ValueError) as caught:
            agent.learn(20, callback=agents.EvalCallback(other, eval_freq=10))
        assert str(caught.value) == (
            "EvalCallback has the environment that the agent learns in; give it one of its own"
        )
    assert agent.num_timesteps == 0
