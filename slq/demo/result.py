"""Floor 3: what the demo finds."""

from dataclasses import dataclass

import numpy as np

from slq._measure import SpectralMeasure
from slq.demo.digits import DigitsNetwork
from slq.metrics import density_l1, wasserstein

__all__ = ["TOP", "WIDTH", "DemoResult"]

WIDTH = 1e-5**0.5  # the smoothing of Ghorbani, Krishnan and Xiao: variance 1e-5
TOP = 10  # as many leading eigenvectors as there are classes


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: the measures, the exact answer, and the times."""

    measure: SpectralMeasure
    gradient_measure: SpectralMeasure
    eigenvalues: np.ndarray
    concentration: float
    network: DigitsNetwork
    accuracy: float
    loss: float
    seconds: float
    seconds_of_products: float

    @property
    def concentration_estimate(self) -> float:
        """The gradient's share at or above the tenth largest Ritz value, from the gradient's own measure."""
        leading = self.measure.outliers().values
        if leading.size < TOP:
            return np.nan
        return 1 - float(self.gradient_measure.cdf(leading[TOP - 1] - 1e-6 * self.measure.scale))

    @property
    def l1(self) -> float:
        """L1 distance of the smoothed densities, estimated and exact."""
        return density_l1(self.measure, self.eigenvalues, width=WIDTH)

    @property
    def w1(self) -> float:
        """Wasserstein distance of the estimated and the exact spectrum."""
        return wasserstein(self.measure, self.eigenvalues)
