"""Hessians that are known as formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slq_torch import hessian_operator

# Measured: at most 4e-16 over ten seeds; nothing but rounding separates the operator from the formula.
TOLERANCE = 1e-13


class Point(nn.Module):
    """A vector of parameters without a network around it."""

    def __init__(self, x):
        super().__init__()
        self.x = nn.Parameter(x)


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        pytest.param(lambda output, y: ((output - y) ** 2).sum(1).mean(), 1, id="squared length"),
        pytest.param(F.mse_loss, 3, id="mse_loss"),  # divides by the number of outputs too
    ],
)
def test_linear_regression(loss, factor, dense, distance):
    x, y = torch.randn(20, 4), torch.randn(20, 3)
    op = hessian_operator(nn.Linear(4, 3), lambda model, batch: loss(model(batch[0]), batch[1]), (x, y))
    extended = torch.cat([x, torch.ones(20, 1)], 1)
    block = 2 * extended.T @ extended / 20 / factor
    # named_parameters: the weight row by row, one row per output, then the biases
    order = [*(5 * row + column for row in range(3) for column in range(4)), 4, 9, 14]
    assert distance(dense(op), torch.kron(torch.eye(3), block)[order][:, order]) < TOLERANCE


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_logistic_regression(scale, dense, distance):
    x, y = torch.randn(20, 4), torch.randint(2, (20,)).double()
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.mul_(scale)
    op = hessian_operator(
        model, lambda model, batch: F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1]), (x, y)
    )
    p = torch.sigmoid(x @ model.weight.detach()[0])
    expected = x.T @ x / 80 if scale == 0 else x.T @ ((p * (1 - p))[:, None] * x) / 20
    assert distance(dense(op), expected) < TOLERANCE


def test_softmax_regression_at_zero_weights(dense, distance):
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.zero_()
    op = hessian_operator(
        model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (x, y), params=["weight"]
    )
    p = torch.softmax(model.bias.detach(), 0)  # the same for every sample, whatever its label
    expected = torch.kron(torch.diag(p) - torch.outer(p, p), x.T @ x / 20)
    assert distance(dense(op), expected) < TOLERANCE


def test_quadratic_form(dense, distance):
    a = torch.randn(6, 6)
    op = hessian_operator(Point(torch.randn(6)), lambda model, a: model.x @ a @ model.x / 2, a)
    assert distance(dense(op), (a + a.T) / 2) < TOLERANCE


def test_cubic_depends_on_the_point(dense, distance):
    c, model = torch.randn(6), Point(torch.randn(6))

    def loss(model, c):
        return (c * model.x**3).sum() / 6 + model.x.sum() ** 3 / 6

    for _ in range(2):
        x = model.x.detach().clone()
        assert distance(dense(hessian_operator(model, loss, c)), torch.diag(c * x) + x.sum()) < TOLERANCE
        with torch.no_grad():
            model.x.add_(1.0)
