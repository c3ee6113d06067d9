"""Sums and products of matrices that act on different axes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slq.testing._problem import Problem, Product, ones

__all__ = ["kronecker_product", "kronecker_sum"]


def kronecker_sum(factors: Sequence[Problem], **about: Any) -> Problem:
    """Make A₁ ⊕ A₂ ⊕ …: each factor acts along its own axis, and the results are added.

    Parameters
    ----------
    factors : sequence of Problem
        Those of the result have formulas (`modes`) if those of all factors have.
    **about
        The fields of `Problem` that are words: name, formula, source, hard_for, family.

    Returns
    -------
    Problem
    """

    def product(x: np.ndarray) -> np.ndarray:
        y = np.zeros_like(x, dtype=np.result_type(x, *(complex for p in factors if p.is_complex)))
        for axis, factor in enumerate(factors):
            y += _along(factors, axis, factor.product, x)
        return y

    return _combined(factors, np.add, product, about)


def kronecker_product(factors: Sequence[Problem], **about: Any) -> Problem:
    """Make A₁ ⊗ A₂ ⊗ …: each factor acts along its own axis, one after the other. See `kronecker_sum`."""

    def product(x: np.ndarray) -> np.ndarray:
        for axis, factor in enumerate(factors):
            x = _along(factors, axis, factor.product, x)
        return x

    return _combined(factors, np.multiply, product, about)


def _combined(factors: Sequence[Problem], combine: np.ufunc, product: Product, about: dict[str, Any]) -> Problem:
    n = int(np.prod([factor.n for factor in factors]))

    def modes(x: np.ndarray) -> np.ndarray:
        for axis, factor in enumerate(factors):
            if factor.modes is not None:  # as in all factors, or `modes` is not used
                x = _along(factors, axis, factor.modes, x)
        return x

    def levels() -> tuple[np.ndarray, np.ndarray]:
        return functools.reduce(combine.outer, (np.repeat(*factor.levels()) for factor in factors)).ravel(), ones(n)

    return Problem(
        n=n,
        product=product,
        levels=levels,
        modes=modes if all(factor.modes is not None for factor in factors) else None,
        is_complex=any(factor.is_complex for factor in factors),
        **about,
    )


def _along(factors: Sequence[Problem], axis: int, act: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """`act` on one axis of each row of x, seen as an array with one axis for each factor."""
    sizes = [factor.n for factor in factors]
    before, after = int(np.prod(sizes[:axis])), int(np.prod(sizes[axis + 1 :]))
    u = np.moveaxis(x.reshape(len(x) * before, sizes[axis], after), 1, 2)
    y = act(u.reshape(-1, sizes[axis])).reshape(u.shape)
    return np.moveaxis(y, 2, 1).reshape(x.shape)
