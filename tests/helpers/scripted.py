"""Small environments whose every transition is known."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Counting(gym.Env):
    """Counts to ``length``, then ends. Observes tag, episode and count; rewards the count.

    Args:
        length: steps per episode.
        ends: ``"terminated"`` or ``"truncated"``.
        tag: tells environments apart.
        dtype: of the observations.

    Attributes:
        log: ``(observation, action, reward, next observation, terminated)`` of all steps.
        seeds: of all resets.
    """

    def __init__(self, length=3, ends="terminated", tag=0, dtype=np.float32, start=0):
        self.observation_space = spaces.Box(0, 100, (3,), dtype)
        self.action_space = spaces.Discrete(3, start=start)
        self.length, self.ends, self.tag = length, ends, tag
        self.episode, self.log, self.seeds = -1, [], []

    def observe(self):
        return np.array([self.tag, self.episode, self.count], self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode, self.count = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        assert self.count < self.length, "step after the end"
        assert self.action_space.contains(action)
        before = self.observe()
        self.count += 1
        reward, ended = float(self.count), self.count == self.length
        terminated = ended and self.ends == "terminated"
        self.log.append((before, int(action), reward, self.observe(), terminated))
        info = {
            "label": 10 * self.tag + self.episode,
            "flag": self.tag == 1,
            "numpy_flag": np.bool_(self.tag == 1),
            "nested": {"count": self.count, "deep": {"half": self.count / 2}},
            "text": "no number",
            "vector": np.ones(4),
        }
        if self.episode % 2:
            info["odd"] = 7.0
        return self.observe(), reward, terminated, ended and not terminated, info


class Chain(gym.Env):
    """Five states in a row, seen one-hot; stepping right from the last one pays 1 and ends.

    Starts anywhere; truncated after three steps.
    """

    STATES = 5

    def __init__(self):
        self.observation_space = spaces.Box(0, 1, (self.STATES,), np.float32)
        self.action_space = spaces.Discrete(2)

    def observe(self):
        return np.eye(self.STATES, dtype=np.float32)[min(self.state, self.STATES - 1)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = int(self.np_random.integers(self.STATES)), 0
        return self.observe(), {}

    def step(self, action):
        self.state = max(self.state + (1 if action else -1), 0)
        self.steps += 1
        arrived = self.state == self.STATES
        return self.observe(), float(arrived), arrived, self.steps == 3, {}


class Sides(gym.Env):
    """One step: the action should tell whether it is bright, and with a Dict, on which side.

    Args:
        space: of the observations: an image, bright or dark, or a Dict of an image and a number.
    """

    def __init__(self, space):
        self.observation_space = space
        self.action_space = spaces.Discrete(4 if isinstance(space, spaces.Dict) else 2)

    def observe(self):
        images = self.observation_space
        images = images["image"] if isinstance(images, spaces.Dict) else images
        image = np.full(images.shape, 40 + 150 * (self.answer % 2), np.uint8)
        if not isinstance(self.observation_space, spaces.Dict):
            return image
        return {"image": image, "side": np.array([self.answer // 2], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.answer = int(self.np_random.integers(self.action_space.n))
        return self.observe(), {}

    def step(self, action):
        reward = float(action == self.answer)
        self.answer = 0  # tells nothing
        return self.observe(), reward, True, False, {}


def vector(*envs, mode=AutoresetMode.NEXT_STEP):
    """The environments side by side."""
    return SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=mode)
