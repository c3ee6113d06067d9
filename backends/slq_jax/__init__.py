"""JAX loss functions as curvature operators for slq."""

import slq
from slq_jax import _driver
from slq_jax._autograd import logdet, spectral_sum
from slq_jax._covariance import GradientCovarianceOperator, gradient_covariance_operator
from slq_jax._differentiable import lanczos, quadratic_forms
from slq_jax._ggn import GaussNewtonOperator, fisher_operator, ggn_operator
from slq_jax._hessian import HessianOperator, hessian_operator
from slq_jax._layers import LayerOperators, layer_operators
from slq_jax._losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from slq_jax._optimizer import adam_diagonal
from slq_jax._settings import Options

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "GaussNewtonOperator",
    "GradientCovarianceOperator",
    "HessianOperator",
    "LayerOperators",
    "Options",
    "SquaredError",
    "adam_diagonal",
    "fisher_operator",
    "ggn_operator",
    "gradient_covariance_operator",
    "hessian_operator",
    "lanczos",
    "layer_operators",
    "logdet",
    "quadratic_forms",
    "spectral_sum",
]

slq.register_driver("jax", _driver.lanczos)
