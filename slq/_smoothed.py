"""Floor 2: the smoothed spectral density of a measure. `SpectralMeasure` documents it."""

from typing import Any

import numpy as np

from slq._chebyshev import Jackson, jackson_kernel
from slq._coefficients import Coefficients
from slq._density import default_width, fine_grid, mass_outside, moved_mass, require_width, smooth
from slq._estimate import Density
from slq._grids import checked_grid, judge_grid, named_grid
from slq._kernels import GAUSSIAN, Kernel, Shape, named
from slq._questions import nested_difference
from slq.errors import ResolutionWarning, SlqWarning, WidthError

__all__ = ["density", "mean_density", "resolved"]

_UNRESOLVED = 0.05  # a density whose last fifth of the steps moves more of its mass than this is warned about
_MOST = 8192  # moments of runs that ended in invariant subspaces, whose moments of every degree are exact


def density(
    measure: Coefficients, x: Any, width: float | None, kernel: Kernel, num: int | None = None
) -> tuple[Density, list[SlqWarning]]:
    """The spectral density smoothed by `kernel`, and the reservations about it."""
    if num is not None and not isinstance(x, str):
        raise WidthError(f"num= is the number of points of a grid by name (x='log'), but x is {type(x).__name__}")
    shape, chosen, said = resolved(measure, width, kernel)
    x, turned = _grid(measure, x, chosen, shape, num)
    return _evaluated(measure, x, chosen, shape), said + turned


def resolved(
    measure: Coefficients, width: float | None, kernel: Kernel
) -> tuple[Shape | Jackson, float, list[SlqWarning]]:
    """The kernel, its width, and what to say about a given one."""
    if isinstance(kernel, str) and kernel == "jackson":
        return _jackson(measure, width)
    shape, shorter = named(kernel), measure.shorter or measure
    judge = shape if shape.cumulative else GAUSSIAN  # of a function of the user's own nothing is known
    rule, short_rule = (measure.nodes, measure.weights), (shorter.nodes, shorter.weights)
    if width is None:
        return shape, default_width(rule, short_rule, measure.scale, judge), []
    fine = fine_grid(np.concatenate([rule[0].ravel(), short_rule[0].ravel()]), width, judge)
    moved = moved_mass(fine, rule, short_rule, width, judge)
    return shape, width, _resolution(measure, moved, width)


def _jackson(measure: Coefficients, width: float | None) -> tuple[Jackson, float, list[SlqWarning]]:
    nodes = measure.nodes[measure.weights > 0]
    most = 2 * measure.num_steps  # moments of degrees up to 2m - 1, which Gauss quadrature has exactly
    if measure.exact.all():
        most = _MOST
    if width is not None:
        require_width(width, nodes)
    elif measure.exact.all() or np.ptp(nodes) <= 1e-12 * measure.scale:
        rule = (measure.nodes, measure.weights)
        width = default_width(rule, rule, measure.scale)
    kernel, used = jackson_kernel(float(nodes.min()), float(nodes.max()), width, most)
    if width is None or used <= width * (1 + 1e-9):
        return kernel, used, [] if width is None else _resolution(measure, 0.0, width)
    said = ResolutionWarning(
        f"a width of {width:.3g} is finer than {most:,} Chebyshev moments can show, which {measure.num_steps} steps "
        f"give: their width {used:.3g} is used; use more steps or a larger width"
    )
    return kernel, used, [said]


def _grid(
    measure: Coefficients, x: Any, width: float, kernel: Shape | Jackson, num: int | None
) -> tuple[np.ndarray, list[SlqWarning]]:
    """The grid that was asked for, and what it does not show."""
    shorter = measure.shorter or measure
    fine = fine_grid(np.concatenate([measure.nodes.ravel(), shorter.nodes.ravel()]), width, kernel)
    if x is None:
        return fine, []
    turned: list[SlqWarning] = []
    if isinstance(x, str):
        used = measure.nodes[measure.weights > 0]
        x = named_grid(x, num, used, width, fine_grid(used, width, kernel))
    else:
        x, turned = checked_grid(x)
    judge = kernel if isinstance(kernel, Jackson) or kernel.cumulative else GAUSSIAN
    seen = smooth(fine, measure.nodes, measure.weights, width, judge)[0].mean(axis=0) / width
    widths = kernel.widths(x, width)
    return x, turned + judge_grid(x, widths, measure.n, measure.nodes, measure.weights, (fine, seen))


def _evaluated(measure: Coefficients, x: np.ndarray, width: float, kernel: Shape | Jackson) -> Density:
    forms, squares = smooth(x, measure.nodes, measure.weights, width, kernel)
    mean = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, np.maximum(squares.mean(axis=0) - mean**2, 0.0))
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
        outside=mass_outside(x, measure.nodes, measure.weights, width, kernel),
    )


def mean_density(measure: Coefficients, x: np.ndarray, width: float, kernel: Shape | Jackson) -> np.ndarray:
    """The mean over the probes, in units of 1/width."""
    return smooth(x, measure.nodes, measure.weights, width, kernel)[0].mean(axis=0)


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
