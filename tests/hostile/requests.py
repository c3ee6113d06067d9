"""H41-H48: requests: how many, where, how wide, from which seed."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import slq
from slq._arrays import to_host
from slq.errors import (
    AliasingWarning,
    ClippedStepsWarning,
    GridWarning,
    MemoryForecastError,
    RequestError,
    ResolutionWarning,
    WidthError,
)
from tests.conftest import Library
from tests.hostile.products import A, V, measured
from tests.hostile.row import Outcome, function, refused, right, row, warned
from tests.hostile.spectra import ROUNDING
from tests.problems import K, M, N, problem, uniform

WRONG = (0, -1, 2.0, True, float("nan"), 1e12, "3", None)
POSITIVE = problem(uniform(N))


@row(
    "H41",
    "numbers of probes, steps, rows: 0, negative, float, bool, NaN, text; 10¹²",
    "`RequestError` before any product; 10¹² probes: `MemoryForecastError` with the forecast; 10¹² steps: cut at the "
    "dimension, `ClippedStepsWarning`",
)
def h41(xp: Library) -> Iterator[Outcome]:
    calls: list[int] = []
    operator = function(xp, lambda x: calls.append(1) or x, N)
    for name, value in itertools.product(("num_probes", "num_steps", "batch_size"), WRONG):
        if name == "batch_size" and value is None:
            continue
        call = partial(slq.spectral_measure, operator, **{name: value})
        yield refused(RequestError, f"{name}= expects an integer >= 1", "got", call)
    for value in (-1, 2.0, "3", None):
        call = partial(slq.spectral_measure, operator, reorthogonalize=value)
        yield refused(RequestError, "reorthogonalize= expects True, False or an integer >= 0", "got", call)
    for options in ({"num_probes": 10**12}, {"num_steps": 10**12, "reorthogonalize": False}):
        call = partial(slq.spectral_measure, operator, **options)
        yield refused(MemoryForecastError, "the run needs about .*TB, but .* are free", "fit", call)
    assert not calls

    def forms() -> np.ndarray:
        given = slq.spectral_measure(xp.asarray(A.matrix), probes=xp.asarray(V), num_steps=10**12)
        return given.quadratic_forms(np.exp)

    cause, mend = "num_steps=1000000000000 exceeds the dimension", "24 steps are exact"
    yield warned(ClippedStepsWarning, cause, mend, A.forms(V, np.exp), ROUNDING, forms)


@row(
    "H42",
    "grid that is empty, has NaN, one point, repeats, or is unsorted; descending",
    "`WidthError`; descending: sorted, `GridWarning`",
)
def h42(xp: Library) -> Iterator[Outcome]:
    found = measured(xp, xp.asarray(A.matrix), num_probes=K)
    fine = np.linspace(-3, 4, 500)
    for x in ([], [1.0], [0.0, np.nan], [0.0, np.inf], [0.0, 0.0, 1.0], [0.0, 2.0, 1.0], [[0.0, 1.0]], [0j, 1j]):
        yield refused(WidthError, "x= expects a one-dimensional, finite, increasing grid", "sort it", found.density, x)
    plain = found.density(fine, width=0.2).value
    turned = partial(found.density, fine[::-1], width=0.2)
    yield warned(GridWarning, "is descending", "give x", plain, 0.0, lambda: turned().value)


@row(
    "H43",
    "grid coarser than the width; width that is zero, negative, NaN",
    "`AliasingWarning` with the number of points needed, right values; bins have exact masses; `WidthError`",
)
def h43(xp: Library) -> Iterator[Outcome]:
    found = measured(xp, xp.asarray(A.matrix), num_probes=K)
    coarse, fine = np.linspace(-3, 4, 8), np.linspace(-3, 4, 701)
    exact = found.density(fine, width=0.2).value[::100]
    given = partial(found.density, coarse, width=0.2)
    yield warned(AliasingWarning, "farther apart than the width", "36 even points", exact, 1e-12, lambda: given().value)
    yield right(1.0, 1e-14, lambda: found.histogram(coarse).value.sum())
    for width in (0.0, -1.0, np.nan, np.inf):
        call = partial(found.density, fine, width=width)
        yield refused(WidthError, "width= expects a positive number", "in units of the eigenvalues", call)


@row(
    "H44",
    "grid that leaves out part of the spectrum",
    "`GridWarning` with the mass outside; never rescaled",
)
def h44(xp: Library) -> Iterator[Outcome]:
    found = measured(xp, xp.asarray(A.matrix), num_probes=K)
    fine = np.linspace(-3, 4, 701)
    whole = found.density(fine, width=0.2).value
    part = partial(found.density, fine[350:], width=0.2)
    yield warned(GridWarning, "leaves out 0.[0-9]+ of the mass", "Extend it", whole[350:], 1e-12, lambda: part().value)


@row("H45", "log grid across zero", "`WidthError`; its mend works: `symlog`")
def h45(xp: Library) -> Iterator[Outcome]:
    found = measured(xp, xp.asarray(A.matrix), num_probes=K)
    yield refused(WidthError, "a log grid cannot hold the Ritz value -", "use x='symlog'", found.density, "log")

    def mass() -> float:
        density = found.density("symlog", width=0.2)
        return float(np.trapezoid(density.value, density.x))

    yield right(1.0, 1e-3, mass)  # by the trapezoidal rule on its uneven points; measured: 4e-5


@row(
    "H46",
    "width below what the steps resolve, or above the spectrum",
    "`ResolutionWarning`, at any scale; the density at the asked width",
)
def h46(xp: Library) -> Iterator[Outcome]:
    for scale in (1e-8, 1.0, 1e8):
        found = measured(xp, xp.asarray(scale * A.matrix), num_probes=K)
        for width, cause, mend in (
            (1e-3, "not resolved by 9 steps", "use more steps"),
            (30.0, "larger than the spectrum", "use a smaller width"),
        ):

            def mass(found: Any = found, width: float = width * scale) -> float:
                density = found.density(width=width)
                assert density.width == width
                return float(np.trapezoid(density.value, density.x))

            yield warned(ResolutionWarning, cause, mend, 1.0, 1e-6, mass)


@row(
    "H47",
    "seed: None, 0, 2⁶⁴ + 1, NumPy integer, Generator; negative, float, bool, text",
    "accepted, and the result holds the seed that was used; `RequestError`",
)
def h47(xp: Library) -> Iterator[Outcome]:
    operator = xp.asarray(A.matrix)
    for rng in (None, 0, 2**64 + 1, np.int64(7), np.random.default_rng(1)):
        first = measured(xp, operator, num_probes=K, rng=rng)
        again = partial(measured, xp, operator, num_probes=K, rng=first.seeds[0])
        yield right(first.alpha, 0.0, lambda f=again: f().alpha)
        if isinstance(rng, int | np.integer):
            assert first.seeds == (rng,) * K
    for rng in (-1, 1.5, True, "1", np.float64(2)):
        call = partial(measured, xp, operator, rng=rng)
        yield refused(RequestError, "rng= expects", "an integer >= 0", call)


@row(
    "H48",
    "one seed on every library and in any batches; neighbouring seeds",
    "the same probes: Rademacher bit for bit, sphere and Gaussian to rounding; the same coefficients, whether 20 "
    "probes run at once, by ones, twos or sevens, or as 10 and 10; seeds s and s + 1 share none",
)
def h48(xp: Library) -> Iterator[Outcome]:
    for sampler, tol in ((slq.rademacher, 0.0), (slq.sphere, 4e-16), (slq.gaussian, 4e-16)):
        exact = sampler(3, range(20), None, N, np.empty(0))
        like = xp.asarray(np.empty(0))
        yield right(exact, tol, lambda f=sampler, like=like: to_host(f(3, range(20), None, N, like)))
    operator = xp.asarray(A.matrix)
    reference = slq.spectral_measure(A.matrix, num_probes=20, num_steps=M).alpha
    for rows in (1, 2, 7):
        # Other sums in another order: measured below 2e-14.
        batches = partial(measured, xp, operator, num_probes=20, batch_size=rows)
        yield right(reference, 1e-12, lambda f=batches: f().alpha)

    def halves() -> np.ndarray:
        return slq.concatenate([measured(xp, operator, first_probe=first) for first in (0, 10)]).alpha

    yield right(reference, 1e-12, halves)

    def largest_cosine() -> bool:
        seeds = [to_host(slq.sphere(seed, range(20), None, 200, xp.asarray(np.empty(0)))) for seed in (3, 4)]
        # 400 cosines of variance 1/200: beyond 6 standard deviations lies one in a million.
        return bool(np.abs(seeds[0] @ seeds[1].T).max() / 200 < 6 * 200**-0.5)

    yield right(True, 0.0, largest_cosine)
