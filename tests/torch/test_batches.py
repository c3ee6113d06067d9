"""However the samples are batched, the operator is that of the whole set."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from slq.errors import DataError
from slq_torch import hessian_operator

# Measured: at most 2e-15 over ten seeds. Batches change the order of summation and nothing else.
TOLERANCE = 1e-12


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Reread:
    """An iterable of the user's own that counts how often it is read."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def samples():
    return torch.randn(10, 4), torch.randint(3, (10,))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def by_name(model, batch):
    return F.cross_entropy(model(batch["inputs"]["x"]), batch["y"])


def parts(x, y, *sizes):
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


WAYS = {
    "uneven": lambda x, y: (cross_entropy, parts(x, y, 4, 4, 2)),
    "one by one": lambda x, y: (cross_entropy, parts(x, y, *[1] * 10)),
    "a batch of one first": lambda x, y: (cross_entropy, parts(x, y, 1, 9)),
    "list of one batch": lambda x, y: (cross_entropy, [(x, y)]),
    "loader": lambda x, y: (cross_entropy, DataLoader(TensorDataset(x, y), batch_size=4)),
    "shuffled loader": lambda x, y: (cross_entropy, DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)),
    "generator function": lambda x, y: (cross_entropy, lambda: (batch for batch in parts(x, y, 3, 7))),
    "own iterable": lambda x, y: (cross_entropy, Reread(parts(x, y, 5, 5))),
    "lists": lambda x, y: (cross_entropy, [list(batch) for batch in parts(x, y, 4, 6)]),
    "named tuples": lambda x, y: (
        lambda model, batch: F.cross_entropy(model(batch.x), batch.y),
        [Pair(*batch) for batch in parts(x, y, 4, 6)],
    ),
    "dict": lambda x, y: (by_name, {"inputs": {"x": x}, "y": y}),
    "dicts": lambda x, y: (by_name, [{"inputs": {"x": a}, "y": b} for a, b in parts(x, y, 4, 4, 2)]),
    "sum and count": lambda x, y: (
        lambda model, batch: (F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])),
        parts(x, y, 4, 4, 2),
    ),
    "constants beside the samples": lambda x, y: (
        lambda model, batch: batch[3] * cross_entropy(model, (batch[0] * batch[2], batch[1])),
        [(*batch, torch.ones(4), torch.tensor(1.0)) for batch in parts(x, y, 5, 5)],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_batching_does_not_matter(way, distance):
    model, (x, y) = mlp(), samples()
    whole, op = hessian_operator(model, cross_entropy, (x, y)), hessian_operator(model, *WAYS[way](x, y))
    v = torch.randn(3, whole.shape[0])
    assert distance(op.matvec(v), whole.matvec(v)) < TOLERANCE
    assert distance(op.gradient(), whole.gradient()) < TOLERANCE
    assert op.loss() == pytest.approx(whole.loss(), rel=TOLERANCE)


def tokens(model, batch):
    logits, labels = model(batch[0]).flatten(0, 1), batch[1].flatten()
    return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum"), (labels != -1).sum()


def classes(model, batch):
    """A weighted mean counts every sample with the weight of its class."""
    weight = torch.tensor([0.2, 1.0, 3.0])
    logits, labels = model(batch[0]).flatten(0, 1), batch[1].flatten()
    return F.cross_entropy(logits, labels, weight, reduction="sum", ignore_index=-1), weight[labels[labels >= 0]].sum()


@pytest.mark.parametrize("sum_and_weight", [tokens, classes])
def test_ignored_tokens(sum_and_weight, distance):
    """Sequences of different lengths; the third batch holds no token that counts."""
    model, x, y = mlp(), torch.randn(9, 6, 4), torch.randint(3, (9, 6))
    y[torch.arange(6) >= torch.tensor([6, 1, 3, 5, 2, 4, 0, 0, 6])[:, None]] = -1
    weight = torch.tensor([0.2, 1.0, 3.0]) if sum_and_weight is classes else None

    def mean(model, batch):
        logits, labels = model(batch[0]).flatten(0, 1), batch[1].flatten()
        return F.cross_entropy(logits, labels, weight, ignore_index=-1)

    whole = hessian_operator(model, mean, (x, y))
    op = hessian_operator(model, sum_and_weight, parts(x, y, 3, 3, 2, 1))
    v = torch.randn(2, whole.shape[0])
    assert distance(op.matvec(v), whole.matvec(v)) < TOLERANCE
    assert distance(op.gradient(), whole.gradient()) < TOLERANCE
    assert op.loss() == pytest.approx(whole.loss(), rel=TOLERANCE)


def undefined_mean(model, batch):
    """The mean over no sample is 0/0, and neither its sum nor its derivatives are numbers."""
    valid = batch[1] >= 0
    return ((valid * model(batch[0]).square().sum(1)).sum() / valid.sum()) ** 2 * valid.sum(), valid.sum()


def nothing_to_do(model, batch):
    valid = batch[1] >= 0
    return (undefined_mean(model, batch)[0] if valid.any() else torch.zeros(())), valid.sum()


@pytest.mark.parametrize("sum_and_weight", [undefined_mean, nothing_to_do])
def test_batch_of_weight_zero_is_left_out(sum_and_weight, distance):
    model, (x, y) = mlp(), samples()
    y[4:8] = -1
    batches = parts(x, y, 4, 4, 2)
    op, without = (hessian_operator(model, sum_and_weight, data) for data in (batches, batches[::2]))
    v = torch.randn(op.shape[0])
    assert op.loss() == without.loss()
    assert distance(op.gradient(), without.gradient()) < TOLERANCE
    assert distance(op.matvec(v), without.matvec(v)) < TOLERANCE


def test_single_batch_may_be_summed(distance):
    """One scalar loss needs no weights: the operator is its Hessian, mean or not."""
    model, batch = mlp(), samples()
    mean = hessian_operator(model, cross_entropy, batch)
    total = hessian_operator(model, lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"), batch)
    v = torch.randn(mean.shape[0])
    assert distance(total.matvec(v), 10 * mean.matvec(v)) < TOLERANCE
    assert total.loss() == pytest.approx(10 * mean.loss(), rel=TOLERANCE)


def test_data_that_only_the_loss_understands(distance):
    class Problem:
        def __init__(self, x, y):
            self.x, self.y = x, y

    model, (x, y) = mlp(), samples()
    v = torch.randn(43)
    op = hessian_operator(model, lambda model, p: F.cross_entropy(model(p.x), p.y), Problem(x, y))
    assert distance(op.matvec(v), hessian_operator(model, cross_entropy, (x, y)).matvec(v)) < TOLERANCE


@pytest.mark.parametrize("rows", [1, 7])
def test_data_are_read_once_per_product_whatever_the_block(rows):
    data = Reread(parts(*samples(), 4, 4, 2))
    op = hessian_operator(mlp(), cross_entropy, data)
    before = data.passes
    op.matvec(torch.randn(rows, op.shape[0]))
    assert data.passes == before + 1
    op.gradient()
    assert data.passes == before + 2
    op.loss()  # known since construction
    assert data.passes == before + 2


def test_digits_in_batches_of_50_and_128(distance):
    digits = load_digits()
    x, y = torch.from_numpy(digits.data / 16), torch.from_numpy(digits.target.astype(np.int64))
    model = nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10))
    v = torch.randn(2, sum(p.numel() for p in model.parameters()))
    whole = hessian_operator(model, cross_entropy, (x, y)).matvec(v)
    for size in (50, 128):
        op = hessian_operator(model, cross_entropy, DataLoader(TensorDataset(x, y), batch_size=size))
        assert distance(op.matvec(v), whole) < TOLERANCE


def test_first_tensor_that_is_none_of_samples(distance):
    """The batches begin with a tensor that has as many rows in each: it does not tell how many samples there are."""
    model, (x, y) = mlp(), samples()
    batches = [{"a": torch.ones(7), "x": a, "y": b} for a, b in parts(x, y, 4, 6)]

    def counted(model, batch):
        loss = F.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")
        return loss * batch["a"].mean(), len(batch["x"])

    def mean(model, batch):
        value, weight = counted(model, batch)
        return value / weight

    with pytest.raises(DataError, match=r"batch 0 has arrays of 7 and of 4 rows.*return \(sum, weight\)"):
        hessian_operator(model, mean, batches)
    whole = hessian_operator(model, cross_entropy, (x, y))
    v = torch.randn(whole.shape[0])
    behind = [dict(reversed(batch.items())) for batch in batches]
    for loss, data in ((counted, batches), (mean, behind)):
        assert distance(hessian_operator(model, loss, data).matvec(v), whole.matvec(v)) < TOLERANCE
