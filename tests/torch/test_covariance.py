"""Covariances of gradients against gradients one by one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import slq
from slq.errors import DataError, OperatorError, RequestError
from slq_torch import gradient_covariance_operator

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


@pytest.mark.parametrize("per", ["batch", "example"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_microbatches_change_nothing(size, per, model, batches, dense, distance):
    op, cut = (
        gradient_covariance_operator(model, tokens, batches, per=per, microbatch=microbatch)
        for microbatch in (None, size)
    )
    assert distance(dense(cut), dense(op)) < CLOSE


def test_sums_weigh_their_samples(model, batches, dense, distance):
    def summed(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    for per in ("batch", "example"):
        op = gradient_covariance_operator(model, cross_entropy, batches, per=per)
        sums = gradient_covariance_operator(model, summed, batches, per=per, reduction="sum")
        assert distance(dense(sums), dense(op)) < CLOSE


def test_batches_of_weight_zero_are_no_items(model, batches, dense, distance):
    ignored = batches[1][0], batches[1][1], torch.zeros(3)
    for per in ("batch", "example"):
        op, more = (
            gradient_covariance_operator(model, tokens, data, per=per) for data in (batches, [*batches, ignored])
        )
        assert distance(dense(more), dense(op)) < CLOSE


def test_a_pass_that_fails_keeps_nothing(model, batches, dense, distance):
    class Loader:
        fails = False

        def __iter__(self):
            yield from batches[:2]
            if self.fails:
                raise OSError("no more")
            yield batches[2]

    data = Loader()
    exact = dense(gradient_covariance_operator(model, cross_entropy, batches))
    op = gradient_covariance_operator(model, cross_entropy, data)
    data.fails = True
    with pytest.raises(OSError, match="no more"):
        op.matvec(torch.ones(op.shape[0]))
    data.fails = False
    assert distance(dense(op), exact) < CLOSE


def test_similar_gradients_in_single_precision():
    """Differences before squares: eigenvalues stay positive where gradients differ by 1e-4 of their size."""
    model = nn.Linear(3, 1, bias=False).float()
    batches = [(torch.ones(2, 3) + 1e-4 * torch.randn(2, 3)).float() for _ in range(6)]

    def loss(model, batch):
        return model(batch).mean()  # its gradient is the mean of the batch

    with torch.no_grad():
        means = torch.stack([x.double().mean(0) for x in batches])
    exact = torch.cov(means.T, correction=0)
    op = gradient_covariance_operator(model, loss, batches)
    found = torch.stack([op.matvec(row) for row in torch.eye(3, dtype=torch.float32)]).double()
    # Gradients of size 1 are rounded by 6e-8, deviations of 7e-5 by 1e-3 of their size, the mean likewise.
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-2 * float(exact.diagonal().max()))
    assert float(torch.linalg.eigvalsh(found)[0]) > 0
    assert op.matvec(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("per", ["batch", "example"])
def test_the_model_is_left_alone(per, model, batches):
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    op = gradient_covariance_operator(model, cross_entropy, batches, per=per)
    op.matvec(torch.ones(2, op.shape[0]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_chosen_parameters(model, batches, dense, distance):
    whole = gradient_covariance_operator(model, cross_entropy, batches, per="example")
    op = gradient_covariance_operator(model, cross_entropy, batches, per="example", params="2.*")
    assert distance(dense(op), dense(whole)[25:, 25:]) < CLOSE


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
        ({"per": "example", "seed": 1}, r"seed= draws masks for whole batches, not for examples; call model\.eval\(\)"),
        ({"batch_norm": "population"}, "the covariance of the gradients of one batch is zero; give several"),
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


def test_a_batch_that_is_no_mean_of_its_examples(model, batches):
    def by_their_labels(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum") / batch[1].sum()

    data = [(x, y + 0, z) for x, y, z in batches[:1]]
    with pytest.raises(DataError, match=r"the gradients of the examples of batch 0 do not add up.*differ by"):
        gradient_covariance_operator(model, by_their_labels, data, per="example")


def test_batches_without_samples(model):
    with pytest.raises(RequestError, match="per='example' needs batches that tell their samples"):
        gradient_covariance_operator(model, lambda m, _: m(torch.ones(4)).square().sum(), [None], per="example")


def test_a_batch_that_does_not_tell_its_examples(model, batches):
    """Each of seven would be the whole batch: their gradients add up to its own."""
    x, y, _ = batches[2]

    def loss(model, batch):
        return F.cross_entropy(model(batch["x"]), batch["y"]) * batch["a"].mean()

    with pytest.raises(DataError, match=r"batch 0 has arrays of 7 and of 5 rows.*\(sum, weight\)"):
        gradient_covariance_operator(model, loss, {"a": torch.ones(7), "x": x, "y": y}, per="example")
    gradient_covariance_operator(model, loss, {"x": x, "y": y, "a": torch.ones(7)}, per="example")
