"""f(A) v in two passes of the recurrence: exact, repeatable to the bit, in the memory of a few vectors."""

import tracemalloc

import numpy as np
import pytest

import slq
from slq._arrays import to_host
from slq._lanczos import start
from slq._products import Products
from slq._two_pass import apply_function
from slq.errors import NoiseWarning, NotRepeatableError
from tests.problems import K, M, N, problem

SPECTRUM = np.linspace(0.5, 4.0, N)


def ignoring_weights(f):
    return lambda _runs: lambda nodes, _weights: f(nodes)


inverse = ignoring_weights(np.reciprocal)


def applied(A, x, num_steps, f=inverse, **options):
    """f(A) of the rows of x, scaled to length one."""
    A = slq.aslinearoperator(A)
    options = {"reorthogonalize": False, "check": False} | options
    return apply_function(Products(A), start(A, x)[0], num_steps, f, **options)


@pytest.mark.parametrize("reorthogonalize", [False, True])
@pytest.mark.parametrize("dtype", [float, complex])
def test_is_f_of_t_in_the_basis(dtype, reorthogonalize):
    A = problem(SPECTRUM, dtype=dtype).matrix
    x = problem(np.ones(N), seed=1, dtype=dtype).vectors[:K]
    runs, found = applied(A, x, M, reorthogonalize=reorthogonalize)
    basis = slq.lanczos(A, x, M, return_basis=True).basis
    for i in range(K):
        T = np.diag(runs.alpha[i]) + np.diag(runs.beta[i, :-1], 1) + np.diag(runs.beta[i, :-1], -1)
        # A condition of 8 costs no more than that many roundings; measured 3e-15.
        np.testing.assert_allclose(found[i], np.linalg.inv(T)[0] @ basis[i], atol=1e-13)


def test_all_steps_give_f_of_a(xp):
    A, x = problem(SPECTRUM).matrix, problem(np.ones(N), seed=1).vectors[:K]
    _, found = applied(xp.asarray(A), xp.asarray(x), N)
    # Without reorthogonalisation 24 steps are not quite exact: measured 5e-11.
    np.testing.assert_allclose(to_host(found), np.linalg.solve(A, x.T).T, atol=1e-8)


@pytest.mark.parametrize("reorthogonalize", [False, True])
@pytest.mark.parametrize("rank", [0, 3])
def test_an_invariant_subspace_ends_the_sum(rank, reorthogonalize):
    A = problem(np.r_[np.zeros(N - rank), np.full(rank, 2.0)] + 1).matrix
    x = problem(np.ones(N), seed=1).vectors[:K]
    runs, found = applied(A, x, M, reorthogonalize=reorthogonalize)
    assert (runs.beta == 0).any(axis=1).all()
    np.testing.assert_allclose(found, np.linalg.solve(A, x.T).T, atol=1e-13)  # a polynomial of degree one; as above


def test_the_second_pass_is_the_first_to_the_bit(xp):
    """Far beyond the convergence of an outlier, where any other rounding would give other coefficients."""
    A = xp.asarray(problem(np.r_[np.linspace(0.1, 1, N - 1), 1e4]).matrix, "float32")
    one = ignoring_weights(np.ones_like)  # the sum is then the start itself
    x = xp.asarray(problem(np.ones(N), seed=1).vectors[:K], "float32")
    _, found = applied(A, x, N, one)  # a NotRepeatableError would come out
    np.testing.assert_allclose(to_host(found), to_host(x), atol=1e-5)


def noisy(level, rng):
    lam = np.r_[np.exp(rng.normal(size=90) - 3) + 1e-3, np.linspace(5, 100, 10)]
    A = problem(lam).matrix
    return slq.aslinearoperator(
        lambda X: X @ A + level * 10 * rng.normal(size=X.shape), like=np.empty(100), batched=True
    )


def test_products_that_do_not_repeat_themselves_are_refused():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 100))
    with pytest.raises(NotRepeatableError, match=r"differ by .* of f′\(A\) x; pass reorthogonalize=True"):
        applied(noisy(1e-10, rng), x, 60)
    applied(noisy(1e-10, rng), x, 60, reorthogonalize=True)


def test_products_that_nearly_repeat_themselves_are_warned_of():
    rng = np.random.default_rng(0)
    with pytest.warns(NoiseWarning, match="products are not repeatable"):
        applied(noisy(1e-5, rng), rng.normal(size=(2, 100)), 60, ignoring_weights(lambda t: np.exp(-t)))


def test_memory_does_not_grow_with_the_steps():
    n, k = 100_000, 2
    diagonal = np.linspace(1, 2, n)
    A = slq.aslinearoperator(lambda x: x * diagonal, like=np.empty(n), batched=True)
    v = start(A, np.random.default_rng(0).normal(size=(k, n)))[0]
    applied(A, v, 2)  # what is loaded at the first use is not counted
    peaks = []
    for num_steps in (5, 40):
        tracemalloc.start()
        apply_function(Products(A), v, num_steps, inverse, reorthogonalize=False, check=False)
        peaks.append(tracemalloc.get_traced_memory()[1] / v.nbytes)
        tracemalloc.stop()
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)  # the same vectors, and a few numbers for each step
    assert peaks[1] < 6  # measured 5.2 blocks: three of the recurrence, the product, the sum and its next term
