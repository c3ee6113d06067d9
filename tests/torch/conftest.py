"""What the tests of the torch adapter share: float64, fixed random numbers, and the matrix of an operator."""

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _float64_and_seed() -> Iterator[None]:
    """New tensors are float64 and come from one seed; afterwards all is as it was."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)  # for models this small, threads that wait for each other take four fifths of the time
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture
def dense() -> Callable:
    """The matrix of an operator: its products with the unit vectors."""
    return lambda op: op.matvec(torch.eye(op.shape[0], dtype=op.like.dtype))


@pytest.fixture
def distance() -> Callable:
    """‖a − b‖/‖b‖."""
    return lambda a, b: float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
