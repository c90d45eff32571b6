"""Commands that train any agent in any environment, evaluate it, and plot how it learned."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, Checkpoint, EvaluationResult, KeepBest, TensorBoard
from agents import evaluate as run_evaluation
from agents.environments import registered_id
from agents.hyperparameters import settings
from agents.training import Agent, check_kind, load_agent, make_agent, make_env, make_training_env
from agents.training import train as run_training
from gan_backbones.files import check_output_file, check_output_folder, write_json
from gan_backbones.locks import folder_lock
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.edits import ENV, report_edits
from latentgym.cli.pictures import save_curves
from latentgym.cli.tasks import (
    Pairs,
    Target,
    parse_pairs,
    seeds_of,
    task_options,
    training_options,
)

EVALUATIONS = 10  # while learning
SELECTION_EPISODES = 64
TEST_EPISODES = 100

# In the folder of a run.
AGENT, RUN, HISTORY = "agent.safetensors", "run.json", "history.json"
CURVE, CHECKPOINT, BOARD = "learning_curve.png", "checkpoint.safetensors", "tensorboard"

Run = dict[str, Any]
RUN_KEYS = ("agent", "env", "env_options", "seed", "timesteps", "num_envs", "hyperparameters")


def train(
    agent: str = "dqn",
    env: str = ENV,
    target: Target = (),
    timesteps: int | None = None,
    num_envs: int | None = None,
    hyperparameters: Pairs = (),
    env_args: Pairs = (),
    seed: int = 0,
    out: Path = Path("runs/train"),
    tensorboard: bool = False,
    resume: bool = False,
) -> None:
    """Train an agent, keep the best of its networks, and test it on other starts.

    Omitted settings default to those of agents/hyperparameters.yaml for agent and environment.

    Args:
        agent: dqn, reinforce, sb3-a2c, sb3-ddpg, sb3-dqn, sb3-ppo, sb3-sac or sb3-td3.
        env: id of a registered environment, such as CartPole-v1 or latentgym:LatentEdit-v0.
        target: what the edited image should show, in the environments that edit.
        timesteps: number of environment steps to train for.
        num_envs: number of environments that are stepped together.
        hyperparameters: hyper-parameters of the agent, such as gamma=0.9 net_arch=[64,64].
        env_args: arguments of the environment, such as delta=0.25.
        seed: random seed.
        out: folder for the agent, pictures and figures.
        tensorboard: also write figures for TensorBoard.
        resume: finish the interrupted run of dqn in `out`; the other options are not read.
    """
    check_seed(seed)
    check_output_folder(out)
    if resume:
        run = _read_run(out)
        if not (out / CHECKPOINT).exists():
            raise ValueError(f"{out}: no interrupted run that could be resumed")
    else:
        known = settings(check_kind(agent), env)
        changes = parse_pairs(hyperparameters, "hyperparameters")
        run = {
            "command": " ".join(["latentgym", *sys.argv[1:]]),
            "agent": agent,
            "env": env,
            "env_options": task_options(env, target, env_args),
            "seed": seed,
            "timesteps": known.timesteps if timesteps is None else timesteps,
            "num_envs": known.num_envs if num_envs is None else num_envs,
            "hyperparameters": {**known.hyperparameters, **changes},
            "tensorboard": tensorboard,
        }
    check_counts(EVALUATIONS, timesteps=run["timesteps"])
    with folder_lock(out):
        _train(run, out, resume)


def _train(run: Run, out: Path, resume: bool) -> None:
    checkpoint = out / CHECKPOINT
    learner = _agent(run, checkpoint if resume else None)
    write_json(out / RUN, run)
    best, seconds = _learn(learner, run, out, resume)
    learner.save(out / AGENT)
    write_json(out / HISTORY, best.history)
    checkpoint.unlink(missing_ok=True)  # there is nothing left to resume

    files = [AGENT, RUN, HISTORY, CURVE]
    if registered_id(run["env"]) == ENV:
        files += report_edits(learner, best.history, run, seconds, out)
    else:
        _, test_seed = seeds_of(run["seed"])
        test = make_env(run["env"], TEST_EPISODES, **run["env_options"])
        print(f"\n{TEST_EPISODES} episodes; trained {seconds:.0f} s")
        print(_table(run_evaluation(learner, test, TEST_EPISODES, test_seed)))
        save_curves(out / CURVE, *_curves([(run, best.history)], "return", 0))
    for name in files:
        print(out / name)


def evaluate(
    run: tyro.conf.Positional[Path],
    episodes: int = TEST_EPISODES,
    seed: int | None = None,
    env: str | None = None,
    env_args: Pairs = (),
    render: bool = False,
) -> None:
    """Evaluate a trained agent greedily: means and 95 % bootstrap intervals.

    Args:
        run: folder that `latentgym train` wrote.
        episodes: number of episodes.
        seed: random seed of the environments; by default that of the run's own test.
        env: another environment than it was trained in.
        env_args: arguments of the environment, other than it was trained with.
        render: also show one episode in a window.
    """
    check_counts(episodes=episodes)
    if seed is not None:
        check_seed(seed)
    described = _read_run(run)
    learner = load_agent(run / AGENT)
    env_id = env or described["env"]
    options = {**described["env_options"], **parse_pairs(env_args, "env_args")}
    if seed is None:
        _, seed = seeds_of(described["seed"])
    rows = make_env(env_id, min(episodes, TEST_EPISODES), **options)
    print(f"{described['agent']} in {env_id}: {episodes} episodes")
    print(_table(run_evaluation(learner, rows, episodes, seed)))
    if render:
        _show(learner, make_env(env_id, render_mode="human", **options), seed)


def plot(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    metric: str = "return",
    seed: int = 0,
    out: Path = Path("runs/curve.png"),
) -> None:
    """Plot learning curves: the mean over seeds with a 95 % bootstrap band.

    Runs that differ in nothing but the seed are one curve.

    Args:
        runs: folders that `latentgym train` wrote.
        metric: what to plot: return, length, is_success, ...
        seed: random seed of the bootstrap.
        out: the picture.
    """
    if not runs:
        raise ValueError("runs is empty; expected folders that latentgym train wrote")
    check_seed(seed)
    check_output_file(out, ".png", ".jpg", ".pdf", ".svg")
    found = [(_read_run(run), _read_history(run)) for run in runs]
    for folder, (_, history) in zip(runs, found, strict=True):
        names = [name for name in history[0] if name != "timesteps"]
        if metric not in names:
            raise ValueError(f"{folder}: unknown metric {metric!r}; allowed: {', '.join(names)}")
    save_curves(out, *_curves(found, metric, seed))
    print(out)


def _agent(run: Run, checkpoint: Path | None) -> Agent:
    options = training_options(run["env"], run["env_options"])
    env = make_training_env(run["agent"], run["env"], run["num_envs"], **options)
    if checkpoint is not None:
        return DQN.resume(checkpoint, env)
    return make_agent(run["agent"], env, run["seed"], **run["hyperparameters"])


def _learn(agent: Agent, run: Run, out: Path, resume: bool) -> tuple[KeepBest, float]:
    selection_seed, _ = seeds_of(run["seed"])
    options = training_options(run["env"], run["env_options"])
    every = run["timesteps"] // EVALUATIONS
    selection = make_env(run["env"], SELECTION_EPISODES, **options)
    best = KeepBest(selection, every, SELECTION_EPISODES, selection_seed)
    callbacks: list[Any] = []
    if isinstance(agent, DQN):
        callbacks.append(Checkpoint(out / CHECKPOINT, every))
    if run["tensorboard"]:
        callbacks.append(TensorBoard(out / BOARD))
    print(f"{run['agent']} in {run['env']}")
    timesteps = None if resume else run["timesteps"]
    training = run_training(agent, timesteps, best, callbacks, progress_bar=True)
    best.restore(agent)
    return best, training.seconds


def _table(result: EvaluationResult) -> str:
    lines = [f"{'':24s}{'mean':>12s}   95 % interval"]
    for name in result.values:
        low, high = result.interval(name)
        lines.append(f"{name:24s}{result.mean(name):12.3f}   {low:.3f} to {high:.3f}")
    return "\n".join(lines)


def _show(agent: Agent, env: gym.Env, seed: int) -> None:
    """Play one episode in a window."""
    observation, _ = env.reset(seed=seed)
    over = False
    while not over:
        action, _ = agent.predict(observation, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    env.close()


def _curves(
    runs: Sequence[tuple[Run, list[dict[str, float]]]], metric: str, seed: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str, str, int]:
    """Arguments of `save_curves`: by label the steps ``[T]`` and values ``[seeds, T]``, and more.

    Seeds may have been evaluated at slightly different steps: they are interpolated to those of
    the first, as far as all of them go.
    """
    groups: dict[str, list[tuple[Run, list[dict[str, float]]]]] = {}
    for run, history in runs:
        groups.setdefault(json.dumps(_settings(run), sort_keys=True), []).append((run, history))
    told = [json.loads(group) for group in groups]
    curves = {}
    for mine, members in zip(told, groups.values(), strict=True):
        steps = [np.array([p["timesteps"] for p in history]) for _, history in members]
        values = [np.array([p[metric] for p in history]) for _, history in members]
        common = steps[0][steps[0] <= min(s[-1] for s in steps)]
        rows = [np.interp(common, s, v) for s, v in zip(steps, values, strict=True)]
        count = f"{len(rows)} seeds" if len(rows) > 1 else f"seed {members[0][0]['seed']}"
        curves[f"{_label(mine, told)} ({count})"] = common, np.stack(rows)
    envs = dict.fromkeys(run["env"] for run, _ in runs)
    return curves, metric, ", ".join(envs), seed


def _settings(run: Run) -> dict[str, Any]:
    """What makes two runs repetitions of each other, flat."""
    kept = {name: run[name] for name in ("agent", "env", "timesteps", "num_envs")}
    return {**kept, **run["env_options"], **run["hyperparameters"]}


def _label(mine: dict[str, Any], all_settings: list[dict[str, Any]]) -> str:
    """Agent, and what of its settings sets it apart from the same agent's other curves."""
    peers = [other for other in all_settings if other["agent"] == mine["agent"]]
    parts = [mine["agent"]]
    for name in dict.fromkeys(name for peer in peers for name in peer):
        if any(peer.get(name) != mine.get(name) for peer in peers):
            parts.append(f"{name}={mine.get(name, 'default')}")
    return ", ".join(parts)


def _read_run(folder: Path) -> Run:
    """Return what `train` wrote about a run.

    Raises:
        ValueError: the folder holds no run, or the file is damaged.
    """
    run = _read(folder, RUN)
    missing = [key for key in RUN_KEYS if not isinstance(run, dict) or key not in run]
    if missing:
        raise ValueError(f"{folder / RUN}: damaged (it lacks {', '.join(missing)})")
    return run


def _read_history(folder: Path) -> list[dict[str, float]]:
    """Return a run's evaluations.

    Raises:
        ValueError: the folder holds no finished run, or the file is damaged.
    """
    history = _read(folder, HISTORY)
    is_list = isinstance(history, list) and all(isinstance(entry, dict) for entry in history)
    if not (is_list and history and all("timesteps" in entry for entry in history)):
        raise ValueError(f"{folder / HISTORY}: damaged; expected a list of evaluations")
    return history


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: no {name}; expected a folder of latentgym train") from None
    except ValueError as error:
        raise ValueError(f"{folder / name}: damaged ({error})") from None
