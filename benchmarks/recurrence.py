"""The recurrence beside the bare products, and beside imate where it is installed: ratios within one process.

`python -m benchmarks.recurrence` prints the table; asv tracks the ratios. CPU seconds of one thread, in turns, medians:
each ratio compares times of the same minute. Set OMP_NUM_THREADS=1 (and OPENBLAS_NUM_THREADS=1) for both.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse

import slq
from slq import _host_vectors

ROUNDS = 9


class Case:
    """A problem: what is timed, by name, and how often its operator multiplies a block."""

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(0)
        kind, _, number = name.partition(" k=")
        self.options: dict[str, Any] = {"reorthogonalize": False, "check": False}
        if kind == "dense":
            n, k, self.steps = 1000, int(number), 50
            A = rng.normal(size=(n, n))
            self.matrix = A + A.T
            self.block = rng.normal(size=(k, n))
            self.multiply: Callable[[], Any] = lambda: self.block @ self.matrix
        elif kind == "diagonal":
            n, k, self.steps = 10**7, 1, 10
            d = np.geomspace(1e-2, 1, n)
            self.sparse = scipy.sparse.dia_array((d[None], [0]), shape=(n, n))
            self.matrix = slq.aslinearoperator(lambda x: x * d, like=d, batched=True)
            self.block = rng.normal(size=(k, n))
            self.multiply = lambda: self.block * d
        else:
            side, k, self.steps = (700, 10, 30) if kind == "laplacian" else (200, 4, 50)
            line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
            self.sparse = (scipy.sparse.kronsum(line, line) + scipy.sparse.eye_array(side**2)).tocsr()
            self.matrix = self.sparse
            self.block = rng.normal(size=(k, side**2))
            columns = np.ascontiguousarray(self.block.T)
            self.multiply = lambda: self.sparse @ columns
            if kind == "reorthogonalised":
                self.options["reorthogonalize"] = True

    def products(self) -> None:
        for _ in range(self.steps):
            self.multiply()

    def recurrence(self) -> None:
        slq.lanczos(self.matrix, self.block, self.steps, **self.options)

    def imate(self) -> None:
        import imate

        A, k = self.sparse.tocsr(), len(self.block)
        imate.logdet(
            A,
            method="slq",
            min_num_samples=k,
            max_num_samples=k,
            lanczos_degree=self.steps,
            orthogonalize=-1 if self.options["reorthogonalize"] else 0,
            num_threads=1,
        )


CASES = ("laplacian", "diagonal", "dense k=1", "dense k=10", "dense k=100", "reorthogonalised")


@contextmanager
def without_numba() -> Any:
    """Let NumPy and SciPy do the work."""
    original = _host_vectors.compiled
    _host_vectors.compiled = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        _host_vectors.compiled = original


def measure(name: str, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """CPU seconds of each way of doing the work, one list each, taken in turns."""
    case = Case(name)
    ways: dict[str, Callable[[], None]] = {"products": case.products, "plain": case.recurrence}
    if find_spec("numba") is not None:
        ways["compiled"] = case.recurrence
    if find_spec("imate") is not None and hasattr(case, "sparse"):
        ways["imate"] = case.imate
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(rounds + 1):
        for way, run in ways.items():
            with without_numba() if way == "plain" else _nothing():
                began = time.process_time()
                run()
                if i:  # the first round loads and compiles
                    seconds[way].append(time.process_time() - began)
    return seconds


@contextmanager
def _nothing() -> Any:
    yield


class Recurrence:
    """Whole runs over their bare products."""

    params = (CASES, ("plain", "compiled"))
    param_names = ("case", "kind")
    timeout = 300.0

    def setup(self, case: str, kind: str) -> None:
        if kind == "compiled" and find_spec("numba") is None:
            raise NotImplementedError("numba is not installed")

    def track_over_products(self, case: str, kind: str) -> float:
        seconds = measure(case, rounds=3)
        return statistics.median(seconds[kind]) / statistics.median(seconds["products"])

    track_over_products.unit = "CPU time of a run / that of its products"


def table(rounds: int = ROUNDS) -> None:
    """Print the ratios, and for single vectors what a step costs beside its product."""
    for name in CASES:
        seconds = measure(name, rounds)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        steps = Case(name).steps if name == "dense k=1" else 0
        parts = [f"{way} {t:.4f} s" for way, t in medians.items()]
        parts += [f"{way}/products {medians[way] / medians['products']:.2f}" for way in medians if way != "products"]
        if "imate" in medians:
            parts += [f"{way}/imate {medians[way] / medians['imate']:.2f}" for way in medians if way != "imate"]
        if steps:
            parts.append(f"{1e6 * (medians['plain'] - medians['products']) / steps:.0f} µs per step beside the product")
        print(f"{name}: " + ", ".join(parts), flush=True)


if __name__ == "__main__":
    table(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
