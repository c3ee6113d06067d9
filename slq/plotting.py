"""Floor 4: pictures of measures, with matplotlib's object interface."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from slq._chebyshev import Jackson
from slq._compare import difference
from slq._density import fine_grid, smooth
from slq._kernels import Kernel, Shape
from slq._smoothed import density as smoothed_density
from slq._smoothed import resolved
from slq.errors import MissingPackageError, SlqWarning

if TYPE_CHECKING:
    from slq._measure import SpectralMeasure

__all__ = ["plot_density", "plot_difference", "save_figure"]

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
    kernel: Kernel = "gaussian",
) -> Any:
    """Draw the density on a logarithmic axis, with its sampling band and the outliers marked.

    Of a deflated measure, outliers are drawn as spikes of their exact masses.

    Eigenvalues whose mass the density knows exactly (its ``spikes``) are stems, as high as the kernel would draw them.

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
    kernel : str or callable
        As for `SpectralMeasure.density`.

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
    density, _ = smoothed_density(measure, grid, width, kernel, spikes=measure.deflated)
    shape, _, _ = resolved([measure], width, kernel)
    floor = 0.02 / (measure.n * density.width)  # a twentieth of the height of a single eigenvalue
    x, breaks = _with_gaps(density.x, density.width, shape)
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
        _plot_exact(ax, np.asarray(exact), density.width, floor, shape)
    if density.spikes is None:
        _mark_outliers(ax, measure, density.width)
    else:
        _plot_spikes(ax, *density.spikes, density.width, floor, shape)
    ax.set_yscale("log")
    _scale_eigenvalues(ax, xscale, density.x, density.width)
    ax.set_ylim(bottom=floor)
    _finish(ax, f"density ({_described(shape, density.width)})")
    return ax


def plot_difference(
    p: "SpectralMeasure",
    q: "SpectralMeasure",
    ax: Any = None,
    *,
    width: float | None = None,
    confidence: float = 0.95,
    label: str = "difference",
    xscale: str = "linear",
    kernel: Kernel = "gaussian",
) -> Any:
    """Draw the density of p minus that of q with the band of the difference; where it leaves zero, something changed.

    The axis of the difference is logarithmic on both sides, and linear up to the height of a single eigenvalue.

    Parameters
    ----------
    p, q : SpectralMeasure
    ax, width, confidence, label, xscale, kernel
        As for `plot_density`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    RequestError
        As for `slq.difference` and its density, whose warnings are not repeated here.
    """
    change = difference(p, q)
    with warnings.catch_warnings(action="ignore", category=SlqWarning):
        density = change.density(None if xscale == "linear" else xscale, width=width, kernel=kernel)
    ax = _new_axes() if ax is None else ax
    low, high = density.interval(confidence)
    if np.isfinite(high).all():
        ax.fill_between(
            density.x, low, high, color=_ESTIMATE, alpha=0.3, linewidth=0, label=f"{confidence:.0%} interval"
        )
    probes = f"{change.common_probes} common probes" if change.common_probes else "independent probes"
    ax.plot(density.x, density.value, color=_ESTIMATE, linewidth=1.4, label=f"{label}, {probes}")
    ax.axhline(0.0, color=_EXACT, linewidth=0.6)
    ax.set_yscale("symlog", linthresh=0.4 / (min(p.n, q.n) * density.width))
    _scale_eigenvalues(ax, xscale, density.x, density.width)
    shape, _, _ = resolved([p, q], density.width, kernel)
    _finish(ax, f"difference of densities ({_described(shape, density.width)})")
    return ax


def _scale_eigenvalues(ax: Any, xscale: str, x: np.ndarray, width: float) -> None:
    if xscale != "linear":
        # From a power of ten on: matplotlib would label one inside the linear part as well, over the zero.
        threshold = {"linthresh": 10.0 ** np.ceil(np.log10(width))}
        ax.set_xscale(xscale, **(threshold if xscale == "symlog" else {}))
        ax.set_xlim(x[0], x[-1])


def _finish(ax: Any, ylabel: str) -> None:
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel(ylabel)
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)


def _described(kernel: Shape | Jackson, width: float) -> str:
    name = "kernel" if kernel.name == "custom" else kernel.name.capitalize()
    return f"{name} of width {width:.3g}"


def _plot_spikes(
    ax: Any, values: np.ndarray, masses: np.ndarray, width: float, floor: float, kernel: Shape | Jackson
) -> None:
    """Stems as high as the peaks that the kernel makes of these masses (in the middle of a Jackson interval)."""
    if not np.size(values):
        return
    at = kernel.centre if isinstance(kernel, Jackson) else 0.0
    heights = np.asarray(masses) * kernel.values(np.array([at]), at, width)[0] / width
    ax.vlines(values, floor / 10, heights, color=_OUTLIERS, linewidth=1.0)
    number = f"{np.size(values)} outlier{'s' * (np.size(values) > 1)}, exact mass"
    ax.plot(values, heights, color=_OUTLIERS, marker="o", markersize=4, linestyle="none", label=number)


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


def _plot_exact(ax: Any, eigenvalues: np.ndarray, width: float, floor: float, kernel: Shape | Jackson) -> None:
    grid = fine_grid(eigenvalues, width, kernel)
    weights = np.full((1, eigenvalues.size), 1 / eigenvalues.size)
    density = smooth(grid, eigenvalues[None], weights, width, kernel)[0, 0] / width
    x, breaks = _with_gaps(grid, width, kernel)
    y = np.insert(np.maximum(density, floor / 10), breaks, np.nan)
    ax.plot(x, y, color=_EXACT, linewidth=0.9, linestyle=(0, (4, 2)), label=f"exact, n = {eigenvalues.size:,}")


def _with_gaps(x: np.ndarray, width: float, kernel: Shape | Jackson) -> tuple[np.ndarray, np.ndarray]:
    """The grid with NaN where it leaps, so that no line is drawn across a gap; and where to put NaN into the values."""
    fills_gaps = isinstance(kernel, Jackson) or kernel.has_tails
    breaks = np.flatnonzero(np.diff(x) > (np.inf if fills_gaps else width)) + 1
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
