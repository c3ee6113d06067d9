"""Exact laws of stochastic Lanczos quadrature, on every array library."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import slq
from slq._quadrature import run_lengths
from slq.errors import ClippedStepsWarning
from tests.problems import K, M, N, hessian_like, indefinite, problem, strakos, uniform

A = problem(indefinite(N))
RULES = {"num_probes": K, "num_steps": M}


def probes(measure, like=None):
    """The unscaled probes of a measure of sphere probes."""
    like = np.empty(0) if like is None else like
    return slq.sphere(measure.seeds[0], measure.probe_ids, None, measure.n, like)


# The problems themselves


@pytest.mark.parametrize("dtype", [float, complex])
def test_problems_have_their_spectrum_and_spread_eigenvectors(dtype):
    for spectrum in (uniform, indefinite, strakos, lambda n: hessian_like(n, outliers=5)):
        exact = problem(spectrum(40), dtype=dtype)
        A = exact.matrix
        np.testing.assert_allclose(scipy.linalg.eigvalsh(A), np.sort(exact.eigenvalues), atol=1e-11)
        np.testing.assert_array_equal(A, A.conj().T)
        # Spread: no entry of an eigenvector holds more than a small part of it (1/√40 = 0.16).
        assert np.abs(exact.vectors).max() < 0.6
        x = np.random.default_rng(0).normal(size=(2, 40)).astype(dtype)
        np.testing.assert_allclose(exact.forms(x, lambda t: t**2), np.linalg.norm(x @ A.T, axis=1) ** 2, rtol=1e-12)


# Quadrature


@pytest.mark.parametrize(("dtype", "atol", "rtol"), [("float64", 1e-14, 1e-8), ("float32", 1e-6, 0.2)])
def test_quadratic_forms_are_exact_up_to_degree_2m_minus_1(xp, dtype, atol, rtol):
    exact = problem(np.linspace(-1.0, 1.0, N))
    measure = slq.spectral_measure(xp.asarray(exact.matrix, dtype), **RULES)
    x = probes(measure, np.empty(0, dtype)).astype(float)
    for p in range(2 * M):
        truth = exact.forms(x, lambda t, p=p: t**p)
        np.testing.assert_allclose(measure.quadratic_forms(lambda t, p=p: t**p), truth, atol=10 * N * atol)
    # Of degree 2m the error is known: that of a monic polynomial is ‖x‖² (β₀ … βₘ₋₁)², the last β included. It is
    # about 2⁻¹⁷ here, so that single precision has little more than one digit of it.
    error = exact.forms(x, lambda t: t ** (2 * M)) - measure.quadratic_forms(lambda t: t ** (2 * M))
    np.testing.assert_allclose(error, N * np.prod(measure.beta, axis=1) ** 2, rtol=rtol)
    assert (error > 1e-6 * N).all()


@pytest.mark.parametrize("kind", [False, 3])
def test_short_runs_need_no_reorthogonalisation(kind):
    measure = slq.spectral_measure(A.matrix, reorthogonalize=kind, **RULES)
    for p in range(2 * M):
        truth = A.forms(probes(measure), lambda t, p=p: t**p)
        np.testing.assert_allclose(measure.quadratic_forms(lambda t, p=p: t**p), truth, rtol=1e-11)


def test_weights_are_a_probability(xp):
    for kind in (True, False):
        measure = slq.spectral_measure(xp.asarray(A.matrix), reorthogonalize=kind, **RULES)
        assert (measure.weights >= 0).all()
        np.testing.assert_allclose(measure.weights.sum(axis=1), 1, atol=8 * M * 2.0**-52)
        assert (np.diff(measure.nodes) >= 0).all()
        assert measure.support[0] >= A.eigenvalues.min() - 1e-13
        assert measure.support[1] <= A.eigenvalues.max() + 1e-13


@pytest.mark.parametrize("spectrum", [uniform, indefinite], ids=lambda s: s.__name__)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-9), ("float32", 1e-4)])
def test_smooth_functions_agree_with_the_same_probes(xp, spectrum, dtype, rtol):
    exact = problem(spectrum(N))
    f = np.log if spectrum is uniform else np.exp
    measure = slq.spectral_measure(xp.asarray(exact.matrix, dtype), **RULES)
    truth = exact.forms(probes(measure, np.empty(0, dtype)).astype(float), f)
    np.testing.assert_allclose(measure.quadratic_forms(f), truth, rtol=rtol)


@pytest.mark.parametrize("spectrum", [uniform, indefinite, strakos, hessian_like], ids=lambda s: s.__name__)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_long_runs_agree_with_the_same_probes(spectrum, dtype, rtol):
    exact = problem(spectrum(300))
    measure = slq.spectral_measure(exact.matrix.astype(dtype), num_probes=3, num_steps=100)
    x = probes(measure, np.empty(0, dtype)).astype(float)
    for f in (np.exp if spectrum is not hessian_like else np.sqrt, lambda t: np.log(np.abs(t) + 0.01)):
        if spectrum is indefinite and f is not np.exp:
            continue  # not smooth where the spectrum crosses zero
        size = exact.forms(x, lambda t, f=f: np.abs(f(t)))
        np.testing.assert_allclose(measure.quadratic_forms(f), exact.forms(x, f), atol=rtol * size.max())


@pytest.mark.parametrize("sampler", [slq.sphere, slq.steinhaus], ids=lambda s: s.__name__)
def test_complex_hermitian_operators(xp, sampler):
    exact = problem(uniform(N), dtype=complex)
    measure = slq.spectral_measure(xp.asarray(exact.matrix), probes=sampler, **RULES)
    x = sampler(0, range(K), None, N, np.empty(0, dtype=complex))
    assert measure.is_complex
    for f in (np.log, np.exp, lambda t: t):
        np.testing.assert_allclose(measure.quadratic_forms(f), exact.forms(x, f), rtol=1e-9)


def test_a_flux_ring_keeps_the_sign_of_its_phase(xp):
    # Eigenvalues 2cos((2πk + φ)/n) with plane waves: a conjugation mistake would find those of −φ.
    k, phi = np.array([3, 5, 7]), 1.0
    ring = np.roll(np.eye(N), 1, axis=1) * np.exp(1j * phi / N)
    waves = np.exp(2j * np.pi * np.outer(k, np.arange(N)) / N)
    measure = slq.spectral_measure(xp.asarray(ring + ring.conj().T), probes=xp.asarray(waves), num_steps=M)
    exact = 2 * np.cos((2 * np.pi * k + phi) / N)
    np.testing.assert_allclose(measure.quadratic_forms(lambda t: t), N * exact, rtol=1e-12)


# Equivalent runs


@pytest.mark.parametrize(("a", "b"), [(2.5, -1.0), (-0.5, 3.0)])
def test_affine_maps_move_the_nodes_and_keep_the_weights(xp, a, b):
    plain = slq.spectral_measure(xp.asarray(A.matrix), **RULES)
    mapped = slq.spectral_measure(xp.asarray(a * A.matrix + b * np.eye(N)), **RULES)
    order = slice(None) if a > 0 else slice(None, None, -1)
    # Full orthogonalisation keeps T as stable as an eigenvalue problem of size m; measured: 3e-15, 2e-14.
    np.testing.assert_allclose(mapped.nodes, (a * plain.nodes + b)[:, order], atol=1e-12)
    np.testing.assert_allclose(mapped.weights, plain.weights[:, order], atol=1e-11)


@pytest.mark.parametrize("exponent", [-900, -301, 301, 900])
def test_powers_of_two_scale_the_nodes_and_keep_the_weights_to_the_bit(xp, exponent):
    plain = slq.spectral_measure(xp.asarray(A.matrix), **RULES)
    scaled = slq.spectral_measure(xp.asarray(np.ldexp(A.matrix, exponent)), **RULES)
    np.testing.assert_array_equal(scaled.weights, plain.weights)
    np.testing.assert_array_equal(scaled.nodes, np.ldexp(plain.nodes, exponent))


@pytest.mark.parametrize("exponent", [-100, 100])
def test_powers_of_two_scale_single_precision_too(exponent):
    matrix = A.matrix.astype(np.float32)
    plain, scaled = (slq.spectral_measure(np.ldexp(matrix, e), **RULES) for e in (0, exponent))
    np.testing.assert_array_equal(scaled.weights, plain.weights)
    np.testing.assert_array_equal(scaled.nodes, np.ldexp(plain.nodes, exponent))


# Subnormal products meet an overflow in the factor that should bring them to order one.
@pytest.mark.parametrize("exponent", [-1030, 1000])
def test_the_ends_of_the_floating_point_range(exponent):
    plain = slq.spectral_measure(A.matrix, **RULES)
    scaled = slq.spectral_measure(np.ldexp(A.matrix, exponent), **RULES)
    # Subnormal entries of A have lost digits: 2⁻¹⁰⁷⁴ is 2⁻⁴⁴ of 2⁻¹⁰³⁰.
    np.testing.assert_allclose(np.ldexp(scaled.nodes, -exponent), plain.nodes, atol=1e-11)


def test_fewer_steps_are_the_first_of_more(xp):
    for kind in (True, False):
        long = slq.spectral_measure(xp.asarray(A.matrix), reorthogonalize=kind, **RULES)
        short = slq.spectral_measure(xp.asarray(A.matrix), num_probes=K, num_steps=4, reorthogonalize=kind)
        cut = long.truncate(4)
        np.testing.assert_allclose(cut.alpha, short.alpha, atol=1e-13)
        np.testing.assert_allclose(cut.beta, short.beta, atol=1e-13)
        np.testing.assert_allclose(cut.nodes, short.nodes, atol=1e-12)
        assert cut.num_steps == 4


def test_batches_and_unions_are_one_run(xp):
    matrix = xp.asarray(A.matrix)
    whole = slq.spectral_measure(matrix, **RULES)
    batched = slq.spectral_measure(matrix, batch_size=1, **RULES)
    parts = [slq.spectral_measure(matrix, num_probes=1, num_steps=M, first_probe=i) for i in range(K)]
    for other in (batched, slq.concatenate(parts), parts[0] | parts[1] | parts[2]):
        # Blocks of other sizes multiply in another order; measured with full orthogonalisation: 3e-15.
        np.testing.assert_allclose(other.alpha, whole.alpha, atol=1e-12)
        np.testing.assert_allclose(other.beta, whole.beta, atol=1e-12)
        assert (other.seeds, other.probe_ids) == (whole.seeds, whole.probe_ids)
        np.testing.assert_array_equal(other.squared_norms, whole.squared_norms)
        assert other.provenance == whole.provenance


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("sampler", [slq.sphere, slq.gaussian, slq.rademacher], ids=lambda s: s.__name__)
def test_the_batch_size_does_not_matter(batch_size, sampler):
    whole = slq.spectral_measure(A.matrix, num_probes=7, num_steps=M, probes=sampler)
    batched = slq.spectral_measure(A.matrix, num_probes=7, num_steps=M, probes=sampler, batch_size=batch_size)
    np.testing.assert_allclose(batched.alpha, whole.alpha, atol=1e-12)
    np.testing.assert_allclose(batched.beta, whole.beta, atol=1e-12)
    np.testing.assert_allclose(batched.squared_norms, whole.squared_norms, rtol=1e-15)


# Invariant subspaces


def test_runs_of_full_order_are_exact(xp):
    measure = slq.spectral_measure(xp.asarray(A.matrix), num_probes=K, num_steps=N)
    x = probes(measure)
    # Weights carry the roundings over the gap of 0.13 between eigenvalues, times ‖x‖² = 24.
    for f in (np.exp, np.abs, lambda t: np.sign(t + 0.5), lambda t: np.cos(40 * t)):
        np.testing.assert_allclose(measure.quadratic_forms(f), A.forms(x, f), atol=1e-11)
    np.testing.assert_allclose(measure.nodes, np.tile(A.eigenvalues, (K, 1)), atol=1e-13)


def test_more_steps_than_dimensions_are_clipped(xp):
    with pytest.warns(ClippedStepsWarning, match="num_steps=30 exceeds the dimension: 24 steps are exact"):
        measure = slq.spectral_measure(xp.asarray(A.matrix), num_probes=K, num_steps=30)
    assert measure.num_steps == N
    np.testing.assert_allclose(measure.quadratic_forms(np.exp), A.forms(probes(measure), np.exp), rtol=1e-12)


def test_more_steps_than_dimensions_are_kept_without_orthogonality():
    measure = slq.spectral_measure(problem(strakos(9)).matrix, num_probes=2, num_steps=20, reorthogonalize=False)
    assert measure.num_steps == 20


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_operators(xp, n):
    exact = problem([3.0, -1.0][:n])
    measure = slq.spectral_measure(xp.asarray(exact.matrix), num_probes=K, num_steps=n)
    np.testing.assert_allclose(measure.quadratic_forms(np.exp), exact.forms(probes(measure), np.exp), rtol=1e-14)
    if n == 1:
        assert float(measure.trace()) == pytest.approx(3.0, rel=1e-15)
        assert float(measure.count(2.0, 4.0)) == 1.0


CLOSED = {  # eigenvalues, the most steps that a run may take
    "identity": (np.ones(N), 1),
    "multiple of the identity": (np.full(N, -3e-5), 1),
    "zero": (np.zeros(N), 1),
    "rank one": ([4.0] + [0.0] * (N - 1), 2),
    "two eigenvalues": ([1.0, 5.0] * (N // 2), 2),
    "three eigenvalues": ([0.5, 2.0, 3.0] * (N // 3), 4),  # three, and one for a residual just above rounding
}


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # rank one
@pytest.mark.parametrize("kind", CLOSED)
def test_runs_end_in_an_invariant_subspace_and_are_exact(xp, kind):
    eigenvalues, most = CLOSED[kind]
    exact = problem(eigenvalues)
    if kind in ("identity", "zero"):
        exact = exact._replace(vectors=np.eye(N))  # without rounding in the matrix
    measure = slq.spectral_measure(xp.asarray(exact.matrix), **RULES)
    assert run_lengths(measure.beta).max() <= most
    assert measure.exact.all()
    assert measure.products <= K * most
    x = probes(measure)
    for f in (np.cos, lambda t: t, lambda t: np.log(np.abs(t) + 0.1)):
        np.testing.assert_allclose(measure.quadratic_forms(f), exact.forms(x, f), atol=1e-12 * N)
    estimate = measure.trace(np.cos)
    assert estimate.truncation == 0
    assert estimate.converged
    np.testing.assert_allclose(measure.weights.sum(axis=1), 1, atol=1e-14)
    used = measure.weights > 0
    assert (np.abs(measure.nodes[used][:, None] - np.asarray(eigenvalues)).min(axis=1) < 1e-12).all()


def test_functions_never_see_what_is_not_a_ritz_value():
    measure = slq.spectral_measure(np.eye(N), num_probes=2, num_steps=5)
    seen = []
    measure.quadratic_forms(lambda t: (seen.append(t), t)[1])
    assert np.concatenate(seen).size == 2  # one node each; the padding is not asked for


def test_tight_clusters_keep_their_mean():
    exact = problem(1.0 + 1e-14 * np.linspace(-0.5, 0.5, N))
    assert float(slq.spectral_measure(exact.matrix, num_probes=4, num_steps=M).trace()) / N == pytest.approx(
        1, abs=1e-12
    )


# Log-determinants


@pytest.mark.parametrize("c", [1e-3, 1.0, 7.0])
def test_the_log_determinant_of_a_multiple_of_the_identity(xp, c):
    estimate = slq.logdet(xp.asarray(c * np.eye(N)), **RULES)
    assert estimate.value == pytest.approx(N * np.log(c), rel=1e-12, abs=1e-12)
    assert estimate.stderr <= 1e-12


@pytest.mark.parametrize("eigenvalues", [(0.5, 2.0, 3.0), (1e-3, 1e-2, 0.5)], ids=["positive", "negative"])
def test_log_determinants_are_the_quadratic_forms_of_the_probes(xp, eigenvalues):
    exact = problem(np.repeat(eigenvalues, N // 3))
    measure = slq.spectral_measure(xp.asarray(exact.matrix), **RULES)
    truth = exact.forms(probes(measure), np.log)
    np.testing.assert_allclose(measure.quadratic_forms(np.log), truth, rtol=1e-12)
    assert measure.logdet().value == pytest.approx(truth.mean(), rel=1e-12)
    assert np.sign(truth.mean()) == np.sign(np.log(eigenvalues).sum())
    assert slq.logdet(xp.asarray(exact.matrix), **RULES).value == measure.logdet().value


# Any small matrix


@st.composite
def symmetric_matrices(draw):
    """Symmetric, of dimension 1 to 5, with zeros, repeats and any scale."""
    n = draw(st.integers(1, 5))
    entries = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-1, 1, allow_subnormal=False))
    triangle = np.reshape(draw(st.lists(entries, min_size=n * n, max_size=n * n)), (n, n))
    return np.ldexp(np.tril(triangle) + np.tril(triangle, -1).T, draw(st.integers(-900, 900)))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(symmetric_matrices(), st.integers(0, 2**70))
def test_any_small_matrix_is_measured_exactly(matrix, seed):
    n = len(matrix)
    size = np.abs(matrix).max()
    assume(size == 0 or size > 2.0**-950)  # the recurrence squares what is 2⁻⁵² of it
    measure = slq.spectral_measure(matrix, num_probes=2, num_steps=n, rng=seed)
    assert np.isfinite(measure.nodes).all()
    assert (measure.weights >= 0).all()
    np.testing.assert_allclose(measure.weights.sum(axis=1), 1, atol=1e-14)
    x = slq.sphere(seed, range(2), None, n, np.empty(0))
    scaled = matrix / size if size else matrix
    eigenvalues, vectors = np.linalg.eigh(scaled)
    truth = (x @ vectors) ** 2 @ np.cos(eigenvalues)
    found = measure.quadratic_forms(lambda t: np.cos(t / size) if size else np.cos(t))
    # A run that ends early ends with a residual of 10 roundings; the vectors there are as good as eps over the gap.
    np.testing.assert_allclose(found, truth, atol=1e-12 * n)
