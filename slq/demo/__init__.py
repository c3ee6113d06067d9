"""Floor 4: `slq demo`: the Hessian spectrum of a trained network, estimated and exact."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slq._probes import sphere
from slq._slq import spectral_measure
from slq.analysis import gradient_concentration
from slq.demo.digits import DigitsNetwork, load_digits, train
from slq.demo.page import write
from slq.demo.result import TOP, DemoResult
from slq.errors import MissingPackageError, RequestError

__all__ = ["DemoResult", "run"]


def run(
    folder: Path,
    *,
    backend: str = "torch",
    device: str | None = None,
    dtype: str = "float64",
    num_probes: int = 10,
    num_steps: int = 80,
    seed: int = 0,
    say: Callable[[str], object] = str,
    progress: Callable[[int, int], None] | None = None,
) -> DemoResult:
    """Train the network, estimate and compute its Hessian spectrum, and write measure, figure and page.

    Parameters
    ----------
    folder : Path
        Receives ``measure.npz``, ``density.png`` and ``report.html``; made if missing.
    backend : {"torch", "jax"}
        Who multiplies.
    device : str, optional
        As the backend names its devices.
    dtype : {"float64", "float32"}
    num_probes, num_steps, seed : int
        As for `spectral_measure`.
    say : callable
        Receives a line of text at the beginning of each stage.
    progress : callable, optional
        As for `spectral_measure`.

    Returns
    -------
    DemoResult

    Raises
    ------
    MissingPackageError
        If the backend, scikit-learn or matplotlib is not installed.
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    say("training a 64-40-10 network on 1,797 digits")
    X, y = load_digits()
    network = train(X, y)
    operator, synchronize = _operator(backend, network, X, y, dtype, device)
    say(f"{num_probes} probes x {num_steps} Lanczos steps, Hessian of all {network.n:,} weights ({backend}, {dtype})")
    spectral_measure(operator, num_probes=num_probes, num_steps=3)  # compilation and first use are no part of a step
    start = time.perf_counter()
    measure = spectral_measure(operator, num_probes=num_probes, num_steps=num_steps, rng=seed, progress=progress)
    seconds = time.perf_counter() - start
    seconds_of_products = _seconds_of_products(operator, synchronize, num_probes, num_steps)
    gradient_measure = spectral_measure(operator, probes=operator.gradient(), num_steps=num_steps)
    say("exact Hessian in closed form, and its eigendecomposition")
    eigenvalues, vectors = np.linalg.eigh(network.hessian(X, y))
    gradient = np.concatenate([g.ravel() for g in network.gradients(X, y)])
    result = DemoResult(
        measure=measure,
        gradient_measure=gradient_measure,
        eigenvalues=eigenvalues,
        concentration=gradient_concentration(vectors.T[::-1][:TOP], gradient, TOP),
        network=network,
        accuracy=network.accuracy(X, y),
        loss=network.loss(X, y),
        seconds=seconds,
        seconds_of_products=seconds_of_products,
    )
    write(result, folder, backend, dtype)
    return result


def _operator(
    backend: str, network: DigitsNetwork, X: np.ndarray, y: np.ndarray, dtype: str, device: str | None
) -> tuple[Any, Callable[[Any], Any]]:
    if backend not in ("torch", "jax"):
        raise RequestError(f"backend expects 'torch' or 'jax', got {backend!r}")
    try:
        adapter = importlib.import_module(f"slq_{backend}.demo")
    except ImportError as error:
        raise MissingPackageError(f"this backend needs {backend}: pip install 'slq[{backend}]'") from error
    return adapter.digits_operator(network.arrays, X, y, dtype=dtype, device=device)


def _seconds_of_products(operator: Any, synchronize: Callable[[Any], Any], num_probes: int, num_steps: int) -> float:
    """The time of the products of a run, made one after the other without it; from ten blocks of them."""
    V = sphere(0, range(num_probes), None, operator.shape[0], operator.like)
    synchronize(operator.matvec(V))
    start = time.perf_counter()
    for _ in range(10):
        synchronize(operator.matvec(V))
    return num_steps * (time.perf_counter() - start) / 10
