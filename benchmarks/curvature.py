"""Densities of Hessians beside those of PyHessian, hessian-eigenthings and curvlinops, where these are installed.

`python -m benchmarks.curvature mlp|gpt|resnet|layers [--threads=2] [--rounds=3] [--compile] [--memory]` prints a table:
wall seconds, variants in turns in one process, medians, and ratios of the same run; what each quadrature found, as
densities that differ are no pair; and the load of the machine. asv tracks the ratios to bare products, which need no
peer.
"""

import gc
import os
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import slq

# Probes and steps, and how our runs reorthogonalise.
RUNS: dict[str, dict[str, Any]] = {
    "mlp": {"num_probes": 5, "num_steps": 80},
    "gpt": {"num_probes": 1, "num_steps": 80},
    "resnet": {"num_probes": 4, "num_steps": 20},
}


class Case:
    """A problem and the jobs that are timed: each makes its operator and a density of k runs of m steps."""

    def __init__(self, name: str, images: int = 512, compiled: bool = False) -> None:
        from slq_torch import hessian_operator

        from .models import PROBLEMS, resnet
        from .peers import peers

        self.problem = resnet(images) if name == "resnet" else PROBLEMS[name]()
        self.options = RUNS[name]
        self.k, self.m = self.options["num_probes"], self.options["num_steps"]
        p = self.problem
        self.n = sum(x.numel() for x in p.model.parameters())
        self.parts: dict[str, float] = {}

        def ours(reorthogonalize: bool, compile: bool) -> tuple[np.ndarray, np.ndarray]:
            start = time.perf_counter()
            A = hessian_operator(p.model, p.loss, p.batch, compile=compile)
            built = time.perf_counter()
            counted = _Timed(A)
            measure = slq.spectral_measure(counted, reorthogonalize=reorthogonalize, **self.options)
            measure.density()
            self.parts = {
                "construction": built - start,
                "products": counted.seconds,
                "all": time.perf_counter() - start,
                "number": counted.rows,
            }
            self.way = A.ad
            return measure.nodes, measure.weights

        def bare() -> None:
            """As many products as the run, of one operator that exists."""
            V = slq.sphere(0, range(self.k), None, self.n, self.operator.like)
            for _ in range(self.m):
                self.operator.matvec(V)

        def gradients() -> None:
            for _ in range(4):
                self.operator.gradient()

        self.operator = hessian_operator(p.model, p.loss, p.batch)
        self.jobs: dict[str, Callable[[], Any]] = {
            "slq": lambda: ours(True, False),
            "slq, not reorthogonalised": lambda: ours(False, False),
            "bare products": bare,
            "4 gradients": gradients,
        }
        if compiled:
            self.jobs["slq, compiled"] = lambda: ours(True, True)
        self.jobs |= peers(p, self.k, self.m, self.range)

    def range(self) -> tuple[float, float]:
        """About where the spectrum ends."""
        nodes = slq.spectral_measure(self.operator, num_probes=1, num_steps=10, check=False).nodes
        return float(nodes.min()), float(nodes.max())


class _Timed:
    """An operator that counts its rows and the seconds of its products."""

    def __init__(self, A: Any) -> None:
        self.operator, self.shape, self.like = A, A.shape, A.like
        self.seconds, self.rows = 0.0, 0

    def matvec(self, x: Any) -> Any:
        start = time.perf_counter()
        y = self.operator.matvec(x)
        self.seconds += time.perf_counter() - start
        self.rows += len(x)
        return y

    def workspace(self, rows: int) -> int:
        return self.operator.workspace(rows)


class Took(NamedTuple):
    """Median wall seconds of a job, those of all cores, and what the job returned last."""

    wall: float
    cores: float
    found: Any


def layers(images: int = 64, rounds: int = 3) -> dict[str, Took]:
    """All layers of the ResNet at once, beside one run per layer that builds its graph for each product."""
    from slq_torch import hessian_operator, layer_operators

    from .models import resnet

    p = resnet(images)
    options = {"num_probes": 2, "num_steps": 5, "check": False}
    names = list(layer_operators(p.model, p.loss, p.batch))
    half = images // 2
    batches = [tuple(x[:half] for x in p.batch), tuple(x[half:] for x in p.batch)]

    def layer(name: str) -> Any:
        return hessian_operator(p.model, p.loss, p.batch, params=f"{name}.*")

    def together(data: Any) -> Any:
        return slq.spectral_measures(layer_operators(p.model, p.loss, data), **options)

    def one_by_one() -> Any:
        return {name: slq.spectral_measure(_fresh(layer(name)), **options) for name in names}

    def one_by_one_kept() -> Any:
        return {name: slq.spectral_measure(layer(name), **options) for name in names}

    first, second = together(p.batch), one_by_one()
    errors = [np.abs(first[x].nodes - second[x].nodes).max() / np.abs(second[x].nodes).max() for x in names]
    worst = max(errors)
    print(f"{len(names)} layers; nodes differ by at most {worst:.1e} of the largest (float32)")
    jobs = {
        "all at once": lambda: together(p.batch),
        "all at once, two batches": lambda: together(batches),
        "one run per layer, a graph per product": one_by_one,
        "one run per layer, graph kept": one_by_one_kept,
    }
    return in_turns(jobs, rounds)


def _fresh(op: Any) -> Any:
    op._mode.drop()
    op._undecided = False
    return op


def in_turns(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Took]:
    """Time each job once per round."""
    took: dict[str, list[Took]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            gc.collect()
            wall, cores = time.perf_counter(), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the peers' of themselves
                found = job()
            took[name].append(Took(time.perf_counter() - wall, time.process_time() - cores, found))
    middle = statistics.median
    return {
        x: Took(middle(t.wall for t in all), middle(t.cores for t in all), all[-1].found) for x, all in took.items()
    }


def peak(job: Callable[[], Any]) -> int:
    """Bytes of the process above those at the start, at most, sampled each millisecond."""
    stop, most = threading.Event(), 0
    gc.collect()
    before = _resident()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, _resident() - before)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        job()
    finally:
        stop.set()
        thread.join()
    return most


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Products:
    """Our runs in units of bare products, and these in gradients, timed side by side."""

    params = ("mlp", "gpt", "resnet")
    param_names = ("model",)
    timeout = 900.0

    def setup(self, model: str) -> None:
        try:
            self.case = Case(model, images=16)
        except ImportError as error:
            raise NotImplementedError(str(error)) from None
        jobs = {name: self.case.jobs[name] for name in ("slq", "bare products", "4 gradients")}
        self.took = in_turns(jobs, 2)

    def track_run(self, model: str) -> float:
        return self.took["slq"].wall / self.took["bare products"].wall

    track_run.unit = "bare products"

    def track_product(self, model: str) -> float:
        number = self.case.k * self.case.m
        return self.took["bare products"].wall / number / (self.took["4 gradients"].wall / 4)

    track_product.unit = "gradients"


def tell(case: Case, name: str, took: dict[str, Took]) -> None:
    """Print the times, what was found, and where ours went."""
    import torch

    print(
        f"{name}: n = {case.n}, k = {case.k}, m = {case.m}, {torch.get_num_threads()} threads; load {os.getloadavg()}"
    )
    print(f"{'':34}      wall      cores   mean eigenvalue and its error, largest node; ratios of wall seconds")
    for job, (wall, cores, found) in took.items():
        ratios = "  ".join(f"{wall / other.wall:5.2f}" for other in took.values())
        print(f"{job:34} {wall:8.2f} s {cores:8.2f} s   {_moment(found):36} {ratios}")
    case.jobs["slq"]()
    parts = case.parts
    outside = 1 - (parts["products"] + parts["construction"]) / parts["all"]
    print(
        f"slq by {case.way}: construction {parts['construction']:.2f} s, {parts['number']:.0f} products "
        f"{parts['products']:.2f} s, {outside:.0%} of the time outside both"
    )


def _moment(found: Any) -> str:
    if found is None:
        return ""
    nodes, weights = found
    means = (nodes * weights).sum(axis=1)
    error = f"{means.std(ddof=1) / len(means) ** 0.5:.1e}" if len(means) > 1 else "?"
    return f"{means.mean():+.2e} +- {error}, {nodes.max():.5g}"


def tell_memory(case: Case) -> None:
    """Print what the process grows by in a run with and without its basis, beside the forecast; and over 200 steps."""
    for reorthogonalize in (True, False):
        options = {**case.options, "reorthogonalize": reorthogonalize}
        forecast = slq.memory_forecast(case.operator, **options)
        kept = case.k * case.m * case.n * 4 if reorthogonalize else 0
        most = peak(lambda options=options: slq.spectral_measure(case.operator, **options))
        print(
            f"slq, reorthogonalize={reorthogonalize}: {most / 1e6:.0f} MB, {kept / 1e6:.0f} of them a basis; forecast "
            f"{forecast / 1e6:.0f} MB"
        )
    levels = [_resident()]
    for _ in range(4):
        slq.spectral_measure(case.operator, num_probes=1, num_steps=50, reorthogonalize=False)
        levels.append(_resident())
    print("after 0, 50, 100, 150, 200 steps: " + ", ".join(f"{x / 1e6:.0f}" for x in levels) + " MB")


def main(arguments: list[str]) -> None:
    import torch

    flags = dict(a.removeprefix("--").partition("=")[::2] for a in arguments if a.startswith("--"))
    torch.set_num_threads(int(flags.get("threads", 2)))
    rounds = int(flags.get("rounds", 3))
    for name in [a for a in arguments if not a.startswith("--")] or ["mlp"]:
        if name == "layers":
            found = layers(int(flags.get("images", 64)), rounds)
            base = found["one run per layer, a graph per product"].wall
            for job, took in found.items():
                print(f"{job:40} {took.wall:8.2f} s {took.wall / base:6.2f} x")
            continue
        case = Case(name, int(flags.get("images", 512)), "compile" in flags)
        if "memory" in flags:
            tell_memory(case)
            continue
        if "only" in flags:
            case.jobs = {job: run for job, run in case.jobs.items() if any(x in job for x in flags["only"].split(","))}
        tell(case, name, in_turns(case.jobs, rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
