import json

import pytest

from latentgym.cli import main
from latentgym.cli.benchmarks import agent_speed


def test_both_learn_and_replay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(agent_speed, "STORED", 1000)
    monkeypatch.setattr(agent_speed, "TURN", 64)
    for settings in agent_speed.SETTINGS.values():
        monkeypatch.setitem(settings, "learning_starts", 16)
        monkeypatch.setitem(settings, "buffer_size", 1000)
    out = tmp_path / "figures" / "speed.json"
    main(["benchmark", "agent-speed", "--seconds", "0", "--out", str(out)])
    report = json.loads(out.read_text())
    parts = [part for part in report if isinstance(report[part], dict)]
    assert len(parts) == 6
    for part in parts:
        peer = report[part].pop("Stable-Baselines3")
        assert peer.pop("times as fast as Stable-Baselines3") == 1
        ((unit, speed),) = peer.items()
        for row in report[part].values():
            ratio = row["times as fast as Stable-Baselines3"]
            assert row[unit] > 0 and ratio == pytest.approx(row[unit] / speed)
    assert str(out) in capsys.readouterr().out
