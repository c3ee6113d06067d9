"""H41-H53: what is asked for."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

import slq
from slq.errors import (
    AliasingWarning,
    DependentProbesWarning,
    GridWarning,
    HeavyTailWarning,
    MemoryForecastError,
    QuadratureWarning,
    RequestError,
    ResolutionWarning,
    WidthError,
)
from tests.conftest import Library
from tests.hostile.row import Outcome, function, refused, right, row, warned
from tests.problems import K, M, N, hessian_like, indefinite, problem, uniform

A = problem(indefinite(N))  # eigenvalues from -1 to 2
NUMPY = "numpy"  # questions to a measure, which is NumPy's wherever it came from


def measured(xp: Library, matrix: np.ndarray = A.matrix, **options: Any) -> slq.SpectralMeasure:
    """A measure of a matrix on the library."""
    return slq.spectral_measure(xp.asarray(matrix), **{"num_probes": K, "num_steps": M} | options)


def probes(sampler: Any, seed: int, ids: range) -> np.ndarray:
    return sampler(seed, ids, None, N, np.empty(0))


def unused(*_: Any) -> Any:
    """A product that must not be asked for."""
    raise AssertionError("a product was made before the request was refused")


@row(
    "H41",
    "number of probes or steps 0, negative, float, bool, NaN; 10¹²",
    "`RequestError` before the first product; 10¹² meets the forecast: `MemoryForecastError`",
)
def h41(xp: Library) -> Iterator[Outcome]:
    operator = function(xp, unused, N)
    for name, value in itertools.product(("num_probes", "num_steps"), (0, -3, 2.0, True, float("nan"), None, "8")):
        yield refused(
            RequestError,
            f"{name}= expects an integer >= 1",
            "got",
            lambda name=name, value=value: slq.spectral_measure(operator, **{name: value}),
        )
    yield refused(
        MemoryForecastError,
        r"needs about [\d.e+]+ TB, but",
        "fit",
        lambda: slq.spectral_measure(operator, num_probes=10**12),
    )


FULL = slq.spectral_measure(A.matrix, num_probes=8, num_steps=N)  # exact for its probes


@row(
    "H42",
    "grid empty, NaN, unsorted, one point, repeats; descending",
    "`WidthError`; sorted, with `GridWarning`",
    NUMPY,
)
def h42(xp: Library) -> Iterator[Outcome]:
    del xp
    for grid in ([], [0.0, np.nan, 1.0], [0.0, 2.0, 1.0], [0.5], [0.0, 1.0, 1.0], 0.5, [[0.0, 1.0]]):
        yield refused(WidthError, "grid", "got|sort|leave", lambda grid=grid: FULL.density(grid, width=0.3))
    rising = np.linspace(-4.0, 5.0, 200)
    yield warned(
        GridWarning,
        "descending",
        "",
        lambda: FULL.density(rising[::-1], width=0.3).value,
        FULL.density(rising, width=0.3).value,
    )


@row(
    "H43",
    "grid coarser than the width; width ≤ 0 or NaN",
    "`AliasingWarning` with the number of points needed (`histogram` has exact masses); `WidthError`",
    NUMPY,
)
def h43(xp: Library) -> Iterator[Outcome]:
    del xp
    coarse = np.linspace(-2.0, 3.0, 11)
    exact = np.mean([np.exp(-0.5 * ((coarse - t) / 0.05) ** 2) for t in A.eigenvalues], axis=0)
    exact /= 0.05 * np.sqrt(2 * np.pi)
    whole = slq.spectral_measure(A.matrix, probes=np.sqrt(N) * A.vectors, num_steps=1)  # each eigenvalue once
    yield warned(
        AliasingWarning,
        r"farther apart than the width 0\.05",
        r"\d+ even points are needed",
        lambda: whole.density(coarse, width=0.05).value,
        exact,
        1e-12,
    )
    edges = np.array([-1.5, 0.0, 1.0, 2.5])
    masses = np.histogram(A.eigenvalues, edges)[0] / N
    yield right(lambda: whole.histogram(edges).value, masses, 1e-12)
    for width in (0.0, -1.0, np.nan, np.inf):
        yield refused(WidthError, "width= expects a positive number", "got", lambda w=width: FULL.density(width=w))


@row("H44", "grid that leaves out mass", "`GridWarning` with the mass outside; never renormalised", NUMPY)
def h44(xp: Library) -> Iterator[Outcome]:
    del xp
    fine = np.linspace(-4.0, 5.0, 2001)
    half = fine[fine <= 0.5]
    yield warned(
        GridWarning,
        r"leaves out 0\.\d+ of the mass",
        "Extend it",
        lambda: FULL.density(half, width=0.3).value,
        FULL.density(fine, width=0.3).value[: half.size],
    )


@row("H45", "logarithmic grid across zero", "`WidthError`; `symlog` instead", NUMPY)
def h45(xp: Library) -> Iterator[Outcome]:
    del xp
    yield refused(WidthError, "log", "symlog", lambda: FULL.density("log", width=0.3))
    density = FULL.density("symlog", width=0.3)
    # A mean over the grid: the trapezoidal rule on a smooth curve; measured 1e-4.
    yield right(lambda: np.trapezoid(density.value, density.x), 1.0, 1e-3)


@row("H46", "width below what the steps resolve, or far above the spectrum", "`ResolutionWarning`, both ways", NUMPY)
def h46(xp: Library) -> Iterator[Outcome]:
    del xp
    grid = np.linspace(-40.0, 40.0, 4001)
    few = measured(load_numpy(), problem(uniform(400)).matrix, num_steps=8)
    exact = np.zeros(grid.size)
    for weights, nodes in zip(few.weights, few.nodes, strict=True):
        exact += np.exp(-0.5 * ((grid[:, None] - nodes) / 0.02) ** 2) @ weights / (0.02 * np.sqrt(2 * np.pi) * K)
    yield warned(
        ResolutionWarning,
        "is not resolved by 8 steps",
        "more steps",
        lambda: few.density(grid, width=0.02).value,
        exact,
        1e-9,
    )
    wide = np.mean([np.exp(-0.5 * ((grid - t) / 9.0) ** 2) for t in FULL.nodes[0]], axis=0)  # of shape, not of mass
    yield warned(
        ResolutionWarning,
        "larger than the spectrum",
        "smaller width",
        lambda: FULL.density(np.linspace(-200.0, 200.0, 4001), width=9.0).value.max() * 9.0 * np.sqrt(2 * np.pi),
        1.0,
        0.02,  # at most the spread of the spectrum over the width, squared
    )
    assert wide.max() <= 1.0


def load_numpy() -> Library:
    return Library("numpy", np, "cpu")


@row("H47", "seed None, 2⁶⁴ and more, NumPy's integers, a Generator; negative, float, text", "recorded; `RequestError`")
def h47(xp: Library) -> Iterator[Outcome]:
    for seed in (3, np.int64(3), 2**64, 2**70 + 1):
        yield right(lambda seed=seed: np.asarray(measured(xp, rng=seed).seeds, dtype=object) - int(seed), np.zeros(K))
    fresh, again = measured(xp, rng=None), measured(xp, rng=None)
    assert fresh.seeds != again.seeds
    for found in (fresh, measured(xp, rng=np.random.default_rng(5))):  # what it records gives it back
        yield right(lambda m=found: measured(xp, rng=m.seeds[0]).alpha, found.alpha, 1e-13)
    for seed in (-1, 2.5, "7", True):
        yield refused(RequestError, "rng= expects", "got", lambda seed=seed: measured(xp, rng=seed))


@row("H48", "one seed on other libraries, in other batches, in parts", "the same probes; seeds and parts share none")
def h48(xp: Library) -> Iterator[Outcome]:
    like = xp.asarray(np.empty(0))
    for sampler, ulp in ((slq.rademacher, 0.0), (slq.sphere, 1e-15), (slq.gaussian, 1e-15)):
        from slq._arrays import to_host

        whole = probes(sampler, 3, range(20))
        yield right(lambda s=sampler: to_host(s(3, range(20), None, N, like)), whole, 4 * ulp)
        parts = [to_host(sampler(3, ids, None, N, like)) for ids in (range(10), range(10, 20))]
        yield right(lambda p=parts: np.concatenate(p), whole, 4 * ulp)
        cosines = whole @ probes(sampler, 4, range(20)).T / N
        assert np.abs(cosines).max() < 0.99  # another seed shares none
    plain = measured(xp, num_probes=7)
    for size in (1, 2, 7):
        yield right(lambda size=size: measured(xp, num_probes=7, batch_size=size).alpha, plain.alpha, 1e-13)
    expected = measured(load_numpy(), num_probes=7)
    yield right(lambda: plain.quadratic_forms(np.exp), expected.quadratic_forms(np.exp), 1e-11)


@row("H49", "sampler that repeats itself, or is not of mean square one", "`DependentProbesWarning`, and no error bar")
def h49(xp: Library) -> Iterator[Outcome]:
    def same(seed: int, ids: range, index: Any, n: int, like: Any) -> Any:
        del seed, index
        return xp.asarray(np.tile(np.sqrt(n) * A.vectors[3], (len(ids), 1)))

    def long(seed: int, ids: range, index: Any, n: int, like: Any) -> Any:
        return 3.0 * slq.sphere(seed, ids, index, n, like)

    def value(sampler: Any) -> float:
        estimate = measured(xp, probes=sampler, num_probes=K).trace()
        assert estimate.stderr is None
        return estimate.value

    yield warned(
        DependentProbesWarning,
        "probes 0 and 1 are the same",
        "independent",
        lambda: value(same),
        N * A.eigenvalues[3],
        1e-12,
    )
    yield warned(
        DependentProbesWarning,
        "mean square is 9, not 1",
        "E",
        lambda: value(long),
        9 * float(A.forms(probes(slq.sphere, 0, range(K)), lambda t: t).mean()),
        1e-12,
    )


@row("H50", "one probe", "an error bar from one sphere probe; None, not 0 or NaN, for other samplers")
def h50(xp: Library) -> Iterator[Outcome]:
    one = measured(xp, problem(uniform(N)).matrix, num_probes=1, num_steps=N)
    values = one.nodes[0]
    variance = N * N * 2 / (N + 2) * (one.weights[0] @ values**2 - (one.weights[0] @ values) ** 2)
    yield right(lambda: one.trace(lambda t: t).stderr ** 2, variance, 1e-10)
    other = measured(xp, num_probes=1, probes=slq.rademacher).trace(np.exp)
    assert other.stderr is None
    assert other.interval() == (-np.inf, np.inf)


@row("H51", "no variance at all: a diagonal and Rademacher probes", "the error is rounding, not zero")
def h51(xp: Library) -> Iterator[Outcome]:
    diagonal = uniform(N)
    for seed in range(20):
        estimate = measured(xp, np.diag(diagonal), probes=slq.rademacher, num_steps=N, rng=seed).trace()
        low, high = estimate.interval()
        assert low <= diagonal.sum() <= high
        assert 0 < high - low < 1e-11
        yield right(lambda e=estimate: e.value, diagonal.sum(), 1e-13)


@row("H52", "so few eigenvalues that the interval is skewed", "`HeavyTailWarning`: more probes, or deflation")
def h52(xp: Library) -> Iterator[Outcome]:
    spike = problem([5.0] + [0.0] * (N - 1))
    x = probes(slq.sphere, 0, range(K))
    found = measured(xp, spike.matrix)
    yield warned(
        HeavyTailWarning,
        "eigenvalues carry the answer",
        "more probes, or deflate",
        lambda: found.trace(lambda t: t).value,
        float(spike.forms(x, lambda t: t).mean()),
        1e-12,
    )


@row("H53", "too few steps: bias above the noise", "`QuadratureWarning`; sampling and quadrature error apart")
def h53(xp: Library) -> Iterator[Outcome]:
    exact = problem(hessian_like(200))
    biased = measured(xp, exact.matrix, num_probes=10, num_steps=10)
    weights, nodes = biased.weights, biased.nodes
    rule = 200 * float((weights * np.log(nodes)).sum(axis=1).mean())  # what 10 steps give
    yield warned(
        QuadratureWarning, "exceeds the sampling error", "more steps", lambda: biased.logdet().value, rule, 1e-12
    )
    enough = measured(xp, exact.matrix, num_probes=10, num_steps=60)
    x = slq.sphere(0, range(10), None, 200, np.empty(0))
    yield right(lambda: enough.logdet().value, float(exact.forms(x, np.log).mean()), 1e-9)
