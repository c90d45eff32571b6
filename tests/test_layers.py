"""Dependencies between modules: one direction, no cycles, nothing slow that is not needed."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gan_backbones", "latentgym", "agents")


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imports(path):
    """Modules of ours that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {node.module}
    return found & MODULES.keys()


GRAPH = {name: imports(path) for name, path in MODULES.items()}


def test_no_modules_import_each_other_in_a_circle():
    # A package's __init__ may import its own modules, which import only each other.
    graph = {name: GRAPH[name] for name in GRAPH if MODULES[name].name != "__init__.py"}
    TopologicalSorter(graph).prepare()  # raises an error that shows the cycle


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("gan_backbones.", ("latentgym", "agents")),
        ("latentgym.", ("agents", "latentgym.cli")),
        ("agents.", ("latentgym.cli",)),
        ("gan_backbones.utils.", ("gan_backbones.training", "gan_backbones.networks")),
        ("gan_backbones.networks.", ("gan_backbones.training", "gan_backbones.metrics")),
        ("gan_backbones.metrics.", ("gan_backbones.training",)),
        ("agents.dqn", ("latentgym",)),
        ("agents.reinforce", ("latentgym",)),
    ],
)
def test_layers(package, forbidden):
    for name in GRAPH:
        if name.startswith(package) and not name.startswith(
            ("latentgym.cli", "latentgym.__main__")
        ):
            wrong = [
                m for m in GRAPH[name] if f"{m}.".startswith(tuple(f"{f}." for f in forbidden))
            ]
            assert not wrong, f"{name} imports {wrong}"


def test_agents_import_neither_torchvision_nor_accelerate():
    code = (
        "import sys, agents; slow = {'accelerate', 'torchvision', 'stable_baselines3', 'pygame'};"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
