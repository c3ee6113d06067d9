"""Floor 1: kernels that smooth a quadrature rule, the same at every eigenvalue."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.special import ndtr

from slq.errors import RequestError

__all__ = ["GAUSSIAN", "LORENTZIAN", "NAMES", "Function", "Kernel", "Shape", "gaussian_kernel", "named"]

Function: TypeAlias = Callable[[np.ndarray], np.ndarray]
Kernel: TypeAlias = str | Function

NAMES = ("gaussian", "lorentzian", "jackson")


def gaussian_kernel(z: np.ndarray) -> np.ndarray:
    """The standard normal density at `z`, distances in units of the width."""
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def _lorentzian(z: np.ndarray) -> np.ndarray:
    return 1 / (np.pi * (1 + z * z))


def _lorentzian_below(z: np.ndarray) -> np.ndarray:
    # π/2 + arctan z = arctan2(1, −z): no cancellation far on the left.
    return np.arctan2(1.0, -z) / np.pi


@dataclass(frozen=True)
class Shape:
    """A kernel K((x − θ)/s)/s.

    Attributes
    ----------
    name : str
    function : callable
        K, a density of distances in units of the width s.
    cumulative : callable or None
        Its integral from −∞, if known.
    reach : float
        Widths beyond which K is zero for all purposes.
    has_tails : bool
        Whether so much lies far out that a grid has to go there, and through the gaps.
    """

    name: str
    function: Function
    cumulative: Function | None = None
    reach: float = np.inf
    has_tails: bool = False

    def values(self, x: np.ndarray, node: Any, width: float) -> np.ndarray:
        """The kernel at x of an eigenvalue at `node`, in units of 1/width."""
        return self.function((x - node) / width)

    def below(self, x: float, nodes: np.ndarray, width: float) -> np.ndarray | None:
        """The part of the kernel of each node that lies below x; None if not known."""
        return None if self.cumulative is None else self.cumulative((x - nodes) / width)

    def widths(self, x: np.ndarray, width: float) -> np.ndarray:
        """The width at each x: the same."""
        return np.full(x.shape, width)


# Beyond eight widths a Gaussian has 1e-15 of its mass.
GAUSSIAN = Shape("gaussian", gaussian_kernel, ndtr, reach=8.0)
LORENTZIAN = Shape("lorentzian", _lorentzian, _lorentzian_below, has_tails=True)


def named(kernel: Any) -> Shape:
    """The kernel of a name, or a function that a user gave, of which nothing else is known."""
    if kernel == "gaussian" or kernel is gaussian_kernel:
        return GAUSSIAN
    if kernel == "lorentzian":
        return LORENTZIAN
    if isinstance(kernel, str) or not callable(kernel):
        raise RequestError(
            f"kernel= expects one of the names {', '.join(map(repr, NAMES))}, or a function of (x - λ)/width, "
            f"got {kernel!r}"
        )
    return Shape("custom", kernel)
