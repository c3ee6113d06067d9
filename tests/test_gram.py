"""slq/_gram.py: AᴴA and AAᴴ of everything that has an adjoint."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator as ScipyOperator

import slq
from slq import aslinearoperator, generalized, gram
from slq._arrays import to_host
from slq._gram import rectangular
from slq._products import Products
from slq.errors import DtypeError, OperatorError, PlacementError, RequestError, ShapeError
from tests.problems import K

P, N = 11, 7
RNG = np.random.default_rng(0)
A = RNG.normal(size=(P, N))
C = A + 1j * RNG.normal(size=(P, N))
X, Y = RNG.normal(size=(K, N)), RNG.normal(size=(K, P))
CLOSE = {"rtol": 1e-12, "atol": 1e-12}  # measured 2e-14, where products reach 100


class Rectangle:
    """A rectangular operator that satisfies slq's protocol, adjoint included."""

    shape = (P, N)
    like = np.empty(0)

    def matvec(self, x, /):
        return x @ A.T

    def rmatvec(self, y, /):
        return y @ A


def pair(matrix):
    return lambda x: matrix @ x, lambda y: matrix.conj().T @ y


def scipy_function(matrix):
    matvec, rmatvec = pair(matrix)
    return ScipyOperator(matrix.shape, matvec=matvec, rmatvec=rmatvec, dtype=matrix.dtype)


HOST_KINDS = {
    "array": lambda M: gram(M),
    "CSR": lambda M: gram(scipy.sparse.csr_array(M)),
    "COO matrix": lambda M: gram(scipy.sparse.coo_matrix(M)),
    "scipy operator": lambda M: gram(scipy.sparse.linalg.aslinearoperator(M)),
    "scipy functions": lambda M: gram(scipy_function(M)),
    "functions": lambda M: gram(pair(M), shape=M.shape, like=M[0]),
    "functions of blocks": lambda M: gram(
        (lambda x: x @ M.T, lambda y: y @ M.conj()), shape=M.shape, like=np.empty(0, M.dtype), batched=True
    ),
}


@pytest.mark.parametrize("matrix", [A, C, A.T, C.T], ids=["tall", "tall complex", "wide", "wide complex"])
@pytest.mark.parametrize("kind", HOST_KINDS)
def test_gram_of_every_kind(kind, matrix):
    operator = HOST_KINDS[kind](matrix)
    x = RNG.normal(size=(K, matrix.shape[1])).astype(matrix.dtype)
    for rows in (x, x[0]):
        expected = rows @ (matrix.conj().T @ matrix).T
        np.testing.assert_allclose(Products(operator)(rows), expected, **CLOSE)


@pytest.mark.parametrize("matrix", [A, C])
def test_both_sides_on_every_library(xp, matrix):
    M = xp.asarray(matrix)
    functions = (lambda x: M @ x, lambda y: xp.asarray(matrix.conj().T) @ y)
    for left, dense, x in ((False, matrix.conj().T @ matrix, X), (True, matrix @ matrix.conj().T, Y)):
        x = x.astype(matrix.dtype)
        for operator in (gram(M, left=left), gram(functions, left=left, shape=(P, N), like=M)):
            assert tuple(operator.shape) == dense.shape
            product = Products(operator)(xp.asarray(x))
            np.testing.assert_allclose(to_host(product), x @ dense.T, **CLOSE)


def test_singular_values_come_out_squared():
    singular = np.linalg.svd(A, compute_uv=False)
    measure = slq.spectral_measure(gram(A), num_probes=2, num_steps=N)
    np.testing.assert_allclose(measure.nodes, [singular[::-1] ** 2] * 2, rtol=1e-12)  # measured 2e-15
    left = slq.spectral_measure(gram(A, left=True), num_probes=1, num_steps=P)
    # zero is one node more, for P - N dimensions; Lanczos stops there
    nodes = left.nodes[left.weights > 1e-20]
    np.testing.assert_allclose(np.sort(nodes)[-N:], singular[::-1] ** 2, rtol=1e-12)


def test_an_operator_of_the_protocol_brings_its_adjoint():
    np.testing.assert_allclose(gram(Rectangle()).matvec(X), X @ A.T @ A, **CLOSE)
    np.testing.assert_allclose(gram(Rectangle(), left=True).matvec(Y), Y @ A @ A.T, **CLOSE)


def test_a_square_operator_of_the_protocol_is_its_own_adjoint():
    symmetric = A.T @ A
    square = aslinearoperator(lambda x: symmetric @ x, like=X[0])
    assert not hasattr(square, "rmatvec")
    np.testing.assert_allclose(gram(square).matvec(X), X @ symmetric @ symmetric, rtol=1e-12)
    metric = generalized(symmetric, np.arange(1.0, N + 1))
    twice = gram(metric)
    assert twice.vecdot == metric.vecdot
    np.testing.assert_allclose(twice.matvec(X), metric.matvec(metric.matvec(X)), rtol=1e-12)


def test_square_matrices_need_not_be_symmetric():
    square = A[:N]
    np.testing.assert_allclose(gram(square).matvec(X), X @ square.T @ square, **CLOSE)
    np.testing.assert_allclose(aslinearoperator(square).rmatvec(X), X @ square, **CLOSE)


def test_products_of_more_than_one_block_of_rows():
    stacked = np.stack([X, 2 * X])
    for M in (A, scipy.sparse.csr_array(A)):
        np.testing.assert_allclose(rectangular(M).matvec(stacked), stacked @ A.T, **CLOSE)
        np.testing.assert_allclose(rectangular(M).rmatvec(np.stack([Y, Y])), np.stack([Y, Y]) @ A, **CLOSE)


NO_ADJOINT = r"does not know its adjoint \(rmatvec\).*gram\(\(matvec, rmatvec\), shape=\(p, n\), like=...\)"


class NoAdjoint:
    """An operator of another package that only multiplies."""

    shape = (P, N)
    dtype = A.dtype

    def __matmul__(self, x):
        return A @ x


class Sharded(Rectangle):
    """A rectangular operator whose processes hold parts of the vectors."""

    index = slice(0, 3)


REFUSED = {
    "one function": (lambda: gram(lambda x: A @ x), OperatorError, NO_ADJOINT),
    "no adjoint": (lambda: gram(NoAdjoint()), OperatorError, NO_ADJOINT),
    "no shape": (lambda: gram(pair(A), like=X), RequestError, r"functions need shape=\(p, n\) and like="),
    "no like": (lambda: gram(pair(A), shape=(P, N)), RequestError, r"functions need shape=\(p, n\) and like="),
    "like is a list": (
        lambda: gram(pair(A), shape=(P, N), like=[0.0]),
        OperatorError,
        "like= expects an array, got list",
    ),
    "one size": (lambda: gram(pair(A), shape=(P,), like=X), ShapeError, r"two integers \(p, n\) >= 1, got \(11,\)"),
    "size zero": (lambda: gram(pair(A), shape=(P, 0), like=X), ShapeError, r"two integers \(p, n\) >= 1"),
    "fraction": (lambda: gram(pair(A), shape=(P, 1.5), like=X), ShapeError, r"two integers \(p, n\) >= 1"),
    "empty": (lambda: gram(A[:0]), ShapeError, r"p, n >= 1, got shape \(0, 7\)"),
    "vector": (lambda: gram(A[0]), ShapeError, "a matrix with 2 dimensions"),
    "other shape": (lambda: gram(A, shape=(N, P)), ShapeError, r"shape=\(7, 11\) was given, but .* \(11, 7\)"),
    "parts": (lambda: gram(Sharded()), RequestError, "a rectangular operator with index does not tell on which side"),
    "three functions": (lambda: gram((np.sin,) * 3), OperatorError, "cannot make an operator of tuple"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_arguments_are_refused(kind):
    make, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        make()


def test_an_adjoint_that_is_found_missing_is_named():
    operator = gram(ScipyOperator((P, N), matvec=lambda x: A @ x, dtype=A.dtype))
    with pytest.raises(OperatorError, match=NO_ADJOINT):
        operator.matvec(X)


@pytest.mark.parametrize(
    ("matvec", "error", "message"),
    [
        (lambda x: x, ShapeError, r"returned shape \(7,\) for an input of shape \(7,\); expected \(11,\)"),
        (lambda _: None, PlacementError, "returned NoneType"),
        (lambda x: (A @ x).astype(np.float32), DtypeError, "products returned dtype float32"),
    ],
)
def test_what_comes_between_is_checked(matvec, error, message):
    operator = gram((matvec, lambda y: A.T @ y), shape=(P, N), like=X)
    with pytest.raises(error, match=message):
        slq.lanczos(operator, X, 2)


def test_what_comes_between_is_checked_in_blocks():
    operator = gram((lambda x: x, lambda y: y @ A), shape=(P, N), like=X, batched=True)
    with pytest.raises(ShapeError, match=r"returned shape \(3, 7\) for an input of shape \(3, 7\); expected \(3, 11\)"):
        slq.lanczos(operator, X, 2)
