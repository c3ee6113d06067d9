"""The structure of slq: what is loaded, which floors build on which, what is public."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import slq

ROOT = Path(slq.__file__).parent
FILES = {".".join(("slq", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}
HEAVY = ("torch", "jax", "cupy", "matplotlib", "sklearn", "pandas", "array_api_strict", "slq_torch", "slq_jax")


def imported(tree):
    """Absolute names that a module imports when it is loaded: neither in functions nor for type checkers only."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)
            ]


def of_slq(tree):
    """Those of them that are modules of slq."""
    return {name for name in imported(tree) if name in MODULES} - {"slq"}


def floor(name):
    """The floor that a module's docstring names; a package's parts live on the floor of the package."""
    found = re.match(r"Floor (\d):", ast.get_docstring(MODULES[name]) or "")
    if found is None and name.count(".") > 1:
        return floor(name.rpartition(".")[0])
    assert found, f"the docstring of {name} must begin with 'Floor N:'"
    return int(found[1])


def test_importing_and_using_slq_loads_no_framework_and_changes_no_state():
    code = f"""
import logging, os, sys, warnings
import numpy as np
import scipy.fft, scipy.linalg, scipy.sparse, scipy.stats, array_api_compat

def state():
    lists = np.random.get_state()[1].tolist(), list(warnings.filters), logging.root.handlers[:]
    return lists, np.geterr(), dict(os.environ)

def loaded():
    return [name for name in {HEAVY} if name in sys.modules]

before = state()
import slq
print(*loaded(), "imported", state() == before)
import slq.adapters
measure = slq.spectral_measure(np.diag([1.0, 2.0, 3.0]), num_steps=3)
measure.logdet(), measure.density(), measure.summary()
print(*loaded(), "used", state() == before)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["imported True", "used True"]


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"slq"}))
def test_imports_only_go_down(name):
    for other in of_slq(MODULES[name]):
        assert floor(other) <= floor(name), f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.count(".") == 1))
def test_every_file_is_in_the_table_of_floors(name):
    page = ROOT.parent / "CONTRIBUTING.md"
    if not page.is_file():
        pytest.skip("the page is not beside slq: an installed wheel")
    rows = [row for row in page.read_text("utf-8").splitlines() if row.startswith(f"| {floor(name)}")]
    assert [row for row in rows if f"`{name.removeprefix('slq.')}`" in row], f"{name}: floor {floor(name)}"


def test_no_imports_go_round_in_circles():
    graph = {name: of_slq(tree) for name, tree in MODULES.items() if name != "slq"}
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)  # raises CycleError


def test_one_module_knows_the_array_libraries():
    for name, tree in MODULES.items():
        found = {full.split(".")[0] for full in imported(tree)}
        assert "array_api_compat" not in found or name == "slq._arrays"
        assert not found & {"torch", "jax", "cupy"}, f"{name} imports a framework"


def test_adapters_know_their_own_framework_only():
    backends = ROOT.parent / "backends"
    if not backends.is_dir():
        pytest.skip("the adapters are not beside slq: an installed wheel")
    for own, other in (("torch", "jax"), ("jax", "torch")):
        for path in (backends / f"slq_{own}").rglob("*.py"):
            names = {full.split(".")[0] for full in imported(ast.parse(path.read_text("utf-8")))}
            assert not names & {other, f"slq_{other}"}, path.name
            private = {full for full in imported(ast.parse(path.read_text("utf-8"))) if full.startswith("slq._")}
            assert not private, f"{path.name} imports private modules of slq: {private}"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"slq.__main__"}))
def test_what_is_public_is_listed(name):
    module = importlib.import_module(name)
    if not hasattr(module, "__all__"):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
        assert not [key for key in own if not key.startswith("_")], "public names, but no __all__"
        return
    assert len(set(module.__all__)) == len(module.__all__)
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
    }
    assert own <= set(module.__all__)
    assert all(hasattr(module, key) for key in module.__all__)


@pytest.mark.parametrize("name", slq.__all__)
def test_everything_public_is_documented(name):
    assert name == "__version__" or getattr(slq, name).__doc__
