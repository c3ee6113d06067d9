"""An operator between two halves of a diagonal."""

import numpy as np
import pytest

import slq
from slq import generalized, precondition
from slq.errors import PlacementError, RequestError, ShapeError
from tests.conftest import load
from tests.problems import N, indefinite, problem

D = np.linspace(0.5, 3.0, N)


@pytest.mark.parametrize("dtype", [float, complex])
def test_dense(dtype):
    matrix = problem(indefinite(N), dtype=dtype).matrix
    half = np.diag(D**-0.5)
    np.testing.assert_allclose(precondition(matrix, D).matvec(np.eye(N)), (half @ matrix @ half).T, rtol=1e-14)


def test_spectrum_is_that_of_the_pencil():
    """D^-1/2 A D^-1/2 and the pencil (A, D) have one spectrum, and so one trace."""
    matrix = problem(indefinite(N)).matrix
    ours = np.linalg.eigvalsh(precondition(matrix, D).matvec(np.eye(N)))
    pencil = generalized(matrix, np.diag(D))
    other = np.sort(np.linalg.eigvals(pencil.matvec(np.eye(N)).T).real)
    np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("library", [("torch", "cpu"), ("jax.numpy", "cpu"), ("array_api_strict", "device1")])
def test_other_libraries(library):
    xp = load(*library)
    matrix = problem(indefinite(N)).matrix
    op = precondition(xp.asarray(matrix, "float64"), xp.asarray(D, "float64"))
    found = slq.spectral_measure(op, num_probes=2, num_steps=5)
    exact = slq.spectral_measure(precondition(matrix, D), num_probes=2, num_steps=5)
    np.testing.assert_allclose(found.nodes, exact.nodes, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("diagonal", "kind", "message"),
    [
        (D[:-1], ShapeError, rf"diagonal= expects shape \({N},\), got \({N - 1},\)"),
        (np.where(D > 2, 0.0, D), RequestError, r"expects positive finite entries, but \d+ are not.*: 0\.0; add a"),
        (np.where(D > 2, np.inf, D), RequestError, "expects positive finite entries"),
        (np.full(N, np.nan), RequestError, rf"but {N} are not, the first at 0: nan"),
        (D + 0j, RequestError, "expects positive finite entries"),
        (list(D), PlacementError, "diagonal= is a list, but the operator is of"),
    ],
    ids=["short", "zero", "infinite", "nan", "complex", "list"],
)
def test_refused(diagonal, kind, message):
    with pytest.raises(kind, match=message):
        precondition(np.eye(N), diagonal)


def test_other_inner_products_are_refused():
    with pytest.raises(RequestError, match=r"the operator has its own.*apply it inside the operator"):
        precondition(generalized(np.eye(N), np.diag(D)), D)
