"""Products and seconds of `slq.eigenpairs` beside SciPy's `eigsh`: python -m benchmarks.eigenpairs."""

import time
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

import slq
from slq.testing.spectra import hessian_like, strakos

__all__ = ["main"]

_TOL = 2.0 ** (-52 * 2 / 3)  # the default of `eigenpairs`
_NCV = 80  # its default num_steps


def _grid(side: int) -> Any:
    """The Laplacian of a grid of side × side points with zeros around it, and its eigenvalues."""
    path = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    one = 2 - 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1))
    matrix = scipy.sparse.csr_array(scipy.sparse.kronsum(path, path))
    return matrix, np.sort((one[:, None] + one).ravel())


def _cases() -> dict[str, tuple[Any, np.ndarray]]:
    lists = {"hessian_like(2000)": hessian_like(2000), "strakos(500)": strakos(500)}
    diagonal = {name: (scipy.sparse.diags_array(values).tocsr(), np.sort(values)) for name, values in lists.items()}
    return {"grid 100 x 100": _grid(100), **diagonal}


def _scipy(matrix: Any, k: int, which: str, **options: Any) -> tuple[int, float, np.ndarray]:
    products = 0

    def multiply(x: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return matrix @ x

    n = int(matrix.shape[0])
    start = slq.sphere(0, [0], None, n, np.empty(0))[0]
    operator = LinearOperator(matrix.shape, matvec=multiply, dtype=np.float64)
    begin = time.perf_counter()
    try:
        values = eigsh(operator, k=k, which=which, tol=_TOL, v0=start, **options)[0]
    except ArpackNoConvergence as error:
        values = np.resize(error.eigenvalues, k)
    return products, time.perf_counter() - begin, values


def main() -> None:
    """Print a table."""
    print("| operator | which, k | eigsh | eigsh(ncv=80) | eigenpairs | eigenpairs(verify=False) |\n|" + "---|" * 6)
    for name, (matrix, exact) in _cases().items():
        for which, k in (("LA", 1), ("LA", 5), ("LA", 10), ("SA", 5), ("BE", 10))[: 5 if "grid" in name else 3]:
            right = {"LA": exact[-k:], "SA": exact[:k], "BE": np.append(exact[: k // 2], exact[-(k - k // 2) :])}[which]
            cells = [_scipy(matrix, k, which), _scipy(matrix, k, which, ncv=_NCV)]
            for verify in (True, False):
                begin = time.perf_counter()
                pairs = slq.eigenpairs(matrix, k, which=which, verify=verify, check=False)
                cells.append((pairs.products, time.perf_counter() - begin, pairs.values))
            text = []
            for products, seconds, values in cells:
                wrong = int((np.abs(np.sort(values) - right) > 1e-9 * np.abs(exact).max()).sum())
                text.append(f"{products}, {seconds:.2f} s" + (f", {wrong} wrong" if wrong else ""))
            print(f"| {name} | {which}, {k} | " + " | ".join(text) + " |", flush=True)


if __name__ == "__main__":
    main()
