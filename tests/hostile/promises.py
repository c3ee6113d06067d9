"""H14-H20: operators that are not symmetric, not linear, or not the same twice."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import slq
from slq._arrays import namespace
from slq.errors import NoiseWarning, NotLinearError, NotRepeatableError, NotSymmetricError, SymmetryWarning
from tests.conftest import Library
from tests.hostile.products import EXACT, MOMENTS, UNIT, A, V, measured, run
from tests.hostile.row import Outcome, function, refused, right, row, warned
from tests.problems import M, N, mix

SKEW = np.random.default_rng(1).normal(size=(N, N))
SKEW = (SKEW - SKEW.T) / np.linalg.norm(SKEW - SKEW.T) * np.linalg.norm(A.matrix) / 2  # ‖A − Aᵀ‖ = ‖A‖ with it
CALLS = (lambda xp, operator: slq.check_operator(operator), measured)  # noqa: ARG005 - one signature for both


def is_refused(xp: Library, kind: Any, cause: str, mend: str, make: Callable[[], Any]) -> Iterator[Outcome]:
    """By the checks alone, and by the default way in."""
    for call in CALLS:
        yield refused(kind, cause, mend, call, xp, make())


@row(
    "H14",
    "dense skew part",
    "`NotSymmetricError` with the estimated asymmetry; its mends work: (A + Aᵀ)/2, or `gram`",
)
def h14(xp: Library) -> Iterator[Outcome]:
    cause = r"not symmetric \(Hermitian\): ‖A − Aᴴ‖/‖A‖ is about [\d.]+, where 0.01 is the limit"
    for matrix in (A.matrix + SKEW, SKEW, np.triu(np.ones((N, N)))):
        yield from is_refused(
            xp, NotSymmetricError, cause, "symmetrise it.*singular values", lambda m=matrix: xp.asarray(m)
        )
    wrong = xp.asarray(A.matrix + SKEW)
    yield right(EXACT, MOMENTS, run, xp, function(xp, lambda x: (x @ wrong + x @ wrong.T) / 2, N))
    singular = np.sum((UNIT @ (A.matrix + SKEW).T) ** 2, axis=1)
    yield right(singular, MOMENTS, lambda: run(xp, slq.gram(wrong))[0])


@row(
    "H15",
    "slightly non-symmetric",
    "`SymmetryWarning` above 1e-8 (or 50 times what rounding explains), `NotSymmetricError` above 1e-2",
)
def h15(xp: Library) -> Iterator[Outcome]:
    def forms(operator: Any) -> np.ndarray:
        return slq.spectral_measure(operator, probes=xp.asarray(V), num_steps=M).quadratic_forms(np.square)

    exact = A.forms(V, np.square)
    # ‖(A + sS)v‖² is off by no more than 2s‖S‖‖A‖ + s²‖S‖², and ‖S‖ = 0.8 < ‖A‖ = 2.
    for size in (1e-3, 1e-5, 1e-7):
        slight = xp.asarray(A.matrix + size * SKEW)
        cause, mend = "slightly asymmetric: .* is about .*rounding explains", "symmetrise it"
        yield warned(SymmetryWarning, cause, mend, exact, 4 * size, forms, slight)
    yield right(exact, 4e-10, forms, xp.asarray(A.matrix + 1e-10 * SKEW))
    operator = xp.asarray(A.matrix + 5e-2 * SKEW)
    yield refused(NotSymmetricError, "is about 0.0[2-9]", "symmetrise it", slq.check_operator, operator)


@row("H16", "one bad entry; skew part of low rank", "`NotSymmetricError`: three pairs of Gaussian vectors see both")
def h16(xp: Library) -> Iterator[Outcome]:
    one_entry = A.matrix.copy()
    one_entry[3, 17] += 1.0
    u, v = mix(np.eye(N))[:2]
    for matrix in (one_entry, A.matrix + 0.3 * (np.outer(u, v) - np.outer(v, u))):
        yield from is_refused(
            xp, NotSymmetricError, "not symmetric", "correct its product", lambda m=matrix: xp.asarray(m)
        )


@row("H17", "symmetric at first, then drifts", "`SymmetryWarning` that names the step")
def h17(xp: Library) -> Iterator[Outcome]:
    def drifting(first: int) -> Any:
        calls, matrix, later = itertools.count(), xp.asarray(A.matrix), xp.asarray(A.matrix + 1e-3 * SKEW)
        return function(xp, lambda x: x @ (matrix if next(calls) < first else later), N)

    def forms(operator: Any, **options: Any) -> np.ndarray:
        given = slq.spectral_measure(operator, probes=xp.asarray(V), num_steps=M, **options)
        return given.quadratic_forms(np.exp)

    # exp(A + E) is off by no more than ‖E‖ exp(‖A‖ + ‖E‖) with ‖E‖ < 1e-3.
    exact = A.forms(V, np.exp)
    checks = 4  # ten vectors, K = 3 together
    for step in (3, 5):
        cause = f"seemed symmetric at first, but at step {step}"
        yield warned(SymmetryWarning, cause, "look for a state", exact, 1e-3, forms, drifting(step + checks))


NOT_LINEAR: dict[str, Callable[[Any, Any, Any], Any]] = {
    "affine": lambda x, m, xp: x @ m + 1e-6 * xp.ones_like(x),
    "cubic": lambda x, m, xp: x @ m + 1e-3 * xp.ones_like(x) * x**3,
    "absolute": lambda x, m, xp: xp.abs(x @ m),
    "clipped": lambda x, m, xp: xp.clip(x @ m, -3.0, 3.0),
    "saturated": lambda x, m, xp: xp.tanh(x) @ m,
    "normalised": lambda x, m, xp: (x @ m) / (1e-300 + xp.sum(x * x, axis=-1)[:, None] ** 0.5),
    "dead zone": lambda x, m, xp: xp.where(xp.abs(x) < 0.1, xp.zeros_like(x), x) @ m,
}


@row(
    "H18",
    "affine, cubic, absolute value, clipping, saturation, normalisation, dead zone",
    "`NotLinearError`: A(0) is not 0, A(2ᵏ v) not 2ᵏ A(v), or A(a u + b v) not a A(u) + b A(v)",
)
def h18(xp: Library) -> Iterator[Outcome]:
    matrix = xp.asarray(A.matrix)
    library = namespace(matrix)
    for product in NOT_LINEAR.values():
        operator = function(xp, lambda x, product=product: product(x, matrix, library), N)
        cause = r"not linear: A\((0|2\^|a u).* of ‖A‖"
        yield from is_refused(xp, NotLinearError, cause, "subtract the product of zero|look for", lambda o=operator: o)


def noisy(xp: Library, level: float) -> Any:
    rng, matrix = np.random.default_rng(0), xp.asarray(A.matrix)

    def product(x: Any) -> Any:
        return (x @ matrix) * xp.asarray(1 + level * rng.normal(size=tuple(x.shape)))

    return function(xp, product, N)


def dropping(xp: Library) -> Any:
    rng, matrix = np.random.default_rng(0), xp.asarray(A.matrix)
    return function(xp, lambda x: (x * xp.asarray((rng.random(tuple(x.shape)) < 0.9) / 0.9)) @ matrix, N)


@row(
    "H19",
    "random products: dropout, noise of any size, sums in a random order",
    "`NotRepeatableError` with the level above 1000 roundings; below, `NoiseWarning`: the noise bounds the accuracy",
)
def h19(xp: Library) -> Iterator[Outcome]:
    cause = "not repeatable: two products of the same vector differ by .* of ‖A‖"
    for level in (0.1, 1e-6, 1e-12):
        yield from is_refused(xp, NotRepeatableError, cause, "switch off what is", lambda s=level: noisy(xp, s))
    yield from is_refused(xp, NotRepeatableError, cause, "switch off what is", lambda: dropping(xp))

    def forms() -> np.ndarray:
        given = slq.spectral_measure(noisy(xp, 1e-14), probes=xp.asarray(V), num_steps=M)
        return given.quadratic_forms(np.square)

    yield warned(NoiseWarning, "is noisy: .*rounding explains", "make sums", A.forms(V, np.square), 1e-13, forms)


@row("H20", "drifts with the number of calls", "`NotRepeatableError`: a vector is multiplied again after others")
def h20(xp: Library) -> Iterator[Outcome]:
    matrix = xp.asarray(A.matrix)
    for rate in (1e-3, 1e-9):

        def drifting(rate: float = rate) -> Any:
            calls = itertools.count()
            return function(xp, lambda x: (1 + rate * next(calls)) * (x @ matrix), N)

        cause = "not repeatable: two products of the same vector differ"
        yield from is_refused(xp, NotRepeatableError, cause, "changes inside the product", drifting)
