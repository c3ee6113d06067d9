"""H21-H31: spectra at the edge of what floating point and a Krylov space can hold."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import slq
from slq.errors import ClippedStepsWarning, PrecisionWarning, RequestError, ShapeError, SingularError
from slq.testing.spectra import clustered, rank_deficient, two_point, uniform
from tests.conftest import Library
from tests.hostile.products import A, V, measured
from tests.hostile.row import Outcome, refused, right, row, warned
from tests.problems import K, M, N, Problem, problem

ROUNDING = 1e-12  # of the largest answer; measured: below 3e-14


def on_sphere(exact: Problem, f: Callable[[np.ndarray], np.ndarray], k: int = K) -> float:
    """What tr f(A) is estimated as by the first k sphere probes of seed 0, if nothing else is in error."""
    x = slq.sphere(0, range(k), None, len(exact.eigenvalues), np.empty(0))
    return float(exact.forms(x, f).mean())


def covers(estimate: Any, exact: float) -> bool:
    """Whether the exact number lies in the interval of all errors."""
    low, high = estimate.interval(0.999)
    return bool(np.isfinite(estimate.value) and low <= exact <= high)


@row("H21", "zero matrix", "the right answer after one step: a node at 0; logdet: `SingularError`")
def h21(xp: Library) -> Iterator[Outcome]:
    zero = xp.asarray(np.zeros((N, N)))

    def one_node() -> list[float]:
        found = measured(xp, zero, num_probes=K)
        return [*found.lengths, *found.support, found.trace().value, found.trace().stderr, *found.cdf([-1e-9, 0]).value]

    yield right([1] * K + [0, 0, 0, 0, 0, 1], 0.0, one_node)
    yield refused(SingularError, "cannot tell from zero", "add a shift", lambda: measured(xp, zero).logdet())


@row("H22", "identity, c times the identity", "the right answer after one step: one node")
def h22(xp: Library) -> Iterator[Outcome]:
    for c in (1.0, -3.0, 1e-5, 1e200):
        operator = xp.asarray(c * np.eye(N))

        def one_node(operator: Any = operator, c: float = c) -> list[float]:
            found = measured(xp, operator, num_probes=K)
            return [*found.lengths, *(np.asarray(found.support) / c), found.trace().value / c / N]

        yield right([1] * K + [1, 1, 1], 1e-14, one_node)


@row("H23", "rank r, far below the number of steps", "the right answer after r + 1 steps or fewer")
def h23(xp: Library) -> Iterator[Outcome]:
    for rank in (1, 3):
        exact = problem(rank_deficient(N, rank))

        def forms(exact: Problem = exact, rank: int = rank) -> np.ndarray:
            given = slq.spectral_measure(xp.asarray(exact.matrix), probes=xp.asarray(V), num_steps=M)
            assert (given.lengths <= rank + 1).all()
            return given.quadratic_forms(np.exp)

        yield right(exact.forms(V, np.exp), ROUNDING, forms)


@row("H24", "n = 1, n = 2; n = 0", "the right answer; n = 0: `ShapeError`")
def h24(xp: Library) -> Iterator[Outcome]:
    one = xp.asarray(np.array([[3.0]]))
    yield right(3.0, 1e-14, lambda: slq.spectral_measure(one, num_steps=1).trace().value)
    yield right(np.log(3.0), 1e-14, lambda: slq.logdet(one, num_steps=1).value)
    two = problem([1.0, 3.0])
    probes = slq.sphere(0, range(K), None, 2, np.empty(0))

    def forms() -> np.ndarray:
        return slq.spectral_measure(xp.asarray(two.matrix), num_probes=K, num_steps=2).quadratic_forms(np.log)

    yield right(two.forms(probes, np.log), 1e-13, forms)
    yield refused(ShapeError, r"shape \(0, 0\)", "", slq.spectral_measure, xp.asarray(np.zeros((0, 0))))


@row("H25", "more steps than dimensions", "the right answer; `ClippedStepsWarning` where a run was cut")
def h25(xp: Library) -> Iterator[Outcome]:
    def forms(**options: Any) -> np.ndarray:
        operator = xp.asarray(A.matrix)
        given = slq.spectral_measure(operator, probes=xp.asarray(V), num_steps=3 * N, **options)
        return given.quadratic_forms(np.abs)

    exact = A.forms(V, np.abs)
    cause, mend = f"num_steps={3 * N} exceeds the dimension", f"{N} steps are exact"
    yield warned(ClippedStepsWarning, cause, mend, exact, ROUNDING, forms)
    yield right(exact, ROUNDING, lambda: forms(reorthogonalize=False))


@row(
    "H26",
    "invariant subspace, met early, at any scale",
    "the right answer: the run ends where the residual is rounding relative to A, and its weights sum to one",
)
def h26(xp: Library) -> Iterator[Outcome]:
    inside = A.vectors[[2, 9, 20]].sum(axis=0)[None, :]
    for scale in (1e-13, 1.0, 1e13):

        def found(scale: float = scale) -> np.ndarray:
            operator = xp.asarray(scale * A.matrix)
            given = slq.spectral_measure(operator, probes=xp.asarray(inside), num_steps=M)
            assert given.exact.all()
            return np.concatenate([given.nodes[0, :3] / scale, given.weights[0], given.lengths])

        exact = [*A.eigenvalues[[2, 9, 20]], *np.ones(3) / 3, *np.zeros(M - 3), 3]
        yield right(exact, ROUNDING, found)


@row("H27", "two eigenvalues, n/2 times each", "the right answer: two nodes")
def h27(xp: Library) -> Iterator[Outcome]:
    exact = problem(two_point(N))

    def found() -> np.ndarray:
        given = slq.spectral_measure(xp.asarray(exact.matrix), probes=xp.asarray(V), num_steps=M)
        assert (given.lengths == 2).all()
        return np.concatenate([given.nodes[:, :2].ravel(), given.quadratic_forms(np.log)])

    yield right([1.0, 5.0] * K + list(exact.forms(V, np.log)), ROUNDING, found)


@row("H28", "clusters of eigenvalues 1e-14 wide", "the right answer, to 1e-12")
def h28(xp: Library) -> Iterator[Outcome]:
    for clusters in (1, 4):
        exact = problem(clustered(N, clusters))
        # Off by less than rounding, the matrix of one cluster is the identity.

        def forms(exact: Problem = exact) -> np.ndarray:
            given = slq.spectral_measure(xp.asarray(exact.matrix), probes=xp.asarray(V), num_steps=M)
            return given.quadratic_forms(np.log1p)

        yield right(exact.forms(V, np.log1p), 1e-12, forms)


@row(
    "H29",
    "entries of any size: 2⁻¹⁰⁰⁰ … 2¹⁰⁰⁰, 1e-300, 1e300 (float32: 2⁻¹⁰⁰ … 2¹⁰⁰)",
    "the right answer, for powers of two bit for bit that of size one",
)
def h29(xp: Library) -> Iterator[Outcome]:
    for dtype, exponents in (("float64", (-1000, -600, -40, 40, 600, 1000)), ("float32", (-100, -30, 30, 100))):
        matrix = A.matrix.astype(dtype)

        def coefficients(exponent: int, matrix: np.ndarray = matrix, dtype: str = dtype) -> np.ndarray:
            operator = xp.asarray(matrix * np.ldexp(np.ones((), dtype), exponent))
            given = slq.spectral_measure(operator, probes=xp.asarray(V.astype(dtype)), num_steps=M)
            return np.ldexp(np.stack([given.alpha, given.beta]), -exponent)

        plain = coefficients(0)
        for exponent in exponents:
            yield right(plain, 0.0, coefficients, exponent)
    for scale in (1e-300, 1e300):
        yield right(
            on_sphere(A, lambda t: t),
            ROUNDING,
            lambda scale=scale: measured(xp, xp.asarray(scale * A.matrix), num_probes=K).trace().value / scale,
        )


@row(
    "H30",
    "range beyond 1/eps",
    "the right answer for the large part; what rests on the small part: `PrecisionWarning`, and an interval that holds "
    "it; logdet: `SingularError`",
)
def h30(xp: Library) -> Iterator[Outcome]:
    exact = problem(np.append(uniform(N - 4), [1e20, 2e20, 3e20, 4e20]))
    found = measured(xp, xp.asarray(exact.matrix), num_probes=30)
    yield right(on_sphere(exact, lambda t: t, 30), ROUNDING, lambda: float(found.trace()))

    def small(t: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.abs(t))

    def covered() -> bool:
        return covers(found.trace(small), small(exact.eigenvalues).sum())

    yield warned(PrecisionWarning, "cannot tell from zero", "Add a shift", True, 0.0, covered)
    yield refused(SingularError, "cannot tell from zero", "add a shift", found.logdet)


def lost(expected: float, scale: float, dtype: str, flushes: bool) -> float:
    """The part of xᵀA x that is lost if each entry of A and of A x loses a smallest number (‖x‖² = N); all, at most."""
    limits = np.finfo(dtype)
    return min(1.0, 2 * N * N * float(limits.tiny if flushes else limits.smallest_subnormal) / scale / expected)


@row(
    "H31",
    "subnormal numbers, and devices that flush them to zero",
    "the right answer to what the numbers hold, never NaN; `PrecisionWarning` where that is less than the dtype "
    "promises. JAX on CPUs flushes: right to a smallest normal number per eigenvalue, and start vectors of nothing "
    "else are zero: `RequestError`",
)
def h31(xp: Library) -> Iterator[Outcome]:
    exact = problem(uniform(N))
    expected = on_sphere(exact, lambda t: t)
    flushes = xp.name == "jax"

    def trace(scale: float, dtype: str) -> float:
        operator = xp.asarray((scale * exact.matrix).astype(dtype))
        return measured(xp, operator, num_probes=K).trace().value / scale

    for scale, dtype in ((1e-310, "float64"), (1e-40, "float32")):
        yield right(expected, lost(expected, scale, dtype, flushes), trace, scale, dtype)
    # Just above the smallest normal number, products are good to a few of it.
    bottom = ((1e-305, "float64"), (1e-36, "float32")) if flushes else ((1e-320, "float64"), (1e-42, "float32"))
    for scale, dtype in bottom:
        cause, mend, tol = "products underflow", "scale the operator up", lost(expected, scale, dtype, flushes)
        yield warned(PrecisionWarning, cause, mend, expected, tol, trace, scale, dtype)

    def tiny_start() -> np.ndarray:
        return slq.lanczos(xp.asarray(exact.matrix), xp.asarray(1e-310 * V), M).alpha[:, 0]

    if flushes:
        yield refused(RequestError, "zero or not finite", "needs a direction", tiny_start)
    else:
        unit = V / np.linalg.norm(V, axis=1)[:, None]
        yield right(exact.forms(unit, lambda t: t), 1e-12, tiny_start)
