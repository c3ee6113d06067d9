"""slq/_check_vectors.py: standard normal vectors, the same on every library and in every part."""

import numpy as np
import pytest

from slq import _check_vectors, aslinearoperator
from slq._arrays import to_host
from slq._check_vectors import draw
from tests.problems import N

WHOLE = [{1: 1.0}, {2: 0.5, 6: -2.0}, {}]


class Part:
    """The coordinates `index` of vectors of length n, times two."""

    def __init__(self, index, n, dtype=float):
        self.shape, self.like, self.index = (n, n), np.empty(0, dtype), index

    def matvec(self, x):
        return 2 * x


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_vectors_are_the_same_on_every_library(xp, dtype):
    wanted = draw(aslinearoperator(np.eye(N, dtype=dtype)), 5, WHOLE)
    got = draw(aslinearoperator(xp.asarray(np.eye(N), dtype)), 5, WHOLE)
    assert str(got.dtype).endswith(dtype)
    np.testing.assert_array_equal(to_host(got), wanted)


@pytest.mark.parametrize(
    "index",
    [
        slice(5, 70),
        slice(3, 100, 7),
        slice(90, 10, -2),
        np.array([99, 3, 64, 2, 17, 0, 50]),
        slice(40, 40),
        np.arange(0),
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [float, complex])
def test_a_part_of_a_vector_is_drawn_without_the_rest(index, dtype, monkeypatch):
    monkeypatch.setattr(_check_vectors, "_BLOCK", 16)
    whole = draw(Part(slice(0, 100), 100, dtype), 5, WHOLE)
    np.testing.assert_array_equal(
        draw(Part(index, 100, dtype), 5, WHOLE), whole[:, slice(None) if index is None else index]
    )


@pytest.mark.parametrize("dtype", [float, complex])
def test_vectors_are_standard_normal_and_independent(dtype, monkeypatch):
    monkeypatch.setattr(_check_vectors, "_BLOCK", 1 << 10)
    n = 50_000
    x = draw(Part(None, n, dtype), 5, [{i: 1.0} for i in range(1, 7)] + [{1: 1.0, 2: 1.0}])
    np.testing.assert_allclose(x[6], x[0] + x[1])
    # Entries of the Gram matrix over √n have standard deviation √2 at most: 5 of them.
    np.testing.assert_allclose(x[:6] @ x[:6].conj().T / n, np.eye(6), atol=5 * (2 / n) ** 0.5)
    np.testing.assert_allclose(np.mean(np.abs(x[:6]) ** 4), 2.0 if dtype is complex else 3.0, rtol=0.03)
    blocks = x[0][: 48 << 10].reshape(48, 1 << 10)
    assert np.unique(blocks[:, 0]).size == 48  # no stream comes twice
    assert draw(Part(None, n, dtype), 6, WHOLE)[0, 0] != x[0, 0]


def test_vectors_are_what_a_half_precision_operator_sees():
    x = draw(aslinearoperator(np.eye(N, dtype=np.float16)), 5, WHOLE)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, x.astype(np.float16))


def test_vectors_are_placed_by_the_operator():
    A = Part(slice(3, 20), 100)
    A.put = lambda block: -block
    np.testing.assert_array_equal(draw(A, 5, WHOLE), -draw(Part(slice(3, 20), 100), 5, WHOLE))
