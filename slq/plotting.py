"""Floor 4: pictures of measures, with matplotlib's object interface."""

from typing import TYPE_CHECKING, Any

import numpy as np

from slq._density import adaptive_grid, gaussian_kernel, smooth
from slq._smoothed import density as smoothed_density
from slq.errors import MissingPackageError

if TYPE_CHECKING:
    from slq._measure import SpectralMeasure

__all__ = ["plot_density", "save_figure"]

# Okabe and Ito's colours: told apart by colour-blind readers and in grey print.
_ESTIMATE, _EXACT, _OUTLIERS = "#0072B2", "#222222", "#D55E00"


def plot_density(
    measure: "SpectralMeasure",
    ax: Any = None,
    *,
    width: float | None = None,
    exact: np.ndarray | None = None,
    confidence: float = 0.95,
    label: str = "estimate",
    xscale: str = "linear",
) -> Any:
    """Draw the density on a logarithmic axis, with its sampling band and the outliers marked.

    Parameters
    ----------
    measure : SpectralMeasure
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    width : float, optional
        Width of the smoothing, as for `SpectralMeasure.density`.
    exact : (n,) array, optional
        Exact eigenvalues, drawn with the same smoothing.
    confidence : float
        Level of the band.
    label : str
        Name of the measure in the legend.
    xscale : str
        Scale of the eigenvalues: ``"linear"``, ``"log"`` or ``"symlog"``, linear near zero: from a width to ten.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    WidthError
        As for `SpectralMeasure.density`; its warnings are not repeated here.
    """
    ax = _new_axes() if ax is None else ax
    grid = None if xscale == "linear" else xscale
    density, _ = smoothed_density(measure, grid, width, gaussian_kernel)
    floor = 0.02 / (measure.n * density.width)  # a twentieth of the height of a single eigenvalue
    x, breaks = _with_gaps(density.x, density.width)
    low, high = (np.insert(np.maximum(y, floor / 10), breaks, np.nan) for y in density.interval(confidence))
    if np.isfinite(density.interval(confidence)[1]).all():
        ax.fill_between(x, low, high, color=_ESTIMATE, alpha=0.3, linewidth=0, label=f"{confidence:.0%} interval")
    ax.plot(
        x,
        np.insert(np.maximum(density.value, floor / 10), breaks, np.nan),
        color=_ESTIMATE,
        linewidth=1.4,
        label=f"{label}, {measure.num_probes} probe{'s' * (measure.num_probes > 1)} × {measure.num_steps} steps",
    )
    if exact is not None:
        _plot_exact(ax, np.asarray(exact), density.width, floor)
    _mark_outliers(ax, measure, density.width)
    ax.set_yscale("log")
    if xscale != "linear":
        # From a power of ten on: matplotlib would label one inside the linear part as well, over the zero.
        threshold = {"linthresh": 10.0 ** np.ceil(np.log10(density.width))}
        ax.set_xscale(xscale, **(threshold if xscale == "symlog" else {}))
        ax.set_xlim(density.x[0], density.x[-1])
    ax.set_ylim(bottom=floor)
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel(f"density (Gaussian of width {density.width:.3g})")
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _mark_outliers(ax: Any, measure: "SpectralMeasure", width: float) -> None:
    """A triangle above each converged eigenvalue that the smoothing shows as a bump of its own."""
    values = measure.outliers().values
    nodes = measure.nodes[measure.weights > 0]
    distances = np.abs(values[:, None] - nodes)
    distances[distances < 1e-5 * measure.scale] = np.inf  # the same eigenvalue, in each probe
    alone = values[distances.min(axis=1) > 4 * width] if values.size else values
    if alone.size:
        style = {"color": _OUTLIERS, "marker": "v", "markersize": 5, "linestyle": "none"}
        ax.plot(alone, np.full(alone.size, 1.02), transform=ax.get_xaxis_transform(), clip_on=False, **style)
        ax.plot([], [], label=f"{alone.size} outlier{'s' * (alone.size > 1)}", **style)


def _plot_exact(ax: Any, eigenvalues: np.ndarray, width: float, floor: float) -> None:
    grid = adaptive_grid(eigenvalues, width)
    weights = np.full((1, eigenvalues.size), 1 / eigenvalues.size)
    density = smooth(grid, eigenvalues[None], weights, width, gaussian_kernel)[0, 0] / width
    x, breaks = _with_gaps(grid, width)
    y = np.insert(np.maximum(density, floor / 10), breaks, np.nan)
    ax.plot(x, y, color=_EXACT, linewidth=0.9, linestyle=(0, (4, 2)), label=f"exact, n = {eigenvalues.size:,}")


def _with_gaps(x: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The grid with NaN where it leaps, so that no line is drawn across a gap; and where to put NaN into the values."""
    breaks = np.flatnonzero(np.diff(x) > width) + 1
    return np.insert(x, breaks, np.nan), breaks


def _new_axes() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("plots need matplotlib: pip install 'slq[plot]'") from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of its own: no window system, no global state
    return figure.add_subplot()


def save_figure(ax: Any, file: Any) -> None:
    """Write the figure of `ax` as PNG to a path or a binary file."""
    ax.figure.savefig(file, format="png", dpi=150)
