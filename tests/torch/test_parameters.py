"""The flat vector: which parameters, in which order, and back."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError
from slq_torch import hessian_operator


def squares(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))


@pytest.fixture
def batch():
    return torch.randn(6, 4), torch.randn(6, 2)


@pytest.fixture
def op(model, batch):
    return hessian_operator(model, squares, batch)


def test_order_is_that_of_named_parameters(op, model):
    flat = torch.arange(21.0)
    tree = op.unravel(flat)
    assert list(tree) == ["0.weight", "0.bias", "2.weight"] == [name for name, _ in model.named_parameters()]
    assert torch.equal(tree["0.weight"], flat[:12].view(3, 4))
    assert torch.equal(tree["0.bias"], flat[12:15])
    assert torch.equal(tree["2.weight"], flat[15:].view(2, 3))


def test_unravel_and_ravel_are_inverse(op, model):
    v = torch.randn(21)
    assert torch.equal(op.ravel(op.unravel(v)), v)
    tree = {name: torch.randn_like(p) for name, p in reversed(list(model.named_parameters()))}
    back = op.unravel(op.ravel(tree))
    assert all(torch.equal(back[name], tree[name]) for name in tree)


def test_ravel_takes_the_gradients_of_backward(op, model, batch):
    squares(model, batch).backward()
    flat = op.ravel({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(flat, op.gradient(), rtol=0, atol=1e-15)  # measured: 1e-16


def test_frozen_parameters_are_left_out(model, batch, dense):
    whole = dense(hessian_operator(model, squares, batch))
    model[0].weight.requires_grad_(False)
    op = hessian_operator(model, squares, batch)
    assert list(op.unravel(torch.zeros(9))) == ["0.bias", "2.weight"]
    # Measured: 0. The rest of the graph is the same.
    torch.testing.assert_close(dense(op), whole[12:, 12:], rtol=0, atol=1e-14)


def test_chosen_parameters(model, batch, dense):
    whole = dense(hessian_operator(model, squares, batch))
    op = hessian_operator(model, squares, batch, params=(name for name in ["0.weight", "2.weight"]))
    chosen = [*range(12), *range(15, 21)]
    assert list(op.unravel(torch.zeros(18))) == ["0.weight", "2.weight"]
    torch.testing.assert_close(dense(op), whole[chosen][:, chosen], rtol=0, atol=1e-14)


def test_chosen_parameters_keep_the_order_of_named_parameters(model, batch):
    op = hessian_operator(model, squares, batch, params=["2.weight", "0.bias"])
    assert list(op.unravel(torch.zeros(9))) == ["0.bias", "2.weight"]


def test_tied_parameter_is_known_by_its_first_name(batch):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    op = hessian_operator(model, lambda model, batch: model(batch[0]).square().mean(), batch)
    assert op.shape == (16, 16)
    assert list(op.unravel(torch.zeros(16))) == ["0.weight"]


@pytest.mark.parametrize("shape", [(22,), (20,), (1, 21), (21, 1)])
def test_unravel_refuses_other_shapes(op, shape):
    with pytest.raises(ShapeError, match=r"shape \(21,\), got .*pass one row at a time"):
        op.unravel(torch.zeros(shape))


def test_ravel_refuses_other_names_and_shapes(op):
    tree = op.unravel(torch.zeros(21))
    with pytest.raises(RequestError, match=r"expects exactly the names \['0\.weight'"):
        op.ravel({"0.weight": tree["0.weight"]})
    with pytest.raises(RequestError, match="exactly the names"):
        op.ravel(tree | {"head": torch.zeros(1)})
    with pytest.raises(ShapeError, match=r"0\.weight expects shape \(3, 4\), got \(4, 3\)"):
        op.ravel(tree | {"0.weight": tree["0.weight"].T})


def test_unknown_and_frozen_names_are_refused(model, batch):
    with pytest.raises(RequestError, match=r"'0\.wieght' does not exist; the model has 0\.weight, 0\.bias, 2\.weight"):
        hessian_operator(model, squares, batch, params=["0.wieght"])
    model[0].bias.requires_grad_(False)
    with pytest.raises(RequestError, match=r"'0\.bias' is frozen"):
        hessian_operator(model, squares, batch, params=["0.weight", "0.bias"])


def test_nothing_to_differentiate(model, batch):
    with pytest.raises(OperatorError, match=r"0 of 3 parameter tensors require gradients"):
        hessian_operator(model.requires_grad_(False), squares, batch)


def test_complex_parameters_are_refused(batch):
    model = nn.Linear(4, 2, dtype=torch.complex128)
    with pytest.raises(DtypeError, match=r"weight has dtype torch\.complex128"):
        hessian_operator(model, squares, batch)


def test_parameters_on_several_devices_are_refused(batch):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, device="meta"))
    with pytest.raises(OperatorError, match="several devices"):
        hessian_operator(model, squares, batch)
