"""Errors against exact spectra at a fixed number of products."""

from typing import Any

from . import BACKENDS, PROBLEMS

SEEDS = range(3)


class Accuracy:
    """All errors are computed in one process; asv starts another for each number, which only looks it up.

    Hence the imports inside the functions.
    """

    params = (BACKENDS, PROBLEMS)
    param_names = ("backend", "problem")

    def setup_cache(self) -> dict[tuple[str, str], dict[str, float]]:
        from .problems import placement, problem

        found = {}
        for backend in BACKENDS:
            try:
                placement(backend)
            except NotImplementedError:
                continue
            for name in PROBLEMS:
                found[backend, name] = _errors(problem(name), backend)
        return found

    setup_cache.timeout = 600.0

    def setup(self, found: Any, backend: str, problem: str) -> None:
        if (backend, problem) not in found:
            raise NotImplementedError(f"{backend} is not available")

    def track_wasserstein(self, found: Any, backend: str, problem: str) -> float:
        return found[backend, problem]["wasserstein"]

    track_wasserstein.unit = "W1 distance / range of the spectrum"

    def track_density_l1(self, found: Any, backend: str, problem: str) -> float:
        return found[backend, problem]["density_l1"]

    track_density_l1.unit = "L1 distance of densities (0 to 2)"

    def track_logdet(self, found: Any, backend: str, problem: str) -> float:
        return found[backend, problem]["logdet"]

    track_logdet.unit = "error of log det / sum of |log λ|"  # relative to log det itself it would explode near det = 1

    def track_moment4_same_probe(self, found: Any, backend: str, problem: str) -> float:
        return found[backend, problem]["moment4"]

    track_moment4_same_probe.unit = "relative error, rounding only"  # m steps are exact up to degree 2m - 1


def _errors(problem: Any, backend: str) -> dict[str, float]:
    """Medians over the seeds: a single one can be three standard errors off."""
    import numpy as np

    rows = [_errors_of_one(problem, problem.measure(backend, rng=seed), seed) for seed in SEEDS]
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


def _errors_of_one(problem: Any, measure: Any, seed: int) -> dict[str, float]:
    import numpy as np

    from slq import metrics

    eigenvalues = problem.eigenvalues()
    logs = np.log(eigenvalues)
    forms = problem.shares(problem.probes(seed, like=np.empty(0))) @ eigenvalues**4
    return {
        "wasserstein": metrics.wasserstein(measure, eigenvalues) / np.ptp(eigenvalues),
        "density_l1": metrics.density_l1(measure, eigenvalues, width=problem.width),
        "logdet": abs(measure.logdet().value / problem.n - logs.mean()) / np.abs(logs).mean(),
        "moment4": np.abs(measure.quadratic_forms(lambda t: t**4) / forms - 1).max(),
    }
