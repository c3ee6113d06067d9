"""What the tests of the torch adapter share: float64, fixed random numbers, and the matrix of an operator."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.hostile.model_data import float64_and_seed


@pytest.fixture(autouse=True)
def _float64_and_seed() -> Iterator[None]:
    """New tensors are float64 and come from one seed; afterwards all is as it was."""
    with float64_and_seed():
        yield


@pytest.fixture
def dense() -> Callable:
    """The matrix of an operator: its products with the unit vectors."""
    return lambda op: op.matvec(torch.eye(op.shape[0], dtype=op.like.dtype))


@pytest.fixture
def distance() -> Callable:
    """‖a − b‖/‖b‖."""
    return lambda a, b: float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
