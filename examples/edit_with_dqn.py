"""Train the from-scratch DQN to make faces blond, and watch one edit.

python examples/edit_with_dqn.py --timesteps 100000 --watch
"""

import gymnasium as gym
import tyro

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, evaluate
from agents.hyperparameters import known_good

TASK = dict(target={"hairColor": "d6b370"}, terminate_on_success=True)


def main(timesteps: int = 100_000, episodes: int = 100, seed: int = 0, watch: bool = False) -> None:
    """Train on 64 edits at once, then test on other starts.

    Args:
        timesteps: environment steps to train for.
        episodes: to test on.
        seed: of everything random.
        watch: show an edit in a window.
    """
    training = gym.make_vec("LatentEdit-v0", num_envs=64, **TASK)
    agent = DQN(training, seed=seed, **known_good("dqn", "LatentEdit-v0"))
    agent.learn(timesteps, progress_bar=True)

    test = gym.make_vec("LatentEdit-v0", num_envs=min(episodes, 100), **TASK)
    result = evaluate(agent, test, episodes, seed=1_000_000)
    for name in ("is_success", "kept", "scores/start_realism", "scores/realism", "return"):
        low, high = result.interval(name)
        print(f"{name:22s} {result.mean(name):6.2f}   95 % interval {low:.2f} to {high:.2f}")

    if watch:
        env = gym.make("LatentEdit-v0", render_mode="human", **TASK)
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            action, _ = agent.predict(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        env.close()


if __name__ == "__main__":
    tyro.cli(main)
