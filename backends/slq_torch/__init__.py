"""PyTorch models as curvature operators for slq."""

from slq_torch._hessian import HessianOperator, hessian_operator
from slq_torch._language import causal_lm_loss
from slq_torch._linear_cross_entropy import linear_cross_entropy

__all__ = ["HessianOperator", "causal_lm_loss", "hessian_operator", "linear_cross_entropy"]
