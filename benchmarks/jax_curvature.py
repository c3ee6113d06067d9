"""Densities of Hessians in JAX beside as many separate compiled products, and beside matfree where it is installed.

`python -m benchmarks.jax_curvature mlp|gpt [--rounds=3]` prints wall seconds, variants in turns in one process, medians
of rounds, and ratios to the separate products of the same run; seconds of the first run, with what it compiles; and
what a second operator, at other parameters, compiles. asv tracks the ratios.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

import slq

from .curvature import in_turns

RUNS = {"mlp": {"num_probes": 5, "num_steps": 80}, "gpt": {"num_probes": 3, "num_steps": 20}}
BARE = "separate products"


class Case:
    """A problem, and the jobs that are timed."""

    def __init__(self, name: str) -> None:
        import jax
        from jax.flatten_util import ravel_pytree

        from slq_jax import hessian_operator

        from .jax_models import PROBLEMS

        loss, params, batch = PROBLEMS[name]()
        self.options = RUNS[name]
        self.k, self.m = self.options["num_probes"], self.options["num_steps"]
        point, unravel = ravel_pytree(params)
        self.n = point.size
        V = slq.sphere(0, range(self.k), None, self.n, point[:0])

        @jax.jit
        def product(params: Any, batch: Any, v: Any) -> Any:
            gradient = jax.grad(lambda p: loss(p, batch))
            return ravel_pytree(jax.jvp(gradient, (params,), (unravel(v),))[1])[0]

        def bare() -> None:
            for _ in range(self.m):
                for v in V:
                    product(params, batch, v).block_until_ready()

        def run(**options: Any) -> Any:
            return slq.spectral_measure(hessian_operator(loss, params, batch), **self.options, **options)

        def lanczos(reorthogonalize: bool) -> Any:
            return slq.lanczos(hessian_operator(loss, params, batch), V, self.m, reorthogonalize=reorthogonalize)

        self.jobs: dict[str, Callable[[], Any]] = {
            BARE: bare,
            "lanczos": lambda: lanczos(True),
            "lanczos, not reorthogonalised": lambda: lanczos(False),
            "measure": run,
            "measure, not reorthogonalised": lambda: run(reorthogonalize=False),
            "measure, neither checked": lambda: run(reorthogonalize=False, check=False),
        }
        if find_spec("matfree"):
            self.jobs |= {
                f"matfree, {kind}, {way}": _matfree(product, params, batch, V, self.m, kind, way)
                for kind in ("full", "none")
                for way in ("in sequence", "vmap")
            }

        def other() -> Any:
            moved = jax.tree.map(lambda x: x * np.float32(1.01), params)
            jax.block_until_ready(moved)
            with compilations() as found:
                slq.spectral_measure(hessian_operator(loss, moved, batch), **self.options)
            return found

        self.second = other


def _matfree(product: Any, params: Any, batch: Any, V: Any, num_steps: int, kind: str, way: str) -> Callable[[], Any]:
    import jax
    from matfree import decomp

    @jax.jit
    def run(params: Any, batch: Any, V: Any) -> Any:
        tridiagonal = decomp.tridiag_sym(num_steps, materialize=False, reortho=kind, custom_vjp=False)

        def one(v: Any) -> Any:
            return tridiagonal(lambda x: product(params, batch, x), v).J_small

        return jax.lax.map(one, V) if way == "in sequence" else jax.vmap(one)(V)

    return lambda: jax.block_until_ready(run(params, batch, V))


@contextmanager
def compilations() -> Iterator[list[str]]:
    """What JAX says it compiles meanwhile."""
    import jax

    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Compiling"):
                found.append(record.getMessage())

    listener, logger = Listener(), logging.getLogger("jax")
    logger.addHandler(listener)
    try:
        with jax.log_compiles():
            yield found
    finally:
        logger.removeHandler(listener)


class Runs:
    """Runs in units of separate products, timed side by side."""

    params = ("mlp", "gpt")
    param_names = ("model",)
    timeout = 900.0

    def setup(self, model: str) -> None:
        try:
            self.case = Case(model)
        except ImportError as error:
            raise NotImplementedError(str(error)) from None
        jobs = {name: job for name, job in self.case.jobs.items() if not name.startswith("matfree")}
        in_turns(jobs, 1)  # compiles
        self.took = in_turns(jobs, 2)

    def track_measure(self, model: str) -> float:
        return self.took["measure"].wall / self.took[BARE].wall

    track_measure.unit = "separate products"

    def track_not_reorthogonalised(self, model: str) -> float:
        return self.took["measure, not reorthogonalised"].wall / self.took[BARE].wall

    track_not_reorthogonalised.unit = "separate products"

    def track_compilations_of_a_second_operator(self, model: str) -> int:
        return len(self.case.second())

    track_compilations_of_a_second_operator.unit = "compilations"


def main(arguments: list[str]) -> None:
    flags = dict(a.removeprefix("--").partition("=")[::2] for a in arguments if a.startswith("--"))
    for name in [a for a in arguments if not a.startswith("--")] or ["mlp"]:
        case = Case(name)
        print(f"{name}: n = {case.n}, k = {case.k}, m = {case.m}, {os.cpu_count()} cores; load {os.getloadavg()}")
        start = time.perf_counter()
        case.jobs["measure"]()
        first = time.perf_counter() - start
        print(f"first measure, with all that it compiles: {first:.1f} s; a second operator compiles {case.second()}")
        in_turns(case.jobs, 1)  # compiles the rest
        took = in_turns(case.jobs, int(flags.get("rounds", 3)))
        for job, (wall, cores, _) in took.items():
            print(f"{job:34} {wall:8.2f} s {cores:8.2f} s of cores  {wall / took[BARE].wall:5.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
