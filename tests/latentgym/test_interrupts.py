"""Interrupts at any line of a step or reset: it has happened, or it has not."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from backbones import tiny_backbone
from edits import IDS, make, make_vec, plain, sampled
from gymnasium.vector import AutoresetMode

import latentgym

PACKAGE = str(Path(latentgym.__file__).parent)
CARTPOLES = ("latentgym/CartPole-v1", "latentgym/CartPolePixels-v1")
LIMIT = 3  # steps, so that rows are reset within a few


class Interrupter:
    """Calls a function, and interrupts it at the n-th event in this package's files, if any.

    Attributes:
        events: how many there were.
    """

    def __init__(self, kind="line"):
        self._kind = kind

    def call(self, function, *args, at=-1, **kwargs):
        self.events = 0
        old = sys.gettrace()

        def trace(frame, event, _):
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes = self._kind == "opcode"
            if event == self._kind:
                self.events += 1
                if self.events == at:
                    sys.settrace(old)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(old)


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


def environment(env_id, mode, backbone):
    """A single environment without a ``mode``, else a vector of three; with short episodes."""
    if env_id in CARTPOLES:
        if mode is None:
            return gym.make(env_id).unwrapped
        return gym.make_vec(env_id, 3, max_episode_steps=LIMIT, autoreset_mode=mode)
    options = {} if "Goal" in env_id else {"identity_weight": 0.5}
    if mode is None:
        return make(env_id, backbone, **options).unwrapped
    return make_vec(env_id, backbone, 3, LIMIT, autoreset_mode=mode, **options)


def everything(env):
    counted = env.core.evaluations if hasattr(env, "core") else 0
    return {**env.get_state(), "evaluations": counted}


def equal(one, other):
    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


def script(env, mode):
    """Calls of an episode and the start of the next, in the rows' different lengths."""
    calls = [(env.reset, (), {"seed": 5})]
    calls += [(env.step, (action,), {}) for action in sampled(env, LIMIT + 1)]
    if mode is None:
        calls.insert(2, (env.reset, (), {}))
    elif mode == AutoresetMode.DISABLED:
        calls = calls[: LIMIT + 1]
        calls.append((env.reset, (), {"options": {"reset_mask": np.array([True, False, True])}}))
    else:  # one row is a step ahead of the others from here on
        mask = np.array([False, True, True])
        calls.insert(2, (env.reset, (), {"options": {"reset_mask": mask}}))
    return calls


def check(env, mode, stride, kind="line"):
    """Interrupt each call of the script at every ``stride``-th event; returns how often."""
    interrupter, count = Interrupter(kind), 0
    for number, (method, args, kwargs) in enumerate(script(env, mode)):
        if number == 0:  # nothing is there to go back to
            method(*args, **kwargs)
            continue
        before = everything(env)
        events, random = 1, np.random.default_rng(number)
        at = int(random.integers(1, stride + 1))
        expected = after = None
        while expected is None or at <= events:
            if expected is None:  # the first time without an interrupt, to know what is right
                expected = interrupter.call(method, *args, **kwargs)
                expected, events, after = plain(expected), interrupter.events, everything(env)
            else:
                with pytest.raises(KeyboardInterrupt):
                    interrupter.call(method, *args, at=at, **kwargs)
                count += 1
                at += stride
                state = everything(env)
                if equal(state, after):
                    pass
                else:
                    np.testing.assert_equal(state, before)
                    np.testing.assert_equal(plain(method(*args, **kwargs)), expected)
                    np.testing.assert_equal(everything(env), after)
            env.set_state({key: value for key, value in before.items() if key != "evaluations"})
            if hasattr(env, "core"):
                env.core.evaluations = before["evaluations"]
        method(*args, **kwargs)
    return count


@pytest.mark.parametrize("mode", [None, *AutoresetMode], ids=str)
@pytest.mark.parametrize("env_id", [*IDS, *CARTPOLES])
def test_an_interrupted_call_is_undone(backbone, env_id, mode):
    env = environment(env_id, mode, backbone)
    assert check(env, mode, stride=67) > 3


def test_an_interrupted_first_reset_can_be_called_again(backbone):
    for env_id in ("LatentEdit-v0", *CARTPOLES):
        for mode in (None, AutoresetMode.NEXT_STEP):
            env, other = (environment(env_id, mode, backbone) for _ in range(2))
            interrupter = Interrupter()
            interrupter.call(other.reset, seed=1)
            with pytest.raises(KeyboardInterrupt):
                interrupter.call(env.reset, seed=1, at=interrupter.events // 2)
            with pytest.raises(gym.error.ResetNeeded):
                env.get_state()
            np.testing.assert_equal(plain(env.reset(seed=1)), plain(other.reset(seed=1)))
