"""Floor 2: the smoothed spectral density of a measure. `SpectralMeasure` documents it."""

from typing import Any

import numpy as np

from slq._coefficients import Coefficients
from slq._density import Kernel, adaptive_grid, default_width, gaussian_kernel, moved_mass, smooth
from slq._estimate import Density
from slq._grids import checked_grid, judge_grid, named_grid
from slq._questions import nested_difference
from slq.errors import ResolutionWarning, SlqWarning, WidthError

__all__ = ["density"]

_UNRESOLVED = 0.05  # a density whose last fifth of the steps moves more of its mass than this is warned about


def density(
    measure: Coefficients, x: Any, width: float | None, kernel: Kernel, num: int | None = None
) -> tuple[Density, list[SlqWarning]]:
    """The spectral density smoothed by `kernel`, and the reservations about it."""
    rule, shorter = (measure.nodes, measure.weights), measure.shorter or measure
    short_rule = (shorter.nodes, shorter.weights)
    said: list[SlqWarning] = []
    if num is not None and not isinstance(x, str):
        raise WidthError(f"num= is the number of points of a grid by name (x='log'), but x is {type(x).__name__}")
    chosen = default_width(rule, short_rule, measure.scale) if width is None else width
    fine = adaptive_grid(np.concatenate([rule[0].ravel(), short_rule[0].ravel()]), chosen)
    said += _resolution(measure, moved_mass(fine, rule, short_rule, chosen), width)
    if x is None:
        x = fine
    else:
        if isinstance(x, str):
            x = named_grid(x, num, measure.nodes[measure.weights > 0], chosen)
        else:
            x, turned = checked_grid(x)
            said += turned
        seen = smooth(fine, *rule, chosen, gaussian_kernel)[0].mean(axis=0) / chosen
        said += judge_grid(x, chosen, measure.n, *rule, (fine, seen))
    return _evaluated(measure, x, chosen, kernel), said


def _evaluated(measure: Coefficients, x: np.ndarray, width: float, kernel: Kernel) -> Density:
    forms, squares = smooth(x, measure.nodes, measure.weights, width, kernel)
    mean = forms.mean(axis=0)
    stderr, dof = measure.sampling.error(forms, _variance(measure, x, width, kernel, (mean, squares.mean(axis=0))))
    truncation = nested_difference(
        measure, lambda m: smooth(x, m.nodes, m.weights, width, kernel)[0].mean(axis=0), mean
    )
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
    )


def _variance(
    measure: Coefficients, x: np.ndarray, width: float, kernel: Kernel, moments: tuple[np.ndarray, np.ndarray]
) -> Any:
    """What the sampling error rests on, from the mean sums of the kernel and its square over all nodes."""
    if measure.deflated:
        moments = tuple(smooth(x, measure.nodes, measure.random_weights, width, kernel).mean(axis=1))
    return measure.sampling.variance(measure.random_weights.sum(axis=1).mean(), *moments)


def _resolution(measure: Coefficients, moved: float, width: float | None) -> list[SlqWarning]:
    """What to say about a given width; the default is neither too small nor too large."""
    if width is None:
        return []
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
