"""Floor 3: results of other tools, quadratures and tridiagonal matrices, as measures."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from slq import _foreign_runs
from slq._arrays import is_array, to_host
from slq._foreign_runs import Run
from slq._measure import SpectralMeasure
from slq._version import __version__
from slq.errors import RequestError

__all__ = ["from_quadrature", "from_tridiagonals"]

# Probes scaled to length one, as every Lanczos run scales them: Gaussian ones are then those of the sphere.
_SAMPLERS = {"sphere": "sphere", "gaussian": "sphere", "rademacher": "rademacher", "fixed": "fixed"}

_EPS = {name: float(np.finfo(name).eps) for name in ("float32", "float64", "float16")} | {"bfloat16": 2.0**-7}


def from_quadrature(
    nodes: Any, weights: Any, n: int, *, sampler: str, residual_norms: Any = None, dtype: str = "float32"
) -> SpectralMeasure:
    """Make a measure of quadrature rules that another tool has computed, such as PyHessian's ``density()``.

    Parameters
    ----------
    nodes, weights : (k, m) or (m,) array, or sequence of sequences
        Ritz values and squared first components of each draw, in any order. Complex numbers are taken for real if their
        imaginary parts are rounding. Nodes without weight are dropped, as steps beyond n make them.
    n : int
        Dimension of the operator.
    sampler : {"sphere", "gaussian", "rademacher", "fixed"}
        How the tool drew its probes, which decides on error bars: PyHessian draws ``"rademacher"``, google's
        spectral-density ``"gaussian"``. Gaussian probes count as those of the sphere, as they were scaled to length
        one. ``"fixed"``: they were given vectors, which define no trace.
    residual_norms : float or (k,) array, optional
        The norm of each run's residual, the β that would come next; 0 for a run that ended in an invariant subspace.
        Default: the distance between the outermost nodes.
    dtype : str
        The precision of the tool's products.

    Returns
    -------
    SpectralMeasure
        Its ``provenance`` says that it was imported, and what is assumed. Draws of unequal lengths are cut to the
        shortest, as if they had ended there; those of n nodes are complete.

    Raises
    ------
    RequestError
        If the shapes differ, values are not finite or not real, weights are negative or do not sum to one, there are
        more than n nodes, or an option is out of range.

    Notes
    -----
    Tridiagonal matrices follow from nodes and weights by orthogonal similarity transformations (Householder's) of
    ``diag(nodes)`` which turn ``sqrt(weights)`` into the first unit vector; they lose nothing but rounding.

    A residual norm is at most half the distance between the outermost eigenvalues. Where none is given, that between
    the outermost nodes is a bound unless these span less than half of the spectrum. Only error bounds of single nodes
    (``residuals``, ``outliers``) rest on it, which come out wider than they need be.

    References
    ----------
    Boley and Golub, A survey of matrix inverse eigenvalue problems, Inverse Problems 3 (1987).

    Examples
    --------
    >>> nodes, weights = [[0.5, 2.0, 4.0], [0.4, 1.9, 4.0]], [[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]
    >>> measure = from_quadrature(nodes, weights, 100, sampler="rademacher")
    >>> print(f"{measure.trace().value:.6g}")  # 100 times the mean of the two draws
    168.5
    """
    eps = _checked(sampler, n, dtype)
    thetas, masses = _foreign_runs.rows("nodes", nodes, eps), _foreign_runs.rows("weights", weights, eps)
    if len(thetas) != len(masses):
        raise RequestError(
            f"nodes and weights must be those of the same draws, got {len(thetas)} draws of nodes and {len(masses)} "
            "of weights"
        )
    rules = [_foreign_runs.cleaned(i, *rule, n, eps) for i, rule in enumerate(zip(thetas, masses, strict=True))]
    return _measure(
        [_foreign_runs.tridiagonal(*rule) for rule in rules], n, "quadrature", sampler, residual_norms, dtype
    )


def from_tridiagonals(
    T: Any, n: int, *, sampler: str, residual_norms: Any = None, dtype: str = "float32"
) -> SpectralMeasure:
    """Make a measure of tridiagonal matrices that another tool has computed, such as google's spectral-density.

    Parameters
    ----------
    T : array, path, or sequence of them
        A matrix (m, m), or those of k draws as (k, m, m) or, as google/spectral-density saves them, (m, m, k). A path
        is that of an ``.npy`` file with one of these. Steps beyond n are dropped.
    n : int
        Dimension of the operator.
    sampler, residual_norms, dtype
        See `from_quadrature`.

    Returns
    -------
    SpectralMeasure
        See `from_quadrature`.

    Raises
    ------
    ShapeError
        If an array has none of these shapes.
    RequestError
        If a matrix is not finite, symmetric and tridiagonal, a draw comes twice, or an option is out of range.
    FileFormatError
        If a file is no ``.npy`` file, or would have to be unpickled.

    Examples
    --------
    >>> import numpy as np
    >>> T = np.diag([2.0, 3.0]) + np.diag([1.0], 1) + np.diag([1.0], -1)
    >>> print(f"{from_tridiagonals(T, 50, sampler='gaussian').moment(1).value:.6g}")  # the mean eigenvalue
    2
    """
    eps = _checked(sampler, n, dtype)
    is_list = isinstance(T, list | tuple) and (len(T) == 0 or isinstance(T[0], str | os.PathLike) or np.ndim(T[0]) > 1)
    runs = [run for part in (T if is_list else [T]) for run in _foreign_runs.matrices(part, eps)]
    if not runs:
        raise RequestError("T holds no matrix; give an array, a path, or a list of them")
    within = [run if len(run.alpha) < n else Run(run.alpha[:n], run.beta[: n - 1], ended=True) for run in runs]
    return _measure(within, n, "tridiagonals", sampler, residual_norms, dtype)


def _measure(runs: Sequence[Run], n: int, kind: str, sampler: str, residual_norms: Any, dtype: str) -> SpectralMeasure:
    norms = _given_norms(residual_norms, len(runs))
    known = [0.0 if run.ended or len(run.alpha) >= n else None for run in runs]
    lasts = [
        last if last is not None else _bound(i, run) if norms is None else float(norms[i])
        for i, (run, last) in enumerate(zip(runs, known, strict=True))
    ]
    lengths = [len(run.alpha) for run in runs]
    steps = min((length for length, last in zip(lengths, lasts, strict=True) if last), default=max(lengths))
    alpha, beta = np.zeros((len(runs), steps)), np.zeros((len(runs), steps))
    for i, (run, last) in enumerate(zip(runs, lasts, strict=True)):
        part = min(lengths[i], steps)
        alpha[i, :part], beta[i, :part] = run.alpha[:part], np.append(run.beta, last)[:part]
    if sampler != "fixed":
        _require_different(alpha, beta)
    assumed = "at most the range of the nodes" if norms is None else "given"
    return SpectralMeasure(
        alpha=alpha,
        beta=beta,
        n=int(n),
        sampler=_SAMPLERS[sampler],
        # A run's identity is what it found: the same one in two files is then one probe, and is not counted twice.
        seeds=tuple(_digest(a, b) for a, b in zip(alpha, beta, strict=True)),
        squared_norms=np.full(len(runs), 1.0 if sampler == "fixed" else float(n)),
        eps=_EPS[dtype],
        provenance={
            "slq": __version__,
            "imported": kind,
            "probes": f"said to be {sampler}",
            "dtype": dtype,
            "residual norms": assumed,
        },
    )


def _bound(number: int, run: Run) -> float:
    """A bound of an unknown residual norm."""
    nodes = eigvalsh_tridiagonal(run.alpha, run.beta)
    bound = float(np.ptp(nodes)) or float(np.abs(nodes).max())
    if bound == 0:
        raise RequestError(
            f"draw {number} has the one node 0, which bounds no residual norm; give residual_norms=, 0 for a run that "
            "ended there"
        )
    return bound


def _given_norms(norms: Any, k: int) -> np.ndarray | None:
    if norms is None:
        return None
    found = np.asarray(to_host(norms) if is_array(norms) else norms)
    if found.dtype.kind not in "fiu" or found.shape not in ((), (k,)) or not ((found >= 0) & (found < np.inf)).all():
        raise RequestError(f"residual_norms= expects a number >= 0 for each of the {k} draws, got {norms!r}")
    return np.broadcast_to(found.astype(np.float64), (k,))


def _require_different(alpha: np.ndarray, beta: np.ndarray) -> None:
    """Raise if two draws are the same; runs of one step may be, as those of the identity are."""
    seen: dict[bytes, int] = {}
    for i, (a, b) in enumerate(zip(alpha, beta, strict=True)):
        first = seen.setdefault(a.tobytes() + b.tobytes(), i)
        if first != i and b[0] > 0 and len(b) > 1:
            raise RequestError(
                f"draws {first} and {i} are the same run, so the errors would come out too small; files of "
                "google/spectral-density hold all draws so far: give the last one only"
            )


def _digest(alpha: np.ndarray, beta: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(alpha.tobytes() + beta.tobytes(), digest_size=8).digest(), "big")


def _checked(sampler: str, n: Any, dtype: Any) -> float:
    """The machine epsilon of `dtype`, after the options were looked at."""
    if sampler not in _SAMPLERS:
        raise RequestError(f"sampler= expects one of {', '.join(map(repr, _SAMPLERS))}, got {sampler!r}")
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise RequestError(f"n expects an integer >= 1, got {n!r}")
    if dtype not in _EPS:
        raise RequestError(f"dtype= expects one of {', '.join(map(repr, _EPS))}, got {dtype!r}")
    return _EPS[dtype]
