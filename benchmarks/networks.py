"""The Hessian of a small network, in units of its gradient."""

from collections.abc import Callable
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

import slq

from .problems import placement

SIZES = (64, 212, 10)  # 15,910 parameters
NUM_SAMPLES = 1797
NUM_PROBES, NUM_STEPS = 5, 20
ROUNDS = 2


def numbers() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Weights and biases, inputs and classes; single precision."""
    rng = np.random.default_rng(0)
    weights = []
    for fan_in, fan_out in pairwise(SIZES):
        weights += [rng.normal(size=(fan_out, fan_in)) / np.sqrt(fan_in), np.zeros(fan_out)]
    inputs = rng.uniform(size=(NUM_SAMPLES, SIZES[0]))
    classes = rng.integers(SIZES[-1], size=NUM_SAMPLES)
    return [w.astype(np.float32) for w in weights], inputs.astype(np.float32), classes


def torch_hessian() -> Any:
    place = placement("torch")
    import torch

    from slq_torch import hessian_operator

    weights, inputs, classes = numbers()
    model = torch.nn.Sequential(torch.nn.Linear(*SIZES[:2]), torch.nn.Tanh(), torch.nn.Linear(*SIZES[1:]))
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.asarray(values))
    batch = place(inputs), place(classes)

    def loss(model: Any, batch: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    return hessian_operator(model.to(batch[0].device), loss, batch)


def jax_hessian() -> Any:
    place = placement("jax")
    import jax

    from slq_jax import hessian_operator

    weights, inputs, classes = numbers()

    def loss(params: Any, batch: Any) -> Any:
        W1, b1, W2, b2 = params
        logits = jax.numpy.tanh(batch[0] @ W1.T + b1) @ W2.T + b2
        picked = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], axis=1)
        return -picked.mean()

    return hessian_operator(loss, [place(w) for w in weights], (place(inputs), place(classes)))


def times(A: Any) -> dict[str, float]:
    """Seconds of one gradient, and of as many products alone and within a measure."""
    V = slq.sphere(0, range(NUM_PROBES), None, A.shape[0], A.like)

    def gradients() -> None:
        for _ in range(NUM_PROBES * NUM_STEPS):
            float(A.gradient()[0])  # reading an entry waits for it

    def products() -> None:
        for _ in range(NUM_STEPS):
            float(A.matvec(V)[0, 0])

    def measure() -> None:
        slq.spectral_measure(A, num_probes=NUM_PROBES, num_steps=NUM_STEPS)

    jobs = {"gradient": gradients, "product": products, "measure": measure}
    rounds = [{name: seconds(job) for name, job in jobs.items()} for _ in range(1 + ROUNDS)]
    # In turns, so that what else the machine does falls on all alike; the first round compiles.
    return {name: min(r[name] for r in rounds[1:]) / (NUM_PROBES * NUM_STEPS) for name in jobs}


def seconds(job: Callable[[], None]) -> float:
    start = perf_counter()
    job()
    return perf_counter() - start


class Hessian:
    """Ratios that were timed side by side in one process."""

    params = ("torch", "jax")
    param_names = ("backend",)

    def setup_cache(self) -> dict[str, dict[str, float]]:
        found = {}
        for backend, make in {"torch": torch_hessian, "jax": jax_hessian}.items():
            try:
                found[backend] = times(make())
            except NotImplementedError:
                continue
        return found

    setup_cache.timeout = 600.0

    def setup(self, found: Any, backend: str) -> None:
        if backend not in found:
            raise NotImplementedError(f"{backend} is not installed")

    def track_gradient(self, found: Any, backend: str) -> float:
        return found[backend]["gradient"]

    track_gradient.unit = "seconds"

    def track_product(self, found: Any, backend: str) -> float:
        return found[backend]["product"] / found[backend]["gradient"]

    track_product.unit = "gradients"

    def track_measure(self, found: Any, backend: str) -> float:
        return found[backend]["measure"] / found[backend]["gradient"]

    track_measure.unit = "gradients per product"
