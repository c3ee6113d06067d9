"""JAX loss functions as curvature operators for slq."""

from slq_jax._hessian import HessianOperator, hessian_operator
from slq_jax._optimizer import adam_diagonal

__all__ = ["HessianOperator", "adam_diagonal", "hessian_operator"]
