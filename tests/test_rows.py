"""slq/_rows.py: vectors in chunks, against dense matrices."""

import numpy as np
import pytest

from slq._arrays import to_host
from slq._rows import Rows

N, R = 40, 37  # three chunks, the last one not full
RNG = np.random.default_rng(0)
CLOSE = {"rtol": 0, "atol": 1e-13}  # orthonormal vectors of 40 entries: a few roundings


def orthonormal(dtype):
    """(R, N) rows."""
    x = RNG.normal(size=(N, R)) + (1j * RNG.normal(size=(N, R)) if dtype == "complex128" else 0)
    return np.linalg.qr(x)[0].T


def filled(xp, x, capacity=R, vecdot=None):
    rows = Rows(capacity, vecdot)
    for v in x:
        rows.append(xp.asarray(v[None, :]))
    return rows


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_components_are_found_and_removed(xp, dtype):
    x = orthonormal(dtype)
    w = RNG.normal(size=(1, N)).astype(dtype) @ np.diag(
        np.exp(1j * np.arange(N)) if dtype == "complex128" else np.ones(N)
    )
    for size in (1, 16, 17, R):
        left, found = filled(xp, x[:size]).remove_from(xp.asarray(w))
        components = np.concatenate([to_host(part)[0] for part in found])
        np.testing.assert_allclose(components[:size], x[:size].conj() @ w[0], **CLOSE)
        np.testing.assert_array_equal(components[size:], 0)
        np.testing.assert_allclose(to_host(left), w - (x[:size].conj() @ w[0]) @ x[:size], **CLOSE)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_rows_are_rotated_and_added_to(xp, dtype):
    x = orthonormal(dtype)
    for q in (1, 16, 20, R):
        change = np.linalg.qr(RNG.normal(size=(R, q)))[0]
        rows = filled(xp, x)
        combined = to_host(rows.combine(change))
        np.testing.assert_allclose(combined, change.T @ x, **CLOSE)
        rows.rotate(change)
        assert rows.size == q
        np.testing.assert_allclose(to_host(rows.combine(np.eye(q))), change.T @ x, **CLOSE)
        if q < R:
            rows.append(xp.asarray(x[:1]))
            assert rows.size == q + 1
            np.testing.assert_allclose(to_host(rows.combine(np.eye(q + 1)))[-1], x[0], **CLOSE)


def test_long_rows_are_rotated_in_pieces():
    x, change = np.random.default_rng(1).normal(size=(20, 40_000)), np.random.default_rng(2).normal(size=(20, 5))
    rows = Rows(20)
    for v in x:
        rows.append(v[None, :])
    rows.rotate(change)
    np.testing.assert_allclose(rows.combine(np.eye(5)), change.T @ x, rtol=0, atol=1e-12)


def test_an_inner_product_of_the_operators_own():
    metric = np.linspace(1, 2, N)

    def vecdot(x, y):
        return (x * metric * y).sum(axis=-1)

    x = orthonormal("float64") / np.sqrt(metric)
    w = RNG.normal(size=(1, N))
    rows = Rows(R, vecdot)
    for v in x:
        rows.append(v[None, :])
    left, found = rows.remove_from(w)
    np.testing.assert_allclose(np.concatenate(found, axis=1)[0], x @ (metric * w[0]), **CLOSE)
    np.testing.assert_allclose(vecdot(x, left), 0, **CLOSE)
