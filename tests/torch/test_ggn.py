"""Gauss-Newton matrices against dense Jacobians and loss Hessians of another kind of differentiation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import slq
from slq.errors import OperatorError
from slq_torch import BinaryCrossEntropy, CrossEntropy, fisher_operator, ggn_operator, hessian_operator

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


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()], ids=["ce", "mse", "bce"]
)
def test_ggn_of_a_linear_model_is_the_hessian(loss, dense, distance):
    model = nn.Linear(4, 3)
    targets = torch.randint(3, (8,)) if isinstance(loss, nn.CrossEntropyLoss) else torch.rand(8, 3)
    batch = torch.randn(8, 4), targets
    hessian = hessian_operator(model, lambda m, b: loss(m(b[0]), b[1]), batch)
    assert distance(dense(ggn_operator(model, forward, loss, batch)), dense(hessian)) < CLOSE
    exact = fisher_operator(model, forward, loss, batch, ad="double_backward")
    assert torch.equal(dense(exact), dense(ggn_operator(model, forward, loss, batch, ad="double_backward")))


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


# Refusals.


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


def test_kinks_are_no_wrong_jacobian():
    """A unit is 1e-6 above its kink: a difference of step 1e-4 takes half of its slope."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3))
    nn.init.constant_(model[0].bias, 1e-6)
    batch = torch.zeros(4, 2), torch.randint(3, (4,))
    op = ggn_operator(model, forward, nn.CrossEntropyLoss(), batch)
    assert op.ad == "double_backward"


def test_check_of_a_model_for_one_size_of_batches():
    """What the check would cut to 16 samples does not run; the whole batch does, and a wrong Jacobian shows."""
    batch = torch.randn(20, 4), torch.randint(3, (20,))
    fixed = lambda m, b: m(b[0].view(20, 4))  # noqa: E731
    ggn_operator(mlp(), fixed, nn.CrossEntropyLoss(), batch)
    with pytest.raises(OperatorError, match="is not that of the Jacobian"):
        ggn_operator(mlp(), lambda m, b: _HalfDerivative.apply(fixed(m, b)), nn.CrossEntropyLoss(), batch)


@pytest.mark.parametrize("ad", WAYS)
def test_dropout_by_a_seed_is_one_operator(ad, dense, distance):
    """The same masks for each way and each product, others for each batch; and sums in another dtype."""
    model = nn.Sequential(nn.Linear(4, 20), nn.Dropout(0.5), nn.Tanh(), nn.Linear(20, 3))
    x, y = points()
    parts = [(x[:5], y[:5]), (x[5:], y[5:])]
    op = ggn_operator(model, forward, nn.CrossEntropyLoss(), parts, seed=2, ad=ad)
    expected = torch.zeros(op.shape)
    for number, part in enumerate(parts):

        def masked(model, batch, number=number):
            torch.manual_seed(2 * 1_000_003 + number)
            return model(batch[0])

        expected += dense_ggn(model, masked, lambda z, b: F.cross_entropy(z, b[1], reduction="sum"), part) / 8
    assert distance(dense(op), expected) < CLOSE
    assert distance(dense(op), expected) < CLOSE
    narrow = [(x.float(), y) for x, y in parts]
    wide = ggn_operator(model.float(), forward, nn.CrossEntropyLoss(), narrow, seed=2, ad=ad, accumulate=torch.float64)
    assert dense(wide).dtype == torch.float32
    assert distance(dense(wide).double(), expected) < 1e-5  # measured: at most 2e-7
    with pytest.raises(OperatorError, match="is random"):
        ggn_operator(model, forward, nn.CrossEntropyLoss(), narrow, ad=ad)
