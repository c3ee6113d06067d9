"""slq/_products.py: what a product may return; see also tests/test_operators.py."""

import numpy as np
import pytest

import slq
from slq.errors import OperatorError, PlacementError
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


class WithWorkspace:
    shape, like = (N, N), np.empty(0)

    def __init__(self, workspace):
        self.workspace = workspace

    def matvec(self, x):
        return x @ A


@pytest.mark.parametrize("buffer", [np.empty(N), None, 0], ids=["array", "None", "0"])
def test_a_buffer_called_workspace_is_no_forecast(buffer):
    assert slq.memory_forecast(WithWorkspace(buffer)) == slq.memory_forecast(A)
    found = slq.spectral_measure(WithWorkspace(buffer), num_probes=2, num_steps=3)
    np.testing.assert_array_equal(
        found.alpha, slq.spectral_measure(WithWorkspace(None), num_probes=2, num_steps=3).alpha
    )


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf"), None, "1 GB"])
def test_a_workspace_is_a_number_of_bytes(size):
    message = rf"workspace\(10\) of the operator returned {size!r}; expected a number of bytes, >= 0"
    for ask in (slq.memory_forecast, slq.spectral_measure):
        with pytest.raises(OperatorError, match=message):
            ask(WithWorkspace(lambda _: size))
    assert slq.memory_forecast(WithWorkspace(lambda rows: np.float32(8 * rows))) == slq.memory_forecast(A) + 80
