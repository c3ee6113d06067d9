"""Hessians as operators of SciPy: its eigensolver finds what the dense matrix has."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh, lobpcg
from torch import nn

import slq
from slq_torch import hessian_operator


@pytest.fixture
def op():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    data = [(torch.randn(size, 4), torch.randint(3, (size,))) for size in (5, 5, 2)]
    return hessian_operator(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_eigsh(op, dense, which):
    matrix = dense(op).numpy()
    exact = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    expected = {
        "LA": exact[-4:],
        "SA": exact[:4],
        "LM": np.sort(exact[np.argsort(np.abs(exact))[-4:]]),
        "BE": np.concatenate([exact[:2], exact[-2:]]),
    }[which]
    values, vectors = eigsh(slq.to_scipy(op), k=4, which=which, v0=np.ones(op.shape[0]))
    # Measured over five seeds: at most 2e-15; eigsh goes on to machine precision (tol=0).
    np.testing.assert_allclose(np.sort(values), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", ["LA", "LM"])
def test_eigenpairs(op, dense, which):
    exact = torch.linalg.eigvalsh(dense(op)).numpy()
    found = slq.eigenpairs(op, 4, which=which)
    expected = exact[::-1][:4] if which == "LA" else exact[np.argsort(-np.abs(exact))][:4]
    assert found.complete
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-12)
    names = op.unravel(found.vectors[0])  # a vector is one of the parameters
    assert set(names) == set(op.unravel(torch.zeros(op.shape[0])))


def test_a_block_of_vectors(op, dense):
    """LOBPCG multiplies matrices, whose columns are vectors."""
    matrix = dense(op).numpy()
    start = np.random.default_rng(0).normal(size=(op.shape[0], 3))
    np.testing.assert_allclose(slq.to_scipy(op) @ start, matrix @ start, rtol=0, atol=1e-14)
    values, _ = lobpcg(slq.to_scipy(op), start, largest=True, tol=1e-10, maxiter=200)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh((matrix + matrix.T) / 2)[-3:], rtol=0, atol=1e-12)


def test_float32_stays_float32():
    model = nn.Linear(4, 3).float()
    data = torch.randn(6, 4).float(), torch.randint(3, (6,))
    narrow = hessian_operator(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)
    scipy_op = slq.to_scipy(narrow)
    assert scipy_op.dtype == np.float32
    matrix = scipy_op @ np.eye(15, dtype=np.float32)
    values = eigsh(scipy_op, k=3, v0=np.arange(15, dtype=np.float32), return_eigenvectors=False)
    np.testing.assert_allclose(
        np.sort(values), np.linalg.eigvalsh(matrix.astype(float))[-3:], rtol=1e-5
    )  # measured over five seeds: at most 3e-7
