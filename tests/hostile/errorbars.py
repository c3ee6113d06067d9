"""H49-H53: error bars that cannot be had, or not be taken at their word."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import slq
from slq.errors import DependentProbesWarning, HeavyTailWarning, QuadratureWarning, RequestError
from slq.testing.spectra import hessian_like, uniform
from tests.conftest import Library
from tests.hostile.products import A, V, measured
from tests.hostile.row import Outcome, refused, right, row, warned
from tests.hostile.spectra import ROUNDING, covers, on_sphere
from tests.problems import K, N, problem


@row(
    "H49",
    "probes that repeat, or not of mean square one",
    "`DependentProbesWarning`, and no error bar; given vectors: no trace, `RequestError`",
)
def h49(xp: Library) -> Iterator[Outcome]:
    def repeats(seed: int, ids: Any, index: Any, n: int, like: Any) -> Any:
        return slq.sphere(seed, [0 for _ in ids], index, n, like)

    def doubled(seed: int, ids: Any, index: Any, n: int, like: Any) -> Any:
        return 2 * slq.sphere(seed, ids, index, n, like)

    # What they estimate is right for their vectors: here one probe, and four times the trace.
    cases = (
        (repeats, "probes 0 and 1 are the same", on_sphere(A, lambda t: t, 1)),
        (doubled, "their mean square is 4, not 1", 4 * on_sphere(A, lambda t: t)),
    )
    for sampler, cause, exact in cases:

        def trace(sampler: Callable[..., Any] = sampler) -> float:
            estimate = measured(xp, xp.asarray(A.matrix), num_probes=K, probes=sampler).trace()
            assert estimate.stderr is None
            assert np.isinf(estimate.interval()).all()
            return estimate.value

        yield warned(DependentProbesWarning, cause, "a sampler must return independent", exact, ROUNDING, trace)
    given = measured(xp, xp.asarray(A.matrix), probes=xp.asarray(V))
    yield refused(RequestError, r"trace\(f\) needs random probes", "use quadratic_forms", given.trace)


@row(
    "H50",
    "a single probe",
    "the right answer; the error bar of a sphere probe comes from its own nodes, others have none: `stderr` is None",
)
def h50(xp: Library) -> Iterator[Outcome]:
    exact = problem(uniform(100))
    operator = xp.asarray(exact.matrix)
    one = slq.spectral_measure(operator, num_probes=1, num_steps=20)
    yield right(on_sphere(exact, np.log, 1), 1e-9, lambda: one.trace(np.log).value)
    # Var = 2/(n + 2) n² (φ(f²) − φ(f)²), which the nodes of one probe know to a tenth or so.
    variance = 2 / 102 * 100**2 * np.log(exact.eigenvalues).var()
    yield right(variance**0.5, 0.3, lambda: one.trace(np.log).stderr)
    for sampler in (slq.rademacher, slq.gaussian):
        x = sampler(0, [0], None, 100, np.empty(0))
        other = slq.spectral_measure(operator, num_probes=1, num_steps=20, probes=sampler).trace()
        assert other.stderr is None
        assert np.isinf(other.interval()).all()
        yield right(exact.forms(x, lambda t: t)[0], ROUNDING, lambda e=other: e.value)


@row(
    "H51",
    "no variance at all: a diagonal matrix and Rademacher probes",
    "the right answer; the error bar is rounding, not 0",
)
def h51(xp: Library) -> Iterator[Outcome]:
    eigenvalues = uniform(N)
    found = slq.spectral_measure(
        xp.asarray(np.diag(eigenvalues)), num_probes=K, num_steps=N, probes=slq.rademacher
    ).trace()
    yield right(eigenvalues.sum(), ROUNDING, lambda: found.value)
    low, high = found.interval()
    yield right(True, 0.0, lambda: 0 < high - low < 1e-10 and float(str(found).split("±")[1]) > 0)


@row(
    "H52",
    "so few eigenvalues that they carry the answer",
    "`HeavyTailWarning` with their number, right answer; its mend works: `deflate`",
)
def h52(xp: Library) -> Iterator[Outcome]:
    n = 100
    exact = problem(np.append(np.linspace(0.0, 1e-4, n - 1), 1.0))
    found = slq.spectral_measure(xp.asarray(exact.matrix), num_probes=K, num_steps=8)
    cause, mend = r"about 1(\.\d)? eigenvalues carry the answer", "more probes, or deflate"
    yield warned(HeavyTailWarning, cause, mend, on_sphere(exact, lambda t: t), ROUNDING, lambda: float(found.trace()))
    outlier = xp.asarray(exact.vectors[-1:])
    rest = slq.spectral_measure(slq.deflate(xp.asarray(exact.matrix), outlier), num_probes=K, num_steps=8)
    yield right(True, 0.0, lambda: covers(rest.trace(), exact.eigenvalues[:-1].sum()))


@row(
    "H53",
    "so few steps that the quadrature error outweighs the noise",
    "`QuadratureWarning` with both; sampling and quadrature errors are kept apart; its mend works: more steps",
)
def h53(xp: Library) -> Iterator[Outcome]:
    exact = problem(hessian_like(200, 10))
    operator = xp.asarray(exact.matrix)
    few = slq.spectral_measure(operator, num_steps=5)
    cause, mend = "the quadrature error, about .*, exceeds the sampling error", "use more steps rather than more probes"

    def apart() -> bool:
        estimate = few.trace(np.log)
        return bool(estimate.truncation > 3 * estimate.stderr and not estimate.converged)

    yield warned(QuadratureWarning, cause, mend, True, 0.0, apart)
    enough = slq.spectral_measure(operator, num_steps=60).trace(np.log)
    yield right(True, 0.0, lambda: enough.converged and covers(enough, float(np.log(exact.eigenvalues).sum())))
