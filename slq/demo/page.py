"""Floor 4: the demo's files and its summary."""

import warnings
from pathlib import Path

import numpy as np

from slq._estimate import Estimate
from slq._files import write_atomically
from slq.analysis import negative_energy
from slq.demo.result import TOP, WIDTH, DemoResult
from slq.errors import QuadratureWarning
from slq.plotting import plot_density, save_figure
from slq.report import html_page

__all__ = ["summary", "write"]


def write(result: DemoResult, folder: Path, backend: str, dtype: str) -> None:
    """Write ``measure.npz``, ``density.png`` and ``report.html`` into `folder`."""
    result.measure.save(folder / "measure.npz")
    ax = plot_density(result.measure, width=WIDTH, exact=result.eigenvalues)
    ax.set_title(f"Hessian of a trained 64-40-10 network, {result.network.n:,} weights, 1,797 digits", pad=12)
    with write_atomically(folder / "density.png") as file:
        save_figure(ax, file)
    page = html_page(
        "The Hessian spectrum of a trained network",
        [
            f"A 64-40-10 tanh network with {result.network.n:,} weights, trained on scikit-learn's 1,797 handwritten "
            f"digits to {result.accuracy:.2%} training accuracy (mean cross-entropy {result.loss:.4f}).",
            f"The estimate never formed its Hessian: {result.measure.num_probes} random probes and "
            f"{result.measure.num_steps} Lanczos steps, {result.measure.products} Hessian-vector products over the "
            f"whole set with {backend} in {dtype}. The exact spectrum comes from the Hessian's closed form and a dense "
            "eigendecomposition.",
        ],
        ax,
        "Eigenvalue density of the Hessian on a logarithmic axis: estimate with its sampling band, and exact. "
        "Triangles mark eigenvalues that every probe has found.",
        [
            ("Spectrum", [("quantity", "estimate", "95 % interval", "exact"), *_quantities(result)]),
            ("Largest eigenvalues", [("rank", "estimate", "residual bound", "exact"), *_largest(result)]),
            ("Accuracy and cost", [("quantity", "value"), *_costs(result)]),
        ],
    )
    with write_atomically(folder / "report.html") as file:
        file.write(page.encode("utf-8"))


def summary(result: DemoResult) -> str:
    """Compose the lines that go to standard output."""
    rows = [f"{name:<38} {value:>10}  {error:<22} exact {exact}" for name, value, error, exact in _quantities(result)]
    return "\n".join([*rows, *(f"{name:<38} {value:>10}" for name, value in _costs(result))])


def _quantities(result: DemoResult) -> list[tuple[str, str, str, str]]:
    measure, exact = result.measure, result.eigenvalues
    energy = np.abs(exact[exact < 0]).sum() / np.abs(exact).sum()
    deflated = measure.deflate()  # a few eigenvalues make most of the error of both sums
    with warnings.catch_warnings(action="ignore", category=QuadratureWarning):  # the interval beside it says so
        negative = negative_energy(deflated)
    return [
        ("largest eigenvalue", f"{measure.support[1]:.8g}", "", f"{exact[-1]:.8g}"),
        ("smallest eigenvalue", f"{measure.support[0]:.8g}", "", f"{exact[0]:.8g}"),
        _compared("trace", deflated.trace(), exact.sum()),
        _compared("negative mass (share of the sum of |λ|)", negative, energy),
        (
            f"gradient in the top {TOP} eigenvectors",
            f"{result.concentration_estimate:.6f}",
            "",
            f"{result.concentration:.6f}",
        ),
    ]


def _compared(name: str, estimate: Estimate, exact: float) -> tuple[str, str, str, str]:
    low, high = estimate.interval()
    return name, f"{estimate.value:.5g}", f"[{low:.4g}, {high:.4g}]", f"{exact:.5g}"


def _largest(result: DemoResult) -> list[tuple[str, str, str, str]]:
    values, residuals, _ = result.measure.outliers()
    exact = result.eigenvalues[::-1]
    count = min(TOP, int((values > 0).sum()))
    return [(str(i + 1), f"{values[i]:.8f}", f"{residuals[i]:.1e}", f"{exact[i]:.8f}") for i in range(count)]


def _costs(result: DemoResult) -> list[tuple[str, str]]:
    return [
        ("training accuracy", f"{result.accuracy:.2%}"),
        (f"L1 distance of densities (σ² = {WIDTH**2:.0e})", f"{result.l1:.5f}"),
        ("Wasserstein distance", f"{result.w1:.2e}"),
        ("Hessian-vector products", str(result.measure.products)),
        ("seconds for probes and Lanczos", f"{result.seconds:.2f}"),
        ("seconds of as many products alone", f"{result.seconds_of_products:.2f}"),
    ]
