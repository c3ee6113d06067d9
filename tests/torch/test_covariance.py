"""Covariances of gradients against gradients one by one; the diagonal of Adam against its update."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import slq
from slq.errors import OperatorError, RequestError
from slq_torch import adam_diagonal, gradient_covariance_operator, hessian_operator

CLOSE = 1e-12  # measured: at most 2e-15, where the centred matrix is 1/30 of the second moment


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def tokens(model, batch):
    """(sum, weight): an example weighs what labels it has."""
    z = model(batch[0])
    counts = batch[2]
    return (F.cross_entropy(z, batch[1], reduction="none") * counts).sum(), counts.sum()


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def batches():
    return [(torch.randn(n, 4), torch.randint(3, (n,)), torch.randint(0, 3, (n,)).double()) for n in (70, 3, 5)]


def dense_covariance(model, loss, items, centered):
    weights, gradients = [], []
    for item in items:
        result = loss(model, item)
        total, weight = result if isinstance(result, tuple) else (result * len(item[0]), torch.tensor(len(item[0])))
        if float(weight):
            parts = torch.autograd.grad(total / weight, list(model.parameters()))
            gradients.append(torch.cat([g.reshape(-1) for g in parts]))
            weights.append(float(weight))
    G, w = torch.stack(gradients), torch.tensor(weights)[:, None]
    mean = (w * G).sum(0) / w.sum()
    G = G - mean if centered else G
    return (w * G).T @ G / w.sum()


@pytest.mark.parametrize("fits", [True, False], ids=["kept", "made anew"])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("loss", [cross_entropy, tokens])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_dense(per, loss, centered, fits, model, batches, dense, distance, monkeypatch):
    if not fits:
        monkeypatch.setattr("slq_torch._covariance.available_memory", lambda _: 100)
    items = batches if per == "batch" else [tuple(x[i : i + 1] for x in b) for b in batches for i in range(len(b[0]))]
    exact = dense_covariance(model, loss, items, centered)
    op = gradient_covariance_operator(model, loss, batches, per=per, centered=centered)
    for _ in range(2):
        assert distance(dense(op), exact) < CLOSE
    assert op.workspace(3) > 0
    assert float(torch.linalg.eigvalsh(dense(op))[0]) > -1e-14


def test_kept_gradients_need_no_pass(model, batches):
    calls = []
    op = gradient_covariance_operator(model, lambda *args: calls.append(0) or cross_entropy(*args), batches)
    op.matvec(torch.ones(op.shape[0]))
    before = len(calls)
    op.matvec(torch.ones(op.shape[0]))
    assert len(calls) == before
    with torch.no_grad():
        model[0].bias += 1
    with pytest.raises(OperatorError, match=r"0\.bias changed"):
        op.matvec(torch.ones(op.shape[0]))


def test_rank_is_below_the_number_of_batches(model, batches):
    op = gradient_covariance_operator(model, cross_entropy, batches)
    measure = slq.spectral_measure(op, num_probes=3, num_steps=10)
    assert (measure.lengths <= 3).all()  # two nonzero eigenvalues, and zero


def test_microbatches_are_the_items(model, batches, dense, distance):
    pieces = [tuple(x[low : low + 7] for x in b) for b in batches for low in range(0, len(b[0]), 7)]
    op = gradient_covariance_operator(model, cross_entropy, batches, microbatch=7)
    assert distance(dense(op), dense_covariance(model, cross_entropy, pieces, True)) < CLOSE
    examples = [
        gradient_covariance_operator(model, cross_entropy, batches, per="example", microbatch=m) for m in (1, 7)
    ]
    assert distance(dense(examples[0]), dense(examples[1])) < CLOSE


def test_examples_that_vmap_does_not_know(model, batches, dense, distance):
    def loss(model, batch):
        return F.cross_entropy(checkpoint(model, batch[0], use_reentrant=False), batch[1])

    op = gradient_covariance_operator(model, loss, batches, per="example")
    assert (
        distance(dense(op), dense(gradient_covariance_operator(model, cross_entropy, batches, per="example"))) < CLOSE
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "sample"}, "per= expects 'batch' or 'example', got 'sample'"),
        ({"ad": "jvp", "compile": True}, "ad, compile has no meaning for a covariance of gradients; leave it out"),
        (
            {"per": "example", "batch_norm": "batch"},
            "BatchNorm takes statistics of the batch, which couple.*per='batch'",
        ),
    ],
)
def test_refusals(options, message, model, batches):
    with pytest.raises(RequestError, match=message):
        gradient_covariance_operator(model, cross_entropy, batches, **options)


def test_batch_statistics_couple_examples(batches):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with (
        pytest.warns(match="in training mode"),
        pytest.raises(RequestError, match=r"1 takes statistics of the batch.*call model\.eval\(\)"),
    ):
        gradient_covariance_operator(model, cross_entropy, batches[:1], per="example")


def test_batches_without_samples(model):
    with pytest.raises(RequestError, match="per='example' needs batches that tell their samples"):
        gradient_covariance_operator(model, lambda m, _: m(torch.ones(4)).square().sum(), [None], per="example")


# Adam.


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_divides_by_the_diagonal(kind, amsgrad, model, batches, distance):
    """With a vanishing first moment before it, a step of Adam is −lr g / diagonal, up to its bias correction."""
    if kind is torch.optim.NAdam and amsgrad:
        pytest.skip("NAdam has no amsgrad")
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "eps": 1e-3, "betas": (0.0, 0.9)}]
    options = {"amsgrad": True} if amsgrad else {}
    optimizer = kind(groups, lr=1e-3, betas=(0.0, 0.99), **options)
    for batch in batches * 2:
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        before = copy.deepcopy(model)
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        optimizer.step()
    op = hessian_operator(model, cross_entropy, batches)
    diagonal = adam_diagonal(optimizer, op)
    step = torch.cat(
        [(p - q).reshape(-1) for p, q in zip(model.parameters(), before.parameters(), strict=True)]
    ).detach()
    if kind is torch.optim.Adam:  # the others add decay or look ahead
        assert distance(step, -1e-3 * gradient / diagonal) < 1e-12
    assert diagonal.shape == gradient.shape
    assert (diagonal > 0).all()


def test_preconditioned_hessian(model, batches, dense, distance):
    optimizer = torch.optim.Adam(model.parameters())
    cross_entropy(model, batches[0]).backward()
    optimizer.step()
    op = hessian_operator(model, cross_entropy, batches)
    half = adam_diagonal(optimizer, op) ** -0.5
    assert distance(dense(slq.precondition(op, half**-2)), half[:, None] * dense(op) * half) < 1e-13


def test_optimizers_without_second_moments(model, batches):
    op = hessian_operator(model, cross_entropy, batches)
    with pytest.raises(RequestError, match=r"0\.weight: Adam holds no second moments of it.*after a step"):
        adam_diagonal(torch.optim.Adam(model.parameters()), op)
    with pytest.raises(RequestError, match=r"0\.weight: SGD holds no second moments"):
        adam_diagonal(torch.optim.SGD(model.parameters()), op)
    with pytest.raises(RequestError, match=r"0\.weight: Adam does not hold it"):
        adam_diagonal(torch.optim.Adam(model[2].parameters()), op)
