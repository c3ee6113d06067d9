"""PyTorch models as curvature operators for slq."""

from slq_torch._hessian import HessianOperator, hessian_operator
from slq_torch._settings import Options

__all__ = ["HessianOperator", "Options", "hessian_operator"]
