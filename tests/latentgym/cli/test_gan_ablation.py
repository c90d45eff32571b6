import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from small_datasets import write_idx

from gan_backbones.training.gan import GANConfig
from latentgym.cli import main
from latentgym.cli.benchmarks import gan_ablation
from latentgym.cli.benchmarks.gan_ablation import BASE, REAL, VARIANTS, prepare, run_job

BUDGET = ["--image-size", "16", "--images", "24", "--iterations", "2", "--batch-size", "8"]
BUDGET += ["--features", "4", "--latent-dim", "4"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Sixty digits whose brightness tells which they are."""
    root = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.uint8) % 10
    pixels = rng.integers(0, 30, (60, 28, 28), dtype=np.uint8) + 25 * labels[:, None, None]
    for prefix in ("train", "t10k"):
        rows = slice(0, 50) if prefix == "train" else slice(50, 60)
        write_idx(root / "MNIST" / "raw" / f"{prefix}-images-idx3-ubyte", pixels[rows])
        write_idx(root / "MNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", labels[rows])
    return f"mnist:{root}"


def test_every_variant_changes_one_thing_and_is_allowed():
    # An objective brings the penalty or norm that its authors made it for.
    companions = {"norm", "penalty_kind", "penalty"}
    for label, change in VARIANTS.items():
        config = GANConfig(data="", **{**BASE, **change})
        assert len(set(change) - companions) == (0 if label == "base" else 1)
        changed = {name for name in change if getattr(config, name) != BASE.get(name)}
        assert changed == set(change)


def test_ablation_goes_on_where_it_was(digits, tmp_path, capsys, monkeypatch):
    out = tmp_path / "figures.json"
    command = ["benchmark", "gan-ablation", "--data", digits, *BUDGET, "--out", str(out)]
    main([*command, "--seeds", "1", "--variants", "base", "--workers", "1"])
    first = json.loads(out.read_text())["runs"]
    assert [run["job"]["label"] for run in first] == [REAL, "base"]
    main([*command, "--seeds", "1", "--variants", "base", "without EMA", "--workers", "2"])
    runs = {run["job"]["label"]: run for run in json.loads(out.read_text())["runs"]}
    assert list(runs.values())[:2] == first
    assert runs["base"]["job"]["config"]["ema_half_life"] > 0
    assert runs["without EMA"]["job"]["config"]["ema_half_life"] == 0
    # Averaging does not touch what is trained, only what is used.
    assert runs["without EMA"]["loss_mean"] == runs["base"]["loss_mean"]
    assert runs["without EMA"]["fd_classifier"] != runs["base"]["fd_classifier"]
    table = out.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(runs)
    assert iio.imread(out.with_suffix(".png")).std() > 10

    monkeypatch.setattr(gan_ablation, "prepare", lambda *_: pytest.fail("nothing is missing"))
    main([*command, "--seeds", "1", "--variants", "base"])
    command[command.index("2")] = "3"  # iterations
    with pytest.raises(SystemExit, match="base with seed 0, but with other config; choose another"):
        main([*command, "--seeds", "1", "--variants", "base"])


def test_real_images_are_nearer_than_those_of_an_untrained_generator(digits, tmp_path):
    materials = prepare(digits, 16, 24, 8, seed=0)
    assert materials.train.shape == (24, 1, 16, 16)
    assert len(materials.judged) == 12
    assert len(materials.held_out) == 10  # MNIST's own test images
    job = {"label": REAL, "seed": 0, "config": None}
    real = run_job(job, materials, tmp_path)
    config = {**BASE, "iterations": 2, "batch_size": 8, "latent_dim": 4}
    config |= {"generator_features": 4, "discriminator_features": 4}
    run = run_job({"label": "base", "seed": 0, "config": config}, materials, tmp_path)
    assert real["fd_classifier"] < run["fd_classifier"]
    assert real["kid"] < run["kid"]
    assert run == {**run_job(run["job"], materials, tmp_path), "seconds": run["seconds"]}
    assert sum(map(sum, run["discriminator"]["matrix"])) == 20
    # Images of one seed at a time, at most 12 a row.
    assert iio.imread(tmp_path / "base-0.png").shape == (16, 10 * 16)


def test_the_judge_is_the_same_each_time(digits):
    first, second = (prepare(digits, 16, 24, 8, seed=0) for _ in range(2))
    assert first.judge == second.judge
    assert first.judge != prepare(digits, 16, 24, 8, seed=1).judge


def test_divergence_is_recorded_and_shown(digits, tmp_path, monkeypatch):
    materials = prepare(digits, 16, 24, 8, seed=0)
    steps = iter([1.0, 2.0, float("nan"), 3.0])
    monkeypatch.setattr(
        gan_ablation.GANTrainer,
        "train_step",
        lambda self: {"loss_discriminator": torch.tensor(next(steps))},
    )
    config = {**BASE, "iterations": 4, "batch_size": 8, "latent_dim": 4}
    run = run_job({"label": "base", "seed": 0, "config": config}, materials, tmp_path)
    assert run["diverged_at"] == 2
    row = gan_ablation._row([run, {"job": {}, "fd_classifier": 2.0}])
    assert row["seeds"] == "2, 1 of them diverged"
    assert row["fd_classifier"] == "2.00"
    assert row["recall"] == "-"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "bigger"], "variants has 'bigger'; allowed: base, upconv,"),
        (["--seeds", "0"], "seeds is 0; it must be at least 1"),
        (["--batch-size", "0"], "batch_size is 0; allowed: a whole number at least 1"),
    ],
)
def test_a_wrong_argument_is_one_line(digits, tmp_path, arguments, message):
    out = ["--out", str(tmp_path / "figures.json")]
    with pytest.raises(SystemExit, match=message):
        main(["benchmark", "gan-ablation", "--data", digits, *arguments, *out])
