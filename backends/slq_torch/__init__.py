"""PyTorch models as curvature operators for slq."""

from slq_torch._autograd import logdet, spectral_sum
from slq_torch._covariance import GradientCovarianceOperator, gradient_covariance_operator
from slq_torch._ggn import GaussNewtonOperator, fisher_operator, ggn_operator
from slq_torch._hessian import HessianOperator, hessian_operator
from slq_torch._language import causal_lm_loss
from slq_torch._layers import BlockOperator, CrossBlockOperator, LayerOperators, cross_block_operator, layer_operators
from slq_torch._linear_cross_entropy import linear_cross_entropy
from slq_torch._losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from slq_torch._optimizer import adam_diagonal
from slq_torch._settings import Options

__all__ = [
    "BinaryCrossEntropy",
    "BlockOperator",
    "CrossBlockOperator",
    "CrossEntropy",
    "GaussNewtonOperator",
    "GradientCovarianceOperator",
    "HessianOperator",
    "LayerOperators",
    "Options",
    "SquaredError",
    "adam_diagonal",
    "causal_lm_loss",
    "cross_block_operator",
    "fisher_operator",
    "ggn_operator",
    "gradient_covariance_operator",
    "hessian_operator",
    "layer_operators",
    "linear_cross_entropy",
    "logdet",
    "spectral_sum",
]
