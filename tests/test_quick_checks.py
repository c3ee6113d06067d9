"""slq/_quick_checks.py: what is wrong is named by its cause; what is right raises no alarm."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import slq
from slq import aslinearoperator, check_operator
from slq._checks import rounding, suspect
from slq.errors import (
    AliasedOutputError,
    DtypeError,
    DtypeWarning,
    NoiseWarning,
    NonFiniteError,
    NotLinearError,
    NotRepeatableError,
    NotSymmetricError,
    PlacementError,
    PrecisionWarning,
    ProductError,
    ShapeError,
    SymmetryWarning,
)
from tests.problems import N, hessian_like, indefinite, mix, problem, uniform

SYMMETRIC = problem(indefinite(N)).matrix
HERMITIAN = problem(indefinite(N), dtype=complex).matrix
SKEW = np.random.default_rng(1).normal(size=(N, N))
SKEW = (SKEW - SKEW.T) / np.linalg.norm(SKEW - SKEW.T) * np.linalg.norm(SYMMETRIC) / 2  # ‖A − Aᵀ‖ = ‖A‖


def entry(size):
    A = np.array(SYMMETRIC)
    A[3, 17] += size
    return A


def function(f, like):
    return aslinearoperator(f, like=like, batched=True)


# H14-H16, H37, H39: matrices. The size of the asymmetry is found to a factor: see test_ten_products.py.
NOT_SYMMETRIC = {
    "dense skew part": SYMMETRIC + SKEW,
    "skew": SKEW,
    "triangular": np.triu(np.ones((N, N))),
    "one wrong entry": entry(1.0),
    "skew part of rank two": SYMMETRIC + 0.3 * (np.outer(*mix(np.eye(N))[:2]) - np.outer(*mix(np.eye(N))[1::-1])),
    "five per cent": SYMMETRIC + 5e-2 * SKEW,
    "complex symmetric": SYMMETRIC + 1j * problem(indefinite(N), seed=5).matrix,
    "unitary": mix(np.eye(N, dtype=complex)),
    "skew-Hermitian": 1j * HERMITIAN,
}


@pytest.mark.parametrize("kind", NOT_SYMMETRIC)
def test_what_is_not_symmetric_is_refused(xp, kind):
    with pytest.raises(NotSymmetricError, match=r"not symmetric \(Hermitian\): .* is about .* 0.01 is the limit; symm"):
        check_operator(xp.asarray(NOT_SYMMETRIC[kind]))


@pytest.mark.parametrize("dtype", [float, complex])
def test_what_is_hermitian_passes(xp, dtype):
    entries = check_operator(xp.asarray(HERMITIAN if dtype is complex else SYMMETRIC))
    assert {e["status"] for e in entries} == {"passed"}


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7])
def test_slight_asymmetry_warns(size):
    with pytest.warns(
        SymmetryWarning, match=r"slightly asymmetric: .* is about .*, where rounding explains 1.6e-14 .*; symm"
    ):
        check_operator(SYMMETRIC + size * SKEW)


# H18-H20: functions of a block x, made of the matrix M of the same library.
NOT_LINEAR = {
    "affine": lambda x, M, xp: x @ M + 1e-6,  # noqa: ARG005
    "cubic": lambda x, M, xp: x @ M + 1e-3 * x**3,  # noqa: ARG005
    "absolute": lambda x, M, xp: xp.abs(x @ M),
    "clipped": lambda x, M, xp: xp.clip(x @ M, -3.0, 3.0),
    "saturated": lambda x, M, xp: xp.tanh(x) @ M,
    "normalised": lambda x, M, xp: (x @ M) / (1e-300 + xp.sum(x * x, axis=-1)[:, None] ** 0.5),
    "with a dead zone": lambda x, M, xp: xp.where(xp.abs(x) < 0.1, xp.zeros_like(x), x) @ M,
}


@pytest.mark.parametrize("kind", NOT_LINEAR)
def test_what_is_not_linear_is_refused(xp, kind):
    M, like = xp.asarray(SYMMETRIC), xp.asarray(np.zeros(N))
    namespace = slq._arrays.namespace(like)
    with pytest.raises(NotLinearError, match=r"not linear: A.*; (subtract|look for)"):
        check_operator(function(lambda x: NOT_LINEAR[kind](x, M, namespace), like))


def random_factor(level, library, seed=0):
    rng = np.random.default_rng(seed)

    def product(x):
        y = x @ library.asarray(SYMMETRIC)
        return y * library.asarray(1 + level * rng.normal(size=tuple(x.shape)))

    return product


@pytest.mark.parametrize("level", [0.1, 1e-6, 1e-12])
def test_noise_is_refused_as_noise(xp, level):
    A = function(random_factor(level, xp), xp.asarray(np.zeros(N)))
    with pytest.raises(
        NotRepeatableError, match=r"not repeatable: two products .* differ by .* 2.2e-13 .*; switch off"
    ):
        check_operator(A)
    entries = check_operator(A, on_fail=None)
    assert [e["name"] for e in entries if e["status"] != "passed"] == ["repeatability"]  # one cause, one report
    assert level / 3 < entries[3]["value"] < 4 * level


def test_a_little_noise_warns():
    A = function(random_factor(1e-14, np), np.zeros(N))
    with pytest.warns(NoiseWarning, match=r"is noisy: .* where rounding explains 3.6e-15; make sums"):
        check_operator(A)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_drift_with_the_calls_is_refused(batch_size):
    calls = iter(range(100))
    A = function(lambda x: (1 + 1e-3 * next(calls)) * (x @ SYMMETRIC), np.zeros(N))
    with pytest.raises(NotRepeatableError, match="changes inside the product"):
        check_operator(A, batch_size=batch_size)


def test_noise_that_is_expected_is_allowed_for():
    rng = np.random.default_rng(0)
    A = function(lambda x: x @ SYMMETRIC + 1e-3 * rng.normal(size=x.shape) / N**0.5, np.zeros(N))
    entries = check_operator(A, expected_failures={"repeatability": "sampled"})
    assert {e["status"] for e in entries} == {"passed", "expected"}


def in_single_precision(x):
    return (x.astype(np.float32) @ SYMMETRIC.astype(np.float32)).astype(np.float64)


def rounded_to_ten_bits(x):
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 1024) / 1024, exponent)


@pytest.mark.parametrize(
    "product",
    [in_single_precision, lambda x: rounded_to_ten_bits(rounded_to_ten_bits(x) @ SYMMETRIC)],
    ids=["float32", "TF32"],
)
def test_products_of_less_precision_than_their_dtype_warn_once(product):
    with pytest.warns(PrecisionWarning, match=r"less accurate than their dtype: A.* differs from .*TF32") as caught:
        check_operator(function(product, np.zeros(N)))
    assert len(caught) == 1  # the asymmetry has the same cause


def test_products_that_underflow_warn():
    A = (SYMMETRIC * 2.0**-21).astype(np.float16)
    with pytest.warns(PrecisionWarning, match="products underflow: .* lower end of the range of the dtype; scale"):
        check_operator(np.triu(A) + np.triu(A, 1).T)


# H01, H04-H08, H10: what a product returns. Each says what came; the rest is not reached.
BROKEN = {
    "a column too many": (lambda x: np.concatenate([x, x[:, :1]], axis=1), ShapeError, "product", "keeps the shape"),
    "one row": (lambda x: x[0], ShapeError, "product", r"returned shape \(24,\) for an input of shape \(5, 24\)"),
    "nothing": (lambda _: None, PlacementError, "product", "returned NoneType"),
    "complex": (lambda x: x + 0j, DtypeError, "product", "returned dtype complex128"),
    "an exception": (
        lambda x: x @ SYMMETRIC[:5],
        ProductError,
        "product",
        r"raised ValueError for a block .* \(5, 24\)",
    ),
    "its input, changed": (lambda x: np.multiply(x, 2, out=x), AliasedOutputError, "aliasing", "wrote into its input"),
    "NaN": (lambda x: np.where(x > 0.5, np.nan, x), NonFiniteError, "finiteness", "a product contains NaN"),
    "infinity": (lambda x: np.where(x > 0.5, np.inf, x), NonFiniteError, "finiteness", "a product contains NaN"),
    "0/0 for zero": (
        lambda x: x * (x.any(axis=-1, keepdims=True) / x.any(axis=-1, keepdims=True)),
        NonFiniteError,
        "finiteness",
        "the product of the zero vector contains NaN.* return zeros",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_a_product_may_not_return(kind):
    product, error, name, message = BROKEN[kind]
    A = function(product, np.zeros(N))
    with pytest.raises(error, match=message):  # and no warning of NumPy before it
        check_operator(A)
    statuses = {e["name"]: e["status"] for e in check_operator(A, on_fail=None)}
    at = list(statuses).index(name)
    assert list(statuses.values()) == ["passed"] * at + ["failed"] + ["skipped"] * (7 - at)


def test_another_precision_is_warned_of_once_and_judged_by():
    A = function(lambda x: (x @ SYMMETRIC).astype(np.float32), np.zeros(N))
    with pytest.warns(DtypeWarning, match="returns dtype float32 for vectors of float64, which limits") as caught:
        entries = check_operator(A)
    assert len(caught) == 1
    assert {e["status"] for e in entries} == {"passed"}
    assert entries[-1]["threshold"] > 1e-6


def test_another_library_is_refused(xp):
    if xp.name == "numpy":
        pytest.skip("it is NumPy's array that is returned")
    A = function(lambda _: np.zeros((5, N)), xp.asarray(np.zeros(N)))
    with pytest.raises(PlacementError, match="returned an array of numpy"):
        check_operator(A)


def test_an_exception_of_the_product_is_chained():
    def product(x):
        raise KeyError("weights")

    with pytest.raises(ProductError, match="raised KeyError") as caught:
        check_operator(function(product, np.zeros(N)))
    assert isinstance(caught.value.__cause__, KeyError)


# No false alarms: warnings are errors here.
def laplacian(n):
    return scipy.sparse.diags_array([2.0, -1.0, -1.0], offsets=[0, 1, -1], shape=(n, n), format="csr")


QUIET = {
    "zero": np.zeros((N, N)),
    "identity": np.eye(N),
    "rank one": np.outer(SYMMETRIC[0], SYMMETRIC[0]),
    "one entry": np.diag([1.0] + [0.0] * (N - 1)),
    "ones": np.ones((N, N)),
    "graded": np.diag(np.logspace(-300, 0, N)),
    "graded and mixed": problem(np.logspace(-12, 12, N)).matrix,
    "Hilbert": scipy.linalg.hilbert(N),
    "Hessian-like": problem(hessian_like(200)).matrix,
    "sparse": laplacian(5000),
    "n = 1": np.array([[-3.0]]),
    "n = 2": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "Hermitian": HERMITIAN,
    "projection": problem([0.0] * 20 + [1.0] * 4).matrix,
}


@pytest.mark.parametrize("kind", QUIET)
def test_symmetric_operators_raise_no_alarm(kind):
    for seed in range(40):
        entries = check_operator(QUIET[kind], rng=seed, batch_size=1 + seed % 5)
        assert {e["status"] for e in entries} == {"passed"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("spectrum", [indefinite, hessian_like], ids=lambda s: s.__name__)
def test_precision_alone_raises_no_alarm(dtype, spectrum):
    torch = pytest.importorskip("torch")
    A = problem(spectrum(300), dtype=complex if "complex" in dtype else float).matrix
    A = torch.tensor(A).to(getattr(torch, dtype))
    A = torch.triu(A) + torch.triu(A, 1).mH  # Hermitian to the last bit
    worst = 0.0
    for seed in range(40):
        entries = check_operator(A, rng=seed)
        worst = max(worst, *(e["value"] for e in entries[3:]))
    assert worst < suspect(torch.finfo(A.dtype).eps) / 10  # far from the limit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_raises_no_alarm(dtype):
    for exponent in (-100, -30, 30, 100) if dtype == "float32" else (-1000, -300, 300, 1000):
        for seed in range(10):
            check_operator(np.ldexp(SYMMETRIC.astype(dtype), exponent), rng=seed)
        with pytest.raises(NotSymmetricError, match="not symmetric"):
            check_operator(np.ldexp((SYMMETRIC + SKEW).astype(dtype), exponent))


def test_jax_without_double_precision_raises_no_alarm():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False):
        for seed in range(10):
            check_operator(jax.numpy.asarray(problem(hessian_like(200)).matrix), rng=seed)
        with pytest.raises(NotSymmetricError, match="not symmetric"):
            check_operator(jax.numpy.asarray(SYMMETRIC + SKEW))


def test_limits_are_fifty_times_what_rounding_was_measured_to_be():
    for eps, floor in ((2.0**-52, 1.5e-14), (2.0**-23, 1.1e-6), (2.0**-10, 8e-4), (2.0**-7, 7e-3)):
        assert floor / 1.3 < rounding(eps) < 1.3 * floor  # symmetric operators, n = 10³…10⁶
        assert suspect(eps) == max(1e-8, 50 * rounding(eps))


def test_an_integer_operator_is_refused():
    class Integers:
        shape, like = (N, N), np.empty(0, dtype=int)

        def matvec(self, x):
            return x

    with pytest.raises(DtypeError, match="expected a floating-point dtype"), warnings.catch_warnings():
        check_operator(Integers())


def test_sums_of_terms_that_are_flushed_to_zero_warn():
    jax = pytest.importorskip("jax")  # on CPUs its subnormal numbers are zero
    matrix = jax.numpy.asarray(1e-36 * problem(uniform(N)).matrix, dtype="float32")
    with pytest.warns(PrecisionWarning, match=r"products underflow: .*; scale the operator up \(x ↦ A\(c x\)\)"):
        check_operator(matrix)
    check_operator(function(lambda x: (x * 2.0**40) @ matrix, matrix[0]))  # the mend: before they are lost
