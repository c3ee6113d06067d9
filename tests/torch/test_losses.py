"""Losses in closed form: in the numbers where the textbook formulas lose all digits, and beside torch's modules."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slq.errors import RequestError, ShapeError
from slq_torch import BinaryCrossEntropy, CrossEntropy, SquaredError, ggn_operator, hessian_operator

EPS = torch.finfo(torch.float32).eps
WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


def forward(model, batch):
    return model(batch[0])


def matrix(loss, z, batch):
    """(outputs, outputs) of the products with unit vectors, in double precision."""
    units = torch.eye(z.numel(), dtype=z.dtype).reshape(-1, *z.shape)
    return torch.stack([loss.hessian_product(z, batch, t).double().reshape(-1) for t in units])


def exact_matrix(z):
    """diag p − p pᵀ with every entry right: 1 − p_c is the sum of the others."""
    p = z.double().softmax(-1)[0]
    exact = -p.outer(p)
    for c in range(len(p)):
        exact[c, c] = p[c] * (p.sum() - p[c] if p[c] < 0.5 else p[torch.arange(len(p)) != c].sum())
    return exact


@pytest.mark.parametrize("gap", [1.0, 10.0, 20.0, 60.0])
def test_confident_cross_entropy_is_right_in_single_precision(gap, distance):
    """1 − p is 1e-9 at a gap of 20, below rounding. Measured: at most 1.3e-7; p (t − ⟨p, t⟩) is off by 0.6 there."""
    z = torch.tensor([[gap, 0.0, 1.0, -2.0]], dtype=torch.float32)
    batch = None, torch.tensor([0])
    assert distance(matrix(CrossEntropy(), z, batch), exact_matrix(z)) < 8 * EPS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_cross_entropy_of_narrow_logits_is_semidefinite(dtype, distance):
    z = (6 * torch.randn(1, 50)).to(dtype)
    found = matrix(CrossEntropy(), z, (None, torch.tensor([0])))
    exact = exact_matrix(z)
    assert distance(found, exact) < 8 * EPS  # measured: 1.2e-7, in half precision too
    lowest = torch.linalg.eigvalsh((found + found.T) / 2)[0]
    assert float(lowest) > -8 * EPS * float(torch.linalg.matrix_norm(exact))  # its exact smallest value is zero


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_confident_binary_cross_entropy(dtype):
    z = torch.tensor([[20.0, -20.0, 40.0, 0.0]], dtype=dtype)
    found = BinaryCrossEntropy().hessian_product(z, (None, torch.ones_like(z)), torch.ones_like(z))
    wide = z.double()
    # Measured: 2 rounding errors; σ (1 − σ) is zero in single precision.
    torch.testing.assert_close(found.double(), wide.sigmoid() * (-wide).sigmoid(), rtol=8 * EPS, atol=0)


def test_sampled_gradients_of_confident_predictions():
    """Of the likely label, too, which is drawn nearly always: p − 1 in single precision is zero, or off by tenths."""
    generator = torch.Generator().manual_seed(0)
    z = torch.tensor([[20.0, 0.0, 1.0]], dtype=torch.float32)
    found = CrossEntropy().sampled_gradients(z, (None, torch.tensor([0])), generator)
    p = z.double().softmax(-1)
    p[0, 0] = -p[0, 1:].sum()
    torch.testing.assert_close(found.double(), p, rtol=8 * EPS, atol=0)
    z = torch.tensor([[20.0, -30.0]], dtype=torch.float32)
    found = BinaryCrossEntropy().sampled_gradients(z, (None, torch.ones(1, 2)), generator)
    expected = torch.tensor([[-1.0, 1.0]]) * (-z.double().abs()).sigmoid()
    torch.testing.assert_close(found.double(), expected, rtol=8 * EPS, atol=0)


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), BinaryCrossEntropy()], ids=lambda x: type(x).__name__)
def test_weights_are_counted_exactly_in_half_precision(loss):
    """bfloat16 has eight bits: it takes 1001 for 1000."""
    if isinstance(loss, CrossEntropy):
        z, y, count = torch.randn(1003, 3), torch.zeros(1003, dtype=torch.long), 1001
        y[:2] = -100
    else:
        z, y, count = torch.randn(1001), torch.rand(1001), 1001
    assert float(loss(z.bfloat16(), (None, y))[1]) == count


@pytest.mark.parametrize("ad", ["double_backward", "jvp", "linearize"])
@pytest.mark.parametrize("name", ["cross-entropy", "squares", "binary"])
def test_in_hessians(name, ad, dense, distance):
    """They can be differentiated in all ways, and are torch's means."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y, t = torch.randn(8, 4), torch.randint(3, (8,)), torch.rand(8, 3)
    y[2] = -100
    ours, theirs, targets = {
        "cross-entropy": (CrossEntropy(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1), y),
        "squares": (SquaredError(), nn.MSELoss(), t),
        "binary": (BinaryCrossEntropy(), nn.BCEWithLogitsLoss(), t),
    }[name]
    op = hessian_operator(model, lambda m, b: ours(m(b[0]), b), (x, targets), ad=ad)
    plain = hessian_operator(model, lambda m, b: theirs(m(b[0]), b[1]), (x, targets))
    assert distance(dense(op), dense(plain)) < 1e-12  # measured: 3e-16


class _Tripled(nn.CrossEntropyLoss):
    def forward(self, logits, targets):
        return 3 * super().forward(logits, targets)


def test_subclass_of_a_torch_loss_is_what_it_computes(dense, distance):
    model, batch = nn.Linear(4, 3), (torch.randn(8, 4), torch.randint(3, (8,)))
    op = ggn_operator(model, forward, _Tripled(), batch)
    plain = ggn_operator(model, forward, nn.CrossEntropyLoss(), batch)
    assert distance(dense(op), 3 * dense(plain)) < 1e-14
    assert op.loss() == pytest.approx(3 * plain.loss(), rel=1e-14)


def test_torch_losses_without_a_closed_form(dense, distance):
    """Poisson counts: the second derivative is the rate, and the model is linear, so that J is the inputs."""
    model = nn.Linear(4, 1, bias=False)
    x, y = torch.randn(9, 4), torch.randint(5, (9, 1)).double()
    op = ggn_operator(model, forward, nn.PoissonNLLLoss(), [(x[:4], y[:4]), (x[4:], y[4:])])
    rate = model(x).exp().detach()
    assert distance(dense(op), x.T @ (rate * x) / 9) < 1e-14
    labelled = ggn_operator(model, lambda m, b: m(b["x"]), nn.PoissonNLLLoss(), {"x": x, "labels": y})
    assert distance(dense(labelled), dense(op)) < 1e-14
    with pytest.raises(RequestError, match="PoissonNLLLoss finds no targets in a dict"):
        ggn_operator(model, lambda m, b: m(b["x"]), nn.PoissonNLLLoss(), {"x": x})
    with pytest.raises(RequestError, match=r'PoissonNLLLoss\(reduction="none"\) is no mean'):
        ggn_operator(model, forward, nn.PoissonNLLLoss(reduction="none"), (x, y))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), SquaredError(), BinaryCrossEntropy()])
def test_outputs_that_are_no_tensor(loss):
    with pytest.raises(RequestError, match="is a loss of one tensor, but forward returns a dict; return the tensor"):
        ggn_operator(nn.Linear(4, 3), lambda m, b: {"logits": m(b[0])}, loss, (torch.randn(2, 4), torch.rand(2, 3)))


def test_transposed_targets_are_refused():
    """As many as there are, and wrong for all but a few."""
    with pytest.raises(ShapeError, match=r"class indices of shape \(2, 3\).*got targets of shape \(3, 2\)"):
        CrossEntropy(class_dim=-1)(torch.randn(2, 3, 4), (None, torch.zeros(3, 2, dtype=torch.long)))


def test_probabilities_as_targets_by_a_loss_of_ones_own(dense, distance):
    """What the message advises: the second derivative does not depend on them."""
    model, x = nn.Linear(4, 3), torch.randn(8, 4)
    soft = ggn_operator(model, forward, lambda z, b: F.cross_entropy(z, b[1]), (x, torch.randn(8, 3).softmax(1)))
    hard = ggn_operator(model, forward, nn.CrossEntropyLoss(), (x, torch.zeros(8, dtype=torch.long)))
    assert distance(dense(soft), dense(hard)) < 1e-14


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
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), r'CrossEntropyLoss\(reduction="sum"\) is no mean.*take "mean"'),
        (nn.BCEWithLogitsLoss(weight=torch.ones(3)), r"BCEWithLogitsLoss\(weight=\) weighs entries.*write a function"),
    ],
)
def test_modules_that_are_no_mean(loss, message):
    with pytest.raises(RequestError, match=message):
        ggn_operator(nn.Linear(4, 3), forward, loss, (torch.randn(8, 4), torch.randint(3, (8,))))


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
    with pytest.raises(
        ShapeError, match=r"class indices of shape \(2,\) for logits of shape \(2, 3\).*got targets of shape \(3,\)"
    ):
        CrossEntropy()(z, (None, torch.zeros(3, dtype=torch.long)))
    with pytest.raises(
        ShapeError, match=r"class indices.*dtype torch.float64.*probabilities as targets need a loss of your own"
    ):
        CrossEntropy()(z, (None, torch.zeros(2)))
    with pytest.raises(ShapeError, match=r"expects logits \(N, classes, ...\), got shape \(3,\)"):
        CrossEntropy()(z[0], (None, torch.zeros(1, dtype=torch.long)))
    with pytest.raises(
        ShapeError, match=r"SquaredError expects targets of the shape of the outputs \(2, 3\), got \(2,\)"
    ):
        SquaredError()(z, (None, torch.zeros(2)))
    with pytest.raises(RequestError, match="CrossEntropy is a loss of one tensor, but forward returns a tuple"):
        ggn_operator(nn.Linear(4, 3), lambda m, b: (m(b[0]),), _First(), (torch.randn(8, 4), torch.randint(3, (8,))))


class _First(CrossEntropy):
    """Takes a tuple where it should not."""

    def __call__(self, outputs, batch):
        return super().__call__(outputs[0], batch)


_First.__name__ = "CrossEntropy"
