"""PyTorch models as curvature operators for slq."""

from slq_torch._ggn import GaussNewtonOperator, fisher_operator, ggn_operator
from slq_torch._hessian import HessianOperator, hessian_operator
from slq_torch._losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from slq_torch._settings import Options

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "GaussNewtonOperator",
    "HessianOperator",
    "Options",
    "SquaredError",
    "fisher_operator",
    "ggn_operator",
    "hessian_operator",
]
