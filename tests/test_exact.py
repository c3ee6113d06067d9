"""slq/_exact.py: the whole spectrum from n products."""

import numpy as np
import pytest

import slq
from slq._exact import exact_measure, is_feasible
from slq._operators import aslinearoperator
from slq._products import Products
from slq._questions import spectral_sum
from tests.problems import indefinite, problem


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("rows", [None, 5])
def test_the_nodes_are_the_eigenvalues_and_sums_have_no_error_but_rounding(xp, dtype, rows):
    A = problem(indefinite(24), dtype=dtype)
    done = []
    measure = exact_measure(Products(aslinearoperator(xp.asarray(A.matrix))), rows, done.append)
    # LAPACK's bound for eigenvalues is a small multiple of n roundings of the norm, 2.
    np.testing.assert_allclose(measure.nodes[:, 0], np.sort(A.eigenvalues), atol=24 * 2 * 2.0**-50)
    assert measure.products == done[-1] == 24
    estimate, said = spectral_sum(measure, np.exp, 24.0)
    assert estimate.value == pytest.approx(np.exp(A.eigenvalues).sum(), rel=1e-13)
    assert (estimate.stderr, estimate.truncation, said) == (0.0, 0.0, [])


def test_it_is_not_feasible_for_large_matrices_and_own_inner_products():
    def products(A):
        return Products(slq.aslinearoperator(A))

    assert is_feasible(products(np.eye(24)))
    assert not is_feasible(products(slq.aslinearoperator(lambda x: x, like=np.zeros(5000))))
    assert not is_feasible(products(slq.generalized(np.eye(24), 2 * np.eye(24))))


def test_it_is_not_feasible_where_memory_is_short(monkeypatch):
    monkeypatch.setattr("slq._exact.available", lambda _: 3 * 24 * 24 * 8 - 1)
    assert not is_feasible(Products(aslinearoperator(np.eye(24))))
