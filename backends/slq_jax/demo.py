"""The network of `slq demo` as a JAX function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slq_jax._hessian import HessianOperator, hessian_operator

__all__ = ["digits_operator"]


def digits_operator(
    weights: Sequence[np.ndarray], X: np.ndarray, y: np.ndarray, *, dtype: str, device: str | None
) -> tuple[HessianOperator, Callable[[Any], Any]]:
    """Make the Hessian of the mean cross-entropy over all samples an operator.

    Parameters
    ----------
    weights : W₁ (H, 64), b₁, W₂ (10, H), b₂
    X, y : (N, 64) and (N,) array
    dtype : str
        ``"float32"`` or ``"float64"``; the latter switches JAX's x64 mode on for the process.
    device : str, optional
        A JAX platform such as ``"cpu"`` or ``"cuda"``; default: JAX's own choice.

    Returns
    -------
    operator : HessianOperator
    synchronize : callable
        Waits until an array is computed, for timing.
    """
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    where = jax.devices(device)[0] if device else None
    params = [jax.device_put(np.asarray(w, dtype=dtype), where) for w in weights]
    data = (jax.device_put(np.asarray(X, dtype=dtype), where), jax.device_put(np.asarray(y, dtype=np.int32), where))
    return hessian_operator(_loss, params, data), jax.block_until_ready


def _loss(params: Sequence[jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    W1, b1, W2, b2 = params
    logits = jnp.tanh(batch[0] @ W1.T + b1) @ W2.T + b2
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], axis=1))
