"""H32-H40: functions of the spectrum, precision, and complex numbers."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import slq
from slq.errors import (
    GhostWarning,
    NotPositiveDefiniteError,
    NotSymmetricError,
    PrecisionWarning,
    RequestError,
    SingularError,
)
from slq.testing.spectra import clustered, geometric, hessian_like, indefinite, rank_deficient, strakos, two_point
from tests.conftest import Library
from tests.hostile.products import A, V, measured
from tests.hostile.promises import is_refused
from tests.hostile.row import Outcome, function, refused, right, row, warned
from tests.hostile.spectra import ROUNDING, covers, on_sphere
from tests.problems import K, M, N, Problem, mix, problem

COMPLEX = problem(indefinite(N), dtype=complex)
W = V + 1j * V[::-1]


def whole(xp: Library, exact: Problem, dtype: str | None = None, **options: Any) -> Any:
    """The measure after as many steps as there are dimensions: without quadrature error."""
    return slq.spectral_measure(xp.asarray(exact.matrix, dtype), num_probes=K, num_steps=N, **options)


@row(
    "H32",
    "indefinite, and asked for a logarithm or a square root",
    "logdet: `NotPositiveDefiniteError` with the Ritz value, its weight and its bound; other f: `RequestError` naming "
    "the Ritz value; the mends work: a shift, or log|det A| by its own name",
)
def h32(xp: Library) -> Iterator[Outcome]:
    found = whole(xp, A)

    def look(error: NotPositiveDefiniteError) -> None:
        assert abs(error.value - A.eigenvalues[0]) <= error.bound
        assert 0 < error.weight < 1

    cause, mend = "expects positive eigenvalues, but a Ritz value is -1", r"add a shift.*log\(np.abs"
    yield refused(NotPositiveDefiniteError, cause, mend, found.logdet, look=look)
    yield refused(NotPositiveDefiniteError, cause, mend, lambda: slq.logdet(xp.asarray(A.matrix), num_steps=N))
    for f in (np.log, np.sqrt):
        yield refused(RequestError, "f is nan at the Ritz value -1", "add a shift", found.trace, f)

    def absolute(t: np.ndarray) -> np.ndarray:
        return np.log(np.abs(t))

    yield right(on_sphere(A, absolute), ROUNDING, lambda: found.trace(absolute).value)
    shifted = slq.shift(xp.asarray(A.matrix), 2.0)
    logdet = partial(slq.logdet, shifted, num_steps=N, num_probes=K)
    yield right(on_sphere(A, lambda t: np.log(t + 2)), ROUNDING, lambda: logdet().value)


@row(
    "H33",
    "singular, and asked for a log-determinant or a trace of the inverse",
    "`SingularError`; `allow_singular=True`: minus infinity; inverse: `PrecisionWarning`, error bar infinite; a shift "
    "mends both",
)
def h33(xp: Library) -> Iterator[Outcome]:
    cause, mend = r"met the Ritz value .*e-1\d .*cannot tell from zero", "add a shift.*allow_singular=True"
    for exact in (problem(rank_deficient(N)), problem(np.append(np.linspace(1, 2, N - 1), 1e-17))):
        found = whole(xp, exact)
        yield refused(SingularError, cause, mend, found.logdet)
        yield right(-math.inf, 0.0, lambda found=found: found.logdet(allow_singular=True).value)
        inverse = partial(found.trace, lambda t: 1 / t)
        cause_of_inverse = "f varies by inf over Ritz values that rounding"
        yield warned(
            PrecisionWarning, cause_of_inverse, "Add a shift", True, 0.0, lambda f=inverse: math.isinf(f().rounding)
        )
        shifted = slq.shift(xp.asarray(exact.matrix), 1.0)
        logdet = partial(slq.logdet, shifted, num_steps=N, num_probes=30)
        yield right(on_sphere(exact, np.log1p, 30), ROUNDING, lambda f=logdet: f().value)


@row(
    "H34",
    "positive definite, but Ritz values near or below zero by low precision",
    "`SingularError`, unless `lower=` bounds the spectrum: `PrecisionWarning`, and an interval that holds the answer; "
    "a bound that is wrong: `RequestError`, or `NotPositiveDefiniteError`",
)
def h34(xp: Library) -> Iterator[Outcome]:
    exact = problem(geometric(N, 1e-9))
    found = whole(xp, exact, "float32")
    yield refused(SingularError, "cannot tell from zero", "pass lower=", found.logdet)
    logdet = float(np.log(exact.eigenvalues).sum())
    moved, mend = partial(found.logdet, lower=1e-9), "use products of higher precision"
    yield warned(PrecisionWarning, "Ritz values", mend, True, 0.0, lambda: covers(moved(), logdet))
    yield refused(RequestError, "lower=0.5 is said to be below", "smaller bound", partial(found.logdet, lower=0.5))
    indefinite = partial(whole(xp, A, "float32").logdet, lower=1e-9)
    yield refused(NotPositiveDefiniteError, "is not positive definite", "add a shift", indefinite)


@row(
    "H35",
    "negative weights, weights that do not sum to one",
    "impossible: none in any run; coefficients forged to make them: `RequestError`",
)
def h35(xp: Library) -> Iterator[Outcome]:
    spectra = (hessian_like(N, 5), strakos(N), two_point(N), clustered(N), indefinite(N), 1e20 * geometric(N, 1e-30))
    for eigenvalues in spectra:
        exact = problem(eigenvalues)
        for option in (True, 3, False):

            def excess(exact: Problem = exact, option: Any = option) -> float:
                runs = slq.lanczos(xp.asarray(exact.matrix), xp.asarray(V), N, reorthogonalize=option)
                given = slq.SpectralMeasure(runs.alpha, runs.beta, N)
                assert (given.weights >= 0).all()
                return float(np.abs(given.weights.sum(axis=1) - 1).max())

            yield right(True, 0.0, lambda f=excess: f() <= 8 * N * np.finfo(float).eps)
    found = measured(xp, xp.asarray(A.matrix), num_probes=K)
    for forged in (-found.beta, found.beta * np.nan):
        yield refused(
            RequestError, "alpha and beta must be finite", "not negative", partial(found.changed, beta=forged)
        )


@row(
    "H36",
    "loss of orthogonality, where it delays the rest of the spectrum",
    "`GhostWarning` with the steps lost, right answer; its mend works: `reorthogonalize=True` or an integer",
)
def h36(xp: Library) -> Iterator[Outcome]:
    n, steps = 100, 50
    exact = problem(hessian_like(n, 10))

    def traces(reorthogonalize: Any) -> list[float]:
        given = slq.spectral_measure(
            xp.asarray(exact.matrix), num_probes=K, num_steps=steps, reorthogonalize=reorthogonalize
        )
        return given.quadratic_forms(np.sqrt)

    x = slq.sphere(0, range(K), None, n, np.empty(0))
    forms = exact.forms(x, np.sqrt)
    cause, mend = "copies, which took about [0-9]+ of the 50 steps", "use reorthogonalize="
    # What ghosts delay is the bulk, which is worth 1e-3 of the answer.
    yield warned(GhostWarning, cause, mend, forms, 1e-3, traces, False)
    for option in (True, 20):
        yield right(forms, 1e-9, traces, option)


@row("H37", "complex Hermitian; not quite", "the right answer; a diagonal that is not real: `NotSymmetricError`")
def h37(xp: Library) -> Iterator[Outcome]:
    def forms(matrix: np.ndarray = COMPLEX.matrix) -> np.ndarray:
        given = slq.spectral_measure(xp.asarray(matrix), probes=xp.asarray(W), num_steps=N)
        return given.quadratic_forms(np.exp)

    yield right(COMPLEX.forms(W, np.exp), ROUNDING, forms)
    skew = COMPLEX.matrix + 0.1j * np.eye(N)
    yield refused(NotSymmetricError, "not symmetric", "symmetrise", forms, skew)
    run = partial(slq.lanczos, xp.asarray(skew), xp.asarray(W[:1]), M)  # by the imaginary part of alpha alone
    yield refused(NotSymmetricError, "not symmetric", "symmetrise", run)


class Weighted:
    """The inner product of another metric."""

    def __init__(self, xp: Library) -> None:
        self.shape = (N, N)
        self.like = xp.asarray(np.empty(0))
        self._matrix = xp.asarray(A.matrix)

    def matvec(self, x: Any) -> Any:
        return x @ self._matrix

    def vecdot(self, x: Any, y: Any) -> Any:
        return 2.0 * (x * y).sum(axis=-1)


@row(
    "H38",
    "real operator with complex probes, and the converse",
    "the right answer; `RequestError` where the operator has an inner product of its own",
)
def h38(xp: Library) -> Iterator[Outcome]:
    def forms(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
        given = slq.spectral_measure(xp.asarray(matrix), probes=xp.asarray(x), num_steps=N)
        return given.quadratic_forms(np.exp)

    yield right(A.forms(W, np.exp), ROUNDING, forms, A.matrix, W)
    yield right(COMPLEX.forms(V, np.exp), ROUNDING, forms, COMPLEX.matrix, V)
    like = np.empty(0, complex)
    for exact, sampler in ((A, slq.steinhaus), (COMPLEX, slq.rademacher), (COMPLEX, slq.sphere)):
        x = sampler(0, range(K), None, N, like)
        sample = partial(whole, xp, exact, probes=sampler)
        yield right(exact.forms(x, np.exp), ROUNDING, lambda f=sample: f().quadratic_forms(np.exp))
    run = partial(slq.lanczos, Weighted(xp), xp.asarray(W), M)
    yield refused(RequestError, "complex vectors need a complex operator", "give real start vectors", run)


@row("H39", "complex symmetric, unitary, skew-Hermitian", "`NotSymmetricError`: the check conjugates")
def h39(xp: Library) -> Iterator[Outcome]:
    symmetric = A.matrix + 1j * problem(indefinite(N), seed=5).matrix
    for matrix in (symmetric, mix(np.eye(N, dtype=complex)), 1j * COMPLEX.matrix):
        yield from is_refused(
            xp, NotSymmetricError, r"not symmetric \(Hermitian\)", "symmetrise", lambda m=matrix: xp.asarray(m)
        )


@row(
    "H40",
    "f undefined or infinite at a Ritz value, of another shape, complex, for one number at a time, no function",
    "`RequestError` naming the Ritz value; what three points can tell, before any product",
)
def h40(xp: Library) -> Iterator[Outcome]:
    found = measured(xp, xp.asarray(A.matrix), num_probes=K)
    at_nodes: list[tuple[str, Callable[..., Any]]] = [
        ("f is nan at the Ritz value .*weight", np.sqrt),
        ("f is inf at the Ritz value", lambda t: np.where(t < 0, np.inf, t)),
        ("f raised ZeroDivisionError: .* at the Ritz value", lambda t: t if (t > 0).all() else 1 // 0),
    ]
    for cause, f in at_nodes:
        yield refused(RequestError, cause, "whole spectrum", found.trace, f)
    calls: list[int] = []
    operator = function(xp, lambda x: calls.append(1) or x, N)
    always: list[tuple[str, Any]] = [
        (r"returned an array of shape \(\)", lambda t: t.sum()),
        (r"returned an array of shape \(\d+, 1\)", lambda t: t[:, None]),
        ("dtype complex128", lambda t: t * 1j),
        ("dtype <U", lambda t: t.astype(str)),
        ("f raised TypeError: only", math.log),
    ]
    for cause, f in always:
        for call in (found.trace, partial(slq.spectral_sum, operator)):
            yield refused(RequestError, cause, "act element by element", call, f)
    yield refused(RequestError, "f expects a function", "got str", slq.spectral_sum, operator, "log")
    assert not calls
