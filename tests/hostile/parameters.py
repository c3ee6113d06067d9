"""H65-H70: parameters of torch models: which there are, which the loss depends on, and how."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from slq.errors import DtypeError, OperatorError, UnusedParameterWarning
from slq_torch import hessian_operator
from tests.hostile.model_data import ROUNDING, cross_entropy, exact, made, mlp, model_row, parts, samples
from tests.hostile.row import Outcome, refused, right, warned


@model_row(
    "H65",
    "no parameters; all frozen; some frozen",
    "`OperatorError` with their number; the Hessian of the free ones",
)
def h65() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    whole = exact(model, cross_entropy, batch)
    cause, mend = "0 of 0 parameter tensors require gradients", r"call requires_grad_\(True\)"
    yield refused(OperatorError, cause, mend, made, nn.Tanh(), cross_entropy, batch)
    model[0].weight.requires_grad_(False)
    yield right(whole[20:, 20:], ROUNDING, made, model, cross_entropy, batch)
    model.requires_grad_(False)
    yield refused(OperatorError, cause.replace("of 0", "of 4"), mend, made, model, cross_entropy, batch)


class _Tied(nn.Module):
    """An embedding whose weights are those of the output, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embedding(x)))


@model_row("H66", "tied weights", "the right Hessian, in which they count once, under their first name")
def h66() -> Iterator[Outcome]:
    model, batch = _Tied(), (torch.randint(5, (9,)), torch.randint(5, (9,)))
    operator = hessian_operator(model, cross_entropy, batch)
    assert operator.shape == (20, 20)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 40
    assert list(operator.parameters) == ["embedding.weight"]
    reference = exact(model, cross_entropy, batch)
    for data in (batch, parts(batch, 2, 7)):
        yield right(reference, ROUNDING, made, model, cross_entropy, data)
    yield right(reference, ROUNDING, partial(made, model, cross_entropy, batch, params="head.weight"))


@model_row(
    "H67",
    "parameters that the loss does not depend on; that one batch does not depend on",
    "`UnusedParameterWarning` with their names, and zero rows; the right Hessian, silently",
)
def h67() -> Iterator[Outcome]:
    model, batch = nn.ModuleList([mlp(), nn.Linear(4, 3)]), samples()

    def first(model: nn.Module, batch: tuple) -> torch.Tensor:
        return cross_entropy(model[0], batch)

    def routed(model: nn.Module, batch: tuple) -> torch.Tensor:
        return cross_entropy(model[batch[2]], batch)

    reference = np.zeros((58, 58))
    reference[:43, :43] = exact(model[0], cross_entropy, batch)
    cause, mend = "does not depend on 1.weight, 1.bias", "zero rows"
    yield warned(UnusedParameterWarning, cause, mend, reference, ROUNDING, made, model, first, batch)
    data = [(x, y, expert) for expert, (x, y) in enumerate(parts(batch, 4, 7))]
    reference = np.zeros((58, 58))
    reference[:43, :43] = 4 / 11 * exact(model[0], cross_entropy, data[0])
    reference[43:, 43:] = 7 / 11 * exact(model[1], cross_entropy, data[1])
    yield right(reference, ROUNDING, made, model, routed, data)


class _Cut(torch.autograd.Function):
    """x², whose derivative is no function of x any more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.x = x.detach()
        return x**2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient * ctx.x


class _Once(_Cut):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient * ctx.x


@model_row(
    "H68",
    "a graph that is cut in the first derivative: a detached tensor in a backward pass, `once_differentiable`",
    "`OperatorError` that names the parameter and the module, or the function; its mend works: `ad='difference'`",
)
def h68() -> Iterator[Outcome]:
    model, batch = nn.Linear(4, 3), samples()
    reference = exact(model, lambda model, batch: (model(batch[0]) ** 2).mean(), batch)
    for function, cause in ((_Cut, "is not the derivative of.* weight of Linear"), (_Once, "_Once has no second")):

        def loss(model: nn.Module, batch: tuple, function: type[_Cut] = function) -> torch.Tensor:
            return function.apply(model(batch[0])).mean()

        yield refused(OperatorError, cause, "ad='difference'", made, model, loss, batch)
        # The loss is quadratic, so that differences of its gradients are exact.
        yield right(reference, ROUNDING, partial(made, model, loss, batch, ad="difference"))


@model_row(
    "H69",
    "a loss that is linear in all parameters, or in some",
    "the right Hessian, zero where it is linear: told from H68 by finite differences",
)
def h69() -> Iterator[Outcome]:
    model, (x, _) = nn.Linear(4, 3), samples()

    def linear(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).mean()

    def partly(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, model.weight).square().mean() + model.bias.mean()

    for data in (x, [x[:4], x[4:]]):
        yield right(np.zeros((15, 15)), 0.0, made, model, linear, data)
        reference = np.zeros((15, 15))
        reference[:12, :12] = np.kron(np.eye(3), x.T @ x) * 2 / (3 * len(x))
        yield right(reference, ROUNDING, made, model, partly, data)


class _Mixed(nn.Module):
    """With parameters that cannot be differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = mlp()
        self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.mask = nn.Parameter(torch.tensor([True, False, True]), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)[:, self.order] * self.mask


class _Writing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x).mul_(2)  # the derivative of exp is its result


@model_row(
    "H70",
    "integer and boolean parameters; complex ones; a module that writes to what autograd has saved",
    "the right Hessian of the others; `DtypeError`; `OperatorError` that names the module",
)
def h70() -> Iterator[Outcome]:
    model, batch = _Mixed(), samples()
    operator = hessian_operator(model, cross_entropy, batch)
    assert all(name.startswith("inside") for name in operator.parameters)

    def by_hand(inside: nn.Module, batch: tuple) -> torch.Tensor:
        return F.cross_entropy(inside(batch[0])[:, [2, 0, 1]] * torch.tensor([1.0, 0, 1]), batch[1])

    yield right(exact(model.inside, by_hand, batch), ROUNDING, made, model, cross_entropy, batch)
    other = nn.Linear(4, 3, dtype=torch.complex128)
    cause, mend = "weight has dtype torch.complex128", "only real floating-point ones"
    yield refused(DtypeError, cause, mend, made, other, cross_entropy, batch)

    writing = nn.Sequential(mlp(), _Writing())
    cause, mend = r"1 \(_Writing\) writes \(mul_\) in place", r"write to a clone\(\)"
    yield refused(OperatorError, cause, mend, made, writing, cross_entropy, batch)
