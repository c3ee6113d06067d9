"""Log-determinants in torch's and in JAX's differentiation: the same values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import slq_jax
import slq_torch

N = 40
THETA = np.array([-1.0, -1.5])
NAMES = {
    "log": (torch.log, jnp.log),
    "square root": (torch.sqrt, jnp.sqrt),
    "exp": (lambda t: torch.exp(-t), lambda t: jnp.exp(-t)),
}


@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")  # few eigenvalues of a kernel carry its determinant
@pytest.mark.parametrize("reorthogonalize", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_the_same(name, reorthogonalize):
    x, options = np.linspace(0, 1, N), {"num_probes": 4, "num_steps": 10, "rng": 7, "reorthogonalize": reorthogonalize}
    squares = (x[:, None] - x) ** 2
    of_torch, of_jax = NAMES[name]

    def estimate(theta):
        K = jnp.exp(-squares / 2 / jnp.exp(2 * theta[0])) + jnp.exp(theta[1]) * jnp.eye(N)
        return slq_jax.spectral_sum(K, of_jax, **options)

    theta = torch.tensor(THETA, requires_grad=True)
    K = torch.exp(-torch.tensor(squares) / 2 / torch.exp(2 * theta[0])) + torch.exp(theta[1]) * torch.eye(N).double()
    value = slq_torch.spectral_sum(K, of_torch, **options)
    (gradient,) = torch.autograd.grad(value, theta)
    found = jax.jit(jax.value_and_grad(estimate))(jnp.asarray(THETA))
    # Ten steps: before a Ritz value has converged to rounding, which then decides the next ones. Measured 1e-11 without
    # reorthogonalisation, 7e-15 with it.
    np.testing.assert_allclose(found[0], value.item(), rtol=1e-10)
    np.testing.assert_allclose(found[1], gradient.numpy(), rtol=1e-10)
