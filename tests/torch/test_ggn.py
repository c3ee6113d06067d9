"""Gauss-Newton and Fisher matrices against dense Jacobians and loss Hessians of another kind of differentiation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import slq
from slq.errors import OperatorError, RequestError, ShapeError
from slq_torch import BinaryCrossEntropy, CrossEntropy, SquaredError, fisher_operator, ggn_operator, hessian_operator

CLOSE = 1e-12  # measured: at most 4e-16 over all cases
WAYS = ("double_backward", "jvp", "linearize")


def forward(model, batch):
    return model(batch[0])


def loss_of(loss):
    return lambda model, batch: loss(forward(model, batch), batch)


def jacobian(model, forward, batch):
    """(outputs, n), one reverse pass per output; the operator pushes tangents through."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        outputs = forward(model, batch)
        rows = [
            torch.autograd.grad(z, parameters, retain_graph=True, materialize_grads=True) for z in outputs.reshape(-1)
        ]
    return torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])


def loss_hessian(loss, outputs, batch):
    """(outputs, outputs) second derivative of the mean loss."""
    shape = outputs.shape

    def mean(z):
        result = loss(z.reshape(shape), batch)
        return result[0] / result[1] if isinstance(result, tuple) else result

    return torch.autograd.functional.hessian(mean, outputs.detach().reshape(-1))


def dense_ggn(model, forward, loss, batch):
    J = jacobian(model, forward, batch)
    return J.T @ loss_hessian(loss, forward(model, batch), batch) @ J


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.query, self.head = nn.Embedding(7, 6), nn.Linear(6, 18), nn.Linear(6, 7)

    def forward(self, tokens):
        q, k, v = self.query(self.embed(tokens)).reshape(*tokens.shape, 3, 2, 3).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x.transpose(1, 2).reshape(*tokens.shape, 6))


def mlp(*last):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), *last)


def points(classes=3):
    return torch.randn(8, 4), torch.randint(classes, (8,))


def images():
    return torch.randn(5, 1, 4, 4), torch.randint(3, (5,))


def tokens(ignored=False):
    x, y = torch.randint(7, (3, 4)), torch.randint(7, (3, 4))
    if ignored:
        y[0, 2:] = -100
    return x, y


def convolutions():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()


WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)

CASES = {
    "cross-entropy": (mlp, nn.CrossEntropyLoss, points),
    "label smoothing": (mlp, lambda: nn.CrossEntropyLoss(label_smoothing=0.2), points),
    "class weights": (mlp, lambda: nn.CrossEntropyLoss(weight=WEIGHTS), points),
    "both": (mlp, lambda: CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.2), points),
    "tokens": (Attention, lambda: CrossEntropy(class_dim=-1), tokens),
    "ignored tokens": (Attention, lambda: CrossEntropy(class_dim=-1), lambda: tokens(True)),
    "pixels": (
        lambda: nn.Conv1d(2, 3, 1),
        nn.CrossEntropyLoss,
        lambda: (torch.randn(4, 2, 5), torch.randint(3, (4, 5))),
    ),
    "convolutions": (convolutions, nn.CrossEntropyLoss, images),
    "squares": (mlp, nn.MSELoss, lambda: (torch.randn(8, 4), torch.randn(8, 3))),
    "binary": (mlp, nn.BCEWithLogitsLoss, lambda: (torch.randn(8, 4), torch.rand(8, 3))),
    "binary, weighted": (
        mlp,
        lambda: BinaryCrossEntropy(pos_weight=torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)),
        lambda: (torch.randn(8, 4), torch.rand(8, 3)),
    ),
    "layer norm": (lambda: mlp(nn.LayerNorm(3)), nn.CrossEntropyLoss, points),
    "own loss": (mlp, lambda: lambda z, b: torch.log1p((z.sum(1) - b[1]) ** 2).mean(), points),
    "own linear loss": (mlp, lambda: lambda z, b: (z * b[1][:, None]).mean(), points),
    "own coupled loss": (mlp, lambda: lambda z, _: (z.T @ z).square().sum(), points),
}


@pytest.mark.parametrize("ad", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_dense(case, ad, dense, distance):
    make_model, make_loss, make_batch = CASES[case]
    torch.manual_seed(1)
    model, loss, batch = make_model(), make_loss(), make_batch()
    op = ggn_operator(model, forward, loss, batch, ad=ad)
    plain = loss if not isinstance(loss, nn.Module) else lambda z, b: loss(z, b[1])
    exact = dense_ggn(model, forward, plain, batch)
    assert op.ad == ad
    matrix = dense(op)
    if case == "own linear loss":
        assert not exact.any()
        assert not matrix.any()
        return
    assert distance(matrix, exact) < CLOSE
    v = torch.randn(op.shape[0])
    assert distance(op.matvec(v), exact @ v) < CLOSE


def test_losses_are_those_of_torch():
    """Values of the closed forms, as mean, and that they are the ones that modules stand for."""
    z, y = torch.randn(6, 3, 4), torch.randint(3, (6, 4))
    y[2] = -100
    for options in ({}, {"label_smoothing": 0.3}, {"weight": WEIGHTS}, {"weight": WEIGHTS, "label_smoothing": 0.3}):
        ours = {"class_weights" if name == "weight" else name: value for name, value in options.items()}
        summed, weight = CrossEntropy(**ours)(z, (None, y))
        assert float(summed / weight) == pytest.approx(float(F.cross_entropy(z, y, **options)), rel=1e-14)
    summed, weight = CrossEntropy(class_dim=-1)(z.movedim(1, -1), {"labels": y})
    assert float(summed / weight) == pytest.approx(float(F.cross_entropy(z, y)), rel=1e-14)
    target = torch.rand(6, 3, 4)
    summed, weight = SquaredError(targets=lambda b: b)(z, target)
    assert float(summed / weight) == pytest.approx(float(F.mse_loss(z, target)), rel=1e-14)
    summed, weight = BinaryCrossEntropy(targets=lambda b: b)(z, target)
    assert float(summed / weight) == pytest.approx(float(F.binary_cross_entropy_with_logits(z, target)), rel=1e-14)
    assert [float(x) for x in CrossEntropy()(z, (None, torch.full_like(y, -100)))] == [0, 0]


def test_extreme_logits():
    z = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4]])
    batch, t = (None, torch.tensor([1, 0])), torch.randn(2, 3)
    product = CrossEntropy().hessian_product(z, batch, t)
    expected = torch.stack([torch.zeros(3), torch.tensor([1.0, -1.0, 0.0]) * (t[1, 0] - t[1, 1]) / 4])
    torch.testing.assert_close(product, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()], ids=["ce", "mse", "bce"]
)
def test_ggn_of_a_linear_model_is_the_hessian(loss, dense, distance):
    model = nn.Linear(4, 3)
    targets = torch.randint(3, (8,)) if isinstance(loss, nn.CrossEntropyLoss) else torch.rand(8, 3)
    batch = torch.randn(8, 4), targets
    hessian = hessian_operator(model, lambda m, b: loss(m(b[0]), b[1]), batch)
    assert distance(dense(ggn_operator(model, forward, loss, batch)), dense(hessian)) < CLOSE
    exact = fisher_operator(model, forward, loss, batch)
    assert torch.equal(dense(exact), dense(ggn_operator(model, forward, loss, batch)))


@pytest.mark.parametrize("ad", WAYS)
def test_several_outputs(ad, dense, distance):
    """A dict of outputs, which the loss couples; one does not depend on the parameters."""
    model, batch = mlp(), points()

    def outputs(model, batch):
        z = model(batch[0])
        return {"mean": z[:, :2], "spread": F.softplus(z[:, 2]), "input": batch[0], "index": batch[1]}

    def loss(z, batch):
        return ((z["mean"].sum(1) - z["index"]) ** 2 / z["spread"] + z["spread"].log() + z["input"].sum(1)).mean()

    def flat(model, batch):
        z = outputs(model, batch)
        return torch.cat([z["mean"], z["spread"][:, None], z["input"]], 1)

    def flat_loss(z, batch):
        return loss({"mean": z[:, :2], "spread": z[:, 2], "input": z[:, 3:], "index": batch[1]}, batch)

    op = ggn_operator(model, outputs, loss, batch, ad=ad)
    assert distance(dense(op), dense_ggn(model, flat, flat_loss, batch)) < CLOSE


@pytest.mark.parametrize("ad", WAYS)
def test_batches_and_pieces(ad, dense, distance):
    """Unequal batches, one of them wholly ignored, and microbatches: one matrix."""
    model, loss = Attention(), CrossEntropy(class_dim=-1)
    x, y = torch.randint(7, (9, 4)), torch.randint(7, (9, 4))
    y[0, 1:], y[4:6] = -100, -100
    whole = dense_ggn(model, forward, loss, (x, y))
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 4), (4, 6), (6, 9))]
    assert distance(dense(ggn_operator(model, forward, loss, parts, ad=ad)), whole) < CLOSE
    for size in (1, 7, 9):
        op = ggn_operator(model, forward, loss, (x, y), microbatch=size, ad=ad)
        assert distance(dense(op), whole) < CLOSE


@pytest.mark.filterwarnings("ignore:the parameters are in torch")
def test_options(dense, distance):
    model, batch = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)), points()
    op = ggn_operator(model, forward, nn.CrossEntropyLoss(), batch, batch_norm="batch", weight_decay=0.5)
    free = nn.Sequential(model[0], nn.BatchNorm1d(5, track_running_stats=False), *model[2:])
    exact = dense_ggn(free, forward, lambda z, b: F.cross_entropy(z, b[1]), batch)
    assert distance(dense(op), exact + 0.5 * torch.eye(len(exact))) < CLOSE
    head = ggn_operator(model.eval(), forward, nn.CrossEntropyLoss(), batch, params="3.*")
    whole = ggn_operator(model, forward, nn.CrossEntropyLoss(), batch)
    assert distance(dense(head), dense(whole)[-18:, -18:]) < CLOSE
    half = mlp().bfloat16()
    precise = ggn_operator(
        half, forward, nn.CrossEntropyLoss(), (batch[0].bfloat16(), batch[1]), compute_dtype=torch.float64
    )
    rough = ggn_operator(half, forward, nn.CrossEntropyLoss(), (batch[0].bfloat16(), batch[1]))
    assert distance(dense(rough).double(), dense(precise)) < 0.03  # measured: 0.007
    assert slq.check_operator(whole)
    assert whole.workspace(1) > 0
    assert whole.gradient().shape == (whole.shape[0],)


def test_trace_is_a_measure_of_the_matrix():
    model, batch = mlp(), points()
    op = ggn_operator(model, forward, nn.CrossEntropyLoss(), batch)
    measure = slq.spectral_measure(op, num_probes=op.shape[0], num_steps=5, probes=torch.eye(op.shape[0]))
    assert measure.nodes.min() > -1e-15


# Fisher matrices.

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


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), r'CrossEntropyLoss\(reduction="sum"\) is no mean.*take "mean"'),
        (nn.BCEWithLogitsLoss(weight=torch.ones(3)), r"BCEWithLogitsLoss\(weight=\) weighs entries.*write a function"),
    ],
)
def test_modules_that_are_no_mean(loss, message):
    with pytest.raises(RequestError, match=message):
        ggn_operator(mlp(), forward, loss, points())


def test_losses_that_do_not_fit():
    with pytest.raises(RequestError, match=r"label_smoothing= expects a number from 0 to 1, got 2"):
        CrossEntropy(label_smoothing=2)
    with pytest.raises(RequestError, match="class_dim= expects 1 or -1, got 0"):
        CrossEntropy(class_dim=0)
    z = torch.randn(2, 3)
    with pytest.raises(
        RequestError, match=r'CrossEntropy finds no targets in a dict.*batch\["labels"\] unless targets='
    ):
        CrossEntropy()(z, {"y": 1})
    with pytest.raises(ShapeError, match=r"one class index for each of 2 labels.*got targets of shape \(3,\)"):
        CrossEntropy()(z, (None, torch.zeros(3, dtype=torch.long)))
    with pytest.raises(ShapeError, match=r"one class index.*dtype torch.float64"):
        CrossEntropy()(z, (None, torch.zeros(2)))
    with pytest.raises(ShapeError, match=r"expects logits \(N, classes, ...\), got shape \(3,\)"):
        CrossEntropy()(z[0], (None, torch.zeros(1, dtype=torch.long)))
    with pytest.raises(
        ShapeError, match=r"SquaredError expects targets of the shape of the outputs \(2, 3\), got \(2,\)"
    ):
        SquaredError()(z, (None, torch.zeros(2)))
    with pytest.raises(RequestError, match="CrossEntropy is a loss of one tensor, but forward returns a tuple"):
        ggn_operator(mlp(), lambda m, b: (m(b[0]),), _First(), points())


class _First(CrossEntropy):
    """Takes a tuple where it should not."""

    def __call__(self, outputs, batch):
        return super().__call__(outputs[0], batch)


_First.__name__ = "CrossEntropy"


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


class _HalfDerivative(torch.autograd.Function):
    """The identity, whose derivative is said to be a half."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(_, gradient):
        return gradient / 2


def test_wrong_jacobian_is_found():
    model, batch = mlp(), points()
    wrong = lambda m, b: _HalfDerivative.apply(m(b[0]))  # noqa: E731
    with pytest.raises(OperatorError, match=r"by double_backward is not that of the Jacobian.*check=False"):
        ggn_operator(model, wrong, nn.CrossEntropyLoss(), batch)
    op = ggn_operator(model, wrong, nn.CrossEntropyLoss(), batch, check=False)
    right = ggn_operator(model, forward, nn.CrossEntropyLoss(), batch)
    v = torch.randn(op.shape[0])
    assert math.isclose(float(op.matvec(v) @ v), float(right.matvec(v) @ v) / 4, rel_tol=1e-12)


def test_model_is_untouched():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    state = torch.get_rng_state()
    op = ggn_operator(model, forward, nn.CrossEntropyLoss(), points(), batch_norm="batch", seed=1)
    op.matvec(torch.ones(op.shape[0]))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    state_now = torch.get_rng_state()
    torch.set_rng_state(state)
    points()
    assert torch.equal(torch.get_rng_state(), state_now)  # the batch alone drew
