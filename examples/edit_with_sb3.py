"""Train Stable-Baselines3's PPO on the same task, with many edits at once.

python examples/edit_with_sb3.py --timesteps 20000
"""

import gymnasium as gym
import tyro
from stable_baselines3 import PPO

import latentgym  # noqa: F401  (registers the environments)
from agents import SB3VecEnv, evaluate

TASK = dict(target={"hairColor": "d6b370"}, terminate_on_success=True)


def main(timesteps: int = 20_000, episodes: int = 20, seed: int = 0) -> None:
    """Train on a vector environment, then test on other starts.

    Args:
        timesteps: environment steps to train for.
        episodes: to test on.
        seed: of everything random.
    """
    env = SB3VecEnv(gym.make_vec("LatentEdit-v0", 16, autoreset_mode="SameStep", **TASK))
    agent = PPO("MlpPolicy", env, n_steps=32, batch_size=64, gamma=0.9, seed=seed, device="cpu")
    agent.learn(timesteps)

    test = gym.make_vec("LatentEdit-v0", num_envs=min(episodes, 100), **TASK)
    result = evaluate(agent, test, episodes, seed=1_000_000)
    for name in ("is_success", "kept", "scores/realism", "return"):
        print(f"{name:16s} {result.mean(name):6.2f}")


if __name__ == "__main__":
    tyro.cli(main)
