"""slq/_xtrace.py: the trace by test vectors that are each left out of the space of the others."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

import slq
from slq import _memory
from slq.errors import MemoryForecastError, NonFiniteError, NotSymmetricError, RequestError, ShapeError
from tests.problems import N, indefinite, problem, uniform

J = np.arange(1.0, 401.0)
SPECTRA = {
    "flat": np.linspace(1, 2, 300),
    "fast decay": 0.9**J,
    "slow decay": 1 / J,
    "spiked": np.concatenate([np.linspace(1, 2, 492), 10 * np.arange(1.0, 9.0)]),
    "indefinite": np.linspace(-1, 1.3, 1000),
}


def diagonal(spectrum):
    return slq.aslinearoperator(lambda x: x * spectrum, like=spectrum, batched=True)


def by_hand(matrix, m, seed):
    """The definition: m vectors, each with a basis of the images of the others (QR of LAPACK)."""
    n = len(matrix)
    X = slq.sphere(seed, range(m), None, n, np.empty(0, matrix.dtype)).T
    found = []
    for i in range(m):
        Q = np.linalg.qr(matrix @ np.delete(X, i, axis=1))[0]
        v = X[:, i] - Q @ (Q.conj().T @ X[:, i])
        form = (v.conj() @ matrix @ v).real / (v.conj() @ v).real
        found.append(np.trace(Q.conj().T @ matrix @ Q).real + (n - m + 1) * form)
    return np.mean(found), np.std(found, ddof=1) / np.sqrt(m)


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("m", [2, 5, N - 1])
def test_the_estimate_is_the_definition(dtype, m):
    matrix = problem(indefinite(N), dtype=dtype).matrix
    for seed in range(3):
        found, (value, error) = slq.xtrace(matrix, 2 * m, rng=seed), by_hand(matrix, m, seed)
        # R has a condition below 1e4 here, and its inverse enters: 1e4 eps, about.
        assert found.value == pytest.approx(value, rel=1e-10)
        assert found.stderr == pytest.approx(1.5 * error, rel=1e-9)
        assert (found.products, found.dof, found.truncation, found.truncation_kind) == (2 * m, m - 1, 0, "exact")


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_every_library_gives_one_number(xp, dtype):
    matrix = problem(indefinite(N), dtype=complex if dtype == "complex128" else float).matrix
    found, on_numpy = slq.xtrace(xp.asarray(matrix, dtype), 10), slq.xtrace(matrix, 10)
    # Rounding of the products, times the condition of R.
    assert found.value == pytest.approx(on_numpy.value, abs=2e-4 if dtype == "float32" else 1e-10)
    assert found.stderr == pytest.approx(on_numpy.stderr, rel=1e-3 if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_low_rank_is_exact(dtype, scale):
    """Rank 3 of 300. Measured over 10 seeds: errors below 0.6 of `rounding`, `stderr` below a tenth of it."""
    spectrum = np.concatenate([[5, 3, -2], np.zeros(297)]).astype(dtype) * dtype(scale)
    for seed in range(10):
        found = slq.xtrace(diagonal(spectrum), 10, rng=seed)
        assert abs(found.value - spectrum.sum(dtype=float)) <= 2 * found.rounding
        assert found.stderr <= found.rounding <= 1e-4 * found.value
        assert found.products == 5 + 3


@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_a_space_that_is_all_there_is_gives_the_exact_trace(n):
    matrix = problem(np.linspace(-1, 3.1, n)).matrix
    found = slq.xtrace(matrix, max(2 * n, 4))
    # Each of n products is off by rounding of the norm.
    assert found.value == pytest.approx(np.trace(matrix), abs=10 * n * np.finfo(float).eps)
    assert (found.stderr, found.products) == (0, 2 * n)
    assert slq.xtrace(matrix, 10 * n + 4).value == found.value


def test_zero_and_the_identity():
    found = slq.xtrace(np.zeros((30, 30)), 10)
    assert (found.value, found.stderr, found.rounding, found.products) == (0, 0, 0, 5)
    # Every form is the squared length of its vector, so that there is no spread but rounding.
    found = slq.xtrace(np.eye(30), 10)
    assert found.value == pytest.approx(30, abs=2 * found.rounding)
    assert found.stderr <= found.rounding


def z_and_hits(operator, exact, products, seeds):
    found = [slq.xtrace(operator, products, rng=seed, check=False) for seed in range(seeds)]
    ends = np.array([estimate.interval(0.95) for estimate in found])
    errors = np.array([estimate.value for estimate in found]) - exact
    return errors, np.array([estimate.stderr for estimate in found]), (ends[:, 0] <= exact) & (exact <= ends[:, 1])


@pytest.mark.parametrize("products", [16, 60])
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_hold_their_level(name, products):
    """The least coverage measured over 1000 seeds is 91.8 %; with 91.5 %, so few hits of 200 have a chance of 1e-5."""
    spectrum = SPECTRA[name]
    errors, bars, hits = z_and_hits(diagonal(spectrum), spectrum.sum(), products, 200)
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(200)  # unbiased
    assert stats.binom.cdf(hits.sum(), 200, 0.915) > 1e-5
    # Root mean squares, measured over 1000 seeds: 1.05 to 1.48; 200 seeds know them to about a tenth each.
    assert 0.8 < np.sqrt(np.mean(bars**2) / np.mean(errors**2)) < 2.0


def test_decay_is_used():
    """The variance of plain sphere probes is known, 2n/(n+2) (tr A² − (tr A)²/n) for one; this is far below."""
    spectrum = 1 / J**2
    errors, _, _ = z_and_hits(diagonal(spectrum), spectrum.sum(), 60, 20)
    plain = np.sqrt(2 * 400 / 402 * ((spectrum**2).sum() - spectrum.sum() ** 2 / 400) / 60)
    assert np.sqrt(np.mean(errors**2)) < 0.02 * plain  # measured: 0.008


def test_complex_hermitian_traces_are_unbiased():
    matrix = problem(uniform(40), dtype=complex).matrix
    errors, _, hits = z_and_hits(matrix, uniform(40).sum(), 10, 200)
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(200)
    assert stats.binom.cdf(hits.sum(), 200, 0.915) > 1e-5


def test_the_inner_product_of_the_operator_is_used():
    matrix, d = problem(uniform(24)).matrix, np.linspace(1, 3, 24)
    operator, exact = slq.generalized(matrix, d), (np.diag(matrix) / d).sum()
    errors, _, hits = z_and_hits(operator, exact, 10, 200)
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(200)
    assert stats.binom.cdf(hits.sum(), 200, 0.915) > 1e-5
    assert slq.xtrace(operator, 48).value == pytest.approx(exact, rel=1e-13)


def test_progress_and_odd_numbers():
    seen = []
    found = slq.xtrace(problem(uniform(24)).matrix, 11, progress=lambda *at: seen.append(at))
    assert (seen, found.products) == ([(5, 10), (10, 10)], 10)


def test_seeds_tell_estimates_apart():
    matrix = problem(uniform(24)).matrix
    values = [slq.xtrace(matrix, 8, rng=rng).value for rng in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("num_products", [3, 4.0, True, "10"])
def test_too_few_products(num_products):
    with pytest.raises(RequestError, match="num_products= expects an integer >= 4, got"):
        slq.xtrace(np.eye(10), num_products)


def test_bad_operators():
    skew = np.triu(np.ones((30, 30)))
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.xtrace(skew)
    with pytest.raises(ShapeError, match="square"):
        slq.xtrace(np.ones((3, 4)))
    assert np.isfinite(slq.xtrace(skew, check=False).value)


def test_asymmetry_is_found_on_the_way():
    """An operator that passes the ten products first, and then changes."""
    calls = []

    def product(x):
        calls.append(len(x))
        return x @ (np.eye(30) if len(calls) <= 3 else np.triu(np.ones((30, 30)))).T

    operator = slq.aslinearoperator(product, like=np.empty(30), batched=True)
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.xtrace(operator, 10)


@pytest.mark.parametrize("step", [0, 1])
def test_what_is_not_finite_is_refused(step):
    calls = []

    def product(x):
        calls.append(len(x))
        y = 1.0 * x
        if len(calls) == step + 1:
            y[1, 2] = np.nan
        return y

    operator = slq.aslinearoperator(product, like=np.empty(30), batched=True)
    with pytest.raises(NonFiniteError, match=f"product of step {step} of xtrace contains NaN") as caught:
        slq.xtrace(operator, 10, check=False)
    assert caught.value.step == step
    assert caught.value.probes == ([1] if step == 0 else [0, 1, 2, 3, 4])


def test_memory_is_forecast(monkeypatch):
    monkeypatch.setattr(_memory, "available", lambda like: 10**6)  # noqa: ARG005
    operator = diagonal(np.ones(10**4))
    with pytest.raises(MemoryForecastError, match=r"num_products=4 \(480 kB\)"):
        slq.xtrace(operator, 40, check=False)


def test_memory_is_about_what_is_forecast(monkeypatch):
    needed = []
    monkeypatch.setattr("slq._xtrace.require", lambda *arguments: needed.append(arguments[1]))
    operator = diagonal(np.linspace(1, 2, 10**5))
    tracemalloc.start()
    try:
        slq.xtrace(operator, 40, check=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.8 < peak / needed[0] < 1.1


def test_dtype_of_the_vectors_is_that_of_the_operator(xp):
    seen = []

    def product(x):
        seen.append(x.dtype)
        return x * 2

    like = xp.asarray(np.zeros(20, np.float32))
    found = slq.xtrace(slq.aslinearoperator(product, like=like, batched=True), 8)
    assert set(seen) == {like.dtype}
    assert found.value == pytest.approx(40, rel=1e-5)
