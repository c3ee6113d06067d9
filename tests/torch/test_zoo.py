"""Forty and more architectures and losses, each in every mode, in pieces and in unequal batches: one dense matrix."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from slq.errors import OperatorError
from slq_torch import hessian_operator
from slq_torch._trees import cut, size_of
from tests.torch.zoo import CASES

EXACT = 1e-10  # measured: at most 2e-14 over all cases and exact modes
DIFFERENCES = 1e-5  # measured: at most 3e-7 of smooth losses; kinks are not met at these points


def reference(case, model, batch):
    """One reverse pass of plain autograd through the gradient for each parameter entry, on a copy, without slq."""
    model = copy.deepcopy(model).train(case.options.get("batch_norm") != "running")  # no other layer has two modes
    names = case.options.get("params")
    parameters = [
        p for name, p in model.named_parameters() if p.requires_grad and (names is None or names.strip("*") in name)
    ]
    with sdpa_kernel(SDPBackend.MATH):
        result = case.loss(model, batch)
        loss = result[0] / result[1] if isinstance(result, tuple) else result
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        flat = torch.cat([g.reshape(-1) for g in gradient])
        rows = [torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True) for g in flat]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def problem(name):
    torch.manual_seed(3)
    case = CASES[name]
    model, batch = case.model(), case.batch()
    return case, model, batch


@pytest.mark.parametrize("ad", ["double_backward", "jvp", "linearize", "difference", "auto"])
@pytest.mark.parametrize("name", CASES)
def test_every_mode(name, ad, dense, distance):
    case, model, batch = problem(name)
    if ad in case.refused:
        with pytest.raises(OperatorError, match=r"cannot differentiate this loss|is not the derivative"):
            hessian_operator(model, case.loss, batch, ad=ad, **case.options)
        return
    # The comparison with differences has tests of its own, and takes most of the time.
    op = hessian_operator(model, case.loss, batch, ad=ad, check=ad == "auto", **case.options)
    assert op.ad == ("double_backward" if ad == "auto" else ad)
    limit = DIFFERENCES if ad == "difference" else EXACT
    exact = reference(case, model, batch)
    for _ in range(2):  # what is kept gives the same again
        assert distance(dense(op), exact) < limit


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.coupled])
def test_pieces_and_unequal_batches(name, dense, distance):
    """Microbatches of 1, 7 and all samples, and batches of 4, 1 and 2, are one operator."""
    case, model, batch = problem(name)
    whole = dense(hessian_operator(model, case.loss, batch, **case.options))
    size = size_of(batch)
    for piece in (1, 7, size):
        op = hessian_operator(model, case.loss, batch, microbatch=piece, **case.options)
        assert distance(dense(op), whole) < 1e-12  # measured: at most 3e-15
    batches = [cut(batch, low, high) for low, high in ((0, 4), (4, 5), (5, size))]
    assert distance(dense(hessian_operator(model, case.loss, batches, **case.options)), whole) < 1e-12


def test_there_are_more_than_forty():
    assert len(CASES) >= 40
