"""Floor 1: the Jackson kernel on an interval that is chosen after the run: a damped Chebyshev series in closed form."""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Jackson", "broadening", "damping", "jackson_kernel"]

_MARGIN = 4.0  # widths, in the angle, between the ends of the support and those of the interval
_LARGEST_MARGIN = 0.8  # the support is at least this part of the interval
_LEAST_POINTS = 1024


@dataclass(frozen=True)
class Jackson:
    """The kernel of the kernel polynomial method.

    Its density of a measure μ is the damped Chebyshev series

    ρ(x) = (g₀μ₀ + 2 Σⱼ gⱼ μⱼ Tⱼ(t)) / (π a √(1 − t²)),  μⱼ = ∫Tⱼ dμ,  j < N,  t = (x − c)/a.

    Of nodes and weights, μⱼ = Σᵢ wᵢ Tⱼ(tᵢ), so that ρ is a sum over the nodes of the series for one of them. In the
    angle, t = cos θ, that is (h(θ − θᵢ) + h(θ + θᵢ))/2 with the kernel h = 1 + 2 Σⱼ gⱼ cos jθ of Jackson, Fejér and
    Korovkin, which is a square: positive, and known in closed form. No moment is ever computed.

    Attributes
    ----------
    centre, half : float
        The interval [c − a, c + a], which holds all nodes.
    count : int
        N, the number of moments.

    References
    ----------
    Weiße, Wellein, Alvermann and Fehske, The kernel polynomial method, Rev. Mod. Phys. 78 (2006), section II.C.
    """

    centre: float
    half: float
    count: int
    name: str = "jackson"
    reach: float = np.inf

    def values(self, x: np.ndarray, node: Any, width: float) -> np.ndarray:
        """The kernel at x of an eigenvalue at `node`, in units of 1/width; zero if one is outside of the interval."""
        t = (x - self.centre) / self.half
        inside = (np.abs(t) < 1) & (abs(node - self.centre) <= self.half)
        at, of = np.arccos(t[inside]), self._angle(node)
        result = np.zeros(t.shape)
        result[inside] = (self._series(at - of) + self._series(at + of)) / (2 * np.pi * np.sin(at))
        return result * (width / self.half)

    def below(self, x: float, nodes: np.ndarray, _: float) -> np.ndarray:
        """The part of the kernel of each node that lies below x."""
        j = np.arange(1, self.count)
        at, of = self._angle(x), self._angle(nodes)
        # The integral of the series over the angle, from that of x to π; sin jπ = 0.
        terms = 2 * damping(self.count)[1:] * np.sin(j * at) / j
        return 1 - (at + np.cos(of[..., None] * j) @ terms) / np.pi

    def widths(self, x: np.ndarray, width: float) -> np.ndarray:
        """The width at each x: proportional to √(1 − t²), up to the margin, which holds no node."""
        t = np.clip((x - self.centre) / self.half, -1, 1)
        return width * np.maximum(np.sqrt(1 - t * t), np.sqrt(1 - _margin(self.count) ** 2))

    def grid(self) -> np.ndarray:
        """Chebyshev's points, four or more to a width.

        With steps of δ in the angle, the trapezoidal rule in x is sin δ/δ times the one in the angle, ends included;
        and that one is exact for a series of fewer terms than points.
        """
        points = max(_LEAST_POINTS, 4 * self.count)
        return self.centre - self.half * np.cos(np.pi * (np.arange(points) + 0.5) / points)

    def _angle(self, x: Any) -> np.ndarray:
        return np.arccos(np.clip((x - self.centre) / self.half, -1, 1))

    def _series(self, angle: np.ndarray) -> np.ndarray:
        """1 + 2 Σⱼ gⱼ cos jθ = (2 sin²ψ/M) (cos(Mθ/2) / (cos θ − cos ψ))², ψ = π/M, M = N + 1; without cancellation."""
        M = self.count + 1
        step = np.pi / M
        folded = np.abs(angle)
        folded = np.minimum(folded, 2 * np.pi - folded)
        u = (folded - step) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            dirichlet = np.where(u == 0, M, np.sin(M * u) / np.sin(u))
        return (np.sin(step) * dirichlet / np.sin((folded + step) / 2)) ** 2 / (2 * M)


def damping(count: int) -> np.ndarray:
    """Jackson's factors gⱼ of `count` moments: (count,)."""
    j, step = np.arange(count), np.pi / (count + 1)
    return ((count - j + 1) * np.cos(step * j) + np.sin(step * j) / np.tan(step)) / (count + 1)


def broadening(count: Any) -> Any:
    """The standard deviation of the kernel in the middle of [-1, 1], about π/N: its variance is (1 − g₂)/2."""
    step = np.pi / (count + 1)
    second = ((count - 1) * np.cos(2 * step) + np.sin(2 * step) / np.tan(step)) / (count + 1)
    return np.sqrt((1 - second) / 2)


def _margin(count: Any) -> Any:
    """The support as a part of the interval."""
    return np.maximum(np.cos(np.minimum(_MARGIN * np.pi / (count + 1), np.pi / 2)), _LARGEST_MARGIN)


def jackson_kernel(low: float, high: float, width: float | None, most: int) -> tuple[Jackson, float]:
    """The kernel whose width, in the middle of its interval, is at most `width`, and that width.

    Parameters
    ----------
    low, high : float
        The support. The interval is larger by what keeps kernels at its ends whole: by four widths in the angle.
    width : float or None
        None, or what more than `most` moments would be needed for, gives those.
    most : int
    """
    counts = np.arange(1, most + 1)
    margin = _margin(counts)
    # A width that is no small part of the support is that of a kernel with room around it.
    radius = max((high - low) / 2, 4 * (width or 0.0))
    widths = radius / margin * broadening(counts)
    enough = np.flatnonzero(widths <= (width or 0.0) * (1 + 1e-9))
    chosen = int(enough[0]) if enough.size else most - 1
    kernel = Jackson((low + high) / 2, float(radius / margin[chosen]), int(counts[chosen]))
    return kernel, float(widths[chosen])
