"""slq/_products.py: what a product may return; see also tests/test_operators.py."""

import numpy as np
import pytest

import slq
from slq.errors import PlacementError
from tests.problems import problem, uniform

N = 24
A = problem(uniform(N)).matrix
X = np.random.default_rng(0).normal(size=(3, N))


def test_a_subclass_that_computes_like_an_array_is_taken(tmp_path):
    mapped = np.memmap(tmp_path / "y", dtype=float, mode="w+", shape=(3, N))

    def into_a_file(x):
        mapped[...] = x @ A
        return mapped

    run = slq.lanczos(slq.aslinearoperator(into_a_file, like=X[0], batched=True), X, 5)
    np.testing.assert_allclose(run.alpha, slq.lanczos(A, X, 5).alpha, atol=1e-13)


def test_a_sparse_product_is_refused():
    torch = pytest.importorskip("torch")
    operator = slq.aslinearoperator(lambda x: x.to_sparse(), like=torch.zeros(N, dtype=torch.float64), batched=True)
    with pytest.raises(PlacementError, match="returned a sparse tensor; expected a dense one, like its input"):
        slq.lanczos(operator, torch.tensor(X), 2)
