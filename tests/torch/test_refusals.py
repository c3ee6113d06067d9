"""Data and losses that would give wrong numbers are refused, with the cause and the cure in the message."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slq.errors import DataError, OperatorError, RequestError, ShapeError
from slq_torch import hessian_operator


def squares(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def summed(model, batch):
    return F.mse_loss(model(batch[0]), batch[1], reduction="sum")


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def model():
    return nn.Linear(3, 2)


@pytest.fixture
def batch():
    return torch.randn(10, 3), torch.randn(10, 2)


@pytest.fixture
def batches(batch):
    return list(zip(*(part.split(4) for part in batch), strict=True))


# Data


@pytest.mark.parametrize("kind", [iter, lambda batches: (b for b in batches), lambda batches: map(tuple, batches)])
def test_one_shot_iterator(kind, model, batches):
    with pytest.raises(DataError, match=r"one-shot iterator.*pass a list"):
        hessian_operator(model, squares, kind(batches))


@pytest.mark.parametrize("data", [[], lambda: iter(())])
def test_no_data(data, model):
    with pytest.raises(DataError, match="the data hold no batch"):
        hessian_operator(model, squares, data)


def test_empty_batch(model, batch):
    with pytest.raises(DataError, match="loss of batch 0 is nan"):
        hessian_operator(model, squares, (batch[0][:0], batch[1][:0]))


def test_number_of_batches_changes(model, batches):
    op = hessian_operator(model, squares, data := list(batches))
    data.pop()
    with pytest.raises(DataError, match="gave 3 batches at first and 2 now"):
        op.matvec(torch.ones(8))
    with pytest.raises(DataError, match="gave 3 batches at first and 2 now"):
        op.gradient()


def test_function_that_returns_one_iterator(model, batches):
    once = iter(batches)
    op = hessian_operator(model, squares, lambda: once)
    with pytest.raises(DataError, match=r"and 0 now; every pass must read the same"):
        op.matvec(torch.ones(8))


@pytest.mark.parametrize("change", ["sizes", "values"])
def test_other_data_in_a_later_pass(change, model, batches):
    """A loader that drops other samples, or augments them, in every pass."""
    noise = np.random.default_rng(0)
    changing = False

    def data():
        for x, y in batches:
            if change == "sizes":
                yield (x[:2], y[:2]) if changing else (x, y)
            else:
                yield x + float(noise.normal()), y

    op = hessian_operator(model, squares, data)
    changing = True
    with pytest.raises((DataError, OperatorError)):
        op.matvec(torch.ones(8))


def test_batches_of_unknown_size(model, batch):
    class Opaque:
        x, y = batch

    with pytest.raises(DataError, match=r"batch 0 does not tell how many samples.*\(sum, weight\)"):
        hessian_operator(model, lambda model, b: squares(model, (b.x, b.y)), [Opaque(), Opaque()])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda *_: None, r"TypeError \(.*for batch 1 of type NoneType; check"),
        (
            lambda x, y: (x, y, y),
            r"ValueError \(too many values.*of type tuple of \(Tensor \(5, 3\), Tensor \(5, 2\), ",
        ),
        (
            lambda x, y: {"x": x, "y": [y, 1]},
            r"TypeError \(.*of type dict of x: Tensor \(5, 3\), y: list of \(Tensor \(5, 2\), int\);",
        ),
        (lambda *_: "xy", r"TypeError \(.*of type str;"),
    ],
)
def test_batch_of_another_kind(other, message, model, batch):
    """The message says what came; the error of the loss hangs on."""

    def loss(model, batch):
        x, y = batch
        return F.mse_loss(model(x), y)

    with pytest.raises(DataError, match=message) as caught:
        hessian_operator(model, loss, [tuple(x[:5] for x in batch), other(*(x[5:] for x in batch))])
    assert caught.value.__cause__ is not None


# Losses that are no mean over the samples


def test_summed_loss_over_several_batches(model, batches):
    with pytest.raises(DataError, match=r"not a mean over the samples of batch 0.*\(sum, weight\)"):
        hessian_operator(model, summed, batches)


def test_summed_loss_that_shows_in_a_later_batch(model, batch):
    """A batch of one sample has the same sum and mean."""
    sizes = [part.split([1, 1, 8]) for part in batch]
    with pytest.raises(DataError, match="not a mean over the samples of batch 2"):
        hessian_operator(model, lambda m, b: ((m(b[0]) - b[1]) ** 2).sum(1).sum(), list(zip(*sizes, strict=True)))


def test_mean_over_valid_labels(batch):
    """Cross-entropy divides by the number of labels that are not ignored, not by that of samples."""
    model, labels = nn.Linear(3, 2), torch.tensor([0, 1, -100, 0, 1, 1, 0, -100, -100, 1])
    data = list(zip(batch[0].split(4), labels.split(4), strict=True))
    with pytest.raises(DataError, match="not a mean over the samples of batch 0"):
        hessian_operator(model, cross_entropy, data)
    hessian_operator(model, cross_entropy, (batch[0], labels))  # a single batch needs no weights


def test_batch_statistics_over_several_batches():
    model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(12, 2))
    batches = [(torch.randn(5, 3, 4), torch.randn(5, 2)) for _ in range(2)]
    with pytest.raises(DataError, match=r"takes its statistics from each batch.*call model\.eval\(\)"):
        hessian_operator(model, squares, batches)


def test_batch_statistics_that_one_sample_does_not_have(batches):
    """Splitting off one sample makes BatchNorm raise a ValueError of its own."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(DataError, match=r"takes its statistics from each batch.*call model\.eval\(\)"):
        hessian_operator(model, squares, batches)


@pytest.mark.parametrize("position", [0, 1])
def test_loss_that_is_not_a_number(position, model, batches):
    batches[position][0][0, 0] = torch.nan
    with pytest.raises(DataError, match=f"loss of batch {position} is nan"):
        hessian_operator(model, squares, batches)


def test_infinite_loss(model, batch):
    with pytest.raises(DataError, match="loss of batch 0 is inf"):
        hessian_operator(model, lambda model, batch: squares(model, batch) / 0, batch)


def test_no_weight(model, batches):
    with pytest.raises(DataError, match="all batches have weight zero"):
        hessian_operator(model, lambda model, batch: (summed(model, batch), 0), batches)


# Random losses


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", [nn.Dropout, nn.AlphaDropout])
@pytest.mark.filterwarnings("ignore:the parameters are in torch")
def test_dropout(dtype, layer, batch):
    model = nn.Sequential(nn.Linear(3, 40), layer(), nn.Linear(40, 2)).to(dtype)
    data = tuple(part.to(dtype) for part in batch)
    with pytest.raises(OperatorError, match=r"the loss is random: .*call model\.eval\(\)"):
        hessian_operator(model, squares, data)
    hessian_operator(model.eval(), squares, data)


class Masked(nn.Module):
    """Dropout that is no module of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 40), nn.Linear(40, 2)

    def forward(self, x):
        return self.last(F.dropout(self.first(x), training=self.training))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dropout_by_function(dtype, batch):
    model, data = Masked().to(dtype), tuple(part.to(dtype) for part in batch)
    with pytest.raises(OperatorError, match=r"the loss is random: .*call model\.eval\(\)"):
        hessian_operator(model, squares, data)
    hessian_operator(model.eval(), squares, data)


@pytest.mark.parametrize("make", [Masked, lambda: nn.Sequential(nn.Linear(3, 40), nn.Dropout(), nn.Linear(40, 2))])
def test_dropout_with_random_numbers_fixed_in_the_loss(make, batch, distance, dense):
    """What the message recommends."""

    def loss(model, batch):
        torch.manual_seed(5)
        return squares(model, batch)

    hessian = dense(hessian_operator(make(), loss, batch))
    assert distance(hessian.T, hessian) < 1e-14  # measured: 2e-16


# What a loss may return


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (lambda loss: float(loss.detach()), "float"),
        (lambda loss: loss.detach().numpy(), "ndarray"),
        (lambda loss: {"loss": loss}, "dict"),
        (lambda _: None, "NoneType"),
        (lambda loss: (loss, 1, 2), "tuple"),
    ],
)
def test_loss_of_another_type(result, name, model, batch):
    with pytest.raises(RequestError, match=rf"scalar tensor or \(sum, weight\), got {name}"):
        hessian_operator(model, lambda model, batch: result(squares(model, batch)), batch)


def test_loss_of_another_shape(model, batch):
    with pytest.raises(ShapeError, match=r"tensor of shape \(10, 2\); reduce it"):
        hessian_operator(model, lambda model, batch: (model(batch[0]) - batch[1]) ** 2, batch)


def test_loss_of_one_element_is_a_scalar(model, batch):
    op = hessian_operator(model, lambda model, batch: squares(model, batch).reshape(1, 1), batch)
    v = torch.randn(8)
    assert torch.equal(op.matvec(v), hessian_operator(model, squares, batch).matvec(v))


def test_detached_loss(model, batch):
    with pytest.raises(OperatorError, match=r"does not depend on the parameters: look for detach\(\)"):
        hessian_operator(model, lambda model, batch: squares(model, batch).detach(), batch)


class FirstDerivativeOnly(torch.autograd.Function):
    """x², with a backward function that cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


# To autograd, what depends on the function is constant (at the end of the loss) or unused (inside): without a look at
# the graph, parts of the Hessian would be missing silently.
@pytest.mark.parametrize("last", [torch.square, lambda y: y], ids=["inside", "at the end"])
def test_function_without_second_derivative(last, model, batch):
    with pytest.raises((OperatorError, RuntimeError), match=r"once_differentiable|second derivative"):
        hessian_operator(
            model, lambda model, batch: last(FirstDerivativeOnly.apply(model(batch[0]) - batch[1])).mean(), batch
        ).matvec(torch.ones(8))


class Writes(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        y = torch.exp(x)
        z = 2 * y
        if self.way == "mul_":
            y.mul_(3)
        elif self.way == "add_":
            y += 1
        else:
            y[0] = 0
        z.add_(1)  # which nothing needs
        return y + z


@pytest.mark.parametrize("way", ["mul_", "add_", "__setitem__"])
def test_module_that_writes_to_what_is_saved(way, batch):
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True), nn.Sequential(Writes(way)))
    with pytest.raises(
        OperatorError, match=rf"^2\.0 \(Writes\) writes \({way}\) in place to.*write to a clone"
    ) as caught:
        hessian_operator(model, squares, batch)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_loss_that_writes_to_what_is_saved(model, batch):
    def loss(model, batch):
        y = torch.tanh(model(batch[0]))
        return y.mul_(2).mean()

    with pytest.raises(OperatorError, match=r"^the loss writes \(mul_\) in place"):
        hessian_operator(model, loss, batch)


def test_writing_that_a_python_function_hides(model, batch):
    """Compiled functions show no operation, but the cause."""

    @torch.jit.script
    def hidden(x):
        y = torch.tanh(x)
        y.mul_(2)
        return y

    with pytest.raises(OperatorError, match=r"^the model or the loss writes in place"):
        hessian_operator(model, lambda model, batch: hidden(model(batch[0])).mean(), batch)


# After construction


def written(model):
    with torch.no_grad():
        model.weight.mul_(2)


CHANGES = {
    "written": written,
    "optimizer": lambda model: torch.optim.SGD(model.parameters(), 0.1).step(),
    "load_state_dict": lambda model: model.load_state_dict({name: t + 1 for name, t in model.state_dict().items()}),
    "data replaced": lambda model: setattr(model.weight, "data", model.weight.data * 2),
    "parameter replaced": lambda model: setattr(model, "weight", nn.Parameter(model.weight.detach() * 2)),
    # Leaves no trace in the version counter; the loss of the first product gives it away, and only that one is read.
    "data written": lambda model: model.weight.data.mul_(2),
}
PRODUCTS = {"product": lambda op: op.matvec(torch.ones(8)), "gradient": lambda op: op.gradient()}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("change", CHANGES)
def test_changed_parameters(change, product, model, batch):
    op = hessian_operator(model, squares, batch)
    squares(model, batch).backward()
    CHANGES[change](model)
    with pytest.raises(OperatorError, match=r"changed after the operator was built; build a new operator"):
        PRODUCTS[product](op)


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "data written"])
def test_parameters_changed_between_products(change, model, batch):
    op = hessian_operator(model, squares, batch)
    op.matvec(torch.ones(8))
    squares(model, batch).backward()
    CHANGES[change](model)
    with pytest.raises(
        OperatorError, match=r"parameter \w+ changed after the operator was built; build a new operator"
    ):
        op.matvec(torch.ones(8))


def test_training_mode_switched_on_later(batch):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 2)).eval()
    op = hessian_operator(model, squares, batch)
    model.train()
    with pytest.raises(OperatorError, match=r"train\(\).*build a new operator"):
        op.matvec(torch.ones(op.shape[0]))


# A reshape would take (8, k), one vector per column, for k rows.
@pytest.mark.parametrize("shape", [(7,), (9,), (16,), (8, 2), (8, 1), (2, 4), (2, 8, 1), ()])
def test_vectors_of_another_shape(shape, model, batch):
    with pytest.raises(ShapeError, match=r"shape \(\.\.\., 8\), got"):
        hessian_operator(model, squares, batch).matvec(torch.ones(shape))
