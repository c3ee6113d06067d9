"""Fisher matrices: which labels they are of, in what order, and by what weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

import slq
from slq.errors import DataError, OperatorError, RequestError
from slq_torch import BinaryCrossEntropy, CrossEntropy, SquaredError, fisher_operator, ggn_operator

CLOSE = 1e-12  # measured: at most 1e-15
WAYS = ("double_backward", "jvp", "linearize")
WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


def forward(model, batch):
    return model(batch[0])


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def points():
    return torch.randn(8, 4), torch.randint(3, (8,))


@pytest.fixture
def model():
    return mlp()


@pytest.fixture
def batch():
    return points()


def jacobians(model, x):
    """(rows, outputs, n), by reverse passes."""
    return torch.stack(
        [
            torch.stack(
                [
                    torch.cat(
                        [g.reshape(-1) for g in torch.autograd.grad(z, list(model.parameters()), retain_graph=True)]
                    )
                    for z in row
                ]
            )
            for row in model(x)
        ]
    )


def test_exact_fisher_is_the_expectation_over_all_labels(model, batch, dense, distance):
    """Σ_y p(y) g gᵀ, by enumeration: nothing of the closed form."""
    x, _ = batch
    probabilities = model(x).softmax(1).detach()
    J = jacobians(model, x)
    expected = torch.zeros(J.shape[-1], J.shape[-1])
    for y in range(3):
        g = torch.einsum("rc,rcn->rn", probabilities - F.one_hot(torch.tensor(y), 3), J)
        expected += torch.einsum("r,rn,rm->nm", probabilities[:, y], g, g) / len(x)
    assert distance(dense(fisher_operator(model, forward, nn.CrossEntropyLoss(), batch)), expected) < CLOSE


def test_monte_carlo_error_falls_as_the_root_of_the_samples(model, batch, dense):
    """The slope of log error over log samples, from 1 to 64, by the mean square over 20 seeds."""
    loss = nn.CrossEntropyLoss()
    exact = dense(fisher_operator(model, forward, loss, batch))
    counts = [1, 4, 16, 64]
    errors = []
    for samples in counts:
        squares = [
            (dense(fisher_operator(model, forward, loss, batch, samples=samples, rng=seed, check=False)) - exact)
            .square()
            .sum()
            for seed in range(20)
        ]
        errors.append(0.5 * math.log(float(torch.stack(squares).mean())))
    steps = torch.tensor([math.log(count) for count in counts])
    centred = steps - steps.mean()
    slope = float(centred @ torch.tensor(errors)) / float(centred @ centred)
    # Measured over ten models and sets of seeds: between -0.534 and -0.482, with a standard deviation of 0.017.
    assert -0.6 < slope < -0.4


@pytest.mark.parametrize("samples", [1, 3])
def test_sampled_fisher_is_of_its_rows(samples, dense, distance):
    """Labels that do not count add nothing, whatever is drawn for them, and a batch may hold none that do."""
    model = nn.Linear(4, 3)
    x, y = torch.randn(9, 4), torch.randint(3, (9,))
    y[[1, 4]] = -100
    y[5:7] = -100
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 5), (5, 7), (7, 9))]
    op = fisher_operator(model, forward, nn.CrossEntropyLoss(), parts, samples=samples, rng=3)
    J = jacobians(model, x)
    scores = []
    for number, (a, b) in enumerate(((0, 5), (5, 7), (7, 9))):
        generator = torch.Generator().manual_seed(3 * 1_000_003 + number)
        z = model(x[a:b]).detach()
        scores.append(
            torch.stack([CrossEntropy().sampled_gradients(z, parts[number], generator) for _ in range(samples)])
        )
    g = torch.einsum("src,rcn->srn", torch.cat(scores, 1), J)
    valid = y != -100
    assert not torch.cat(scores, 1)[:, ~valid].any()
    assert distance(dense(op), torch.einsum("srn,srm->nm", g, g) / samples / int(valid.sum())) < CLOSE


@pytest.mark.parametrize("empirical", [False, True])
def test_checks_pass(empirical, model, batch):
    op = fisher_operator(
        model, forward, nn.CrossEntropyLoss(), batch, samples=None if empirical else 2, empirical=empirical
    )
    assert slq.check_operator(op)


def test_empirical_weights(dense, distance):
    """As documented: weights of classes enter squared, and the mean over outputs divides once more."""
    model, x, y = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(3, (8,))
    w = torch.tensor([0.5, 2.0, 1.0])
    residual = model(x).softmax(1).detach() - F.one_hot(y, 3)
    g = torch.einsum("rc,rcn->rn", w[y][:, None] * residual, jacobians(model, x))
    op = fisher_operator(model, forward, nn.CrossEntropyLoss(weight=w), (x, y), empirical=True)
    assert distance(dense(op), g.T @ g / w[y].sum()) < CLOSE
    t = torch.randn(8, 3)
    g = torch.einsum("rc,rcn->rn", 2 * (model(x).detach() - t), jacobians(model, x))
    summed = fisher_operator(model, forward, SquaredError(), (x, t), empirical=True)
    assert distance(dense(summed), g.T @ g / 24) < CLOSE
    averaged = fisher_operator(model, forward, lambda z, b: F.mse_loss(z, b[1]), (x, t), empirical=True)
    assert distance(dense(averaged), (g / 3).T @ (g / 3) / 8) < CLOSE


@pytest.mark.filterwarnings("ignore::slq.errors.PrecisionWarning")
def test_narrow_fisher_is_near_the_wide_one(batch):
    """A bfloat16 model, and logits that are drawn from in single precision. Measured over 20: at most 0.0052."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).bfloat16()
    x = batch[0].bfloat16()
    for loss, targets in ((CrossEntropy(), batch[1]), (BinaryCrossEntropy(), torch.rand(8, 3).bfloat16())):
        narrow = fisher_operator(model, forward, loss, (x, targets))
        wide = fisher_operator(model, forward, loss, (x, targets), compute_dtype=torch.float64)
        drawn = fisher_operator(model, forward, loss, (x, targets), samples=400)
        v = torch.randn(43, dtype=torch.float32)
        exact = float(wide.matvec(v.double()) @ v.double())
        assert float(narrow.matvec(v) @ v) == pytest.approx(exact, rel=0.03)
        # 8 rows of 400 labels: measured over 40, a standard deviation of 0.021.
        assert float(drawn.matvec(v) @ v) == pytest.approx(exact, rel=0.1)


# The same labels for each product.


@pytest.mark.parametrize(
    "loader",
    [
        lambda data: DataLoader(data, sampler=SubsetRandomSampler(range(8))),
        lambda data: DataLoader(data, sampler=WeightedRandomSampler([1.0] * 8, 8)),
        lambda data: DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(range(8)), 4, False)),
    ],
    ids=["subset", "weighted", "batches"],
)
def test_random_samplers_are_refused(loader, model, batch):
    with pytest.raises(RequestError, match="the loader shuffles: pass one with shuffle=False"):
        fisher_operator(model, forward, nn.CrossEntropyLoss(), loader(TensorDataset(*batch)), samples=1)


@pytest.mark.parametrize("order", ["batches", "samples"])
def test_another_order_is_found(order, model, batch):
    """A function that shuffles, which nothing tells beforehand; the exact matrix does not mind."""
    x, y = torch.eye(4).repeat(2, 1), batch[1]  # rows that differ in nothing but their order
    passes = []

    def read():
        passes.append(None)
        turn = len(passes) % 2
        rows = torch.arange(8) if order == "batches" or turn else torch.tensor([1, 0, 3, 2, 4, 5, 6, 7])
        parts = [(x[rows[a : a + 4]], y[rows[a : a + 4]]) for a in (0, 4)]
        return parts if order == "samples" or turn else parts[::-1]

    exact = fisher_operator(model, forward, nn.CrossEntropyLoss(), read)
    exact.matvec(torch.ones(43))
    exact.matvec(torch.ones(43))

    def products():
        op = fisher_operator(model, forward, nn.CrossEntropyLoss(), read, samples=2)
        op.matvec(torch.ones(43))
        op.matvec(torch.ones(43))

    with pytest.raises(DataError, match="batch 0 holds other samples than in the pass before, or in another order"):
        products()


def test_microbatches_draw_for_themselves(model, batch, dense, distance):
    """Labels go by the number of the piece: other pieces are another sample of the same matrix."""
    exact = dense(ggn_operator(model, forward, nn.CrossEntropyLoss(), batch))
    for size in (None, 3):
        op = fisher_operator(model, forward, nn.CrossEntropyLoss(), batch, samples=1000, microbatch=size)
        assert distance(dense(op), exact) < 0.1  # measured over ten models: at most 0.03


LIKELIHOODS = {
    "cross-entropy": (nn.CrossEntropyLoss(), points),
    "squares": (nn.MSELoss(), lambda: (torch.randn(8, 4), torch.randn(8, 3))),
    "binary": (nn.BCEWithLogitsLoss(), lambda: (torch.randn(8, 4), torch.rand(8, 3).round())),
    "weighted": (
        CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1),
        points,
    ),
    "weighted binary": (
        BinaryCrossEntropy(pos_weight=torch.tensor(3.0)),
        lambda: (torch.randn(8, 4), torch.rand(8, 3).round()),
    ),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_sampled_fisher_converges_at_the_monte_carlo_rate(name, dense):
    """Mean squared distances from the exact matrix fall as 1/samples, and the mean over seeds is the exact matrix."""
    loss, make_batch = LIKELIHOODS[name]
    model, batch = mlp(), make_batch()
    exact = dense(fisher_operator(model, forward, loss, batch))

    def found(samples, seeds):
        return torch.stack(
            [dense(fisher_operator(model, forward, loss, batch, samples=samples, rng=seed)) for seed in range(seeds)]
        )

    few, many = (found(samples, 30) - exact for samples in (2, 32))
    squared = [x.square().sum((1, 2)) for x in (few, many)]
    # Measured over ten sets of seeds: the ratio, 16 in expectation, lies between 11 and 23.
    assert 8 < float(squared[0].mean() / squared[1].mean()) < 32
    # The mean of 30 unbiased matrices is off by 1/30 of the mean square; measured: at most 1.9 times that.
    assert float(many.mean(0).square().sum()) < 4 * float(squared[1].mean()) / 30


def test_sampled_fisher_is_one_matrix(dense, distance):
    model, batch = mlp(), points()
    parts = [(batch[0][:3], batch[1][:3]), (batch[0][3:], batch[1][3:])]
    op = fisher_operator(model, forward, nn.CrossEntropyLoss(), parts, samples=1, rng=4)
    matrix = dense(op)
    assert torch.equal(dense(op), matrix)
    assert distance(matrix.T, matrix) < CLOSE
    assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-15
    jvp = fisher_operator(model, forward, nn.CrossEntropyLoss(), parts, samples=1, rng=4, ad="jvp")
    assert distance(dense(jvp), matrix) < CLOSE


def per_sample_gradients(model, loss, batch):
    rows = []
    for i in range(len(batch[0])):
        one = loss(forward(model, (batch[0][i : i + 1],)), (batch[0][i : i + 1], batch[1][i : i + 1]))
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(one, list(model.parameters()))]))
    return torch.stack(rows)


@pytest.mark.parametrize("ad", WAYS)
@pytest.mark.parametrize("own", [False, True], ids=["closed form", "own loss"])
def test_empirical_fisher_is_the_second_moment_of_the_gradients(own, ad, dense, distance):
    model, batch = mlp(), points()

    def mean(z, b):
        return F.cross_entropy(z, b[1])

    G = per_sample_gradients(model, mean, batch)
    loss = mean if own else nn.CrossEntropyLoss()
    op = fisher_operator(model, forward, loss, batch, empirical=True, ad=ad)
    assert distance(dense(op), G.T @ G / 8) < CLOSE
    parts = [(batch[0][:3], batch[1][:3]), (batch[0][3:], batch[1][3:])]
    op = fisher_operator(model, forward, loss, parts, empirical=True, ad=ad)
    assert distance(dense(op), G.T @ G / 8) < CLOSE


# Refusals.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 3, "empirical": True}, "samples= draws labels from the model.*choose one"),
        ({"samples": 0}, "samples= expects a positive integer or None, got 0"),
        ({"loss": lambda z, _: z.square().mean()}, "needs a likelihood.*or empirical=True"),
        ({"ad": "difference"}, "ad='difference' is no way to make this operator; take one of double_backward"),
    ],
)
def test_fisher_of_what_there_is_none(arguments, message):
    arguments = {"loss": nn.CrossEntropyLoss(), **arguments}
    with pytest.raises(RequestError, match=message):
        fisher_operator(mlp(), forward, arguments.pop("loss"), points(), **arguments)


def test_sampled_labels_of_a_shuffling_loader():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*points()), shuffle=True)
    with pytest.raises(RequestError, match="the loader shuffles: pass one with shuffle=False"):
        fisher_operator(mlp(), forward, nn.CrossEntropyLoss(), loader, samples=2)
    fisher_operator(mlp(), forward, nn.CrossEntropyLoss(), loader)


def test_outputs_without_rows_have_no_empirical_fisher():
    model, batch = mlp(), points()
    with pytest.raises(OperatorError, match=r"needs outputs with one row a sample each, got shapes \[\(8, 3\), \(\)\]"):
        fisher_operator(
            model,
            lambda m, b: (m(b[0]), m(b[0]).sum()),
            lambda z, _: z[0].square().mean() + z[1],
            batch,
            empirical=True,
        )
