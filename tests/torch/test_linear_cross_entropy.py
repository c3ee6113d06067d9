"""backends/slq_torch/_linear_cross_entropy.py: the plain formula's value and two derivatives, without its memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian
from torch.utils._python_dispatch import TorchDispatchMode

from slq.errors import DtypeError, OperatorError, RequestError, ShapeError
from slq_torch import hessian_operator, linear_cross_entropy

TOKENS, V, D = (3, 4), 7, 5
SIZES = [math.prod(TOKENS) * D, V * D, V]

# Measured: at most 2e-15 over all cases and ten seeds.
TOLERANCE = 1e-13

OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"class_weights": torch.linspace(0, 2, V, dtype=torch.float64)},
    "both": {"label_smoothing": 0.3, "class_weights": torch.linspace(0.5, 2, V, dtype=torch.float64)},
}


@pytest.fixture
def targets():
    y = torch.randint(V, TOKENS)
    y[0, :2] = -100
    return y


@pytest.fixture
def point():
    """Hidden states, weight and bias as one vector."""
    return torch.randn(sum(SIZES))


def parts(v):
    hidden, weight, bias = v.split(SIZES)
    return hidden.view(*TOKENS, D), weight.view(V, D), bias


def direction(x):
    """Not all ones: that leaves the probabilities as they are."""
    return torch.linspace(-1, 1, x.numel()).square().to(x.dtype).view_as(x)


def ours(targets, chunk_size=4, **options):
    def loss(v):
        hidden, weight, bias = parts(v)
        return linear_cross_entropy(hidden, weight, targets, bias=bias, chunk_size=chunk_size, **options)[0]

    return loss


def plain(targets, label_smoothing=0.0, class_weights=None, reduction="sum"):
    def loss(v):
        hidden, weight, bias = parts(v)
        logits = (hidden @ weight.T + bias).reshape(-1, V)
        return F.cross_entropy(
            logits, targets.reshape(-1), class_weights, reduction=reduction, label_smoothing=label_smoothing
        )

    return loss


@pytest.mark.parametrize("chunk_size", [1, 4, 10, 100])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_plain_formula(options, chunk_size, point, targets, distance):
    loss, expected = ours(targets, chunk_size, **options), plain(targets, **options)
    assert distance(loss(point), expected(point)) < TOLERANCE
    gradients = [torch.func.grad(f)(point) for f in (loss, expected)]
    assert distance(*gradients) < TOLERANCE
    assert distance(hessian(loss, point), hessian(expected, point)) < TOLERANCE
    # The square's second derivative also holds that of the gradient by the factor it comes with.
    assert distance(hessian(lambda v: loss(v) ** 2, point), hessian(lambda v: expected(v) ** 2, point)) < TOLERANCE


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_sum_over_weight_is_the_mean(options, point, targets):
    hidden, weight, bias = parts(point)
    total, number = linear_cross_entropy(hidden, weight, targets, bias=bias, **options)
    mean = plain(targets, reduction="mean", **options)(point)
    torch.testing.assert_close(total / number, mean, rtol=TOLERANCE, atol=0)


def test_ways_of_differentiating_agree(point, targets, distance):
    """Whichever an operator takes: pulled or pushed, one vector or a block, traced."""
    loss = ours(targets, label_smoothing=0.2)
    expected, eye = hessian(plain(targets, label_smoothing=0.2), point), torch.eye(len(point))
    gradient, v = torch.func.grad(loss), torch.randn_like(point)
    x = point.clone().requires_grad_()
    graph = torch.autograd.grad(loss(x), x, create_graph=True)
    blocks = {
        "vjp of grad": torch.func.vmap(torch.func.vjp(gradient, point)[1])(eye)[0],
        "jvp of grad": torch.func.vmap(lambda u: torch.func.jvp(gradient, (point,), (u,))[1])(eye),
        "grad of jvp": torch.func.vmap(torch.func.grad(lambda w: torch.func.jvp(loss, (w,), (v,))[1]))(point[None]),
        "batched": torch.autograd.grad(graph, x, eye, is_grads_batched=True, retain_graph=True)[0],
        "kept graph": torch.stack([torch.autograd.grad(graph, x, u, retain_graph=True)[0] for u in eye]),
    }
    for way, found in blocks.items():
        wanted = (expected @ v)[None] if way == "grad of jvp" else expected
        assert distance(found, wanted) < TOLERANCE, way
    gradients = torch.func.vmap(gradient)(torch.stack([point, v]))
    assert distance(gradients, torch.stack([gradient(point), gradient(v)])) < TOLERANCE


@pytest.mark.filterwarnings("default")  # torch warns of its own tracing
def test_linearized(point, targets, distance):
    gradient, v = torch.func.grad(ours(targets)), torch.randn(2, len(point))
    product = torch.func.linearize(gradient, point)[1]
    for row in v:
        assert distance(product(row), hessian(plain(targets), point) @ row) < TOLERANCE


def test_only_what_is_asked_for(point, targets, distance):
    """A frozen head, a frozen body, no bias."""
    hidden, weight, _ = parts(point)
    for free, fixed, order in ((hidden, weight, 1), (weight, hidden, -1)):
        for function in (linear_cross_entropy, plain_of_parts):
            x = free.clone().requires_grad_()
            total = function(*(x, fixed)[::order], targets)[0]
            (gradient,) = torch.autograd.grad(total, x, create_graph=True)
            (product,) = torch.autograd.grad(gradient, x, direction(x))
            if function is linear_cross_entropy:
                found = gradient.detach(), product
        assert distance(found[0], gradient.detach()) < TOLERANCE
        assert distance(found[1], product) < TOLERANCE


def plain_of_parts(hidden, weight, targets):
    return F.cross_entropy((hidden @ weight.T).reshape(-1, V), targets.reshape(-1), reduction="sum"), None


def test_extreme_logits(distance):
    """Logits of ±1e4: probabilities of zero and one, and a loss that is the difference of two logits."""
    hidden, targets = torch.randn(6, D), torch.randint(V, (6,))
    weight = (1e4 * torch.randn(V, D)).requires_grad_()
    total, _ = linear_cross_entropy(hidden, weight, targets, chunk_size=2)
    reference, _ = plain_of_parts(hidden, weight, targets)
    assert distance(total.detach(), reference.detach()) < TOLERANCE
    gradients = [torch.autograd.grad(x, weight, create_graph=True)[0] for x in (total, reference)]
    assert distance(*(g.detach() for g in gradients)) < TOLERANCE
    products = [torch.autograd.grad(g, weight, direction(weight))[0] for g in gradients]
    assert products[0].isfinite().all()
    torch.testing.assert_close(*products, rtol=0, atol=TOLERANCE)


def test_no_token_counts(point):
    """Zero and weight zero, with derivatives of zero; hidden states that do not count may be NaN."""
    x = torch.full_like(point, torch.nan).requires_grad_()
    hidden, weight, bias = parts(x)
    total, number = linear_cross_entropy(hidden, weight, torch.full(TOKENS, -1), bias=bias, ignore_index=-1)
    assert (float(total.detach()), int(number)) == (0, 0)
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    assert torch.equal(gradient, torch.zeros_like(x))
    assert torch.equal(torch.autograd.grad(gradient, x, torch.ones_like(x))[0], torch.zeros_like(x))


def test_ignored_hidden_states_do_not_matter(point, targets):
    clean, dirty = point.clone(), point.clone()
    parts(dirty)[0][targets == -100] = torch.nan
    parts(clean)[0][targets == -100] = 0
    assert torch.equal(torch.func.grad(ours(targets))(clean), torch.func.grad(ours(targets))(dirty))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype, point, targets, distance):
    """Only the derivatives are rounded: those of float64 to a rounding; so too under autocast."""
    half = point.to(dtype)
    loss = ours(targets)
    assert loss(half).dtype == torch.float32
    # Measured over ten seeds: at most 7e-8.
    assert distance(loss(half).double(), loss(half.double())) < 1e-6
    eps = torch.finfo(dtype).eps
    products = [torch.func.vjp(torch.func.grad(loss), x)[1](direction(x))[0] for x in (half, half.double())]
    assert products[0].dtype == dtype
    assert distance(products[0].double(), products[1]) < eps  # a sum of roundings of eps/2 each
    single = point.float()
    with torch.autocast("cpu", dtype=dtype):
        inside = loss(single)
    assert torch.equal(inside, loss(single))


def test_third_derivatives_are_refused(point, targets):
    v = torch.ones_like(point)

    def curvature(x):
        return torch.func.vjp(torch.func.grad(ours(targets)), x)[1](v)[0].sum()

    with pytest.raises(OperatorError, match="has two derivatives, and a third was asked for"):
        torch.func.grad(curvature)(point)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, torch.Tensor):
                self.found = max(self.found, x.numel())
        return result


def test_all_logits_never_exist():
    """Through a product of the operator, nothing is larger than its vectors or the hidden states."""
    tokens, classes, width, chunk = 640, 300, 8, 16
    model = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, classes)])
    batch = torch.randn(tokens, width), torch.randint(classes, (tokens,))

    def chunked(model, batch):
        hidden, head = model[0](batch[0]).tanh(), model[1]
        return linear_cross_entropy(hidden, head.weight, batch[1], bias=head.bias, chunk_size=chunk)

    def whole(model, batch):
        return F.cross_entropy(model[1](model[0](batch[0]).tanh()), batch[1], reduction="sum"), tokens

    products, sizes = [], []
    for loss in (chunked, whole):
        with Largest() as largest:
            op = hessian_operator(model, loss, batch)
            products.append(op.matvec(direction(torch.empty(1, op.shape[0]))))
        sizes.append(largest.found)
    torch.testing.assert_close(*products, rtol=1e-12, atol=1e-12)
    assert sizes[1] == tokens * classes
    assert chunk * classes < sizes[0] <= max(tokens * width, 2 * op.shape[0]) < tokens * classes / 30


def test_refusals(point, targets):
    hidden, weight, bias = parts(point)

    def refused(error, match, **options):
        arguments = dict(zip(("hidden", "weight", "targets"), (hidden, weight, targets), strict=True))
        with pytest.raises(error, match=match):
            linear_cross_entropy(**arguments | options)

    refused(ShapeError, r"expects hidden \(..., d\) and weight \(V, d\), got \(3, 4, 5\) and \(5, 7\)", weight=weight.T)
    refused(ShapeError, r"targets expect one class for each row of hidden, shape \(3, 4\)", targets=targets[0])
    refused(ShapeError, r"bias expects one number for each of the 7 classes, got \(6,\)", bias=bias[:6])
    refused(ShapeError, r"class_weights expects one number for each of the 7", class_weights=bias[:6])
    refused(DtypeError, "targets expect integers, got torch.float64", targets=targets.double())
    refused(DtypeError, "hidden expects real floating-point numbers, got torch.int64", hidden=hidden.long())
    refused(RequestError, "class_weights are not differentiated", class_weights=nn.Parameter(bias))
    refused(RequestError, r"label_smoothing= expects a number between 0 and 1, got 1\.5", label_smoothing=1.5)
    refused(RequestError, "chunk_size= expects an integer >= 1, got 0", chunk_size=0)
    message = r"targets expect classes 0 to 6, or ignore_index=-100, got "
    refused(RequestError, message + "7", targets=targets.masked_fill(targets == targets[1, 1], 7))
    refused(RequestError, message + "-1", targets=targets.masked_fill(targets == -100, -1))
