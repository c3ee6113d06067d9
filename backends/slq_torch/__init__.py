"""PyTorch models as curvature operators for slq."""

from slq_torch._ggn import GaussNewtonOperator, fisher_operator, ggn_operator
from slq_torch._hessian import HessianOperator, hessian_operator
from slq_torch._layers import LayerOperators, cross_block_operator, layer_operators
from slq_torch._losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from slq_torch._settings import Options

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "GaussNewtonOperator",
    "HessianOperator",
    "LayerOperators",
    "Options",
    "SquaredError",
    "cross_block_operator",
    "fisher_operator",
    "ggn_operator",
    "hessian_operator",
    "layer_operators",
]
