"""Spectral densities and spectral sums of any linear operator by stochastic Lanczos quadrature."""

from slq import analysis, errors, metrics
from slq._algebra import add, scale, shift
from slq._block_lanczos import BlockTridiagonal, block_lanczos
from slq._check_operator import check_operator
from slq._compare import Difference, difference
from slq._drivers import register_driver
from slq._eigen import Eigenpairs, eigenpairs
from slq._estimate import Density, Estimate
from slq._generalized import generalized
from slq._golub_kahan import Bidiagonal, golub_kahan
from slq._gradients import SpectralSumGradient, spectral_sum_gradient
from slq._gram import gram
from slq._history import Series, SpectralHistory
from slq._imported import from_quadrature, from_tridiagonals
from slq._lanczos import Tridiagonal, lanczos
from slq._measure import SpectralMeasure, concatenate
from slq._operators import aslinearoperator, to_scipy
from slq._outliers import Outliers
from slq._precondition import precondition
from slq._probes import gaussian, rademacher, sphere, steinhaus
from slq._products import LinearOperator
from slq._quadrature import golub_welsch
from slq._singular import singular_measure
from slq._slq import memory_forecast, spectral_measure
from slq._subspaces import deflate, restrict
from slq._sums import logdet, spectral_sum
from slq._together import spectral_measures
from slq._tracker import Forecast, Tracker
from slq._version import __version__
from slq._xtrace import xtrace
from slq.errors import SlqError, SlqWarning

__all__ = [
    "Bidiagonal",
    "BlockTridiagonal",
    "Density",
    "Difference",
    "Eigenpairs",
    "Estimate",
    "Forecast",
    "LinearOperator",
    "Outliers",
    "Series",
    "SlqError",
    "SlqWarning",
    "SpectralHistory",
    "SpectralMeasure",
    "SpectralSumGradient",
    "Tracker",
    "Tridiagonal",
    "__version__",
    "add",
    "analysis",
    "aslinearoperator",
    "block_lanczos",
    "check_operator",
    "concatenate",
    "deflate",
    "difference",
    "eigenpairs",
    "errors",
    "from_quadrature",
    "from_tridiagonals",
    "gaussian",
    "generalized",
    "golub_kahan",
    "golub_welsch",
    "gram",
    "lanczos",
    "logdet",
    "memory_forecast",
    "metrics",
    "precondition",
    "rademacher",
    "register_driver",
    "restrict",
    "scale",
    "shift",
    "singular_measure",
    "spectral_measure",
    "spectral_measures",
    "spectral_sum",
    "spectral_sum_gradient",
    "sphere",
    "steinhaus",
    "to_scipy",
    "xtrace",
]
