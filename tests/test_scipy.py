"""slq/_scipy.py: operators of every library as SciPy's."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg import eigsh

from slq import aslinearoperator, generalized, gram, shift, to_scipy
from slq.errors import RequestError, ShapeError
from tests.problems import K, N, indefinite, problem

A = problem(indefinite(N)).matrix
H = problem(indefinite(N), dtype=complex).matrix
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, K))
Z = X + 1j * RNG.normal(size=(N, K))
CLOSE = {"rtol": 1e-13, "atol": 1e-13}


# SciPy 1.18 wants columns in `matmat`; until 1.20 it takes them here too.
@pytest.mark.filterwarnings("ignore:Calling .* on 'column vectors':FutureWarning")
@pytest.mark.parametrize("matrix", [A, H])
def test_products_of_columns_on_every_library(xp, matrix):
    operator = to_scipy(xp.asarray(matrix))
    assert isinstance(operator, ScipyOperator)
    assert operator.dtype == matrix.dtype
    for x in (X, X[:, 0], X[:, :1], Z, Z[:, 0], X.astype(np.float32), np.arange(N)):
        np.testing.assert_allclose(operator @ x, matrix @ x, **CLOSE)
        np.testing.assert_allclose(operator.H @ x, matrix @ x, **CLOSE)  # Hermitian
    np.testing.assert_allclose(operator.matvec(X[:, :1]), matrix @ X[:, :1], **CLOSE)
    np.testing.assert_allclose(operator.rmatmat(Z), matrix @ Z, **CLOSE)


@pytest.mark.parametrize("matrix", [A, H])
def test_there_and_back(xp, matrix):
    there = aslinearoperator(xp.asarray(matrix)).to_scipy()
    back = aslinearoperator(there)
    assert back.like.dtype == matrix.dtype
    np.testing.assert_allclose(back.matvec(X.T.astype(matrix.dtype)), X.T @ matrix.T, **CLOSE)
    np.testing.assert_allclose(back.rmatvec(X.T.astype(matrix.dtype)), X.T @ matrix.T, **CLOSE)


def test_scipy_finds_the_extreme_eigenvalues(xp):
    p = problem(indefinite(N))
    found = eigsh(to_scipy(shift(xp.asarray(p.matrix), 1.0)), k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found), p.eigenvalues[-3:] + 1.0, rtol=1e-12)  # measured 3e-15


def test_single_precision_stays_single():
    operator = to_scipy(A.astype(np.float32))
    assert operator.dtype == np.float32
    assert (operator @ X).dtype == np.float32


def test_half_precision_comes_out_as_single():
    torch = pytest.importorskip("torch")
    half = torch.tensor(A, dtype=torch.bfloat16)
    operator = to_scipy(half)
    assert operator.dtype == np.float32
    # the product is rounded to bfloat16, eps 2^-8, entries up to 3; measured 0.008
    np.testing.assert_allclose(operator @ X, half.double().numpy() @ X, atol=0.03)
    np.testing.assert_allclose(operator.rmatmat(X), half.double().numpy() @ X, atol=0.03)


def test_an_adjoint_of_its_own_is_used():
    square = RNG.normal(size=(N, N))
    for operator in (aslinearoperator(square), aslinearoperator(scipy.sparse.csr_array(square))):
        np.testing.assert_allclose(operator.to_scipy().rmatmat(X), square.T @ X, **CLOSE)


def test_another_inner_product_has_no_plain_adjoint():
    diagonal = np.arange(1.0, N + 1)
    operator = to_scipy(generalized(A, diagonal))
    np.testing.assert_allclose(operator @ X, (A @ X) / diagonal[:, None], **CLOSE)
    with pytest.raises(NotImplementedError):
        operator.rmatvec(X[:, 0])


def test_blocks_are_placed_by_the_operator():
    class Placing:
        shape = (N, N)
        like = np.empty(0)
        placed = 0

        def matvec(self, x, /):
            return x @ A

        def put(self, block):
            self.placed += 1
            return block

    placing = Placing()
    np.testing.assert_allclose(to_scipy(placing) @ X, A @ X, **CLOSE)
    assert placing.placed == 1


def test_parts_and_rectangles_are_refused():
    class Sharded:
        shape = (N, N)
        like = np.empty(0)
        index = slice(0, 3)

        def matvec(self, x, /):
            return x

    with pytest.raises(RequestError, match="holds only a part of each vector"):
        to_scipy(Sharded())
    with pytest.raises(ShapeError, match=r"or slq.gram\(A\)"):
        to_scipy(A[:3])
    np.testing.assert_allclose(to_scipy(gram(A[:3])) @ X, A[:3].T @ A[:3] @ X, **CLOSE)
