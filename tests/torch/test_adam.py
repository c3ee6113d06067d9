"""The diagonal by which Adam divides, against its moments accumulated by hand and against its steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slq
from slq.errors import RequestError
from slq_torch import adam_diagonal, hessian_operator, layer_operators

CLOSE = 1e-13  # measured: at most 4e-16


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def batches():
    return [(torch.randn(n, 4), torch.randint(3, (n,))) for n in (9, 3, 5)]


def flat(tensors):
    return torch.cat([x.detach().reshape(-1) for x in tensors])


def train(optimizer, model, batches):
    """One step per batch; the gradients, and the last step."""
    history = []
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        history.append(flat(p.grad for p in model.parameters()))
        before = flat(model.parameters()).clone()
        optimizer.step()
    return history, flat(model.parameters()) - before


def by_hand(history, beta, eps, amsgrad):
    second = most = torch.zeros_like(history[0])
    for gradient in history:
        second = beta * second + (1 - beta) * gradient**2
        most = torch.maximum(most, second)
    return ((most if amsgrad else second) / (1 - beta ** len(history))).sqrt() + eps


KINDS = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.AdamW, {}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.NAdam, {}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_moments_of_two_groups(kind, options, model, batches, distance):
    """Groups with their own ε and β, in another order than the model's."""
    groups = [{"params": model[2].parameters(), "eps": 1e-3, "betas": (0.5, 0.9)}, {"params": model[0].parameters()}]
    optimizer = kind(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-6, **options)
    history, _ = train(optimizer, model, batches * 2)
    amsgrad = options.get("amsgrad", False)
    first, last = ([g[:25] for g in history], [g[25:] for g in history])
    exact = torch.cat([by_hand(first, 0.99, 1e-6, amsgrad), by_hand(last, 0.9, 1e-3, amsgrad)])
    assert distance(adam_diagonal(optimizer, hessian_operator(model, cross_entropy, batches)), exact) < CLOSE


@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_step_of_adam_is_divided_by_it(amsgrad, model, batches, distance):
    """Without a first moment (β₁ = 0) a step is -lr g / diagonal."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.99), amsgrad=amsgrad)
    history, step = train(optimizer, model, batches * 2)
    diagonal = adam_diagonal(optimizer, hessian_operator(model, cross_entropy, batches))
    assert distance(step, -1e-3 * history[-1] / diagonal) < 1e-12  # measured: 2e-14, the rounding of parameters


def test_preconditioned_hessian(model, batches, dense, distance):
    optimizer = torch.optim.Adam(model.parameters())
    train(optimizer, model, batches)
    op = hessian_operator(model, cross_entropy, batches)
    diagonal = adam_diagonal(optimizer, op, eps=1e-2)
    exact = dense(op) / (diagonal[:, None] * diagonal).sqrt()
    preconditioned = slq.precondition(op, diagonal)
    assert distance(preconditioned.matvec(torch.eye(43)), exact) < CLOSE
    measure = slq.spectral_measure(preconditioned, num_probes=2, num_steps=43)
    values = torch.linalg.eigvalsh(exact)
    assert measure.support == pytest.approx((float(values[0]), float(values[-1])), rel=1e-10)


def test_blocks_and_chosen_parameters(model, batches):
    optimizer = torch.optim.Adam(model.parameters())
    train(optimizer, model, batches)
    whole = adam_diagonal(optimizer, hessian_operator(model, cross_entropy, batches))
    chosen = hessian_operator(model, cross_entropy, batches, params=["2.bias", "0.weight"])
    assert torch.equal(adam_diagonal(optimizer, chosen), torch.cat([whole[:20], whole[40:]]))
    layers = layer_operators(model, cross_entropy, batches)
    assert torch.equal(torch.cat([adam_diagonal(optimizer, A) for A in layers.values()]), whole)


def test_another_epsilon(model, batches):
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-3)
    train(optimizer, model, batches)
    op = hessian_operator(model, cross_entropy, batches)
    exact = adam_diagonal(optimizer, op) - 1e-3
    torch.testing.assert_close(adam_diagonal(optimizer, op, eps=0), exact, rtol=0, atol=1e-15)
    torch.testing.assert_close(adam_diagonal(optimizer, op, eps=0.5), exact + 0.5)
    with pytest.raises(RequestError, match=r"eps= expects a number >= 0, got -1"):
        adam_diagonal(optimizer, op, eps=-1)


def test_in_the_dtype_of_the_vectors(model, batches):
    optimizer = torch.optim.Adam(model.float().parameters())
    batches = [(x.float(), y) for x, y in batches]
    train(optimizer, model, batches)
    op = hessian_operator(model, cross_entropy, batches, compute_dtype=torch.float64)
    assert adam_diagonal(optimizer, op).dtype == op.like.dtype == torch.float64


def test_optimizers_without_second_moments(model, batches):
    op = hessian_operator(model, cross_entropy, batches)
    with pytest.raises(RequestError, match=r"0\.weight: Adam holds no second moments of it.*after a step"):
        adam_diagonal(torch.optim.Adam(model.parameters()), op)
    with pytest.raises(RequestError, match=r"0\.weight: SGD holds no second moments"):
        adam_diagonal(torch.optim.SGD(model.parameters()), op)
    with pytest.raises(RequestError, match=r"0\.weight: Adam does not hold it"):
        adam_diagonal(torch.optim.Adam(model[2].parameters()), op)
    partly = torch.optim.Adam(model.parameters())
    model[2](torch.ones(5)).sum().backward()
    partly.step()
    with pytest.raises(RequestError, match=r"0\.weight: Adam holds no second moments"):
        adam_diagonal(partly, hessian_operator(model, cross_entropy, batches))
    with pytest.raises(RequestError, match=r"RAdam does not divide by √v̂ \+ ε; adam_diagonal takes Adam, AdamW, NAdam"):
        adam_diagonal(torch.optim.RAdam(model.parameters()), op)
