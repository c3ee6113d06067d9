"""Products, by-products and spectra of the Hessian operator."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slq
from slq.errors import UnusedParameterWarning
from slq_torch import HessianOperator, hessian_operator


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def data():
    return [(torch.randn(size, 4), torch.randint(3, (size,))) for size in (4, 4, 2)]


@pytest.fixture
def op(model, data):
    return hessian_operator(model, cross_entropy, data)


def test_is_an_operator(op):
    assert isinstance(op, HessianOperator)
    assert isinstance(op, slq.LinearOperator)
    assert slq.aslinearoperator(op) is op
    assert op.shape == (43, 43)
    assert (op.like.shape, op.like.dtype, op.like.device.type) == ((0,), torch.float64, "cpu")


def test_block_is_its_rows_one_at_a_time(op, distance):
    v = torch.randn(2, 3, 43)
    products = op.matvec(v)
    assert products.shape == v.shape
    for i in range(2):  # measured: 0, but kernels may depend on the alignment of the rows
        assert distance(op.matvec(v[i]), products[i]) < 1e-14
        for j in range(3):
            assert distance(op.matvec(v[i, j]), products[i, j]) < 1e-14


def test_vectors_may_be_strided_or_none_at_all(op, distance):
    v = torch.randn(43, 3)
    assert distance(op.matvec(v.T), op.matvec(v.T.contiguous())) < 1e-14  # measured: 2e-16
    assert op.matvec(torch.empty(0, 43)).shape == (0, 43)


def test_input_is_only_read_and_results_carry_no_history(op):
    v = torch.randn(2, 43, requires_grad=True)
    before = v.detach().clone()
    product = op.matvec(v)
    assert torch.equal(v, before)
    assert not any(result.requires_grad for result in (product, op.gradient()))
    product.zero_()
    assert torch.equal(v, before)


def test_loss_and_gradient_are_those_of_autograd(op, model, data):
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    loss = cross_entropy(model, (x, y))
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    # Measured: 1e-16.
    torch.testing.assert_close(op.gradient(), expected, rtol=0, atol=1e-14)
    assert isinstance(op.loss(), float)
    assert op.loss() == pytest.approx(float(loss.detach()), rel=1e-14)


def test_central_differences(op, model, data):
    """They share nothing with automatic differentiation: of losses for the gradient, of gradients for the product."""
    v, step = torch.randn(43), 1e-5
    expected = float(op.gradient() @ v), op.matvec(v)
    ends = []
    for sign in (1, -1):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for p, direction in zip(twin.parameters(), op.unravel(v).values(), strict=True):
                p.add_(sign * step * direction)
        ends.append(hessian_operator(twin, cross_entropy, data))
    # Step² times a third derivative, and rounding over the step. Measured over ten seeds: 3e-9.
    assert (ends[0].loss() - ends[1].loss()) / (2 * step) == pytest.approx(expected[0], rel=1e-7)
    difference = (ends[0].gradient() - ends[1].gradient()) / (2 * step)
    torch.testing.assert_close(difference, expected[1], rtol=0, atol=1e-7)


def test_loss_linear_in_the_parameters(distance):
    """The gradient is constant, the Hessian zero; a parameter that enters linearly beside others gets zero rows."""
    x = torch.randn(6, 4)
    op = hessian_operator(nn.Linear(4, 2), lambda model, x: model(x).mean(), [x[:4], x[4:]])
    assert torch.equal(op.matvec(torch.ones(2, 10)), torch.zeros(2, 10))
    assert distance(op.gradient()[8:], torch.full((2,), 0.5)) < 1e-15

    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset, self.x = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    op = hessian_operator(Offset(), lambda model, _: model.offset.sum() + (model.x**2).sum(), None)
    assert torch.equal(op.matvec(torch.ones(4)), torch.tensor([0.0, 0, 2, 2]))


def test_unused_parameter_warns_once_and_has_zero_rows(data, dense):
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "idle": nn.Linear(4, 3)})
    with pytest.warns(
        UnusedParameterWarning, match=r"does not depend on idle\.weight, idle\.bias: zero rows"
    ) as record:
        op = hessian_operator(model, lambda model, batch: cross_entropy(model["used"], batch), data)
    assert [(w.filename, len(record)) for w in record] == [(__file__, 1)]
    hessian = dense(op)
    assert torch.equal(op.gradient()[15:], torch.zeros(15))  # silent: warnings are errors here
    assert not hessian[15:].any()
    assert not hessian[:, 15:].any()
    used = hessian_operator(model["used"], cross_entropy, data)
    assert torch.equal(hessian[:15, :15], dense(used))


def test_parameter_that_some_batch_uses_is_not_called_unused(data, dense):
    """Two experts, each with batches of its own."""
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    routed = [(*batch, expert) for batch, expert in zip(data, (0, 1, 1), strict=True)]
    op = hessian_operator(model, lambda model, batch: cross_entropy(model[batch[2]], batch), routed)
    assert dense(op)[15:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:the parameters are in torch")
def test_half_precision_model_is_a_float32_operator(dtype, model, data, distance):
    half = [(x.to(dtype), y) for x, y in data]
    op = hessian_operator(model.to(dtype), cross_entropy, half)
    assert op.like.dtype == torch.float32
    v = torch.randn(2, 43, dtype=torch.float32)
    product, gradient = op.matvec(v), op.gradient()
    assert product.dtype == gradient.dtype == torch.float32
    # The same weights and data in float64. Measured over 20 seeds: at most one machine epsilon of the half type.
    reference = hessian_operator(model.double(), cross_entropy, [(x.double(), y) for x, y in half])
    assert distance(product.double(), reference.matvec(v.double())) < 8 * torch.finfo(dtype).eps
    assert distance(gradient.double(), reference.gradient()) < 8 * torch.finfo(dtype).eps


def test_mixed_precision_is_as_wide_as_its_widest_parameter(data):
    model = nn.Sequential(nn.Linear(4, 5).float(), nn.Tanh(), nn.Linear(5, 3))
    op = hessian_operator(
        model, lambda model, b: F.cross_entropy(model[2](model[:2](b[0].float()).double()), b[1]), data
    )
    assert op.like.dtype == torch.float64
    assert op.matvec(torch.randn(43)).dtype == torch.float64


def test_spectrum_is_that_of_the_dense_matrix(op, dense):
    """As many steps as dimensions: Lanczos is exact at the ends, and every quadratic form is."""
    matrix = dense(op).numpy()
    exact = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    measure = slq.spectral_measure(op, num_probes=3, num_steps=43, rng=1)
    # Measured: 1e-14 of the norm, and 2e-13 of the forms.
    np.testing.assert_allclose(measure.support, exact[[0, -1]], rtol=0, atol=1e-8 * abs(exact).max())
    for power in (1, 2, 3):
        forms = measure.quadratic_forms(lambda t, power=power: t**power)
        x = slq.sphere(1, range(3), None, 43, op.like).numpy()
        expected = np.einsum("ki,ij,kj->k", x, np.linalg.matrix_power(matrix, power), x)
        np.testing.assert_allclose(forms, expected, rtol=1e-10)


def test_float32_spectrum(model, data):
    """A float32 model keeps its spectrum to float32 rounding."""
    wide = slq.spectral_measure(hessian_operator(model, cross_entropy, data), num_probes=2, num_steps=20)
    narrow_data = [(x.float(), y) for x, y in data]
    narrow = slq.spectral_measure(
        hessian_operator(model.float(), cross_entropy, narrow_data), num_probes=2, num_steps=20
    )
    # Measured: 7e-8 of the norm.
    np.testing.assert_allclose(narrow.support, wide.support, rtol=0, atol=1e-5 * wide.scale)
