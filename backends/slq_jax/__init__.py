"""JAX loss functions as curvature operators for slq."""

import slq
from slq_jax import _driver
from slq_jax._hessian import HessianOperator, hessian_operator

__all__ = ["HessianOperator", "hessian_operator"]

slq.register_driver("jax", _driver.lanczos)
