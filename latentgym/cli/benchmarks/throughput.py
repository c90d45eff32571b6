"""How fast the environments are: against the networks they wait for, and against Gymnasium's."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from torch import nn

import gan_backbones
import latentgym  # noqa: F401  (registers the environments)
from gan_backbones import Backbone
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.utils.files import check_output_file, write_json
from gan_backbones.utils.progress import ProgressBar
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.benchmarks.timing import machine, print_table, race
from latentgym.core import EditCore
from latentgym.task import EditTask

ENV = "LatentEdit-v0"
BATCH = 64
LARGE = 4096
STATES = 10_000
EPISODE = 41  # steps of a whole episode and its reset
ERRORS = ("largest error of realism", "largest error of a probability", "success flags changed")
DEVICE_SIZES = (64, 1024, 16384)

Report = dict[str, dict[str, float]]


def benchmark_throughput(
    backbone: str = "cartoon-faces",
    seconds: float = 4.0,
    steps: int = 100_000,
    threads: int = 2,
    seed: int = 0,
    out: Path = Path("runs/throughput.json"),
) -> None:
    """Measure LatentEdit-v0's speed, accuracy and memory, each as a ratio within this one run.

    Takes about fifteen minutes; leave the machine alone meanwhile.

    Args:
        backbone: name or path of a backbone.
        seconds: time to measure each contender, in turns with the others.
        steps: of the search for growing memory.
        threads: number of threads that torch uses.
        seed: random seed of latents, actions and environments.
        out: also write the figures to this JSON file, after each part.
    """
    check_seed(seed)
    check_counts(steps=steps, threads=threads)
    check_output_file(out, ".json")
    torch.set_num_threads(threads)
    loaded = gan_backbones.load(backbone)
    report: dict[str, Any] = {"machine": machine(), "backbone": backbone, "seed": seed}
    parts: dict[str, Callable[[], Report]] = {
        f"networks, batch {BATCH}": partial(compare_networks, loaded, BATCH, seconds, seed),
        "networks, batch 1": partial(compare_networks, loaded, 1, seconds, seed),
        "accuracy": partial(compare_scores, loaded, seed),
        f"{BATCH} environments": partial(compare_environments, backbone, BATCH, seconds, seed),
        "1 environment": partial(compare_environments, backbone, 1, seconds, seed),
        f"{BATCH} environments, peers": partial(compare_peers, backbone, threads, seconds, seed),
        "memory": partial(measure_memory, backbone, steps, seed),
    }
    if torch.cuda.is_available():
        parts["GPU"] = partial(measure_device, backbone, seconds, seed)
    with ProgressBar(parts.items(), desc="throughput") as progress:
        for name, measure in progress:
            progress.set_postfix_str(name)
            report[name] = measure()
            write_json(out, report)
            print_table(name, report[name])
    print(f"figures: {out}")


# What is compared ---------------------------------------------------------------------------------


def compare_networks(backbone: Backbone, batch: int, seconds: float, seed: int) -> Report:
    """Ways of preparing generator, discriminator and classifier: milliseconds per forward."""
    latents = _latents(backbone, batch, seed)
    plain = [backbone.generator, backbone.discriminator, backbone.classifier]
    cores = {
        "prepared": EditCore(EditTask(backbone), batch),
        "prepared, bf16": EditCore(EditTask(backbone, bf16=True), batch),
        "prepared, compiled": EditCore(EditTask(backbone, compile=True), batch),
    }
    contenders = {
        "plain": _without_gradients(_forward, plain, latents),
        **{
            name: _without_gradients(core.assessor.forward, latents) for name, core in cores.items()
        },
    }
    times = race(contenders, seconds)
    return {
        name: {"ms": 1e3 * spent, "times as fast as plain": times["plain"] / spent}
        for name, spent in times.items()
    }


def compare_scores(backbone: Backbone, seed: int) -> Report:
    """How far prepared networks' scores are off, and whether they change any success flag.

    Edits are walked towards their targets, each step along the target's own direction, and every
    state on the way is scored by all.
    """
    rows = 250
    tasks: dict[str, dict[str, Any]] = {
        "plain": {},
        "prepared": {},
        "prepared, bf16": {"bf16": True},
    }
    envs: dict[str, Any] = {
        name: gym.make_vec(ENV, num_envs=rows, backbone=backbone, start="any", **options)
        for name, options in tasks.items()
    }
    envs["plain"].core.assessor.networks = backbone.networks
    for env in envs.values():
        _, infos = env.reset(seed=seed)
    report = {name: dict.fromkeys(ERRORS, 0.0) for name in tasks if name != "plain"}
    states, flags = 0, 0
    while states < STATES:
        actions = 2 * infos["target"].argmax(axis=1)
        for env in envs.values():
            _, _, _, _, infos = env.step(actions)
        exact = envs["plain"].core
        states, flags = states + rows, flags + int(exact.goal_reached.sum())
        for name, row in report.items():
            core = envs[name].core
            errors = (
                _largest(core.realism.sigmoid(), exact.realism.sigmoid()),
                _largest(core.attributes.exp(), exact.attributes.exp()),
                int((core.goal_reached != exact.goal_reached).sum()),
            )
            row[ERRORS[0]] = max(row[ERRORS[0]], errors[0])
            row[ERRORS[1]] = max(row[ERRORS[1]], errors[1])
            row[ERRORS[2]] += errors[2]
    for row in report.values():
        row |= {"success flags set": flags, "states": states}
    return report


def compare_environments(backbone: str, count: int, seconds: float, seed: int) -> Report:
    """Compare steps of the vector environment with the bare forward passes that they need."""
    env: Any = gym.make_vec(ENV, num_envs=count, backbone=backbone)
    env.reset(seed=seed)
    core, latents = env.core, _latents(env.backbone, count, seed)
    plain = [env.backbone.generator, env.backbone.discriminator, env.backbone.classifier]
    contenders = {
        "bare, plain": _without_gradients(_forward, plain, latents),
        "bare, prepared": _without_gradients(core.assessor.forward, latents),
        ENV: _stepper(env, seed),
    }
    times = race(contenders, seconds, EPISODE)
    return {
        name: {
            "steps/s": count / spent,
            **{f"time over {bare}": spent / times[bare] for bare in list(contenders)[:2]},
        }
        for name, spent in times.items()
    }


def compare_peers(backbone: str, threads: int, seconds: float, seed: int) -> Report:
    """Compare the vector environment with Gymnasium's, made of as many single environments."""
    # The latent's own axes, which 64 workers need not find first.
    task: dict[str, Any] = {"backbone": backbone, "directions": "coordinates"}
    one = partial(_make_single, task)
    alone = partial(_make_single, task, threads=1)
    # Workers forked from here would inherit torch's threads in an undefined state.
    multiprocessing.set_forkserver_preload(["latentgym.envs"])
    peers = {
        f"{ENV} in one batch": lambda: gym.make_vec(ENV, num_envs=BATCH, **task),
        "SyncVectorEnv": lambda: SyncVectorEnv([one] * BATCH),
        "AsyncVectorEnv": lambda: AsyncVectorEnv([alone] * BATCH, context="forkserver"),
    }
    report: Report = {}
    for name, make in peers.items():  # one after the other: idle workers would still take memory
        torch.set_num_threads(threads)
        env = make()
        env.reset(seed=seed)
        (spent,) = race({name: _stepper(env, seed)}, seconds, EPISODE).values()
        env.close()
        report[name] = {"steps/s": BATCH / spent}
    best = max(report["SyncVectorEnv"]["steps/s"], report["AsyncVectorEnv"]["steps/s"])
    for row in report.values():
        row["times the better of Gymnasium's"] = row["steps/s"] / best
    return report


def measure_memory(backbone: str, steps: int, seed: int) -> Report:
    """Memory of a fresh process with many environments, and its growth over many steps of one."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        large = pool.apply(_peak_memory, (backbone, LARGE, seed))
        small = pool.apply(_peak_memory, (backbone, 1, seed))
        early, late = pool.apply(_growth, (backbone, steps, seed))
    return {
        "1 environment": {"peak GB": small},
        f"{LARGE} environments": {"peak GB": large},
        f"growth over {steps} steps of 1 environment": {"MB": 1e3 * (late - early)},
    }


def measure_device(backbone: str, seconds: float, seed: int) -> Report:
    """Compare steps with tensors that stay on the GPU with the bare forward passes."""
    report: Report = {}
    for count in DEVICE_SIZES:
        env: Any = gym.make_vec(
            ENV, num_envs=count, backbone=backbone, start="any", tensors=True, device="cuda"
        )
        env.reset(seed=seed)
        core = env.core
        latents = _latents(env.backbone, count, seed).cuda()
        chunks = latents.split(256)
        actions = torch.zeros(count, dtype=torch.int64, device="cuda")
        times = race(
            {
                "bare": _awaited(_without_gradients(_each, core.assessor.forward, chunks)),
                ENV: _awaited(partial(env.step, actions)),
            },
            seconds,
        )
        for name, spent in times.items():
            report[f"{name}, {count}"] = {"steps/s": count / spent}
    return report


# How it is measured -------------------------------------------------------------------------------


def _stepper(env: gym.vector.VectorEnv, seed: int) -> Callable[[], Any]:
    """A function that takes one step with random actions, drawn beforehand."""
    env.action_space.seed(seed)
    actions = itertools.cycle([env.action_space.sample() for _ in range(997)])
    return lambda: env.step(next(actions))


def _without_gradients(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    @torch.no_grad()
    def call() -> Any:
        return function(*args)

    return call


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


def _awaited(function: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> None:
        function()
        torch.cuda.synchronize()

    return call


def _forward(networks: list[nn.Module], latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
    generator, *critics = networks
    images = generator(latents)
    return tuple(critic(images) for critic in critics)


def _latents(backbone: Backbone, count: int, seed: int) -> torch.Tensor:
    return draw_latents(count, backbone.latent_dim, seed)


def _largest(values: torch.Tensor, exact: torch.Tensor) -> float:
    return float((values - exact).abs().max())


def _make_single(task: dict[str, Any], threads: int | None = None) -> gym.Env:
    if threads is not None:
        torch.set_num_threads(threads)
    return gym.make(f"latentgym:{ENV}", disable_env_checker=True, **task)


def _peak_memory(backbone: str, count: int, seed: int) -> float:
    """Peak resident memory in GB of a process that takes some steps."""
    step = _stepping(backbone, count, seed)
    for _ in range(45):  # a reset included
        step()
    # Not getrusage, whose peak a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def _growth(backbone: str, steps: int, seed: int) -> tuple[float, float]:
    """Resident memory in GB early on and after ``steps`` steps."""
    torch.set_num_threads(1)
    step = _stepping(backbone, 1, seed)
    sizes = []
    for count in (steps // 20, steps - steps // 20):
        for _ in range(count):
            step()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes.append(pages * resource.getpagesize() / 1e9)
    return sizes[0], sizes[1]


def _stepping(backbone: str, count: int, seed: int) -> Callable[[], Any]:
    env = gym.make_vec(f"latentgym:{ENV}", num_envs=count, backbone=backbone)
    env.reset(seed=seed)
    return _stepper(env, seed)
