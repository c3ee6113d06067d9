"""Floor 0: every error and warning. Errors derive from `SlqError` and from the builtin that a Python user expects."""

import functools
import math
from typing import Any

__all__ = [
    "AliasedOutputError",
    "AliasingWarning",
    "BackendError",
    "BatchStatisticsWarning",
    "ClippedStepsWarning",
    "DataError",
    "DependentProbesWarning",
    "DtypeError",
    "DtypeWarning",
    "FileFormatError",
    "GhostWarning",
    "GridWarning",
    "HeavyTailWarning",
    "LostSamplesWarning",
    "MemoryForecastError",
    "MissingPackageError",
    "NoiseWarning",
    "NonFiniteError",
    "NotLinearError",
    "NotPositiveDefiniteError",
    "NotRepeatableError",
    "NotSymmetricError",
    "OperatorError",
    "OutOfMemoryError",
    "OutOfMemoryWarning",
    "PlacementError",
    "PrecisionWarning",
    "ProductError",
    "QuadratureWarning",
    "RequestError",
    "ResolutionWarning",
    "ShapeError",
    "SingularError",
    "SlqError",
    "SlqWarning",
    "SymmetryWarning",
    "UnconvergedWarning",
    "UnusedParameterWarning",
    "WidthError",
]


class SlqError(Exception):
    """Base class of all errors raised by slq and its adapters."""


class RequestError(SlqError, ValueError):
    """An argument is outside what the function accepts."""


class WidthError(RequestError):
    """A smoothing width or an evaluation grid that cannot give a density."""


class OperatorError(SlqError, ValueError):
    """The operator, or what its product returned, is not what slq can work with."""


class ShapeError(OperatorError):
    """An operator is not square, or a product has the wrong shape."""


class DtypeError(OperatorError, TypeError):
    """An array has a dtype the computation cannot use."""


class PlacementError(OperatorError, TypeError):
    """A product came back in another array library or on another device."""


class NonFiniteError(OperatorError, ArithmeticError):
    """A product contains NaN or infinity.

    Attributes
    ----------
    probes : list of int
        The rows of the probe block that are affected.
    step : int
        The Lanczos step (0 is the first product) that returned it.
    partial : Tridiagonal, SpectralMeasure or None
        The runs of the other probes.
    """

    partial: Any = None

    def __init__(self, message: str, *, probes: list[int], step: int) -> None:
        super().__init__(message)
        self.probes = probes
        self.step = step

    def __reduce__(self) -> tuple:  # keyword arguments survive the way back from a worker process
        return functools.partial(type(self), *self.args, probes=self.probes, step=self.step), ()


class AliasedOutputError(OperatorError):
    """A product wrote into its input."""


class NotSymmetricError(OperatorError):
    """The operator differs from its adjoint by more than rounding."""


class NotLinearError(OperatorError):
    """The operator is affine, or not linear at all."""


class NotRepeatableError(OperatorError):
    """The same vector gave two different products."""


class ProductError(OperatorError, RuntimeError):
    """A product raised an error of its own, to which this one is chained.

    Attributes
    ----------
    step : int
        The Lanczos step (0 is the first product) that was under way.
    partial : Tridiagonal, SpectralMeasure or None
        What had been computed before: the steps that all probes finished, or the batches of probes.
    """

    step: int = 0
    partial: Any = None


class OutOfMemoryError(ProductError, MemoryError):
    """Memory ran out with one probe alone, or in the check with one vector at a time."""


class MemoryForecastError(SlqError, MemoryError):
    """The run would need more memory than there is; nothing was computed."""


class BackendError(SlqError, ArithmeticError):
    """An array library does not compute what slq relies on."""


class NotPositiveDefiniteError(SlqError, ValueError):
    """A function that needs positive eigenvalues met a Ritz value below zero.

    Attributes
    ----------
    value : float
        The smallest Ritz value.
    weight : float
        Its weight, between 0 and 1, in the measure of its probe.
    bound : float
        Within this distance of it lies an eigenvalue: its residual, up to rounding.
    """

    def __init__(
        self, message: str, *, value: float = math.nan, weight: float = math.nan, bound: float = math.nan
    ) -> None:
        super().__init__(message)
        self.value = value
        self.weight = weight
        self.bound = bound

    def __reduce__(self) -> tuple:  # see NonFiniteError
        return functools.partial(type(self), *self.args, value=self.value, weight=self.weight, bound=self.bound), ()


class SingularError(NotPositiveDefiniteError):
    """A log-determinant met a Ritz value that rounding cannot tell from zero."""


class DataError(SlqError, ValueError):
    """The data set is empty, can be read only once, or does not fit the loss."""


class FileFormatError(SlqError, ValueError):
    """A file was not written by slq, is damaged, or is newer than this version."""


class MissingPackageError(SlqError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class SlqWarning(UserWarning):
    """Base class of all warnings of slq."""


class ClippedStepsWarning(SlqWarning):
    """More Lanczos steps were asked for than the operator has dimensions."""


class DtypeWarning(SlqWarning):
    """Values were converted to another precision."""


class NoiseWarning(SlqWarning):
    """Products of the same vector differ a little; this bounds what can be computed."""


class PrecisionWarning(SlqWarning):
    """A result is less precise than its dtype: by its products, or by eigenvalues that these cannot tell apart."""


class GhostWarning(SlqWarning):
    """Lanczos vectors lost orthogonality: converged values came back as copies, each of which cost a step."""


class QuadratureWarning(SlqWarning):
    """Too few steps: the quadrature error is larger than the sampling error."""


class HeavyTailWarning(SlqWarning):
    """So few eigenvalues carry the answer that its interval can miss its level."""


class DependentProbesWarning(SlqWarning):
    """Probes repeat or depend on each other, or are not of mean square one: their spread is no error bar."""


class AliasingWarning(SlqWarning):
    """The points of a grid are farther apart than the width of the density they should show."""


class GridWarning(SlqWarning):
    """A grid was sorted, or leaves out part of the spectrum."""


class SymmetryWarning(SlqWarning):
    """The operator is slightly non-symmetric: more than rounding, less than an error."""


class UnusedParameterWarning(SlqWarning):
    """The loss does not depend on some parameters; their rows of the Hessian are zero."""


class BatchStatisticsWarning(SlqWarning):
    """BatchNorm layers in training mode couple the samples of a batch."""


class LostSamplesWarning(SlqWarning):
    """A loader leaves samples of its data set out."""


class OutOfMemoryWarning(SlqWarning):
    """Memory ran out in the middle of a run, which goes on with fewer probes at a time."""


class ResolutionWarning(SlqWarning):
    """A density is asked for at a width that the Lanczos steps do not resolve."""


class UnconvergedWarning(SlqWarning):
    """A search ended at its limit of products before it met its tolerance."""
