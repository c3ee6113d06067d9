"""slq/_thick_restart.py: what holds at every step of the process."""

import numpy as np
import pytest

from slq._operators import aslinearoperator
from slq._products import Products
from slq._thick_restart import Process
from tests.problems import problem

SPECTRUM = np.linspace(0, 1, 60)


def process(matrix, capacity, b):
    made = Process(Products(aslinearoperator(matrix)), capacity, check=False)
    made.begin(b[None, :])
    return made


def rows(made):
    return made._rows.combine(np.eye(made._rows.size))


def advance(made, to):
    while made.size < to and not made.ended:
        made.step()
    return made.ritz()


def test_the_factorisation_survives_restarts():
    exact = problem(SPECTRUM)
    b = np.random.default_rng(0).normal(size=60)
    made = process(exact.matrix, 12, b)
    for _ in range(5):
        ritz = advance(made, 12)
        x = rows(made)
        # As in test_lanczos: 30 roundings times n, of vectors and products; measured: below 1e-14.
        np.testing.assert_allclose(x @ x.T, np.eye(12), atol=1e-12)
        np.testing.assert_allclose(x @ exact.matrix @ x.T, made._T[:12, :12], atol=1e-12)
        y = ritz.vectors.T @ x
        true = np.linalg.norm(y @ exact.matrix - ritz.values[:, None] * y, axis=1)
        np.testing.assert_allclose(ritz.residuals, true, atol=1e-12)
        made.restart(ritz, np.argsort(-ritz.values)[:6])
        assert made.size == 6
    assert made.asymmetry < 1e-14


def test_locked_vectors_stay_out():
    exact = problem(np.append(SPECTRUM, [3.0, 3.0]))
    made = process(exact.matrix, 20, np.random.default_rng(0).normal(size=62))
    ritz = advance(made, 18)
    made.lock(np.empty(0, dtype=int), ritz, np.array([ritz.values.argmax()]))
    np.testing.assert_allclose(made.locked, [3.0], atol=1e-10)
    made.begin(np.random.default_rng(1).normal(size=(1, 62)))
    ritz = advance(made, 18)
    x = rows(made)
    np.testing.assert_allclose(x @ x.T, np.eye(19), atol=1e-12)
    assert ritz.values.max() == pytest.approx(3.0, abs=1e-10)  # the copy


def test_an_invariant_subspace_ends_a_run():
    exact = problem(np.repeat([1.0, 2.0, 3.0], 20))
    made = process(exact.matrix, 12, np.random.default_rng(0).normal(size=60))
    ritz = advance(made, 12)
    assert (made.ended, made.size) == (True, 3)
    np.testing.assert_allclose(ritz.values, [1, 2, 3], atol=1e-12)
    np.testing.assert_array_equal(ritz.residuals, 0)
    assert made.log_share(ritz, [4.0]) == -np.inf


def test_a_missed_eigenvector_has_no_larger_share_of_the_start_than_is_said():
    # Its eigenvalue is 1.1 and it has 1e-8 of b. Until a Ritz value passes the end, the bound must not fall below that.
    exact = problem(np.append(SPECTRUM, 1.1))
    for seed in range(10):
        b = np.random.default_rng(seed).normal(size=60)
        b = np.append(b / np.linalg.norm(b), 1e-8) @ exact.vectors
        made, shares = process(exact.matrix, 10, b), []
        while True:
            ritz = advance(made, made.size + 1)
            if ritz.values.max() > 1.05:
                break
            shares.append(made.log_share(ritz, [1.1]))
            if made.full:
                made.restart(ritz, np.argsort(-ritz.values)[:5])
        assert min(shares) >= np.log(1e-8)
        assert min(shares) < np.log(1e-5)  # but it is no triviality; measured: 1.5e-8 to 1.8e-8
        assert made.num_products > 15  # with restarts
