"""The closed-form product of the digits network, and whether the stored spectrum is that of its Hessian."""

import numpy as np
import pytest

import slq
from benchmarks import digits_hessian
from benchmarks.digits_hessian import DigitsHessian
from slq.demo.digits import load_digits, train


@pytest.fixture(scope="module")
def small():
    X, y = load_digits()
    network = train(X, y)
    return DigitsHessian(network, X, y), network.hessian(X, y)


@pytest.fixture(scope="module")
def large():
    return digits_hessian.digits_hessian()


def test_products_and_diagonal_are_those_of_the_dense_hessian(small):
    A, H = small
    V = np.random.default_rng(0).normal(size=(3, A.shape[0]))
    # rounding: measured 3e-16 where entries of the product are of order one
    np.testing.assert_allclose(A.matvec(V), V @ H, rtol=0, atol=1e-12)
    np.testing.assert_allclose(A.matvec(V[0]), V[0] @ H, rtol=0, atol=1e-12)
    np.testing.assert_allclose(A.diagonal(), np.diag(H), rtol=0, atol=1e-12)
    assert A.products == 4


def test_network_is_that_of_the_paper(large):
    X, y = load_digits()
    assert large.network.n == 15_910
    assert large.network.loss(X, y) == pytest.approx(0.02499, abs=5e-6)  # five digits are published
    assert large.network.accuracy(X, y) == pytest.approx(0.9978, abs=5e-5)


def test_stored_spectrum_has_the_trace_of_the_hessian(large):
    values = digits_hessian.eigenvalues()
    assert values.shape == (15_910,)
    assert (np.diff(values) >= 0).all()
    # rounding; another BLAS trains other last digits of the weights. Measured: 1e-15.
    assert values.sum() == pytest.approx(large.diagonal().sum(), rel=1e-9)


def test_stored_spectrum_has_the_frobenius_norm_of_the_hessian(large):
    """‖H‖² is that of the converged Ritz values, exactly, and of the rest, which ten probes estimate."""
    values = digits_hessian.eigenvalues()
    start = slq.sphere(0, [0], None, large.network.n, np.empty(0))
    run = slq.lanczos(large, start, 80, return_basis=True, check=False)
    T = np.diag(run.alpha[0]) + np.diag(run.beta[0, :-1], 1) + np.diag(run.beta[0, :-1], -1)
    ritz, vectors = np.linalg.eigh(T)
    converged = run.beta[0, -1] * np.abs(vectors[-1]) < 1e-9
    found = ritz[converged]
    nearest = np.abs(values[:, None] - found).argmin(axis=0)
    assert len(found) >= 15  # measured: 27
    assert len(set(nearest)) == len(found)
    np.testing.assert_allclose(values[nearest], found, rtol=0, atol=1e-9)  # within their residuals
    Q = vectors[:, converged].T @ np.asarray(run.basis)[0]
    V = slq.sphere(1, range(10), None, large.network.n, np.empty(0))
    V -= (V @ Q.T) @ Q
    rest = np.delete(values, nearest) ** 2
    estimate = (large.matvec(V) ** 2).sum() / 10
    deviation = np.sqrt(2 / 10 * (rest**2).sum())  # of Gaussian probes; those of the sphere vary less
    assert abs(estimate - rest.sum()) < 4 * deviation
    assert deviation < 1e-2 * (values**2).sum()  # so that the law above sees an error of four percent
