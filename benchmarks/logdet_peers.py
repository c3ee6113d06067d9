"""Log-determinants to a relative tolerance by imate and primate, where these are installed.

Each takes a dense matrix, a tolerance and a seed, and returns the value, how many products it took, and whether it
stopped because of the tolerance. What a tool's
tolerance means is its own: imate compares half a 95 % interval with it, primate one standard error.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import scipy.sparse.linalg


def _most_probes(rtol: float) -> int:
    """Twice what the hardest operator of `tolerances` needs; a tool that met NaN would not stop before."""
    return int(10 / rtol) + 10


def _imate(A: np.ndarray, rtol: float, seed: int) -> tuple[float, float, bool]:
    import imate

    value, info = imate.logdet(
        A,
        method="slq",
        return_info=True,
        error_rtol=rtol,
        error_atol=0.0,
        confidence_level=0.95,
        max_num_samples=_most_probes(rtol),
        seed=seed + 1,  # 0 or negative: from the clock
        num_threads=1,
    )
    degree = int(info["solver"]["lanczos_degree"])
    probes = int(np.max(info["convergence"]["num_samples_used"]))
    return float(value), float(degree * probes), probes < _most_probes(rtol)


def _primate(A: np.ndarray, rtol: float, seed: int) -> tuple[float, float, bool]:
    from primate.estimators import ConfidenceCriterion, CountCriterion
    from primate.operators import matrix_function
    from primate.trace import hutch

    products = 0

    def multiply(x: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return A @ x

    counted = scipy.sparse.linalg.LinearOperator(A.shape, matvec=multiply, dtype=A.dtype)
    most = _most_probes(rtol)
    until = ConfidenceCriterion(rtol=rtol, atol=0.0) | CountCriterion(count=most)
    try:
        with np.errstate(invalid="raise", divide="raise"):  # NaN would keep it running for ever
            value = hutch(matrix_function(counted, fun=np.log), converge=until, seed=seed)
    except FloatingPointError:  # the logarithm of a node that is not positive
        return np.nan, float(products), False
    return float(np.squeeze(value)), float(products), products < 20 * most  # 20 steps are its default


_KNOWN: dict[str, Callable[[np.ndarray, float, int], tuple[float, float, bool]]] = {
    "imate": _imate,
    "primate": _primate,
}
PEERS = {name: run for name, run in _KNOWN.items() if find_spec(name) is not None}

if missing := _KNOWN.keys() - PEERS.keys():
    print(f"not installed, and left out: {', '.join(sorted(missing))}", file=sys.stderr)
