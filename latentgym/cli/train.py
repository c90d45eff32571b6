"""The command that trains any agent in any environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, CheckpointCallback, EvalCallback, TensorBoardCallback
from agents import evaluate as run_evaluation
from agents.environments import make_env, registered_id
from agents.hyperparameters import settings
from agents.registry import Agent, check_kind, make_agent, make_training_env
from agents.training import train as run_training
from gan_backbones.utils.files import check_output_folder, write_json
from gan_backbones.utils.locks import folder_lock
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.edit_report import report_edits
from latentgym.cli.evaluate import TEST_EPISODES, format_intervals
from latentgym.cli.pictures import save_curves
from latentgym.cli.plot import curves_of
from latentgym.cli.runs import AGENT, HISTORY, RUN, Run, read_run
from latentgym.cli.tasks import (
    ENV,
    Pairs,
    Target,
    parse_pairs,
    seeds_of,
    task_options,
    training_options,
)

EVALUATIONS = 10  # while learning
SELECTION_EPISODES = 64

CURVE, CHECKPOINT, BOARD = "learning_curve.png", "checkpoint.safetensors", "tensorboard"


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
        run = read_run(out)
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
        print(format_intervals(run_evaluation(learner, test, TEST_EPISODES, test_seed)))
        save_curves(out / CURVE, *curves_of([(run, best.history)], "return", 0))
    for name in files:
        print(out / name)


def _agent(run: Run, checkpoint: Path | None) -> Agent:
    options = training_options(run["env"], run["env_options"])
    env = make_training_env(run["agent"], run["env"], run["num_envs"], **options)
    if checkpoint is not None:
        return DQN.resume(checkpoint, env)
    return make_agent(run["agent"], env, run["seed"], **run["hyperparameters"])


def _learn(agent: Agent, run: Run, out: Path, resume: bool) -> tuple[EvalCallback, float]:
    selection_seed, _ = seeds_of(run["seed"])
    options = training_options(run["env"], run["env_options"])
    every = run["timesteps"] // EVALUATIONS
    selection = make_env(run["env"], SELECTION_EPISODES, **options)
    best = EvalCallback(selection, every, SELECTION_EPISODES, selection_seed)
    callbacks: list[Any] = []
    if isinstance(agent, DQN):
        callbacks.append(CheckpointCallback(out / CHECKPOINT, every))
    if run["tensorboard"]:
        callbacks.append(TensorBoardCallback(out / BOARD))
    print(f"{run['agent']} in {run['env']}")
    timesteps = None if resume else run["timesteps"]
    training = run_training(agent, timesteps, best, callbacks, progress_bar=True)
    best.restore(agent)
    return best, training.seconds
