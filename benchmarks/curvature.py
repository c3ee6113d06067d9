"""Densities of Hessians beside those of PyHessian, hessian-eigenthings and curvlinops, where these are installed.

`python -m benchmarks.curvature mlp|gpt|resnet|layers [--threads=2] [--rounds=3] [--compile]` prints a table: wall
seconds, variants in turns in one process, medians, and ratios of the same run. asv tracks the ratios to bare products,
which need no peer.
"""

import gc
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

        self.problem = resnet(images) if name == "resnet" else PROBLEMS[name]()
        self.options = RUNS[name]
        self.k, self.m = self.options["num_probes"], self.options["num_steps"]
        p = self.problem
        self.n = sum(x.numel() for x in p.model.parameters())
        self.parts: dict[str, float] = {}

        def ours(reorthogonalize: bool, compile: bool) -> None:
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
            self.trace = float(measure.trace())

        def bare() -> None:
            """As many products as the run, of one operator that exists."""
            V = slq.sphere(0, range(self.k), None, self.n, self.operator.like)
            for _ in range(self.m):
                self.operator.matvec(V)

        def gradients() -> None:
            for _ in range(4):
                self.operator.gradient()

        self.operator = hessian_operator(p.model, p.loss, p.batch)
        self.jobs: dict[str, Callable[[], None]] = {
            "slq": lambda: ours(True, False),
            "slq, not reorthogonalised": lambda: ours(False, False),
            "bare products": bare,
            "4 gradients": gradients,
        }
        if compiled:
            self.jobs["slq, compiled"] = lambda: ours(True, True)
        self.jobs |= _peers(p, self.k, self.m)


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


def _peers(p: Any, k: int, m: int) -> dict[str, Callable[[], Any]]:
    """Each peer's density of k runs of m steps, on the same model and batch."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def attentive(job: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with sdpa_kernel(SDPBackend.MATH):  # none of them handles attention
                return job()

        return run

    jobs: dict[str, Callable[[], Any]] = {}
    try:
        from pyhessian import hessian

        torch.eig = _eig  # type: ignore[attr-defined] # removed from torch; what release 0.1 wants of it

        def pyhessian() -> Any:
            try:
                return hessian(p.model, p.criterion, data=p.batch, cuda=False).density(iter=m, n_v=k)
            finally:
                p.model.zero_grad()

        jobs["PyHessian 0.1"] = attentive(pyhessian)
    except ImportError as error:
        print(f"PyHessian is skipped: {error}", file=sys.stderr)
    try:
        from hessian_eigenthings import HessianOperator, spectral_density

        def eigenthings() -> Any:
            op = HessianOperator(p.model, [p.batch], lambda model, batch: p.loss(model, batch))
            return spectral_density(op, num_runs=k, lanczos_steps=m, seed=0)

        jobs["hessian-eigenthings"] = attentive(eigenthings)
    except ImportError as error:
        print(f"hessian-eigenthings is skipped: {error}", file=sys.stderr)
    try:
        from curvlinops import HessianLinearOperator
        from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

        def curvlinops() -> Any:
            op = HessianLinearOperator(
                p.model, p.criterion, list(p.model.parameters()), [p.batch], check_deterministic=False
            )
            return lanczos_approximate_spectrum(op, ncv=m, num_repeats=k, boundaries=(-1.0, 10.0))

        jobs["curvlinops, not reorthogonalised"] = attentive(curvlinops)
    except ImportError as error:
        print(f"curvlinops is skipped: {error}", file=sys.stderr)
    return jobs


def _eig(T: Any, eigenvectors: bool) -> Any:  # noqa: ARG001 - the signature that was
    import torch

    values, vectors = torch.linalg.eig(T)
    return torch.stack([values.real, values.imag], 1), vectors.real


def layers(images: int = 64, rounds: int = 3) -> dict[str, float]:
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


def in_turns(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median wall seconds of each job."""
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            gc.collect()
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the peers' of themselves
                job()
            took[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def peak(job: Callable[[], Any]) -> int:
    """Bytes of the process above those at the start, at most, sampled each millisecond."""
    page, stop, most = 4096, threading.Event(), 0

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    gc.collect()
    before = resident()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, resident() - before)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        job()
    finally:
        stop.set()
        thread.join()
    return most


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
        self.seconds = in_turns(jobs, 2)

    def track_run(self, model: str) -> float:
        return self.seconds["slq"] / self.seconds["bare products"]

    track_run.unit = "bare products"

    def track_product(self, model: str) -> float:
        number = self.case.k * self.case.m
        return self.seconds["bare products"] / number / (self.seconds["4 gradients"] / 4)

    track_product.unit = "gradients"


def main(arguments: list[str]) -> None:
    import torch

    flags = dict(a.removeprefix("--").partition("=")[::2] for a in arguments if a.startswith("--"))
    torch.set_num_threads(int(flags.get("threads", 2)))
    rounds = int(flags.get("rounds", 3))
    for name in [a for a in arguments if not a.startswith("--")] or ["mlp"]:
        if name == "layers":
            found = layers(int(flags.get("images", 64)), rounds)
            base = found["one run per layer, a graph per product"]
            for job, seconds in found.items():
                print(f"{job:40} {seconds:8.2f} s {seconds / base:6.2f} x")
            continue
        case = Case(name, int(flags.get("images", 512)), "compile" in flags)
        if "only" in flags:
            case.jobs = {job: run for job, run in case.jobs.items() if any(x in job for x in flags["only"].split(","))}
        found = in_turns(case.jobs, rounds)
        print(f"{name}: n = {case.n}, k = {case.k}, m = {case.m}, {torch.get_num_threads()} threads")
        for job, seconds in found.items():
            ratios = "  ".join(f"{seconds / other:5.2f}" for other in found.values())
            print(f"{job:34} {seconds:8.2f} s   {ratios}")
        case.jobs["slq"]()
        parts = case.parts
        outside = 1 - (parts["products"] + parts["construction"]) / parts["all"]
        print(
            f"slq by {case.way}: construction {parts['construction']:.2f} s, {parts['number']} products "
            f"{parts['products']:.2f} s, {outside:.0%} of the time outside both"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
