"""The report on an agent that edits: figures, table, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agents import EvaluationResult, evaluate
from agents.registry import Agent
from agents.search import RandomPolicy, adam_ascent
from gan_backbones.utils.files import write_json
from latentgym.cli.pictures import save_edits, save_gif, save_learning_curve
from latentgym.cli.tasks import ENV, seeds_of

TEST_EPISODES = 200


def report_edits(
    agent: Agent,
    history: list[dict[str, float]],
    run: Mapping[str, Any],
    seconds: float,
    out: Path,
) -> list[str]:
    """Test on held-out starts, compare with other methods, draw, and write the figures.

    Args:
        agent: any agent of `LatentEdit-v0`.
        history: its evaluations while it learned.
        run: its ``env_options``, ``seed``, ``timesteps`` and ``hyperparameters``.
        seconds: training time.
        out: folder for pictures and figures.

    Returns:
        The files' names, besides ``learning_curve.png``.
    """
    options, seed = run["env_options"], run["seed"]
    wanted = describe_target(options["target"])
    test: Any = gym.make_vec(ENV, num_envs=TEST_EPISODES, **options)
    _, test_seed = seeds_of(seed)
    limit = options.get("max_episode_steps", gym.spec(ENV).max_episode_steps)
    results = {
        "agent": evaluate(agent, test, TEST_EPISODES, test_seed),
        "random": evaluate(
            RandomPolicy(test.single_action_space, seed), test, TEST_EPISODES, test_seed
        ),
        "gradient reference": adam_ascent(test, limit, seed=test_seed, progress_bar=True),
    }
    print(f"\n{TEST_EPISODES} held-out starts that lack the target; trained {seconds:.0f} s")
    print(_table(results))

    _draw(agent, options, test_seed, out, wanted)
    means = {
        method: {name: result.mean(name) for name in result.values}
        for method, result in results.items()
    }
    save_learning_curve(
        out / "learning_curve.png",
        history,
        {method: means[method] for method in ("gradient reference", "random")},
        f"{ENV}, {wanted}, seed {seed}: starts other than the test's",
    )
    summary = {
        "target": options["target"],
        "seed": seed,
        "timesteps": run["timesteps"],
        "training_seconds": round(seconds, 1),
        "hyperparameters": run["hyperparameters"],
        "test": means,
        "unrealistic_starts": {
            method: dict(zip(("start", "end"), _lowest_tenth(result), strict=True))
            for method, result in results.items()
        },
        "history": history,
    }
    write_json(out / "summary.json", summary)
    return ["edits.png", "edit.gif", "summary.json"]


def describe_target(target: Mapping[str, str]) -> str:
    """``{"hairColor": "a55728"}`` as ``"hairColor a55728"``."""
    return ", ".join(f"{name} {variant}" for name, variant in target.items())


def _table(results: Mapping[str, EvaluationResult]) -> str:
    columns = {
        "success": lambda r: f"{r.mean('is_success'):.1%}",
        "95 % interval": lambda r: "{:.0%} to {:.0%}".format(*r.interval("is_success")),
        "kept": lambda r: f"{r.mean('kept'):.1%}",
        "realism": lambda r: (
            f"{r.mean('scores/start_realism'):.2f} > {r.mean('scores/realism'):.2f}"
        ),
        "lowest tenth": lambda r: "{:.2f} > {:.2f}".format(*_lowest_tenth(r)),
        "drift": lambda r: f"{r.mean('drift'):.1f}",
        "return": lambda r: f"{r.mean('return'):.2f}",
    }
    lines = [f"{'':20s}" + "".join(f"{name:>15s}" for name in columns)]
    for method, result in results.items():
        cells = "".join(f"{cell(result):>15s}" for cell in columns.values())
        lines.append(f"{method:20s}{cells}")
    return "\n".join(lines)


def _lowest_tenth(result: EvaluationResult) -> tuple[float, float]:
    """Mean realism before and after, over the tenth of the starts that were least realistic."""
    start, end = result.values["scores/start_realism"], result.values["scores/realism"]
    lowest = np.argsort(start)[: max(1, len(start) // 10)]
    return float(start[lowest].mean()), float(end[lowest].mean())


def _draw(agent: Agent, options: dict[str, Any], seed: int, out: Path, wanted: str) -> None:
    """The first eight test starts, not the best, as a sheet; and the first one as a film."""
    env = gym.make(ENV, render_mode="rgb_array", **options)
    starts, edited, captions = [], [], []
    for column in range(8):
        observation, _ = env.reset(seed=seed + column)
        edit_env: Any = env.unwrapped
        core = edit_env.core
        starts.append(core.images(core.latents)[0])
        frames: list[Any] = [env.render()]
        over = False
        while not over:
            action, _ = agent.predict(observation, deterministic=True)
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            if column == 0:
                frames.append(env.render())
        if column == 0:
            save_gif(out / "edit.gif", frames, env.metadata["render_fps"])
        edited.append(core.images(core.latents)[0])
        captions.append(f"{_outcome(info)}\nkept {info['kept']:.0%}")
    env.close()
    save_edits(out / "edits.png", np.stack(starts), np.stack(edited), captions, f"target: {wanted}")


def _outcome(info: Mapping[str, Any]) -> str:
    """Success, or what it lacks, as a caption."""
    if info["is_success"]:
        return "success"
    if info["scores"]["realism"] < info["scores"]["start_realism"]:
        return "missed: less realistic"
    return "missed: target not seen"
