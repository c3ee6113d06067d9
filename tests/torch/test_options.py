"""What options do to the data pass: pieces, weights, sums, statistics, seeds, decay, selections."""

import copy
import itertools
import random
from collections import UserDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from slq.errors import DataError, LostSamplesWarning, OperatorError, RequestError
from slq_torch import hessian_operator

CLOSE = 1e-13  # measured: at most 1e-15


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def batch():
    return torch.randn(11, 4), torch.randint(3, (11,))


@pytest.mark.parametrize("size", [1, 7, 11, 100])
def test_microbatches(size, model, batch, dense, distance):
    exact = dense(hessian_operator(model, cross_entropy, batch))
    sizes = []

    def loss(model, batch):
        sizes.append(len(batch[0]))
        return cross_entropy(model, batch)

    op = hessian_operator(model, loss, batch, microbatch=size)
    assert distance(dense(op), exact) < CLOSE
    assert max(sizes) == min(size, 11)
    assert distance(op.gradient(), hessian_operator(model, cross_entropy, batch).gradient()) < CLOSE


def test_microbatches_of_what_cannot_be_cut(model):
    with pytest.raises(RequestError, match="microbatch= cuts tensors along their leading dimension, but the batch has"):
        hessian_operator(model, lambda model, _: model(torch.ones(4)).square().sum(), [None], microbatch=2)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_declared_reduction(reduction, model, batch, dense, distance):
    exact = dense(hessian_operator(model, cross_entropy, batch))
    parts = [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])]

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction=reduction)

    for data in (batch, parts):
        op = hessian_operator(model, loss, data, reduction=reduction)
        assert distance(dense(op), exact) < CLOSE
        assert op.loss() == pytest.approx(float(cross_entropy(model, batch).detach()), rel=1e-14)
    other = {"mean": "sum", "sum": "mean"}[reduction]
    with pytest.raises(DataError, match=f"not a {other} over the samples of batch 0.*return \\(sum, weight\\)"):
        hessian_operator(model, loss, parts, reduction=other)


def test_accumulation_in_double_precision(dense, distance):
    """Sums over many batches in float32 lose digits that float64 keeps."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).float()
    data = [(torch.randn(1, 4).float(), torch.randint(3, (1,))) for _ in range(2000)]
    exact = dense(hessian_operator(model, cross_entropy, data, compute_dtype=torch.float64)).float()
    plain = distance(dense(hessian_operator(model, cross_entropy, data)), exact)
    op = hessian_operator(model, cross_entropy, data, accumulate=torch.float64)
    assert op.like.dtype == torch.float32
    assert distance(dense(op), exact) < plain / 2  # measured: 4e-7 and 1e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ad": "forward"}, "ad= expects one of 'auto', 'double_backward'.*got 'forward'"),
        ({"reduction": "none"}, "reduction= expects one of 'mean', 'sum', got 'none'"),
        ({"batch_norm": "eval"}, "batch_norm= expects one of None, 'running', 'batch', 'population', got 'eval'"),
        ({"microbatch": 0}, "microbatch= expects a positive integer, got 0"),
        ({"microbatch": 2, "batch_norm": "batch"}, "microbatch= would change the statistics of batch_norm='batch'"),
        ({"accumulate": torch.float16}, r"accumulate= expects torch.float32 or torch.float64, got torch.float16"),
        ({"compute_dtype": torch.bfloat16}, r"compute_dtype= expects torch.float32 or torch.float64"),
        ({"max_batches": 0}, "max_batches= expects a positive integer, got 0"),
        ({"weight_decay": {"none.*": 1.0}}, r"weight_decay= expects numbers >= 0.*not 'none\.\*': 1\.0"),
        ({"weight_decay": -1.0}, r"weight_decay= expects numbers >= 0.*not '\*': -1\.0"),
    ],
)
def test_options_out_of_range(options, message, model, batch):
    with pytest.raises(RequestError, match=message):
        hessian_operator(model, cross_entropy, batch, **options)


def test_unknown_option(model, batch):
    with pytest.raises(TypeError, match="microbatches"):
        hessian_operator(model, cross_entropy, batch, microbatches=3)


# BatchNorm.


class Normalised(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
        self(torch.randn(20, 4))  # running statistics


def by_hand(model, statistics):
    """The loss with the statistics of the whole batch, or the running ones, written out."""

    def loss(_, batch):
        linear, norm, _, head = model
        hidden = linear(batch[0])
        if statistics == "batch":
            mean, var = hidden.mean(0), hidden.var(0, unbiased=False)
        else:
            mean, var = norm.running_mean, norm.running_var
        hidden = (hidden - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias
        return F.cross_entropy(head(torch.tanh(hidden)), batch[1])

    return loss


@pytest.mark.parametrize("ad", ["double_backward", "jvp", "linearize", "difference"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("kind", ["running", "batch", "population"])
def test_batch_norm(kind, training, ad, batch, dense, distance):
    model = Normalised().train(training)
    before = copy.deepcopy(model.state_dict())
    parts = [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])]
    wanted = by_hand(model, "running" if kind == "running" else "batch")
    exact = dense(hessian_operator(model.eval(), wanted, batch))
    model.train(training)
    op = hessian_operator(model, cross_entropy, batch if kind == "batch" else parts, batch_norm=kind, ad=ad)
    assert distance(dense(op), exact) < (1e-6 if ad == "difference" else CLOSE)
    assert model.training == model[1].training == training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_batch_norm_of_each_batch(batch, dense, distance):
    """ "batch" with several batches: the loss of training, in which each batch has its own statistics."""
    model = Normalised()
    parts = [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])]
    hessians = [dense(hessian_operator(model, cross_entropy, part, batch_norm="batch")) for part in parts]
    op = hessian_operator(model, cross_entropy, parts, batch_norm="batch")
    assert distance(dense(op), (4 * hessians[0] + 7 * hessians[1]) / 11) < CLOSE


def test_running_statistics_that_do_not_exist(batch):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    with pytest.raises(RequestError, match=r"batch_norm='running' needs running statistics.*take 'batch' or"):
        hessian_operator(model, cross_entropy, batch, batch_norm="running")


def test_population_of_batches_that_cannot_be_joined():
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    data = [(torch.randn(3, 1, width), torch.randint(2, (3,))) for width in (4, 5)]
    with pytest.raises(DataError, match=r"cannot be joined into one.*give one batch that holds all samples"):
        hessian_operator(model, cross_entropy, data, batch_norm="population")
    data = [{"x": torch.randn(3, 1, 4), "y": torch.randint(2, (3,)), "scale": torch.tensor(s)} for s in (1.0, 2.0)]
    with pytest.raises(DataError, match="not one row a sample differs between batches"):
        hessian_operator(
            model, lambda m, b: b["scale"] * F.cross_entropy(m(b["x"]), b["y"]), data, batch_norm="population"
        )


# Random losses.


@pytest.mark.parametrize("ad", ["double_backward", "jvp", "linearize", "difference"])
def test_seed_keeps_the_masks(ad, model, batch, dense, distance):
    random_model = nn.Sequential(model[0], nn.Dropout(0.4), *model[1:])
    data = [batch, (batch[0][:4], batch[1][:4])]
    with pytest.raises(OperatorError, match=r"1 \(Dropout\) draws random numbers; call model.eval\(\)"):
        hessian_operator(random_model, cross_entropy, data)
    op, other = (hessian_operator(random_model, cross_entropy, data, seed=seed, ad=ad) for seed in (3, 4))
    matrix = dense(op)
    assert torch.equal(dense(op), matrix)
    assert distance(matrix.T, matrix) < (1e-6 if ad == "difference" else CLOSE)
    assert distance(dense(other), matrix) > 0.01
    again = hessian_operator(random_model, cross_entropy, data, seed=3)
    assert distance(dense(again), matrix) < (1e-6 if ad == "difference" else CLOSE)


def test_random_numbers_of_all_libraries_come_back(model, batch):
    class Drawing(TensorDataset):
        def __getitem__(self, i):
            random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 - as augmentation does
            return super().__getitem__(i)

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    op = hessian_operator(model, cross_entropy, DataLoader(Drawing(*batch), batch_size=4))
    op.matvec(torch.ones(op.shape[0]))
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected  # noqa: NPY002


# The set of samples.


def test_shuffling_is_fine(model, batch, dense, distance):
    loader = DataLoader(TensorDataset(*batch), batch_size=4, shuffle=True)
    op = hessian_operator(model, cross_entropy, loader)
    exact = dense(hessian_operator(model, cross_entropy, batch))
    for _ in range(3):
        assert distance(dense(op), exact) < CLOSE


def test_other_samples_with_the_same_loss_are_found(model, batch):
    """An input that the loss does not look at, but once it may."""
    data = [(*batch, torch.arange(11.0)), batch]
    op = hessian_operator(model, cross_entropy, data)
    v = torch.ones(op.shape[0])
    op.matvec(v)
    data[0] = (*batch, torch.arange(11.0).flip(0))
    op.matvec(v)  # the same set in another order
    data[0] = (*batch, torch.arange(11.0) + (torch.arange(11) == 3))
    with pytest.raises(DataError, match=r"other samples than in the pass before.*switch random augmentation"):
        op.matvec(v)


@pytest.mark.parametrize("cut", [{"drop_last": True}, {"sampler": range(8)}], ids=["drop_last", "sampler"])
def test_lost_samples(cut, model, batch, dense, distance):
    loader = DataLoader(TensorDataset(*batch), batch_size=4, **cut)
    reason = "drop_last=True" if "drop_last" in cut else "the sampler"
    with pytest.warns(LostSamplesWarning, match=f"8 of the 11 samples.*{reason} leaves out 3") as record:
        op = hessian_operator(model, cross_entropy, loader)
    assert record[0].filename == __file__
    assert distance(dense(op), dense(hessian_operator(model, cross_entropy, (batch[0][:8], batch[1][:8])))) < CLOSE


class Stream(IterableDataset):
    def __init__(self, batch):
        self.batch = batch

    def __iter__(self):
        for i in itertools.count():
            yield tuple(x[i % 11] for x in self.batch)


def test_streams(model, batch, monkeypatch, dense, distance):
    loader = DataLoader(Stream(batch), batch_size=4)
    op = hessian_operator(model, cross_entropy, loader, max_batches=11)
    assert distance(dense(op), dense(hessian_operator(model, cross_entropy, batch))) < CLOSE
    monkeypatch.setattr("slq.adapters._ENDLESS", 20)
    with pytest.raises(DataError, match=r"no length and gave 20 batches without an end.*pass max_batches="):
        hessian_operator(model, cross_entropy, loader)


# Parameters.


def test_weight_decay(model, batch, dense, distance):
    plain = hessian_operator(model, cross_entropy, batch)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    for decay in (0.3, {"*.weight": 0.3}):
        diagonal = torch.cat(
            [
                torch.full((p.numel(),), 0.3 if isinstance(decay, float) or "weight" in name else 0.0)
                for name, p in model.named_parameters()
            ]
        )
        op = hessian_operator(model, cross_entropy, batch, weight_decay=decay)
        assert distance(dense(op), dense(plain) + torch.diag(diagonal)) < CLOSE
        assert distance(op.gradient(), plain.gradient() + diagonal * flat) < CLOSE
        assert op.loss() == pytest.approx(plain.loss() + 0.5 * float((diagonal * flat**2).sum()), rel=1e-14)
        step = 0.01 * torch.randn(op.shape[0])
        expected = plain.gradient_at(step) + diagonal * (flat + step)
        assert distance(op.gradient_at(step), expected) < CLOSE


def test_gradient_at_displaced_parameters(model, batch, distance):
    op = hessian_operator(model, cross_entropy, batch)
    step = torch.randn(op.shape[0])
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p, part in zip(moved.parameters(), op.unravel(step).values(), strict=True):
            p += part
    found = op.gradient_at(step)
    assert distance(found, hessian_operator(moved, cross_entropy, batch).gradient()) < CLOSE
    assert torch.equal(op.gradient(), hessian_operator(model, cross_entropy, batch).gradient())


@pytest.mark.parametrize(
    "selection",
    [
        "2.*",
        ["2.weight", "2.bias"],
        lambda name, p: name.startswith("2") and p.ndim > 0,
        pytest.param("mapping", id="mapping"),
    ],
)
def test_selection(selection, model, batch, dense):
    if selection == "mapping":
        selection = {"w": model[2].weight, "b": model[2].bias}
    op = hessian_operator(model, cross_entropy, batch, params=selection)
    whole = hessian_operator(model, cross_entropy, batch)
    assert list(op.unravel(torch.zeros(op.shape[0]))) == ["2.weight", "2.bias"]
    torch.testing.assert_close(dense(op), dense(whole)[25:, 25:], rtol=1e-13, atol=1e-15)


def test_selection_of_what_is_not_there(model, batch):
    with pytest.raises(RequestError, match=r"parameter 'lora_\*' does not exist; the model has 0\.weight"):
        hessian_operator(model, cross_entropy, batch, params="lora_*")
    model[0].weight.requires_grad_(False)
    with pytest.raises(RequestError, match=r"parameter '0\.weight' is frozen"):
        hessian_operator(model, cross_entropy, batch, params="0.weight")
    assert hessian_operator(model, cross_entropy, batch, params="0.*").shape == (5, 5)  # the free one
    with pytest.raises(RequestError, match="params= maps w to tensors that are not parameters"):
        hessian_operator(model, cross_entropy, batch, params={"w": torch.zeros(3)})
    with pytest.raises(OperatorError, match="0 of 4 parameter tensors require gradients"):
        hessian_operator(model, cross_entropy, batch, params=lambda *_: False)


def test_any_name_of_a_tied_parameter(batch):
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    tokens = torch.randint(5, (6,)), torch.randint(5, (6,))
    op = hessian_operator(model, cross_entropy, tokens, params="1.weight")
    assert list(op.unravel(torch.zeros(15))) == ["0.weight"]


def test_frozen_after_construction(model, batch):
    op = hessian_operator(model, cross_entropy, batch)
    model[0].bias.requires_grad_(False)
    with pytest.raises(OperatorError, match=r"0\.bias was frozen after the operator was built"):
        op.matvec(torch.ones(op.shape[0]))


def test_writing_through_data_is_found(model, batch):
    op = hessian_operator(model, cross_entropy, batch)
    model[2].weight.data.mul_(1.5)  # counts no version
    with pytest.raises(OperatorError, match=r"2\.weight changed after the operator was built"):
        op.matvec(torch.ones(op.shape[0]))


def test_parameters_that_cannot_be_differentiated(batch):
    lazy = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 3))
    with pytest.raises(OperatorError, match=r"0\.weight has no shape yet; run the model once"):
        hessian_operator(lazy, cross_entropy, batch)
    with torch.inference_mode():
        model = nn.Linear(4, 3)
    with pytest.raises(OperatorError, match=r"weight was made under inference_mode.*make the model outside"):
        hessian_operator(model, cross_entropy, batch)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrappers_of_the_first_derivative(wrap, model, batch, dense):
    wrapped, plain = (hessian_operator(m, cross_entropy, batch, ad="double_backward") for m in (wrap(model), model))
    assert torch.equal(dense(wrapped), dense(plain))  # "auto" asks the clock, and may choose two ways


def test_batches_keep_their_type(model, batch, dense, distance):
    """Tokenizers give mappings that are used as objects."""

    class Encoding(UserDict):
        def __getattr__(self, name):
            try:
                return self.data[name]
            except KeyError:
                raise AttributeError(name) from None

    data = Encoding(x=batch[0], y=batch[1], note="kept")

    def loss(model, batch):
        assert batch["note"] == "kept"
        return F.cross_entropy(model(batch.x), batch.y)

    op = hessian_operator(model, loss, data, microbatch=4)
    assert distance(dense(op), dense(hessian_operator(model, cross_entropy, batch))) < CLOSE
