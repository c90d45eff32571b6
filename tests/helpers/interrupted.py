"""Learning that kills its own process, for the tests of resuming."""

import os
import signal
import sys

import gymnasium as gym
import numpy as np
import torch
from backbones import tiny_backbone
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, CheckpointCallback

TOTAL, SAVED, KILLED = 900, 500, 700  # timesteps

OPTIONS = dict(
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    buffer_size=300,  # it wraps around before the checkpoint
    learning_starts=50,
    batch_size=16,
    train_freq=2,
    target_update_interval=20,
    exploration_fraction=0.9,
    net_arch=(16,),
    seed=3,
)
RAINBOW = dict(prioritized_replay=True, n_steps=3, noisy=True, dueling=True)


def cartpoles(mode):
    return gym.make_vec("latentgym/CartPole-v1", num_envs=3, autoreset_mode=mode)


def several(mode):
    makers = [lambda: gym.make("latentgym/CartPole-v1", max_episode_steps=30) for _ in range(3)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def edits():
    return gym.make_vec(
        "LatentEdit-v0", num_envs=4, backbone=tiny_backbone(), terminate_on_success=True
    )


KINDS = {
    "vector": lambda: (cartpoles(AutoresetMode.NEXT_STEP), {}),
    "vector same step": lambda: (cartpoles(AutoresetMode.SAME_STEP), RAINBOW),
    "vector disabled": lambda: (cartpoles(AutoresetMode.DISABLED), dict(n_steps=2)),
    "single": lambda: (gym.make("latentgym/CartPole-v1", max_episode_steps=30), RAINBOW),
    "several": lambda: (several(AutoresetMode.NEXT_STEP), dict(prioritized_replay=True)),
    "several disabled": lambda: (several(AutoresetMode.DISABLED), dict(noisy=True)),
    "edits": lambda: (edits(), dict(n_steps=3, prioritized_replay=True)),
    "single edit": lambda: (
        gym.make("LatentEdit-v0", backbone=tiny_backbone(), max_episode_steps=7),
        dict(noisy=True),
    ),
}


def agent(kind):
    env, options = KINDS[kind]()
    return DQN(env, **{**OPTIONS, **options})


def parameters(agent):
    networks = agent.q_network, agent.target_network
    return np.concatenate([p.detach().numpy().ravel() for n in networks for p in n.parameters()])


def main(kind, path):
    torch.set_num_threads(1)

    def kill(learner):
        if learner.num_timesteps >= KILLED:
            os.kill(os.getpid(), signal.SIGKILL)

    agent(kind).learn(TOTAL, [kill, CheckpointCallback(path, SAVED)])


if __name__ == "__main__":
    main(*sys.argv[1:])
