import os
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import DQN, PPO

from latentgym.envs import CartPoleEnv
from latentgym.envs.cartpole_pixels import Camera, CartPolePixelsEnv, difference

ID = "latentgym/CartPolePixels-v1"
UNSEEN = np.full((40, 150, 1), 128, dtype=np.uint8)


def grey_picture(state):
    """What the documentation says of the pictures, in plain numpy."""
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset()
    env.unwrapped.state = np.array(state)
    green = env.render()[160:320, :, 1].astype(float)
    return np.floor(green.reshape(40, 4, 150, 4).mean(axis=(1, 3)))[..., None]


@pytest.mark.parametrize("options", [{}, {"reward": "shaped"}], ids=str)
def test_check_env_without_a_warning(monkeypatch, options):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(CartPoleEnv.metadata, "render_fps", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, **options).unwrapped)


def test_observation_space():
    env = gym.make(ID)
    assert env.observation_space == gym.spaces.Box(0, 255, (40, 150, 1), np.uint8)
    assert env.spec.max_episode_steps == 500 and env.spec.reward_threshold == 475


@pytest.mark.parametrize("reward", ["classic", "shaped"])
def test_same_episodes_as_seen_by_their_states(reward):
    env, other = gym.make(ID, reward=reward), gym.make("latentgym/CartPole-v1", reward=reward)
    for seed in range(3):
        env.reset(seed=seed), other.reset(seed=seed)
        done = False
        while not done:
            one, two = env.step(seed % 2), other.step(seed % 2)
            np.testing.assert_equal(one[1:], two[1:])
            done = one[2]


def test_pictures_are_gymnasiums_reduced():
    rng, camera, env = np.random.default_rng(0), Camera(), CartPoleEnv()
    for state in rng.uniform([-2.5, -1, -0.25, -1], [2.5, 1, 0.25, 1], (20, 4)):
        np.testing.assert_array_equal(camera.picture(env, state), grey_picture(state))


def test_all_that_moves_is_in_the_strip():
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset()
    for position in (-2.5, 0.0, 2.5):
        for angle in np.linspace(-0.25, 0.25, 21):
            env.unwrapped.state = np.array([position, 0.0, angle, 0.0])
            picture = env.render()
            assert (picture[:160] == 255).all() and (picture[320:] == 255).all()


def test_observations_are_differences_of_pictures():
    env = gym.make(ID)
    observation, _ = env.reset(seed=0, options={"low": -0.1, "high": 0.1})
    np.testing.assert_array_equal(observation, UNSEEN)
    now = grey_picture(env.unwrapped.state)
    for action in (1, 0, 0, 1):
        observation = env.step(action)[0]
        before, now = now, grey_picture(env.unwrapped.state)
        np.testing.assert_array_equal(observation, np.floor((now - before) / 2) + 128)
        assert observation.dtype == np.uint8


def test_encoding_by_hand():
    before = np.array([0, 255, 0, 100, 100, 101, 102, 98], dtype=np.uint8)
    now = np.array([0, 0, 255, 100, 101, 100, 100, 100], dtype=np.uint8)
    assert difference(before, now).tolist() == [128, 0, 255, 128, 128, 127, 127, 129]
    assert difference(before, now).dtype == np.uint8


def test_what_does_not_move_is_not_seen():
    env = CartPolePixelsEnv()
    env.reset(options={"low": 0.0, "high": 0.0})
    observation, *_ = env.step(1)  # speeds up from rest, and moves only in the next step
    np.testing.assert_array_equal(env.state[[0, 2]], [0.0, 0.0])
    np.testing.assert_array_equal(observation, UNSEEN)


def test_a_cart_that_moves_right_darkens_its_right_and_lightens_its_left():
    env = CartPolePixelsEnv()
    env.reset(options={"low": 0.0, "high": 0.0})
    env.set_state(env.get_state() | {"state": np.array([0.0, 1.6, 0.0, 0.0])})
    observation, *_ = env.step(1)
    # The black cart moved by 4 pixels: it covered 275 to 325, and covers 279 to 329.
    below_the_pole = observation[35:38, :, 0]
    expected = np.full(150, 128)
    expected[68] = 128 + (255 - 191) // 2  # from 272 on: one of four columns was black
    expected[69] = 128 + (191 - 0) // 2
    expected[81] = 128 + (0 - 127) // 2  # from 324 on: two of four columns were black
    expected[82] = 128 + (127 - 255) // 2
    np.testing.assert_array_equal(below_the_pole, [expected] * 3)


def test_pictures_survive_that_pygame_is_quit():
    env, other = gym.make(ID), gym.make(ID)
    for each in (env, other):
        each.reset(seed=0)
    pygame.quit()  # as gymnasium's CartPole does when it closes
    np.testing.assert_equal(env.step(1), other.step(1))
    np.testing.assert_array_equal(env.unwrapped._picture, grey_picture(env.unwrapped.state))


def test_no_display_is_needed():
    script = (
        "import gymnasium as gym, pygame, latentgym\n"
        f"env = gym.make('{ID}')\n"
        "env.reset(seed=0), env.step(1)\n"
        "assert not pygame.display.get_init()\n"
    )
    environment = {**os.environ, "SDL_VIDEODRIVER": "none such"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.parametrize("agent", [DQN, PPO])
def test_stable_baselines_trains_on_pixels(agent):
    steps = {"n_steps": 64, "n_epochs": 1} if agent is PPO else {"learning_starts": 100}
    if agent is DQN:
        steps |= {"buffer_size": 500}
    model = agent("CnnPolicy", gym.make(ID), seed=0, device="cpu", **steps)
    model.learn(192)
    assert model.ep_info_buffer
    action, _ = model.predict(gym.make(ID).reset(seed=0)[0])
    assert action in (0, 1)
