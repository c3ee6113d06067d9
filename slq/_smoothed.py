"""Floor 2: the smoothed spectral density of a measure. `SpectralMeasure` documents it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from slq._chebyshev import Jackson, jackson_kernel
from slq._coefficients import Coefficients
from slq._density import default_width, fine_grid, mass_outside, moved_mass, require_width, smooth
from slq._estimate import Density, Spikes
from slq._grids import checked_grid, judge_grid, named_grid
from slq._kernels import GAUSSIAN, Kernel, Shape, named
from slq._questions import nested_difference
from slq.errors import ResolutionWarning, SlqWarning, WidthError

__all__ = ["common", "density", "evaluated", "mean_density", "resolved"]

_UNRESOLVED = 0.05  # a density whose last fifth of the steps moves more of its mass than this is warned about
_APART = 4.0  # widths, from which on the bumps of two Gaussians do not touch
_MOST = 8192  # moments of runs that ended in invariant subspaces, whose moments of every degree are exact


def density(
    measure: Coefficients, x: Any, width: float | None, kernel: Kernel, num: int | None = None, spikes: bool = False
) -> tuple[Density, list[SlqWarning]]:
    """The spectral density smoothed by `kernel`, and the reservations about it."""
    measure = measure.changed(deflated=True) if spikes and not measure.deflated else measure
    x, shape, chosen, said = common([measure], x, width, kernel, num)
    return evaluated(measure, x, chosen, shape, _isolated(measure, chosen) if spikes else None), said


def _isolated(measure: Coefficients, width: float) -> np.ndarray:
    """The nodes of exact mass that every probe has found and the width shows as bumps of their own: (k, M) of bool."""
    alone = np.zeros(measure.nodes.shape, bool)
    every = np.sort(measure.nodes[measure.weights > 0])
    for value in np.unique(measure.nodes[measure.exact_nodes]):
        same = np.abs(measure.nodes - value) <= measure.rounding
        low = np.searchsorted(every, value - measure.rounding)
        high = np.searchsorted(every, value + measure.rounding, side="right")
        gap = min(value - every[low - 1] if low else np.inf, every[high] - value if high < every.size else np.inf)
        if gap > _APART * width and measure.exact_nodes[same].all() and same.any(axis=1).all():
            alone |= same
    return alone


def _spikes(measure: Coefficients, alone: np.ndarray) -> Spikes:
    values = np.sort(measure.nodes[alone])
    groups = np.split(values, np.flatnonzero(np.diff(values) > 2 * measure.rounding) + 1) if values.size else []
    masses = np.array([len(group) for group in groups]) / (measure.num_probes * measure.n)
    return Spikes(np.array([group.mean() for group in groups])[::-1], masses[::-1])


def common(
    measures: Sequence[Coefficients], x: Any, width: float | None, kernel: Kernel, num: int | None
) -> tuple[np.ndarray, Shape | Jackson, float, list[SlqWarning]]:
    """A grid, a kernel and a width for all measures, and the reservations about them."""
    if num is not None and not isinstance(x, str):
        raise WidthError(f"num= is the number of points of a grid by name (x='log'), but x is {type(x).__name__}")
    shape, chosen, said = resolved(measures, width, kernel)
    x, turned = _grid(measures, x, chosen, shape, num)
    return x, shape, chosen, said + turned


def resolved(
    measures: Sequence[Coefficients], width: float | None, kernel: Kernel
) -> tuple[Shape | Jackson, float, list[SlqWarning]]:
    """A kernel for all measures, its width, and what to say about a given one."""
    if isinstance(kernel, str) and kernel == "jackson":
        return _jackson(measures, width)
    shape = named(kernel)
    judge = _known(shape)
    widths, said = [], []
    for measure in measures:
        measure = measure.undeflated  # fewer steps know fewer masses, which says nothing about the resolution
        rule, short_rule = ((m.nodes, m.weights) for m in (measure, measure.shorter or measure))
        if width is None:
            widths.append(default_width(rule, short_rule, measure.scale, judge))
            continue
        fine = fine_grid(np.concatenate([rule[0].ravel(), short_rule[0].ravel()]), width, judge)
        said += _resolution(measure, moved_mass(fine, rule, short_rule, width, judge), width)
    return shape, width if width is not None else max(widths), said


def _known(kernel: Shape | Jackson) -> Shape | Jackson:
    """The kernel that tells what a grid or a width does not show: of a user's own function nothing is known."""
    return GAUSSIAN if isinstance(kernel, Shape) and kernel.cumulative is None else kernel


def _jackson(measures: Sequence[Coefficients], width: float | None) -> tuple[Jackson, float, list[SlqWarning]]:
    nodes = np.concatenate([measure.nodes[measure.weights > 0] for measure in measures])
    # Gauss quadrature has moments of degrees up to 2m - 1 exactly.
    most = min(_MOST if measure.exact.all() else 2 * measure.num_steps for measure in measures)
    scale = max(measure.scale for measure in measures)
    if width is not None:
        require_width(width, nodes)
    elif most == _MOST or np.ptp(nodes) <= 1e-12 * scale:
        width = max(default_width(rule, rule, m.scale) for m in measures for rule in [(m.nodes, m.weights)])
    kernel, used = jackson_kernel(float(nodes.min()), float(nodes.max()), width, most)
    if width is None or used <= width * (1 + 1e-9):
        return kernel, used, [] if width is None else _resolution(measures[0], 0.0, width)
    steps = min(measure.num_steps for measure in measures)
    said = ResolutionWarning(
        f"a width of {width:.3g} is finer than {most:,} Chebyshev moments can show, which {steps} steps give: their "
        f"width {used:.3g} is used; use more steps or a larger width"
    )
    return kernel, used, [said]


def _grid(
    measures: Sequence[Coefficients], x: Any, width: float, kernel: Shape | Jackson, num: int | None
) -> tuple[np.ndarray, list[SlqWarning]]:
    """The grid that was asked for, and what it does not show."""
    nodes = np.concatenate([m.nodes.ravel() for measure in measures for m in (measure, measure.shorter or measure)])
    fine = fine_grid(nodes, width, kernel)
    if x is None:
        return fine, []
    said: list[SlqWarning] = []
    if isinstance(x, str):
        used = np.concatenate([m.nodes[m.weights > 0] for m in measures])
        x = named_grid(x, num, used, width, fine_grid(used, width, kernel))
    else:
        x, said = checked_grid(x)
    for m in measures:
        seen = mean_density(m, fine, width, _known(kernel)) / width
        said = said + judge_grid(x, kernel.widths(x, width), m.n, m.nodes, m.weights, (fine, seen))
    return x, said


def evaluated(
    measure: Coefficients, x: np.ndarray, width: float, kernel: Shape | Jackson, alone: np.ndarray | None = None
) -> Density:
    """The density on a grid, with its errors; without the nodes that stand `alone`, which are listed apart."""
    weights = measure.weights if alone is None else np.where(alone, 0.0, measure.weights)
    forms, squares = smooth(x, measure.nodes, weights, width, kernel)
    mean = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, _variance(measure, x, width, kernel, (mean, squares.mean(axis=0))))
    if isinstance(kernel, Jackson) and not measure.singular:
        truncation = np.zeros_like(mean)  # Gauss quadrature is exact for its moments
    else:
        truncation = nested_difference(measure, lambda m: mean_density(m, x, width, kernel), mean)
    return Density(
        value=mean / width,
        stderr=None if stderr is None else stderr / width,
        truncation=truncation / width,
        rounding=4 * measure.eps * mean / width,
        dof=dof,
        products=measure.products,
        bounds=(0.0, np.inf),
        x=x,
        width=float(width),
        kernel=kernel.name,
        outside=mass_outside(x, measure.nodes, weights, width, kernel),
        spikes=None if alone is None else _spikes(measure, alone),
    )


def mean_density(measure: Coefficients, x: np.ndarray, width: float, kernel: Shape | Jackson) -> np.ndarray:
    """The mean over the probes, in units of 1/width."""
    return smooth(x, measure.nodes, measure.weights, width, kernel)[0].mean(axis=0)


def _variance(
    measure: Coefficients,
    x: np.ndarray,
    width: float,
    kernel: Shape | Jackson,
    moments: tuple[np.ndarray, np.ndarray],
) -> Any:
    """What the sampling error rests on, from the mean sums of the kernel and its square over all nodes."""
    if measure.deflated:
        moments = tuple(smooth(x, measure.nodes, measure.random_weights, width, kernel).mean(axis=1))
    return measure.sampling.variance(measure.random_weights.sum(axis=1).mean(), *moments)


def _resolution(measure: Coefficients, moved: float, width: float) -> list[SlqWarning]:
    """What to say about a given width; the default is neither too small nor too large."""
    support = float(np.ptp(measure.nodes))
    widest = support if support > 1e-12 * measure.scale else measure.scale  # of a single atom, its distance to zero
    if width > widest > 0:
        return [
            ResolutionWarning(
                f"a width of {width:.3g} is larger than the spectrum, which is {widest:.3g} wide: the density shows "
                "the kernel alone; use a smaller width, or none for one that fits"
            )
        ]
    if moved <= _UNRESOLVED or measure.exact.all():
        return []
    return [
        ResolutionWarning(
            f"a width of {width:.3g} is not resolved by {measure.num_steps} steps: the last fifth of them moves "
            f"{moved:.0%} of the mass; use more steps or a larger width"
        )
    ]
