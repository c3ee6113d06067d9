"""What the rows about models of torch share: small models and data in float64, and Hessians to compare with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from slq_torch import hessian_operator
from tests.conftest import Library
from tests.hostile.row import Outcome, Row, row

# Operators and references differ in rounding only. Measured over all rows: at most 9e-16 of the largest entry.
ROUNDING = 1e-12


@contextmanager
def float64_and_seed() -> Iterator[None]:
    """Inside, new tensors are float64 and come from one seed; afterwards all is as it was."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)  # for models this small, threads that wait for each other take four fifths of the time
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def model_row(name: str, text: str, expected: str) -> Callable[[Callable], Row]:
    """A row about models of torch, whose cases run in float64 and from one seed."""

    def make(cases: Callable[[], Iterator[Outcome]]) -> Row:
        @wraps(cases)
        def settled(_: Library) -> Iterator[Outcome]:
            with float64_and_seed():
                yield from cases()

        return row(name, text, expected, "torch")(settled)

    return make


def mlp(*inside: nn.Module) -> nn.Sequential:
    """A network of 4 inputs and 3 classes, with modules after its hidden layer of 5."""
    return nn.Sequential(nn.Linear(4, 5), *inside, nn.Tanh(), nn.Linear(5, 3))


def samples(size: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels."""
    return torch.randn(size, 4), torch.randint(3, (size,))


def parts(batch: tuple[torch.Tensor, ...], *sizes: int) -> list[tuple[torch.Tensor, ...]]:
    """The samples as batches of these sizes."""
    return list(zip(*(x.split(sizes) for x in batch), strict=True))


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def made(*arguments: Any, **options: Any) -> np.ndarray:
    """The matrix of the operator that `hessian_operator` makes of the arguments."""
    return dense(hessian_operator(*arguments, **options))


def dense(operator: Any) -> np.ndarray:
    """The matrix of an operator: its products with the unit vectors."""
    return operator.matvec(torch.eye(operator.shape[0], dtype=operator.like.dtype)).double().numpy()


def exact(model: nn.Module, loss: Callable, batch: Any) -> np.ndarray:
    """The Hessian of the loss of one batch by torch's own nested backward passes, without slq."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradient = torch.autograd.grad(loss(model, batch), list(named.values()), create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = [torch.autograd.grad(entry, list(named.values()), retain_graph=True) for entry in flat]
    return torch.stack([torch.cat([part.reshape(-1) for part in line]) for line in rows]).numpy()
