"""What each setting of the task does: the evidence for its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym

from agents import DQN, EvaluationResult, evaluate, hyperparameters
from agents.search import MyopicGradientPolicy, RandomPolicy, adam_ascent
from gan_backbones.utils.files import check_output_file, write_json
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.demo import ENV
from latentgym.cli.tasks import DEFAULT_TARGET, Target, parse_target, seeds_of, training_options

# Each row changes the demo's task in this alone. The last is the task of the work this grew from.
CHOICES: dict[str, dict[str, Any]] = {
    "the demo's task": {},
    "without termination": {"terminate_on_success": False},
    "directions sefa": {"directions": "sefa", "delta": 1.0},
    "directions coordinates": {"directions": "coordinates"},
    "delta 0.25": {"delta": 0.25},
    "delta 1": {"delta": 1.0},
    "budget 20": {"max_episode_steps": 20},
    "budget 80": {"max_episode_steps": 80},
    "latent bound 2": {"latent_bound": 2.0},
    "observation latent and target": {"observation": ("latent", "target")},
    "attribute score margin": {"attribute_score": "margin"},
    "attribute score cosine": {"attribute_score": "cosine", "attribute_weight": 0.2},
    "realism weight 0": {"realism_weight": 0.0},
    "keep weight 0": {"keep_weight": 0.0},
    "success bonus 0": {"success_bonus": 0.0},
    "coordinates, delta 0.25, cosine, realism as probability, budget 100": {
        "directions": "coordinates",
        "delta": 0.25,
        "attribute_score": "cosine",
        "attribute_weight": 0.1,
        "realism_score": "probability",
        "keep_weight": 0.0,
        "realism_weight": 0.1,
        "success_bonus": 0.0,
        "terminate_on_success": False,
        "observation": ("latent", "target"),
        "max_episode_steps": 100,
    },
}


def benchmark_env_ablation(
    target: Target = DEFAULT_TARGET,
    timesteps: int = 10_000,
    episodes: int = 48,
    seed: int = 0,
    out: Path = Path("runs/env-ablation.json"),
) -> None:
    """Compare settings of LatentEdit-v0: gradient reference, myopic gradient, random and DQN.

    Args:
        target: what the edited image should show.
        timesteps: environment steps that each DQN is trained for.
        episodes: held-out starts that each is tested on.
        seed: random seed.
        out: also write the figures to this JSON file, after each row.
    """
    check_seed(seed)
    check_counts(timesteps=timesteps, episodes=episodes)
    check_output_file(out, ".json")
    wanted = parse_target(target)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    print("| setting | method | success | kept | realism | drift |\n|---|---|---|---|---|---|")
    for name, settings in CHOICES.items():
        results = _compare(
            {"target": wanted, "terminate_on_success": True, **settings}, timesteps, episodes, seed
        )
        for method, result in results.items():
            start, end = result.mean("scores/start_realism"), result.mean("scores/realism")
            cells = (
                name,
                method,
                f"{result.mean('is_success'):.1%}",
                f"{result.mean('kept'):.1%}",
                f"{start:.2f} > {end:.2f}",
                f"{result.mean('drift'):.1f}",
            )
            print(f"| {' | '.join(cells)} |", flush=True)
        rows[name] = {
            method: {value: result.mean(value) for value in result.values}
            for method, result in results.items()
        }
        write_json(out, rows)
    print(f"figures: {out}")


def _compare(
    settings: dict[str, Any], timesteps: int, episodes: int, seed: int
) -> dict[str, EvaluationResult]:
    test: Any = gym.make_vec(ENV, num_envs=episodes, **settings)
    _, test_seed = seeds_of(seed)
    budget: Any = settings.get("max_episode_steps", gym.spec(ENV).max_episode_steps)
    known = hyperparameters.settings("dqn", ENV)
    training = gym.make_vec(ENV, num_envs=known.num_envs, **training_options(ENV, settings))
    agent = DQN(training, seed=seed, **known.hyperparameters)
    agent.learn(timesteps, progress_bar=True)
    policies: dict[str, Any] = {
        "myopic gradient": MyopicGradientPolicy(test),
        "random": RandomPolicy(test.single_action_space, seed),
        "DQN": agent,
    }
    return {
        "gradient reference": adam_ascent(test, budget, seed=test_seed),
        **{name: evaluate(p, test, episodes, test_seed) for name, p in policies.items()},
    }
