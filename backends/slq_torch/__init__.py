"""PyTorch models as curvature operators for slq."""

from slq_torch._hessian import HessianOperator, hessian_operator

__all__ = ["HessianOperator", "hessian_operator"]
