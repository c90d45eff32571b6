import json
import shutil

import pytest

from latentgym.cli import main
from latentgym.cli.benchmarks import throughput


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # what torch says of itself
def test_throughput_measures_all_parts(tiny_file, tmp_path, monkeypatch, capsys):
    for name, value in {"BATCH": 3, "LARGE": 16, "STATES": 500}.items():
        monkeypatch.setattr(throughput, name, value)
    out = tmp_path / "figures" / "throughput.json"
    command = ["benchmark", "throughput", "--backbone", tiny_file, "--out", str(out)]
    main([*command, "--seconds", "0.05", "--steps", "100"])
    report = json.loads(out.read_text())
    assert str(out) in capsys.readouterr().out
    parts = [part for part in report if isinstance(report[part], dict)]
    assert parts[:3] == ["networks, batch 3", "networks, batch 1", "accuracy"]
    assert parts[3:7] == ["3 environments", "1 environment", "3 environments, peers", "memory"]
    networks = report["networks, batch 3"]
    assert networks["plain"]["times as fast as plain"] == 1
    assert set(networks) == {"plain", "prepared", "prepared, bf16", "prepared, compiled"}
    exact, rounded = report["accuracy"]["prepared"], report["accuracy"]["prepared, bf16"]
    assert exact["states"] == 500 and exact["success flags changed"] == 0
    assert (
        exact["largest error of a probability"] < 1e-4 < rounded["largest error of a probability"]
    )
    steps = report["3 environments"]
    assert steps["bare, plain"]["time over bare, plain"] == 1
    assert steps["LatentEdit-v0"]["steps/s"] > 0
    assert all(row["peak GB"] > 0.1 for row in list(report["memory"].values())[:2])
