"""An operator between two halves of a diagonal."""

import numpy as np
import pytest

import slq
from slq import generalized, precondition, shift
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
        (np.where(D > 2, 0.0, D), RequestError, r"expects positive finite entries, but \d+ are not.*: 0\.0; take a"),
        (np.where(D > 2, np.inf, D), RequestError, "expects positive finite entries"),
        (np.full(N, np.nan), RequestError, rf"but {N} are not, the first at 0: nan"),
        (np.where(D > 2, np.longdouble("1e-400"), D), RequestError, r"but \d+ are not.*: 0\.0; take absolute"),
        (D + 0j, RequestError, "diagonal= expects real entries, got dtype complex128; take their real part"),
        (list(D), PlacementError, "diagonal= is a list, but the operator is of"),
    ],
    ids=["short", "zero", "infinite", "nan", "too small", "complex", "list"],
)
def test_refused(diagonal, kind, message):
    with pytest.raises(kind, match=message):
        precondition(np.eye(N), diagonal)


@pytest.mark.parametrize("make", [precondition, shift])
def test_other_inner_products_are_refused(make):
    with pytest.raises(RequestError, match=r"the operator has its own.*apply it inside the operator"):
        make(generalized(np.eye(N), np.diag(D)), D)


def test_other_device_is_refused():
    xs = pytest.importorskip("array_api_strict")
    with pytest.raises(PlacementError, match=r"diagonal= is on .*CPU_DEVICE.*, but the operator is on .*device1"):
        precondition(xs.asarray(np.eye(N), device=xs.Device("device1")), xs.asarray(D))


@pytest.mark.parametrize("make", [precondition, shift])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("entries", [D, np.arange(1, N + 1)])
def test_products_keep_the_dtype_of_the_operator(make, dtype, entries):
    matrix = problem(indefinite(N), dtype=complex if dtype is np.complex64 else float).matrix
    found = make(matrix.astype(dtype), entries).matvec(np.eye(N, dtype=dtype))
    assert found.dtype == dtype
    # Two roundings of entries of order 10: measured 2e-6.
    np.testing.assert_allclose(found, make(matrix, entries).matvec(np.eye(N)), atol=1e-5)


def test_half_precision_is_scaled_in_single():
    """Factors of 1e3, whose squares have no place in float16, round once for each product of them."""
    torch = pytest.importorskip("torch")
    half = torch.eye(3, dtype=torch.float16)
    product = precondition(half, torch.tensor([1e-6, 1.0, 4.0])).matvec(torch.ones(2, 3, dtype=torch.float16) / 1e3)
    assert product.dtype == torch.float16
    np.testing.assert_allclose(
        product.float().numpy(), [[1e3, 1e-3, 0.25e-3]] * 2, rtol=2e-3
    )  # four roundings of 2^-11


def test_shift_by_a_diagonal():
    for dtype in (float, complex):
        matrix = problem(indefinite(N), dtype=dtype).matrix
        found = shift(matrix, -D).matvec(np.eye(N))
        np.testing.assert_allclose(found, (matrix - np.diag(D)).T, rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(
            shift(matrix, np.full(N, 2.0)).matvec(np.eye(N)), shift(matrix, 2.0).matvec(np.eye(N))
        )


@pytest.mark.parametrize(
    ("diagonal", "kind", "message"),
    [
        (D[:, None], ShapeError, rf"sigma= expects shape \({N},\), got \({N}, 1\)"),
        (D + 0j, RequestError, "sigma= expects real entries"),
        (
            np.where(D > 2, np.nan, D),
            RequestError,
            r"sigma= expects finite entries, but \d+ are not.*: nan; replace it",
        ),
    ],
    ids=["square", "complex", "nan"],
)
def test_diagonals_that_no_shift_takes(diagonal, kind, message):
    with pytest.raises(kind, match=message):
        shift(np.eye(N), diagonal)
