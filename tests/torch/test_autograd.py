"""Spectral sums in autograd: values and gradients against dense torch, optimisation, and what is refused."""

import numpy as np
import pytest
import torch

import slq
from slq.errors import HeavyTailWarning, NotPositiveDefiniteError, RequestError, ShapeError
from slq_torch import logdet, spectral_sum

# Few eigenvalues of a small kernel carry its determinant.
pytestmark = pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")

N = 24
POINTS = torch.linspace(0, 1, N, dtype=torch.float64)
UNIT = np.sqrt(N) * torch.eye(N, dtype=torch.float64)  # whose mean of x xᵀ is the identity: the trace, without an error
EXACT = {"probes": UNIT, "num_steps": N, "reorthogonalize": True}


@pytest.fixture
def theta():
    return torch.nn.Parameter(torch.tensor([-1.0, -1.5]))


def kernel(theta):
    """A Gaussian kernel of some length, and noise."""
    K = torch.exp(-((POINTS[:, None] - POINTS) ** 2) / 2 / torch.exp(2 * theta[0]))
    return K + torch.exp(theta[1]) * torch.eye(N)


KINDS = {
    "matrix": lambda theta: (kernel(theta), {}),
    "function": lambda theta: (lambda x: kernel(theta) @ x, {"like": POINTS}),
    "function of blocks": lambda theta: (lambda X: X @ kernel(theta), {"like": POINTS, "batched": True}),
}
FUNCTIONS = {
    "torch": torch.sqrt,
    "numpy": np.sqrt,
    "arithmetic": lambda t: t**3 + t,
    "of numpy's": lambda t: np.log(t + 1),
    "clamped": lambda t: torch.clamp(t, min=0.5) ** 2,
}


def dense(f, K):
    values = torch.linalg.eigvalsh(K)
    return (
        torch.log1p(values) if f is FUNCTIONS["of numpy's"] else torch.sqrt(values) if f is np.sqrt else f(values)
    ).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_log_determinants_of_all_unit_vectors_are_exact(theta, kind):
    A, options = KINDS[kind](theta)
    value = logdet(A, **EXACT, **options)
    (found,) = torch.autograd.grad(value, theta)
    expected = torch.logdet(kernel(theta))
    (gradient,) = torch.autograd.grad(expected, theta)
    assert value.item() == pytest.approx(expected.item(), rel=1e-8)  # exact after n steps; measured 2e-15
    torch.testing.assert_close(found, gradient, rtol=1e-8, atol=0)  # measured 2e-15


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(theta, name):
    f = FUNCTIONS[name]
    value = spectral_sum(kernel(theta), f, **EXACT)
    (found,) = torch.autograd.grad(value, theta)
    expected = dense(f, kernel(theta))
    (gradient,) = torch.autograd.grad(expected, theta)
    assert value.item() == pytest.approx(expected.item(), rel=1e-8)
    torch.testing.assert_close(found, gradient, rtol=1e-8, atol=0)  # differences of f: measured 3e-14


def test_a_given_derivative(theta):
    value = spectral_sum(kernel(theta), lambda t: t**2, derivative=lambda t: 2 * t, **EXACT)
    (found,) = torch.autograd.grad(value, theta)
    (gradient,) = torch.autograd.grad((kernel(theta) ** 2).sum(), theta)
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=0)  # rounding


def test_complex_hermitian_matrices():
    theta = torch.tensor(0.3, requires_grad=True)
    X = torch.randn(N, N, dtype=torch.complex128)
    X = X @ X.mH / N + torch.eye(N)
    skew = torch.triu(torch.ones(N, N), 1)
    skew = 1j * (skew - skew.mT) * 0.05

    def A():
        return X + theta**2 * skew

    (found,) = torch.autograd.grad(logdet(A(), **EXACT), theta)
    (gradient,) = torch.autograd.grad(torch.linalg.slogdet(A())[1], theta)
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-10)  # rounding


def test_gradient_is_that_of_the_core_and_scaled(theta):
    options = {"num_probes": 5, "num_steps": 12, "batch_size": 2, "reorthogonalize": True}
    (found,) = torch.autograd.grad(3 * logdet(kernel(theta), **options), theta)
    K = kernel(theta).detach()

    def vjp(u, v):
        parameters = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad((u * (v @ kernel(parameters))).sum(), parameters)[0]

    expected = slq.spectral_sum_gradient(K, np.log, vjp, **options)
    torch.testing.assert_close(found, 3 * expected.gradient, rtol=1e-12, atol=1e-12)  # rounding
    assert logdet(K, **options).item() == float(expected.value)


def test_gradient_is_right_within_its_sampling_error(theta):
    """Of 40 seeds; the mean of their gradients within four of its standard errors."""
    expected = torch.autograd.grad(torch.logdet(kernel(theta)), theta)[0]
    found = torch.stack(
        [
            torch.autograd.grad(
                logdet(kernel(theta), rng=seed, num_steps=N, reorthogonalize=True, check=False, probes=slq.rademacher),
                theta,
            )[0]
            for seed in range(40)
        ]
    )
    error = found.std(dim=0) / 40**0.5
    assert ((found.mean(dim=0) - expected).abs() < 4 * error).all()
    assert (error < 0.1 * expected.abs()).all()


@pytest.mark.parametrize("grad", [True, False])
def test_without_gradients_only_the_value_is_computed(theta, grad):
    calls = []

    def product(X):
        calls.append(len(X))
        return X @ kernel(theta).detach() if grad else X @ kernel(theta)

    with torch.set_grad_enabled(grad):
        value = logdet(product, like=POINTS, batched=True, num_steps=6, num_probes=2, check=False, reorthogonalize=True)
    assert not value.requires_grad
    assert calls.count(2) == 6


def test_a_marginal_likelihood_is_optimised(theta):
    """To where its exact gradient vanishes."""
    y = torch.sin(9 * POINTS) + 0.1 * torch.randn(N)
    optimizer = torch.optim.Adam([theta], lr=0.1)

    def loss(logdet):
        return y @ torch.linalg.solve(kernel(theta), y) / 2 + logdet(kernel(theta)) / 2

    def size():
        return float(torch.linalg.vector_norm(torch.autograd.grad(loss(torch.logdet), theta)[0]))

    before = size()
    for _ in range(150):
        optimizer.zero_grad()
        loss(lambda K: logdet(K, **EXACT)).backward()
        optimizer.step()
    assert size() < 1e-2 * before  # measured 1e-3


def test_a_derivative_of_the_gradient_is_refused(theta):
    (gradient,) = torch.autograd.grad(logdet(kernel(theta), **EXACT), theta, create_graph=True)
    with pytest.raises(RequestError, match="first derivatives only"):
        gradient.sum().backward()


def test_functions_with_gradients_of_their_own_are_refused(theta):
    scale = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(RequestError, match="f depends on tensors that require gradients"):
        spectral_sum(kernel(theta), lambda t: scale * t)


def test_refused_operators(theta):
    with pytest.raises(RequestError, match="pass like=, an example vector"):
        logdet(lambda x: x)
    with pytest.raises(RequestError, match="A expects a square tensor, a function or an operator, got str"):
        logdet("A")
    with pytest.raises(ShapeError, match=r"square matrix, got shape \(2, 3\)"):
        logdet(torch.ones(2, 3))
    with pytest.raises(NotPositiveDefiniteError, match="logdet expects positive eigenvalues"):
        logdet(kernel(theta) - torch.eye(N), **EXACT)


def test_warnings_are_the_users(theta):
    with pytest.warns(HeavyTailWarning) as heard:
        logdet(kernel(theta), num_steps=6, num_probes=2)
    assert {warning.filename for warning in heard} == {__file__}


def test_single_precision(theta):
    value = logdet(kernel(theta).float(), num_steps=N, num_probes=3, reorthogonalize=True)
    assert value.dtype == torch.float32
    (found,) = torch.autograd.grad(value, theta)
    (double,) = torch.autograd.grad(logdet(kernel(theta), num_steps=N, num_probes=3, reorthogonalize=True), theta)
    torch.testing.assert_close(found, double, rtol=1e-4, atol=0)  # a condition of 71; measured 3e-7
