"""Commands that train an agent to edit, and show what it learned."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import tyro

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, EvaluationResult, KeepBest, evaluate
from agents.hyperparameters import known_good, settings
from agents.search import RandomPolicy, adam_ascent
from latentgym.cli.pictures import save_edits, save_gif, save_learning_curve

ENV = "LatentEdit-v0"
TRAINING_ENVS = 64
TEST_EPISODES = 200
DEMO_TIMESTEPS = 120_000

# Streams of seeds that never meet: training, choosing the best model, and the final test.
SELECTION_SEED, TEST_SEED = 1_000_000, 2_000_000

Target = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="ATTRIBUTE=VARIANT", help="what the edited image shall show"),
]


def demo(
    target: Target = ("hairColor=a55728",), seed: int = 0, out: Path = Path("runs/demo")
) -> None:
    """Watch an agent learn to change faces: a few minutes on two cores, no GPU needed.

    Args:
        target: what the edited image shall show.
        seed: of everything random.
        out: folder for the pictures and figures.
    """
    _run(parse_target(target), seed, out, DEMO_TIMESTEPS)


def train(
    target: Target = ("hairColor=a55728",),
    timesteps: int = settings("dqn", ENV).timesteps,
    seed: int = 0,
    out: Path = Path("runs/train"),
) -> None:
    """Train an agent for longer than the demo does, and measure it the same way.

    Args:
        target: what the edited image shall show.
        timesteps: environment steps to train for.
        seed: of everything random.
        out: folder for the agent, pictures and figures.
    """
    _run(parse_target(target), seed, out, timesteps)


def _run(target: dict[str, str], seed: int, out: Path, timesteps: int) -> None:
    """Train, test on held-out starts beside the yardsticks, draw, and tell where it all is."""
    if timesteps < 10:  # there are ten evaluations
        raise ValueError(f"timesteps is {timesteps}; it must be at least 10")
    out.mkdir(parents=True, exist_ok=True)
    wanted = ", ".join(f"{name} {variant}" for name, variant in target.items())
    print(f"{ENV}: edit faces towards {wanted}")

    began = time.monotonic()
    agent = DQN(_vector(target, TRAINING_ENVS, bf16=True), seed=seed, **known_good("dqn", ENV))
    best = KeepBest(
        _vector(target, TRAINING_ENVS, bf16=True),
        timesteps // 10,
        TRAINING_ENVS,
        SELECTION_SEED + 1000 * seed,
    )
    agent.learn(timesteps, best, progress_bar=True)
    best.restore(agent)
    seconds = time.monotonic() - began
    agent.save(out / "agent.safetensors")

    test = _vector(target, TEST_EPISODES)
    test_seed = TEST_SEED + 1000 * seed
    limit = gym.spec(ENV).max_episode_steps
    results = {
        "agent": evaluate(agent, test, TEST_EPISODES, test_seed),
        "random": evaluate(
            RandomPolicy(test.single_action_space, seed), test, TEST_EPISODES, test_seed
        ),
        "gradient reference": adam_ascent(test, limit, seed=test_seed, progress_bar=True),
    }
    print(f"\n{TEST_EPISODES} held-out starts that lack the target; trained {seconds:.0f} s")
    print(_table(results))

    _draw(agent, target, test_seed, out, wanted)
    means = {
        method: {name: result.mean(name) for name in result.values}
        for method, result in results.items()
    }
    save_learning_curve(
        out / "learning_curve.png",
        best.history,
        {method: means[method] for method in ("gradient reference", "random")},
        f"{ENV}, {wanted}, seed {seed}: {TRAINING_ENVS} starts other than the test's",
    )
    summary = {
        "target": target,
        "seed": seed,
        "timesteps": timesteps,
        "training_seconds": round(seconds, 1),
        "hyperparameters": known_good("dqn", ENV),
        "test": means,
        "unrealistic_starts": {
            method: dict(zip(("start", "end"), _lowest_tenth(result), strict=True))
            for method, result in results.items()
        },
        "history": best.history,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    for name in (
        "edits.png",
        "edit.gif",
        "learning_curve.png",
        "summary.json",
        "agent.safetensors",
    ):
        print(out / name)


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


def _draw(agent: DQN, target: dict[str, str], seed: int, out: Path, wanted: str) -> None:
    """The first eight test starts, not the best, as a sheet; and the first one as a film."""
    env = _single(target)
    starts, edited, captions = [], [], []
    for column in range(8):
        observation, _ = env.reset(seed=seed + column)
        core = env.unwrapped.core
        starts.append(core.images(core.latents)[0])
        frames, over = [env.render()], False
        while not over:
            action, _ = agent.predict(observation)
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            if column == 0:
                frames.append(env.render())
        if column == 0:
            save_gif(out / "edit.gif", frames, env.metadata["render_fps"])
        edited.append(core.images(core.latents)[0])
        captions.append(f"{'success' if info['is_success'] else 'missed'}, kept {info['kept']:.0%}")
    env.close()
    save_edits(out / "edits.png", np.stack(starts), np.stack(edited), captions, f"target: {wanted}")


def _vector(target: dict[str, str], count: int, bf16: bool = False):
    return gym.make_vec(ENV, num_envs=count, target=target, terminate_on_success=True, bf16=bf16)


def _single(target: dict[str, str]) -> gym.Env:
    return gym.make(ENV, target=target, terminate_on_success=True, render_mode="rgb_array")


def parse_target(target: tuple[str, ...]) -> dict[str, str]:
    """``("hairColor=a55728",)`` to ``{"hairColor": "a55728"}``."""
    pairs = [item.partition("=") for item in target]
    for item, (name, equals, variant) in zip(target, pairs, strict=True):
        if not (name and equals and variant):
            raise ValueError(f"target is {item!r}; expected ATTRIBUTE=VARIANT")
    return {name: variant for name, _, variant in pairs}
