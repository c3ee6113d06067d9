"""A library runs the recurrence in a loop of its own: what it is asked, and what becomes of what it returns."""

import types
import warnings

import numpy as np
import pytest

import slq
from slq import _drivers
from slq._arrays import to_host
from slq.errors import (
    NonFiniteError,
    NotSymmetricError,
    OutOfMemoryWarning,
    ProductError,
    RequestError,
    ShapeError,
    SymmetryWarning,
)

N, M = 12, 5
MATRIX = np.diag(np.arange(1.0, N + 1))
V = np.random.default_rng(0).normal(size=(3, N))
EXACT = slq.lanczos(MATRIX, V, M, return_basis=True)


class Driver:
    """Answers with what it was given, calls it, or raises it, and keeps what it was asked."""

    def __init__(self, given):
        self.given, self.asked = given, []

    def __call__(self, A, V, num_steps, **options):
        self.asked.append((A, V, num_steps, options))
        if isinstance(self.given, BaseException):
            raise self.given
        return self.given(A, V, num_steps) if callable(self.given) else self.given


def coefficients(alpha=EXACT.alpha, beta=EXACT.beta, **others):
    return types.SimpleNamespace(**{"alpha": alpha, "beta": beta, "basis": None, **others})


def textbook(A, V, num_steps):
    """A faithful driver, without the core, which would ask it in turn."""
    v, before, alpha, beta = to_host(V), 0.0, [], [0.0]
    for _ in range(num_steps):
        w = v @ MATRIX
        alpha.append((v * w).sum(1))
        w = w - alpha[-1][:, None] * v - np.reshape(beta[-1], (-1, 1)) * before
        beta.append(np.linalg.norm(w, axis=1))
        before, v = v, w / beta[-1][:, None]
    return coefficients(np.stack(alpha, 1), np.stack(beta[1:], 1))


@pytest.fixture
def register(xp, monkeypatch):
    """Register a driver for the library of the test; afterwards all are as they were."""
    monkeypatch.setattr(_drivers, "_DRIVERS", dict(_drivers._DRIVERS))

    def make(given):
        driver = Driver(given)
        slq.register_driver(xp.name, driver)
        return driver

    return make


@pytest.fixture
def operator(xp):
    return xp.asarray(MATRIX)


def test_what_a_driver_is_asked(xp, register, operator):
    driver = register(coefficients())
    found = slq.lanczos(operator, xp.asarray(V), M)
    ((A, v, num_steps, options),) = driver.asked
    assert A.shape == (N, N)
    # Measured: one rounding, of the division by the length.
    np.testing.assert_allclose(to_host(v), V / np.linalg.norm(V, axis=1, keepdims=True), rtol=1e-15)
    assert (num_steps, options) == (M, {"reorthogonalize": True, "return_basis": False})
    np.testing.assert_array_equal(found.alpha, EXACT.alpha)
    np.testing.assert_array_equal(found.beta, EXACT.beta)
    assert found.basis is None


def test_options_that_are_asked_for_are_passed_on(xp, register, operator):
    def progress(done, total):
        raise AssertionError((done, total))

    basis = xp.asarray(EXACT.basis)
    driver = register(coefficients(basis=basis))
    options = {"reorthogonalize": 3, "basis_dtype": "float32", "return_basis": True, "progress": progress}
    assert slq.lanczos(operator, xp.asarray(V), M, **options).basis is basis
    assert driver.asked[0][3] == options


def test_spectral_measure_asks_once_for_each_batch(xp, register, operator):
    expected = slq.spectral_measure(MATRIX, num_probes=3, num_steps=M, rng=1)
    driver = register(textbook)
    found = slq.spectral_measure(operator, num_probes=3, num_steps=M, batch_size=2, rng=1)
    assert [V.shape[0] for _, V, _, _ in driver.asked] == [2, 1]
    np.testing.assert_allclose(found.alpha, expected.alpha, rtol=1e-12)  # measured: 1e-15


def test_coefficients_may_be_arrays_of_the_library(xp, register, operator):
    register(coefficients(xp.asarray(EXACT.alpha), xp.asarray(EXACT.beta), returned=xp.asarray(shifted(EXACT.beta))))
    found = slq.lanczos(operator, xp.asarray(V), M)
    assert isinstance(found.alpha, np.ndarray)
    np.testing.assert_array_equal(found.alpha, EXACT.alpha)


def test_none_leaves_the_run_to_the_core(xp, register, operator):
    driver = register(None)
    found = slq.lanczos(operator, xp.asarray(V), M)
    assert len(driver.asked) == 1
    np.testing.assert_allclose(found.alpha, EXACT.alpha, rtol=1e-12)  # measured: 1e-15


def test_unregistered(xp, register, operator):
    driver = register(coefficients())
    slq.register_driver(xp.name, None)
    slq.register_driver(xp.name, None)  # twice does no harm
    slq.lanczos(operator, xp.asarray(V), M)
    assert driver.asked == []


def test_other_libraries_are_not_asked(xp, register):
    driver = register(coefficients())
    if xp.name == "numpy":
        torch = pytest.importorskip("torch")
        slq.lanczos(torch.tensor(MATRIX), torch.tensor(V), M)
    else:
        slq.lanczos(MATRIX, V, M)
    assert driver.asked == []


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"reorthogonalize": -1}])
def test_requests_are_refused_before_a_driver_is_asked(options, xp, register, operator):
    driver = register(coefficients())
    with pytest.raises(RequestError):
        slq.lanczos(operator, xp.asarray(V), **{"num_steps": M, **options})
    assert driver.asked == []


def test_what_follows_the_end_of_a_run_is_cut(xp, register, operator):
    alpha, beta = np.ones((3, M)), np.ones((3, M))
    beta[1, 2] = 0
    alpha[1, 3:] = beta[1, 3:] = np.nan  # 0/0, which a loop that does not stop computes
    register(coefficients(alpha, beta))
    found = slq.lanczos(operator, xp.asarray(V), M)
    np.testing.assert_array_equal(found.alpha[1], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(found.beta[1], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.alpha[[0, 2]], 1)


def test_errors_are_those_of_products(xp, register, operator):
    register(ZeroDivisionError("a loop of its own"))
    with pytest.raises(ProductError, match=r"raised ZeroDivisionError.*a loop of its own") as caught:
        slq.lanczos(operator, xp.asarray(V), M)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("error", [ShapeError("of slq"), MemoryError("none left"), KeyboardInterrupt()])
def test_errors_that_pass_through(error, xp, register, operator):
    register(error)
    with pytest.raises(type(error)) as caught:
        slq.lanczos(operator, xp.asarray(V), M)
    assert caught.value is error


def test_batches_are_halved_where_a_driver_runs_out_of_memory(xp, register, operator):
    def limited(A, V, num_steps):
        if V.shape[0] > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return textbook(A, V, num_steps)

    driver = register(limited)
    with pytest.warns(OutOfMemoryWarning, match="4 probes together ran out of memory: going on with batch_size=2"):
        found = slq.spectral_measure(operator, num_probes=4, num_steps=M)
    assert [V.shape[0] for _, V, _, _ in driver.asked] == [4, 2, 2]
    assert found.probe_ids == (0, 1, 2, 3)


def test_what_is_not_a_number_is_named_and_the_rest_is_kept(xp, register, operator):
    alpha, beta = EXACT.alpha.copy(), EXACT.beta.copy()
    alpha[1, 3:] = beta[1, 3:] = np.nan
    register(coefficients(alpha, beta))
    with pytest.raises(NonFiniteError, match=r"product of step 3 contains NaN.*for probe 1; probes \[1\]") as caught:
        slq.lanczos(operator, xp.asarray(V), M)
    assert (caught.value.probes, caught.value.step) == ([1], 3)
    np.testing.assert_array_equal(caught.value.partial.alpha, EXACT.alpha[[0, 2]])
    np.testing.assert_array_equal(caught.value.partial.beta, EXACT.beta[[0, 2]])


def test_nothing_but_nan_leaves_nothing(xp, register, operator):
    register(coefficients(np.full((3, M), np.nan)))
    with pytest.raises(NonFiniteError, match=r"step 0.*probes \[0, 1, 2\]") as caught:
        slq.lanczos(operator, xp.asarray(V), M)
    assert caught.value.partial is None


def shifted(beta):
    """vⱼ₋₁ᴴ A vⱼ of a symmetric operator: β of the step before."""
    return np.concatenate([np.zeros((len(beta), 1)), beta[:, :-1]], axis=1)


def test_symmetry_is_judged(xp, register, operator):
    returned = shifted(EXACT.beta)
    register(coefficients(returned=returned))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slq.lanczos(operator, xp.asarray(V), M)
    register(coefficients(returned=0.5 * returned))
    with pytest.raises(NotSymmetricError, match=r"not symmetric \(Hermitian\)"):
        slq.lanczos(operator, xp.asarray(V), M)
    slq.lanczos(operator, xp.asarray(V), M, check=False)
    returned[:, 3] += 1.0
    register(coefficients(returned=returned))
    with pytest.warns(SymmetryWarning, match="seemed symmetric at first, but at step 3"):
        slq.lanczos(operator, xp.asarray(V), M)


def test_a_rounded_basis_is_no_asymmetry(xp, register, operator):
    """What its projections take is as large as its roundings: the core judges by these as well."""
    register(coefficients(returned=shifted(EXACT.beta) * (1 + 2.0**-20)))
    with pytest.warns(SymmetryWarning, match="slightly asymmetric"):
        slq.lanczos(operator, xp.asarray(V), M)
    with pytest.warns(SymmetryWarning, match="slightly asymmetric"):  # no basis is kept
        slq.lanczos(operator, xp.asarray(V), M, basis_dtype="float32", reorthogonalize=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slq.lanczos(operator, xp.asarray(V), M, basis_dtype="float32")


@pytest.mark.parametrize("name", [None, 3, np])
def test_name_that_is_no_library(name):
    with pytest.raises(RequestError, match="register_driver expects the name of a library, got"):
        slq.register_driver(name, None)


def test_driver_that_is_no_function():
    with pytest.raises(RequestError, match=r"register_driver expects a function like slq\.lanczos, got int"):
        slq.register_driver("numpy", 3)
