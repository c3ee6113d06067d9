"""The figures of the digits network that asv tracks: medians over few seeds, on the diagonal matrix of its spectrum."""

from typing import Any

SEEDS = range(5)
METHODS = ("plain 10 × 80", "deflated 10 × 80", "block 20 × 40, deflated", "block 10 × 40, deflated")


class DigitsAccuracy:
    """All errors are computed in one process; asv starts another for each number, which only looks it up.

    Hence the imports inside the functions. Five seeds: differences between versions show, absolute numbers are those of
    `python -m benchmarks.digits`.
    """

    params = METHODS
    param_names = ("method",)

    def setup_cache(self) -> dict[str, dict[str, float]]:
        import numpy as np

        from .digits import collect, operator

        found = collect(operator(diagonal=True), SEEDS, METHODS)
        return {
            name: dict(zip(rows[0]._fields, map(float, np.median(rows, axis=0)), strict=True))
            for name, rows in found.items()
        }

    setup_cache.timeout = 600.0

    def track_density_l1(self, found: Any, method: str) -> float:
        return found[method]["density_l1"]

    track_density_l1.unit = "L1 distance of densities at σ² = 1e-5"

    def track_wasserstein(self, found: Any, method: str) -> float:
        return found[method]["wasserstein"]

    track_wasserstein.unit = "W1 distance"

    def track_trace(self, found: Any, method: str) -> float:
        return found[method]["trace"]

    track_trace.unit = "relative error of the trace"
