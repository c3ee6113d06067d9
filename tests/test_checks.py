"""slq/_checks.py: what the first products tell about an operator."""

import time
import warnings

import numpy as np
import pytest

import slq
from slq import aslinearoperator
from slq.errors import (
    NonFiniteError,
    NotLinearError,
    NotSymmetricError,
    ProductError,
    SymmetryWarning,
)
from tests.problems import K, M, N, hessian_like, indefinite, mix, problem

SYMMETRIC = problem(indefinite(N)).matrix
SKEW = np.random.default_rng(1).normal(size=(N, N))
SKEW = (SKEW - SKEW.T) / np.linalg.norm(SKEW - SKEW.T) * np.linalg.norm(SYMMETRIC)
V = np.random.default_rng(2).normal(size=(K, N))


def breaks_at(step, value, row=1):
    """SYMMETRIC, but for one entry in the product of one step."""
    calls = iter(range(10**6))

    def product(x):
        y = x @ SYMMETRIC
        if next(calls) == step:
            y[row, 5] = value
        return y

    return aslinearoperator(product, like=V[0], batched=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_product_must_be_finite(value):
    with pytest.raises(
        NonFiniteError, match="the product of step 0 contains NaN or infinity for probe 1: 1 of 24"
    ) as caught:
        slq.lanczos(breaks_at(0, value), V, M)
    assert (caught.value.probes, caught.value.step) == ([1], 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", [1, 2, M - 1])
def test_a_later_product_must_be_finite_and_the_error_names_the_step(step, value):
    with pytest.raises(NonFiniteError, match=rf"product of step {step} contains NaN .* probe 2") as caught:
        slq.lanczos(breaks_at(step, value, row=2), V, M)
    assert (caught.value.probes, caught.value.step) == ([2], step)


def test_all_bad_probes_of_the_first_product_are_named():
    with pytest.raises(NonFiniteError, match=r"for all its probes, \[0, 1, 2\]"):
        slq.lanczos(np.full((N, N), np.nan), V, M)


def test_non_finite_products_are_found_on_every_library(xp):
    bad = SYMMETRIC.copy()
    bad[3, 3] = np.nan
    with pytest.raises(NonFiniteError, match="the first product contains NaN"):
        slq.lanczos(xp.asarray(bad), xp.asarray(V), M)


def test_a_skew_part_is_an_error_on_every_library(xp):
    with pytest.raises(NotSymmetricError, match=r"not symmetric \(Hermitian\): ‖A − Aᴴ‖/‖A‖ is about [\d.]+; symmetri"):
        slq.lanczos(xp.asarray(SYMMETRIC + SKEW), xp.asarray(V), M)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_a_small_skew_part_is_a_warning_that_estimates_it(size):
    probes = np.random.default_rng(3).normal(size=(10, N))
    with pytest.warns(SymmetryWarning, match="slightly asymmetric") as caught:
        slq.lanczos(SYMMETRIC + size / 3 * SKEW, probes, 3)
    estimate = float(str(caught[0].message).split("about ")[1].split(",")[0])
    truth = 2 * size / 3
    # 45 pairs: the mean square has a relative standard deviation of √(2/45) = 0.2 or a little more.
    assert truth / 2 < estimate < truth * 2


def test_one_probe_is_judged_by_its_second_product():
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.lanczos(SYMMETRIC + SKEW, V[:1], 2)
    with pytest.warns(SymmetryWarning, match="slightly asymmetric"):
        slq.lanczos(SYMMETRIC + 1e-2 * SKEW, V[:1], 2)


def test_check_false_is_silent():
    slq.lanczos(SYMMETRIC + SKEW, V, M, check=False)
    slq.lanczos(SYMMETRIC + SKEW, V[:1], M, check=False)


@pytest.mark.parametrize("size", [1.0, 0.1])
def test_dense_asymmetry_is_found_by_a_pair_of_probes(size):
    rng = np.random.default_rng(4)
    missed = 0
    for _ in range(200):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SymmetryWarning)  # an estimate below 1e-2 is not a refusal
                slq.lanczos(SYMMETRIC + size * SKEW, rng.normal(size=(2, N)), 1)
            missed += 1
        except NotSymmetricError:
            pass
    # |Z| < 1e-2/(2·size): probability 0.004 at size 1, 0.04 at 0.1; 200 trials exceed these counts once in 10⁴.
    assert missed <= {1.0: 6, 0.1: 20}[size]


COMPLEX = problem(indefinite(N), dtype=complex).matrix
NOT_HERMITIAN = {
    "complex symmetric": SYMMETRIC + 1j * problem(indefinite(N), seed=5).matrix,
    "unitary": mix(np.eye(N, dtype=complex)),
    "skew-Hermitian": 1j * COMPLEX,
    "real and skew": SKEW + 0j,
    "triangular": np.triu(np.ones((N, N))),
    "affine": aslinearoperator(lambda x: x @ SYMMETRIC + 1.0, like=V[0], batched=True),
    "cubic": aslinearoperator(lambda x: x @ SYMMETRIC + 10 * x**3, like=V[0], batched=True),
    "noisy": aslinearoperator(
        lambda x: x @ SYMMETRIC + np.random.default_rng(int(abs(x[0, 0]) * 1e9)).normal(size=x.shape),
        like=V[0],
        batched=True,
    ),
}


# Of the check before the run; this noise depends on nothing but the input.
CAUSES = dict.fromkeys(("affine", "cubic", "noisy"), NotLinearError)


@pytest.mark.parametrize("kind", NOT_HERMITIAN)
def test_what_is_not_hermitian_is_refused(kind):
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.lanczos(NOT_HERMITIAN[kind], V + 0j if np.iscomplexobj(NOT_HERMITIAN[kind]) else V, M)
    error = CAUSES.get(kind, NotSymmetricError)
    with pytest.raises(error, match=r"not linear|not repeatable|not symmetric|differ"):
        slq.spectral_measure(NOT_HERMITIAN[kind], num_probes=K, num_steps=M)


@pytest.mark.parametrize("exponent", [-900, 900])
def test_scale_does_not_hide_asymmetry(exponent):
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.lanczos(np.ldexp(SYMMETRIC + SKEW, exponent), V, M)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("spectrum", [indefinite, hessian_like], ids=lambda s: s.__name__)
def test_rounding_alone_raises_no_alarm(dtype, spectrum):
    A = problem(spectrum(400), dtype=complex if "complex" in dtype else float).matrix.astype(dtype)
    A = np.triu(A) + np.triu(A, 1).conj().T  # Hermitian to the last bit
    slq.spectral_measure(A, num_probes=8, num_steps=3)  # warnings are errors here
    slq.spectral_measure(A, num_probes=1, num_steps=3)


def test_structured_symmetric_operators_raise_no_alarm():
    for A in (
        np.zeros((N, N)),
        np.eye(N),
        np.ones((N, N)),
        np.diag(np.logspace(-12, 12, N)),
        np.diag([1.0] + [0.0] * 23),
    ):
        slq.spectral_measure(A, num_probes=5, num_steps=5)
        slq.spectral_measure(A, num_probes=1, num_steps=5)


# Refused as asymmetric: the noise is judged relative to itself, not to the operator.
def test_given_vectors_in_the_null_space_raise_no_alarm():
    # All that these products hold is rounding, which is as asymmetric as can be.
    A = problem(np.concatenate([np.zeros(6), np.linspace(1.0, 2.0, N - 6)]))
    measure = slq.spectral_measure(A.matrix, probes=A.vectors[:4], num_steps=3)
    np.testing.assert_allclose(measure.quadratic_forms(np.cos), 1.0, rtol=1e-12)


def test_given_eigenvectors_raise_no_alarm():
    A = problem(indefinite(N))
    measure = slq.spectral_measure(A.matrix, probes=A.vectors[:4], num_steps=3)
    np.testing.assert_allclose(measure.quadratic_forms(lambda t: t), A.eigenvalues[:4], rtol=1e-12)


@pytest.mark.parametrize("start", [3, 6])
def test_an_operator_that_drifts_is_warned_of_with_the_step(xp, start):
    calls = iter(range(10**6))
    matrix, skew = xp.asarray(SYMMETRIC), xp.asarray(1e-3 * SKEW)

    def product(x):
        return x @ matrix + (x @ skew if next(calls) >= start else 0.0)

    operator = aslinearoperator(product, like=matrix[0, ...], batched=True)
    with pytest.warns(SymmetryWarning, match=rf"seemed symmetric at first, but at step {start} vᴴAu .* differ by"):
        slq.lanczos(operator, xp.asarray(V), M)
    slq.lanczos(operator, xp.asarray(V), M, check=False)


def test_a_complex_diagonal_is_not_hermitian():
    with pytest.raises(NotSymmetricError, match="not symmetric"):
        slq.lanczos(COMPLEX + 0.1j * np.eye(N), V[:1], 1)


def test_other_probes_survive_one_that_is_lost(xp):
    calls = iter(range(10**6))
    matrix, hole = xp.asarray(SYMMETRIC), np.zeros((K, N))
    hole[1, 5] = np.nan
    hole = xp.asarray(hole)
    operator = aslinearoperator(
        lambda x: x @ matrix + (hole[: x.shape[0], ...] if next(calls) == 4 else 0.0), like=matrix[0, ...], batched=True
    )
    expected = slq.spectral_measure(xp.asarray(SYMMETRIC), num_probes=K, num_steps=M)
    with pytest.raises(NonFiniteError, match=r"probes \[1\] are lost, the others are in `.partial`") as caught:
        slq.spectral_measure(operator, num_probes=K, num_steps=M, check=False)
    partial = caught.value.partial
    assert partial.probe_ids == (0, 2)
    np.testing.assert_allclose(partial.alpha, expected.alpha[[0, 2]], atol=1e-12)
    # In batches, the probes are counted on, and finished batches are kept.
    calls = iter(range(10**6))
    late = aslinearoperator(
        lambda x: x @ matrix * (np.nan if next(calls) >= 2 * M else 1.0), like=matrix[0, ...], batched=True
    )
    with pytest.raises(NonFiniteError, match=r"for all its probes, \[2\]") as caught:
        slq.spectral_measure(late, num_probes=K, num_steps=M, check=False, batch_size=1)
    assert caught.value.partial.probe_ids == (0, 1)


def test_finished_steps_survive_an_error_in_a_product(xp):
    calls = iter(range(10**6))
    matrix = xp.asarray(SYMMETRIC)

    def fails(x):
        if next(calls) == 5:
            raise OSError("the data set is gone")
        return x @ matrix

    operator = aslinearoperator(fails, like=matrix[0, ...], batched=True)
    expected = slq.spectral_measure(xp.asarray(SYMMETRIC), num_probes=K, num_steps=5)
    with pytest.raises(
        ProductError, match=r"product of step 5 raised OSError for a block .*: the data set is gone"
    ) as caught:
        slq.spectral_measure(operator, num_probes=K, num_steps=M, check=False)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.step == 5
    np.testing.assert_allclose(caught.value.partial.alpha, expected.alpha, atol=1e-12)
    assert caught.value.partial.num_steps == 5
    calls = iter(range(10**6))
    with pytest.raises(ProductError) as caught:
        slq.spectral_measure(operator, num_probes=K, num_steps=3, check=False, batch_size=2)
    assert caught.value.partial.probe_ids == (0, 1)
    assert caught.value.partial.num_steps == 3


@pytest.mark.parametrize("delay", [0.0, 0.01])
@pytest.mark.parametrize("step", [0, 1, 5, M - 1])
def test_an_error_that_a_device_reports_late_is_that_of_its_step(step, delay):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    calls = iter(range(10**6))

    def on_host(x):
        time.sleep(delay)  # products are issued meanwhile
        if next(calls) == step:
            raise OSError("the data set is gone")
        return np.asarray(x) @ SYMMETRIC

    operator = aslinearoperator(
        lambda x: jax.pure_callback(on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        like=jax.numpy.zeros(N),
        batched=True,
    )
    with pytest.raises(ProductError, match=rf"(?s)product of step {step} raised .*the data set is gone") as caught:
        slq.lanczos(operator, jax.numpy.asarray(V), M)
    assert caught.value.step == step
    assert isinstance(caught.value.__cause__, Exception)
    if step == 0:
        assert caught.value.partial is None
    else:
        np.testing.assert_allclose(caught.value.partial.alpha, slq.lanczos(SYMMETRIC, V, step).alpha, atol=1e-12)
    calls = iter(range(step, 10**6))
    if step == 0:  # the products of the checks are products too
        with pytest.raises(ProductError, match=r"(?s)product of step 0 raised .*the data set is gone"):
            slq.spectral_measure(operator, num_probes=K, num_steps=M)


def test_an_error_of_the_callers_own_function_is_no_error_of_a_product(xp):
    def progress(done, of):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match=r"^stop$") as caught:
        slq.lanczos(xp.asarray(SYMMETRIC), xp.asarray(V), M, progress=progress)
    assert not isinstance(caught.value, ProductError)


@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e-310), ("float32", 1e-40)])
def test_subnormal_products_are_scaled_by_what_the_dtype_holds(dtype, size):
    matrix = (size * SYMMETRIC).astype(dtype)
    run = slq.lanczos(matrix, V.astype(dtype), M)
    # Entries of the matrix are multiples of the smallest number, to which its rows of 24 are off by 24 halves at most.
    held = 24 * float(np.finfo(dtype).smallest_subnormal) / size
    np.testing.assert_allclose(run.alpha[:, 0] / size, slq.lanczos(SYMMETRIC, V, M).alpha[:, 0], atol=held)
