"""Floor 1: what other tools leave of their Lanczos runs, quadratures and tridiagonal matrices, read and checked."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import hessenberg

from slq._arrays import is_array, to_host
from slq.errors import FileFormatError, RequestError, ShapeError

__all__ = ["Run", "cleaned", "matrices", "rows", "tridiagonal"]

_EPS = float(np.finfo(np.float64).eps)
_SAME = 4 * _EPS  # of the largest node: nodes nearer than this are one
_NOT_ZERO = 1e-300  # of the largest node: a residual that rounding took for zero, where the run goes on
_EXPECTED = "expects matrices (m, m), (k, m, m) or (m, m, k) of real numbers"


class Run(NamedTuple):
    """A run of m steps.

    Attributes
    ----------
    alpha, beta : (m,) and (m - 1,) array
        The diagonal and the off-diagonal of its tridiagonal matrix.
    ended : bool
        Whether its last residual is known to be zero.
    """

    alpha: np.ndarray
    beta: np.ndarray
    ended: bool


def rows(name: str, values: Any, eps: float) -> list[np.ndarray]:
    """The draws of `values` as real numbers."""
    if is_array(values):
        values = to_host(values)
    if not isinstance(values, np.ndarray | list | tuple) or len(values) == 0:
        raise RequestError(f"{name} expects a (k, m) array or a sequence of sequences, got {type(values).__name__}")
    nested = values if np.ndim(values[0]) else [values]
    return [_real(f"{name} of draw {i}", row, eps) for i, row in enumerate(nested)]


def _real(name: str, row: Any, eps: float) -> np.ndarray:
    found = to_host(row) if is_array(row) else np.asarray(row)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "fiuc":
        raise RequestError(f"{name} expect a sequence of numbers, got shape {found.shape} of {found.dtype}")
    if not np.isfinite(found).all():
        raise RequestError(f"{name} contain NaN or infinity")
    imaginary = np.abs(found.imag).max()
    if imaginary > np.sqrt(eps) * np.abs(found).max():
        raise RequestError(
            f"{name} have imaginary parts of up to {imaginary:.3g}, more than rounding; those of a symmetric matrix "
            "are real: take an eigensolver for symmetric matrices"
        )
    return found.real.astype(np.float64)


def cleaned(number: int, nodes: np.ndarray, weights: np.ndarray, n: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """The distinct nodes of one draw that have a weight, increasing, and these weights, which sum to one."""
    if nodes.shape != weights.shape:
        raise RequestError(f"draw {number} has {nodes.size} nodes and {weights.size} weights; there must be as many")
    # Measured: with float32 eigenvectors of torch.linalg.eig, as PyHessian takes them, sums are off by up to 9e-5.
    slack = float(np.sqrt(eps))
    if weights.min() < -slack:
        raise RequestError(f"draw {number} has a weight of {weights.min():.3g}; weights are not negative")
    if abs(weights.sum() - 1) > slack:
        raise RequestError(
            f"the weights of draw {number} sum to {weights.sum():.9g}, not to 1; they are the squared first components "
            "of the normalised eigenvectors"
        )
    counting = weights > eps**2  # as ghosts and steps beyond n have
    order = np.argsort(nodes[counting])
    nodes, weights = nodes[counting][order], weights[counting][order]
    apart = np.diff(nodes, prepend=-np.inf) > _SAME * np.abs(nodes).max()
    starts = np.flatnonzero(apart)
    weights = np.add.reduceat(weights, starts)
    if starts.size > n:
        raise RequestError(
            f"draw {number} has {starts.size} nodes with a weight, more than the dimension n={n}; is n right?"
        )
    return nodes[starts], weights / weights.sum()


def tridiagonal(nodes: np.ndarray, weights: np.ndarray) -> Run:
    """The tridiagonal matrix of these eigenvalues and squared first components of eigenvectors."""
    exponent = int(np.frexp(np.abs(nodes).max())[1])
    bordered = np.diag(np.append(0.0, np.ldexp(nodes, -exponent)))
    bordered[0, 1:] = bordered[1:, 0] = np.sqrt(weights)
    reduced = hessenberg(bordered)[1:, 1:]
    beside = np.maximum(np.abs(np.diagonal(reduced, -1)), _NOT_ZERO)
    return Run(np.ldexp(np.diagonal(reduced), exponent), np.ldexp(beside, exponent), ended=False)


def matrices(part: Any, eps: float) -> Iterator[Run]:
    """Diagonals and off-diagonals of the matrices in an array or a file."""
    name = f"{Path(part)}" if isinstance(part, str | os.PathLike) else "T"
    found = _load(part) if isinstance(part, str | os.PathLike) else to_host(part) if is_array(part) else part
    found = np.asarray(found)
    if found.dtype.kind not in "fiu" or found.ndim not in (2, 3) or 0 in found.shape:
        raise ShapeError(f"{name} {_EXPECTED}, got shape {found.shape} of {found.dtype}")
    stacks = [found[None]] if found.ndim == 2 else [found, np.moveaxis(found, -1, 0)]
    stacks = [stack for stack in stacks if stack.shape[1] == stack.shape[2]]
    if not stacks:
        raise ShapeError(f"{name} {_EXPECTED}, got shape {found.shape}")
    faults = [next(filter(None, (_fault(matrix, eps) for matrix in stack)), "") for stack in stacks]
    if all(faults):
        raise RequestError(f"{name} expects symmetric tridiagonal matrices, but {faults[0]}")
    for matrix in stacks[faults.index("")].astype(np.float64):
        yield _shortened(np.diagonal(matrix), np.abs(np.diagonal(matrix, 1)))


def _fault(matrix: np.ndarray, eps: float) -> str:
    """What keeps a matrix from being symmetric and tridiagonal; empty if nothing does."""
    if not np.isfinite(matrix).all():
        return "one contains NaN or infinity, as after a division by a residual of zero; cut it off before"
    rounding = 8 * eps * np.abs(matrix).max()
    if (asymmetry := np.abs(matrix - matrix.T).max()) > rounding:
        return f"one differs from its transpose by {asymmetry:.3g}"
    if (outside := np.abs(np.triu(matrix, 2)).max(initial=0.0)) > rounding:
        return f"one has an entry of size {outside:.3g} outside the three diagonals"
    return ""


def _shortened(alpha: np.ndarray, beta: np.ndarray) -> Run:
    """A run up to the first residual of zero, after which its tool went on with another vector."""
    zeros = np.flatnonzero(beta <= _EPS * max(np.abs(alpha).max(), beta.max(initial=0.0)))
    if not zeros.size:
        return Run(alpha, beta, ended=False)
    return Run(alpha[: zeros[0] + 1], beta[: zeros[0]], ended=True)


def _load(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FileFormatError(f"{Path(path)} is no .npy file of numbers, or is damaged ({error})") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise FileFormatError(f"{Path(path)} is an archive; expected an .npy file with one array")
    return found
