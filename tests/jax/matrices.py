"""Dense curvature matrices by `jax.hessian` and Jacobians, which use nothing of slq, and a perceptron to have them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

__all__ = ["INPUTS", "dense_ggn", "gradients", "jacobians", "mlp", "mlp_params"]

INPUTS = np.random.default_rng(5).normal(size=(8, 4))


def mlp(p, batch):
    return jnp.tanh(batch[0] @ p["first"]) @ p["last"] + p["bias"]


def mlp_params(rng):
    """The flat vector has the bias (3), the first layer (20) and the last (15)."""
    return {"first": rng.normal(size=(4, 5)), "last": rng.normal(size=(5, 3)), "bias": rng.normal(size=3)}


def jacobians(forward, params, batch):
    """The outputs, and their derivatives by the flat parameters, as outputs with one dimension more."""
    flat, unravel = ravel_pytree(params)

    def outputs(v):
        return forward(unravel(v), batch)

    return outputs(flat), jax.jacfwd(outputs)(flat)


def dense_ggn(forward, loss, params, batch):
    """Jᵀ M J, with M the second derivative of the mean loss."""

    def mean(z):
        result = loss(z, batch)
        return result[0] / result[1] if isinstance(result, tuple) else result

    z, J = jacobians(forward, params, batch)
    J = J.reshape(z.size, -1)
    M = jax.hessian(lambda flat: mean(flat.reshape(z.shape)))(z.reshape(-1))
    return J.T @ M @ J


def gradients(loss_fn, params, items):
    """The gradient of the mean loss of each item, in rows, and their weights."""
    flat, unravel = ravel_pytree(params)
    rows, weights = [], []
    for item in items:
        result = loss_fn(params, item)
        weight = float(result[1]) if isinstance(result, tuple) else len(item[0])
        if weight:

            def mean(v, item=item):
                result = loss_fn(unravel(v), item)
                return result[0] / result[1] if isinstance(result, tuple) else result

            rows.append(jax.grad(mean)(flat))
            weights.append(weight)
    return np.stack(rows), np.asarray(weights, dtype=float)
