"""Agents of all kinds by name, their known-good settings, and the commands that train them."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import DQN, CheckpointCallback, EvalCallback, evaluate
from agents.environments import make_env
from agents.hyperparameters import entries, known_good, settings
from agents.registry import KINDS, load_agent, make_agent, make_training_env
from agents.training import train
from gan_backbones.utils.locks import folder_lock
from latentgym.cli import main
from latentgym.cli.benchmarks.agents import best_average, steps_until
from latentgym.cli.benchmarks.dqn_ablation import area
from latentgym.cli.runs import AGENT, HISTORY, RUN, RUN_KEYS
from latentgym.cli.tasks import parse_pairs
from latentgym.cli.train import CHECKPOINT, EVALUATIONS

SMALL = {
    "dqn": dict(learning_starts=20, net_arch=[8]),
    "reinforce": dict(n_episodes=4, net_arch=[8]),
    "sb3-a2c": dict(net_arch=[8], learning_rate=1e-3, final_learning_rate=1e-4),
    "sb3-dqn": dict(learning_starts=20, net_arch=[8], buffer_size=500),
    "sb3-ppo": dict(n_steps=16, batch_size=32, net_arch=[8]),
    "sb3-ddpg": dict(learning_starts=20, net_arch=[8], buffer_size=500),
    "sb3-sac": dict(learning_starts=20, net_arch=[8], buffer_size=500),
    "sb3-td3": dict(learning_starts=20, net_arch=[8], buffer_size=500),
}
CONTINUOUS = ("sb3-ddpg", "sb3-sac", "sb3-td3")


def env_id(kind):
    return "Pendulum-v1" if kind in CONTINUOUS else "CartPole-v1"


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "env_id"), [(kind, env_id) for kind, found in entries().items() for env_id in found]
)
def test_every_entry_makes_an_agent(kind, env_id, tiny_file):
    known = settings(kind, env_id)
    if env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    options = {"backbone": tiny_file} if env_id.startswith("LatentEdit") else {}
    if "Pixels" in env_id and options:  # the tiny images are too small for convolutions
        options = {"directions": "coordinates"}
    env = make_training_env(kind, env_id, known.num_envs, **options)
    small = {"buffer_size": 500} if "buffer_size" in known.hyperparameters else {}
    agent = make_agent(kind, env, 0, **{**known.hyperparameters, **small})
    assert agent.num_timesteps == 0
    assert known.timesteps >= 50_000
    env.close()


def test_our_dqn_has_the_budget_of_stable_baselines3s():
    ours, theirs = entries()["dqn"], entries()["sb3-dqn"]
    for env_id in ("CartPole-v1", "Acrobot-v1", "LunarLander-v3", "MountainCar-v0"):
        assert ours[env_id]["timesteps"] == theirs[env_id]["timesteps"]


def test_without_an_entry_a_line_says_so(caplog):
    assert settings("dqn", "Pendulum-v1").hyperparameters == {}
    assert "no known-good hyper-parameters of dqn for Pendulum-v1" in caplog.text


def test_known_good_is_not_shared():
    known_good("dqn", "CartPole-v1")["gamma"] = 0.1
    assert known_good("dqn", "CartPole-v1")["gamma"] == 0.99


# Agents of all kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_trained_saved_and_loaded(kind, tmp_path):
    name, path = env_id(kind), tmp_path / "agent.safetensors"
    env = make_training_env(kind, name, 2)
    agent = make_agent(kind, env, 0, **SMALL[kind])
    best = EvalCallback(make_env(name, 2), eval_freq=60, n_eval_episodes=2)
    training = train(agent, 120, best)
    assert training.steps >= 120
    assert best.seconds > 0
    assert len(best.history) == 2 or kind == "reinforce"
    top = max(point["return"] for point in best.history)
    best.restore(agent)
    assert evaluate(agent, make_env(name, 2), 2, seed=0).mean("return") == top

    agent.save(path)
    observations = np.stack([env.single_observation_space.sample() for _ in range(50)])
    actions, _ = agent.predict(observations, deterministic=True)
    loaded = load_agent(path)
    assert loaded.num_timesteps == agent.num_timesteps
    assert (loaded.predict(observations, deterministic=True)[0] == actions).all()
    with pytest.raises(ValueError, match="the agent has no environment; pass env to load"):
        loaded.learn(10)
    going_on = load_agent(path, make_training_env(kind, name, 2))
    assert (going_on.predict(observations, deterministic=True)[0] == actions).all()
    assert going_on.learn(40).num_timesteps >= agent.num_timesteps + 40


def test_hindsight_and_images(tmp_path, tiny_file):
    path = tmp_path / "agent.safetensors"
    goals = make_training_env("sb3-dqn", "LatentEditGoal-v0", 2, backbone=tiny_file)
    her = dict(SMALL["sb3-dqn"], learning_starts=100, replay_buffer_class="HerReplayBuffer")
    images = make_training_env("sb3-dqn", "latentgym/CartPolePixels-v1", 2)
    for env, options in ((goals, her), (images, SMALL["sb3-dqn"])):
        agent = make_agent("sb3-dqn", env, 0, **options).learn(120)
        agent.save(path)
        observations, _ = env.reset(seed=1)
        actions = [a.predict(observations)[0] for a in (agent, load_agent(path))]
        assert (actions[0] == actions[1]).all()


def test_a_schedule_falls_to_its_end():
    agent = make_agent("sb3-a2c", make_env("CartPole-v1"), 0, **SMALL["sb3-a2c"]).learn(200)
    rate = agent.algorithm.policy.optimizer.param_groups[0]["lr"]
    assert 1e-4 <= rate < 2e-4


@pytest.mark.parametrize(
    ("kind", "hyperparameters", "message"),
    [
        ("ppo", {}, "unknown agent 'ppo'; allowed: dqn, reinforce, sb3-a2c"),
        ("dqn", {"gama": 1}, "unknown hyper-parameter 'gama' of dqn; allowed: learning_rate, "),
        ("dqn", {"gamma": "x"}, "gamma is 'x'; it must be a number"),
        ("sb3-ppo", {"lr": 1}, "unknown hyper-parameter 'lr' of sb3-ppo; allowed: learning_rate, "),
        ("sb3-ppo", {"gamma": "x"}, "gamma is 'x'; it must be a number"),
        ("sb3-sac", {}, "sb3-sac: The algorithm only supports"),
        ("sb3-ppo", {"final_clip_range": 0.0}, "final_clip_range is given without clip_range"),
    ],
)
def test_wrong_agents(kind, hyperparameters, message):
    with pytest.raises(ValueError) as caught:
        make_agent(kind, gym.make("CartPole-v1"), 0, **hyperparameters)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_wrong_environments():
    for arguments in (("Nothing-v0",), ("CartPole-v1", 0)):
        with pytest.raises(ValueError, match=r"Nothing-v0|num_envs is 0"):
            make_env(*arguments)
    with pytest.raises(ValueError, match="unexpected keyword argument 'colour'"):
        make_env("CartPole-v1", colour="red")


def test_files_that_hold_no_agent(tmp_path, tiny_file):
    with pytest.raises(ValueError, match="no such file"):
        load_agent(tmp_path / "none")
    with pytest.raises(ValueError, match="not an agent"):
        load_agent(tiny_file)
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="damaged"):
        load_agent(tmp_path / "text")


def test_rows_that_reset_at_the_next_step_are_refused():
    with pytest.raises(ValueError, match="resets a row at the next step"):
        make_agent("sb3-ppo", make_env("CartPole-v1", 2))


# Commands -----------------------------------------------------------------------------------------


def trained(out, *arguments):
    main(["train", "--env", "CartPole-v1", "--out", str(out), *arguments])


QUICK = ["--timesteps", "300", "--hyperparameters", "net_arch=[8]"]


def test_train_evaluate_and_plot(tmp_path, capsys):
    for seed in "01":
        trained(tmp_path / seed, "--agent", "reinforce", "--num-envs", "2", "--seed", seed, *QUICK)
    trained(tmp_path / "ppo", "--agent", "sb3-ppo", "--num-envs", "2", *QUICK)
    text = capsys.readouterr().out
    assert "95 % interval" in text
    for name in (AGENT, RUN, HISTORY, "learning_curve.png"):
        assert (tmp_path / "ppo" / name).stat().st_size > 0
        assert str(tmp_path / "ppo" / name) in text
    run = json.loads((tmp_path / "ppo" / RUN).read_text())
    assert run["hyperparameters"]["net_arch"] == [8]
    assert run["hyperparameters"]["gae_lambda"] == 0.8  # the file's

    main(["evaluate", str(tmp_path / "ppo"), "--episodes", "7", "--seed", "3"])
    text = capsys.readouterr().out
    assert "7 episodes" in text
    agent = load_agent(tmp_path / "ppo" / AGENT)
    mean = evaluate(agent, make_env("CartPole-v1", 7), 7, 3).mean("return")
    assert f"{mean:.3f}" in text

    runs = [str(tmp_path / name) for name in ("0", "1", "ppo")]
    main(["plot", *runs, "--out", str(tmp_path / "curve.png"), "--metric", "length"])
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="unknown metric 'success'; allowed: return, length"):
        main(["plot", *runs, "--metric", "success"])


def test_an_interrupted_run_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    arguments = ["--env", "latentgym/CartPole-v1", *QUICK[:2]]
    arguments += ["--hyperparameters", "net_arch=[8]", "learning_starts=20", "train_freq=4"]
    main(["train", *arguments, "--out", str(tmp_path / "whole")])
    assert not (tmp_path / "whole" / CHECKPOINT).exists()

    class Interrupted(CheckpointCallback):
        def __call__(self, agent):
            super().__call__(agent)
            if agent.num_timesteps == 200:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("latentgym.cli.train.CheckpointCallback", Interrupted)
        with pytest.raises(SystemExit, match="130"):
            main(["train", *arguments, "--out", str(tmp_path / "cut")])
    main(["train", "--resume", "--out", str(tmp_path / "cut")])
    whole, cut = (DQN.load(tmp_path / name / AGENT) for name in ("whole", "cut"))
    for a, b in zip(whole.q_network.parameters(), cut.q_network.parameters(), strict=True):
        assert torch.equal(a, b)
    histories = [json.loads((tmp_path / name / HISTORY).read_text()) for name in ("whole", "cut")]
    assert histories[0] == histories[1]
    assert len(histories[0]) == EVALUATIONS
    with pytest.raises(SystemExit, match="no interrupted run that could be resumed"):
        main(["train", "--resume", "--out", str(tmp_path / "cut")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent", "ppo"], "unknown agent 'ppo'; allowed: dqn"),
        (["--timesteps", "9"], "timesteps is 9; it must be at least 10"),
        (["--target", "hair=bob"], "target is hair=bob; CartPole-v1 has none"),
        (["--hyperparameters", "gamma"], "hyperparameters is 'gamma'; expected NAME=JSON"),
        (["--hyperparameters", "gamma=2"], "gamma is 2; it must be from 0 to 1"),
        (["--env-args", "=2"], "env_args is '=2'; expected NAME=JSON"),
        (["--resume"], "{out}: no run.json; expected a folder of latentgym train"),
        (["--seed", str(2**64)], "seed is 18446744073709551616; it must be from 0 to 4294967295"),
        (["--num-envs", "0"], "num_envs is 0; it must be at least 1"),
        (["--env", "nosuch:CartPole-v1"], "env is 'nosuch:CartPole-v1'; no module named 'nosuch'"),
        (["--env", "CartPol-v1"], "CartPol-v1: Environment `CartPol` doesn't exist. Did you mean"),
        (["--hyperparameters", "batch_size=2.5"], "batch_size is 2.5; it must be a whole number"),
        (["--hyperparameters", "device=cuda:99"], "device is 'cuda:99'; torch cannot use it: "),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stop:
        trained(tmp_path, *arguments)
    assert str(stop.value).startswith("latentgym: " + message.format(out=tmp_path))
    assert "\n" not in str(stop.value)


def test_a_module_before_the_id_changes_nothing(tmp_path, tiny_file):
    assert settings("dqn", "latentgym:LatentEdit-v0") == settings("dqn", "LatentEdit-v0")
    arguments = ["--env", "latentgym:LatentEditContinuous-v0", "--agent", "sb3-ppo", *QUICK]
    options = [f"backbone={tiny_file}", "directions=coordinates", "start=any"]
    options += ["--target", "hair=bob", "--num-envs", "2", "--out", str(tmp_path)]
    main(["train", *arguments, "n_steps=8", "--env-args", *options])
    run = json.loads((tmp_path / RUN).read_text())
    assert run["env"] == "latentgym:LatentEditContinuous-v0"
    assert run["env_options"]["target"] == {"hair": "bob"}
    assert run["env_options"]["terminate_on_success"] is True


def test_values_are_json_or_pythons_words():
    pairs = ("a=True", "b=false", "c=None", "d=1e4", "e=[1, 2]", "f=text", "g=x=y")
    values = dict(a=True, b=False, c=None, d=1e4, e=[1, 2], f="text", g="x=y")
    assert parse_pairs(pairs, "env_args") == values


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (RUN, "[]", "run.json: damaged (it lacks agent, env,"),
        (RUN, "{", "run.json: damaged (Expecting"),
        (RUN, '{"agent": "dqn"}', "run.json: damaged (it lacks env,"),
        (HISTORY, "[]", "history.json: damaged; expected a list of evaluations"),
        (HISTORY, '{"a": 1}', "history.json: damaged; expected a list of evaluations"),
        (HISTORY, "[3]", "history.json: damaged; expected a list of evaluations"),
    ],
)
def test_damaged_runs_are_one_line(tmp_path, name, content, message):
    run = {key: {} for key in RUN_KEYS}
    (tmp_path / RUN).write_text(json.dumps(run))
    (tmp_path / HISTORY).write_text('[{"timesteps": 1, "return": 2.0}]')
    (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=re.escape(f"{tmp_path}/{message}")):
        main(["plot", str(tmp_path), "--out", str(tmp_path / "x.png")])


def test_outputs_are_checked_first(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit, match=f"out is {file}, which is a file; expected a folder"):
        trained(file)
    with pytest.raises(
        SystemExit, match=r"expected a file that ends in \.png, \.jpg, \.pdf, \.svg"
    ):
        main(["plot", str(tmp_path), "--out", str(tmp_path / "x.foo")])
    with folder_lock(tmp_path), pytest.raises(SystemExit, match=f"{tmp_path} is in use by process"):
        in_another_thread = ThreadPoolExecutor(1).submit(trained, tmp_path, *QUICK)
        in_another_thread.result()


def test_benchmark_goes_on_where_it_was(tmp_path, capsys):
    out = tmp_path / "figures.json"
    command = ["benchmark", "agents", "--agents", "reinforce", "--timesteps", "2200"]
    command += ["--workers", "1", "--out", str(out)]
    main([*command, "--seeds", "1"])
    first = json.loads(out.read_text())
    (run,) = first["runs"]
    assert run["steps"] >= 2200
    assert sum(run["training_returns"]) <= run["steps"]
    assert run["history"][0]["timesteps"] >= 2000
    main([*command, "--seeds", "2"])
    second = json.loads(out.read_text())
    assert second["runs"][0] == run
    assert [r["job"]["seed"] for r in second["runs"]] == [0, 1]
    assert "| reinforce | 2 |" in capsys.readouterr().out
    assert "| reinforce | 2 |" in out.with_suffix(".md").read_text()
    command[command.index("2200")] = "2300"
    with pytest.raises(SystemExit, match="seed 0, but with other timesteps; choose another out"):
        main([*command, "--seeds", "1"])


def test_ablation(tmp_path, capsys):
    quick = ["--hyperparameters", "net_arch=[4]", "learning_starts=50", "gradient_steps=1"]
    out = tmp_path / "figures.json"
    command = ["benchmark", "dqn-ablation", "--seeds", "1", "--timesteps", "2000", "--workers", "1"]
    main([*command, *quick, "--out", str(out)])
    runs = {run["job"]["label"]: run for run in json.loads(out.read_text())["runs"]}
    assert list(runs) == ["plain", "+ double", "+ dueling", "+ n-step", "+ prioritised", "all"]
    options = {label: run["job"]["hyperparameters"] for label, run in runs.items()}
    assert not options["plain"]["double_q"] and options["+ double"]["double_q"]
    assert options["+ n-step"]["n_steps"] == options["all"]["n_steps"] == 3
    assert "| + dueling | 1 |" in capsys.readouterr().out


def test_figures_of_a_run():
    history = [{"timesteps": t, "return": r} for t, r in ((10, 1.0), (20, 5.0), (30, 3.0))]
    assert area(history) == 3.0
    assert steps_until(history, 4.0) == 20
    assert steps_until(history, 6.0) == np.inf
    returns = [0.0] * 500 + [4.0] * 50 + [2.0] * 50 + [0.0] * 400 + [9.0] * 500
    assert best_average(returns) == 3.0
    assert np.isnan(best_average([1.0] * 99))
