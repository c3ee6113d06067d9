"""Spectral densities and spectral sums of any linear operator by stochastic Lanczos quadrature."""

from slq import analysis, errors, metrics
from slq._check_operator import check_operator
from slq._estimate import Density, Estimate
from slq._lanczos import Tridiagonal, lanczos
from slq._measure import SpectralMeasure, concatenate
from slq._operators import aslinearoperator
from slq._outliers import Outliers
from slq._probes import gaussian, rademacher, sphere, steinhaus
from slq._products import LinearOperator
from slq._quadrature import golub_welsch
from slq._slq import logdet, spectral_measure, spectral_sum
from slq._version import __version__
from slq.errors import SlqError, SlqWarning

__all__ = [
    "Density",
    "Estimate",
    "LinearOperator",
    "Outliers",
    "SlqError",
    "SlqWarning",
    "SpectralMeasure",
    "Tridiagonal",
    "__version__",
    "analysis",
    "aslinearoperator",
    "check_operator",
    "concatenate",
    "errors",
    "gaussian",
    "golub_welsch",
    "lanczos",
    "logdet",
    "metrics",
    "rademacher",
    "spectral_measure",
    "spectral_sum",
    "sphere",
    "steinhaus",
]
