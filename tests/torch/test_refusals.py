"""Data and losses that would give wrong numbers are refused, with the cause and the cure in the message."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from slq.errors import DataError, OperatorError, RequestError, ShapeError
from slq_torch import hessian_operator
from torch import nn


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


# Fails: only the number of batches is compared, so the product is silently that of other data.
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
    with pytest.raises(DataError, match=r"batch statistics need model\.eval\(\)"):
        hessian_operator(model, squares, batches)


# Fails: splitting off one sample makes BatchNorm raise a ValueError of its own ("Expected more than 1 value per channel").
def test_batch_statistics_without_further_dimensions(batches):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(DataError, match=r"batch statistics need model\.eval\(\)"):
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


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.bfloat16,  # fails, as float16 does: the tolerance of 1000 machine epsilons exceeds any difference
        torch.float16,
    ],
)
@pytest.mark.parametrize("layer", [nn.Dropout, nn.AlphaDropout])
def test_dropout(dtype, layer, batch):
    model = nn.Sequential(nn.Linear(3, 40), layer(), nn.Linear(40, 2)).to(dtype)
    data = tuple(part.to(dtype) for part in batch)
    with pytest.raises(OperatorError, match=r"the loss is random: .*call model\.eval\(\)"):
        hessian_operator(model, squares, data)
    hessian_operator(model.eval(), squares, data)


def test_dropout_with_random_numbers_fixed_in_the_loss(batch, distance, dense):
    model = nn.Sequential(nn.Linear(3, 40), nn.Dropout(), nn.Linear(40, 2))

    def loss(model, batch):
        torch.manual_seed(5)
        return squares(model, batch)

    hessian = dense(hessian_operator(model, loss, batch))
    assert distance(hessian.T, hessian) < 1e-14  # measured: 2e-16


# What a loss may return


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (lambda loss: float(loss.detach()), "float"),
        (lambda loss: loss.detach().numpy(), "ndarray"),
        (lambda loss: {"loss": loss}, "dict"),
        (lambda loss: None, "NoneType"),
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


@pytest.mark.parametrize("product", [lambda op: op.matvec(torch.ones(8)), lambda op: op.gradient()])
def test_detached_loss(product, model, batch):
    op = hessian_operator(model, lambda model, batch: squares(model, batch).detach(), batch)
    with pytest.raises(OperatorError, match=r"does not depend on the parameters: look for detach\(\)"):
        product(op)


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


# Fails: to autograd its gradient is constant (at the end of the loss) or unused (inside), and allow_unused=True takes both
# for zero, so that the Hessian silently lacks 2JᵀJ/N.
@pytest.mark.parametrize("last", [torch.square, lambda y: y], ids=["inside", "at the end"])
def test_function_without_second_derivative(last, model, batch):
    with pytest.raises((OperatorError, RuntimeError)):
        op = hessian_operator(model, lambda m, b: last(FirstDerivativeOnly.apply(m(b[0]) - b[1])).mean(), batch)
        op.matvec(torch.ones(8))


# After construction


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: torch.optim.SGD(m.parameters(), 0.1).step(), id="optimizer"),
        pytest.param(lambda m: m.load_state_dict({k: t + 1 for k, t in m.state_dict().items()}), id="load_state_dict"),
        # The next two fail: writing through .data leaves no trace in the version counter.
        pytest.param(lambda m: m.weight.data.mul_(2), id="data written"),
        pytest.param(lambda m: setattr(m.weight, "data", m.weight.data * 2), id="data replaced"),
        # Fails: the old tensor is unchanged and unused, which only warns.
        pytest.param(lambda m: setattr(m, "weight", nn.Parameter(m.weight.detach() * 2)), id="parameter replaced"),
    ],
)
@pytest.mark.parametrize("product", [lambda op: op.matvec(torch.ones(8)), lambda op: op.gradient()])
def test_changed_parameters(product, change, model, batch):
    op = hessian_operator(model, squares, batch)
    squares(model, batch).backward()
    change(model)
    with pytest.raises(OperatorError, match=r"changed after the operator was built; build a new operator"):
        product(op)


# Fails: the mode is looked at when the operator is built, and not again.
def test_training_mode_switched_on_later(batch):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 2)).eval()
    op = hessian_operator(model, squares, batch)
    model.train()
    with pytest.raises(OperatorError):
        op.matvec(torch.ones(op.shape[0]))


# Fails: (8, k), one vector per column, is taken for k rows after a reshape; other lengths end in a bare RuntimeError.
@pytest.mark.parametrize("shape", [(7,), (9,), (16,), (8, 2), (8, 1), (2, 4), (2, 8, 1), ()])
def test_vectors_of_another_shape(shape, model, batch):
    with pytest.raises(ShapeError, match=r"8"):
        hessian_operator(model, squares, batch).matvec(torch.ones(shape))
