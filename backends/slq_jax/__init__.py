"""JAX loss functions as curvature operators for slq."""

from slq_jax._hessian import HessianOperator, hessian_operator

__all__ = ["HessianOperator", "hessian_operator"]
