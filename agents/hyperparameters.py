"""Known-good settings per agent and environment; what is not named is as the agent has it."""

from __future__ import annotations

from typing import Any

# Of `agents.DQN`.
KNOWN_GOOD: dict[str, dict[str, Any]] = {
    # RL-Zoo's CartPole settings.
    "CartPole-v1": dict(
        learning_rate=2.3e-3,
        buffer_size=100_000,
        learning_starts=1000,
        batch_size=64,
        gamma=0.99,
        train_freq=256,
        gradient_steps=128,
        target_update_interval=10,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        net_arch=(256, 256),
    ),
    "LatentEdit-v0": dict(
        learning_rate=5e-4,
        final_learning_rate=5e-5,
        buffer_size=200_000,
        learning_starts=5000,
        batch_size=256,
        gamma=0.9,
        train_freq=1,
        gradient_steps=4,
        target_update_interval=1,
        tau=0.01,
        exploration_fraction=0.3,
        exploration_final_eps=0.05,
        net_arch=(256, 256),
    ),
}

TIMESTEPS = {"CartPole-v1": 50_000, "LatentEdit-v0": 150_000}
"""How long the recorded runs learned."""

# Of `agents.Reinforce`, with 16 environments.
KNOWN_GOOD_REINFORCE: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(
        learning_rate=1e-2,
        final_learning_rate=0.0,
        gamma=0.99,
        n_episodes=16,
        net_arch=(64, 64),
    ),
}

REINFORCE_TIMESTEPS = {"CartPole-v1": 250_000}
