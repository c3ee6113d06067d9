"""Densities of Hessians by PyHessian, hessian-eigenthings and curvlinops, where these are installed.

Each makes as many products as asked for, k m (counted), and no more: curvlinops is given the range of the spectrum,
which it would find by eigsh. Each job returns its quadrature: nodes and weights, (k, m) each, or those of the mean.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Quadrature = tuple[np.ndarray, np.ndarray]


def peers(p: Any, k: int, m: int, find_range: Callable[[], tuple[float, float]]) -> dict[str, Callable[[], Quadrature]]:
    """Each peer's density of k runs of m steps of the Hessian of a `Problem`, on the same model and batch."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def attentive(job: Callable[[], Quadrature]) -> Callable[[], Quadrature]:
        def run() -> Quadrature:
            with sdpa_kernel(SDPBackend.MATH):  # none of them handles attention
                return job()

        return run

    jobs: dict[str, Callable[[], Quadrature]] = {}
    for name, make in {
        "PyHessian 0.1": lambda: _pyhessian(p, k, m),
        "hessian-eigenthings": lambda: _eigenthings(p, k, m),
        "curvlinops, not reorthogonalised": lambda: _curvlinops(p, k, m, find_range),
    }.items():
        try:
            jobs[name] = attentive(make())
        except ImportError as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
    return jobs


def _pyhessian(p: Any, k: int, m: int) -> Callable[[], Quadrature]:
    import torch
    from pyhessian import hessian

    torch.eig = _eig  # type: ignore[attr-defined] # removed from torch; what release 0.1 wants of it

    def run() -> Quadrature:
        try:
            nodes, weights = hessian(p.model, p.criterion, data=p.batch, cuda=False).density(iter=m, n_v=k)
        finally:
            p.model.zero_grad()
        return np.asarray(nodes), np.asarray(weights)

    return run


def _eig(T: Any, eigenvectors: bool) -> Any:  # noqa: ARG001 - the signature that was
    import torch

    values, vectors = torch.linalg.eig(T)
    return torch.stack([values.real, values.imag], 1), vectors.real


def _eigenthings(p: Any, k: int, m: int) -> Callable[[], Quadrature]:
    from hessian_eigenthings import HessianOperator, spectral_density

    def run() -> Quadrature:
        op = HessianOperator(p.model, [p.batch], lambda model, batch: p.loss(model, batch))
        found = spectral_density(op, num_runs=k, lanczos_steps=m, seed=0)
        return found.raw_eigenvalues.numpy(), found.raw_weights.numpy()

    return run


def _curvlinops(p: Any, k: int, m: int, find_range: Callable[[], tuple[float, float]]) -> Callable[[], Quadrature]:
    from curvlinops import HessianLinearOperator
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    ends = find_range()

    def run() -> Quadrature:
        op = HessianLinearOperator(
            p.model, p.criterion, list(p.model.parameters()), [p.batch], check_deterministic=False
        )
        grid, density = lanczos_approximate_spectrum(op, ncv=m, num_repeats=k, boundaries=ends)
        return grid.numpy()[None], (density / density.sum()).numpy()[None]

    return run
