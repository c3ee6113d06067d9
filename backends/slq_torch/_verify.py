"""Is the product the derivative of the gradient? Compared with finite differences, once, on a few samples."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from slq.adapters import warn_user
from slq.errors import OperatorError, PrecisionWarning
from slq_torch._choice import Mode
from slq_torch._data_pass import DataPass
from slq_torch._hessian_modes import gradient_at, gradient_of
from slq_torch._in_place import is_of_writing, who_wrote
from slq_torch._modules import owner_of, random_loss

__all__ = ["direction_for", "random_unit", "require_derivative", "require_repeatable"]

_SAMPLES = 16  # enough to use every layer, few enough to cost nothing
# Differences of smooth losses agree at one of the larger steps. ReLUs bend between any two points that are farther
# apart than the nearest kink of any sample, so that only a small step tells; single precision has none.
_STEPS = {torch.float64: (1e-3, 1e-5, 1e-7), torch.float32: (1e-1, 1e-2, 3e-3)}
_LIMIT = {torch.float64: 1e-3, torch.float32: 5e-2}


class _Comparison(NamedTuple):
    off: float  # relative
    parameter: str  # where it is farthest off


def require_repeatable(data: DataPass) -> torch.Tensor:
    """Differentiate the first piece twice: dropout and augmentation show as different gradients. The gradient."""
    try:
        first, second = (gradient_of(data, data.first)[0] for _ in range(2))
    except RuntimeError as error:
        if not is_of_writing(error):
            raise
        raise OperatorError(who_wrote(error, data.model, lambda: data.summed_loss(data.first))) from error
    difference, size = float((first - second).norm()), float(first.norm())
    # Atomic additions on a GPU change a few last digits, random numbers the first; half precision has only two.
    if difference > size * min(1e3 * data.rounding, 0.1):
        evidence = f"two gradients of one batch differ by {difference / size:.2g} of their length"
        raise OperatorError(random_loss(data.model, evidence))
    return first


def direction_for(gradient: torch.Tensor) -> torch.Tensor:
    """A unit vector to try: half random, half the gradient, along which curvature stands out of rounding."""
    v = random_unit(gradient)
    size = torch.linalg.vector_norm(gradient)
    v = v + gradient / size if size else v
    return v / torch.linalg.vector_norm(v)


def require_derivative(data: DataPass, make: Callable[[DataPass], Mode]) -> None:
    """Raise where products of a mode are not the derivatives of the gradient, on a few samples in double precision.

    Raises
    ------
    OperatorError
        Naming the parameter where it is farthest off, and its module.

    Warns
    -----
    PrecisionWarning
        If only single precision is to be had, and cannot tell.
    """
    try:
        precise = data.copy_in(torch.float64, _SAMPLES)
        with precise.differentiating():
            found = _compare(precise, make)
    except (RuntimeError, TypeError, ValueError) as error:  # the loss wants its own dtype, model or number of samples
        precise, found = data, _compare(data, make)
        if data.parameters.like.dtype == torch.float32 and found.off > _LIMIT[torch.float32]:
            warn_user(
                f"finite differences differ from the product by {found.off:.2g}, which kinks of ReLUs can explain in "
                f"single precision, and a copy in float64 does not run ({error}); check=False leaves this out",
                PrecisionWarning,
            )
            return
    if found.off > _LIMIT[precise.parameters.like.dtype]:
        raise OperatorError(
            f"the product by {make(data).name} is not the derivative of the gradient: finite differences differ by "
            f"{found.off:.2g} of its size, most for {owner_of(data.model, found.parameter)}; look there for detached "
            "tensors, custom backward passes, gradient hooks, layers that change what they use, and checkpoints "
            "without use_reentrant=False; ad='difference' works without second derivatives, and check=False accepts "
            "a loss that jumps"
        )


def _compare(data: DataPass, make: Callable[[DataPass], Mode]) -> _Comparison:
    """How far a product is from the differences, at the step that agrees best, beyond their rounding."""
    mode = make(data)
    gradient, loss = gradient_of(data, data.first)
    dtype = data.parameters.like.dtype
    # In single precision the curvature along most directions drowns in the rounding of the differences.
    direction = random_unit(gradient) if dtype == torch.float64 else direction_for(gradient)
    product = torch.zeros_like(direction)
    mode.add_products(data.first, direction[None], product[None])
    lost = [name for name, part in data.parameters.unravel(product).items() if not part.isfinite().all()]
    if lost:
        raise OperatorError(
            f"the product by {mode.name} contains NaN or infinity for {owner_of(data.model, lost[0])}; look for norms, "
            "roots and quotients at zero in the loss, or leave the parameter out by params="
        )
    best = _Comparison(float("inf"), "")
    for step in _STEPS[dtype]:
        ahead, behind = (gradient_at(data, data.first, direction * h) for h in (step, -step))
        slope = (ahead - behind) / (2 * step)
        noise = 100 * data.rounding * float(torch.linalg.vector_norm(gradient) + abs(loss)) / step
        wrong = slope - product
        size = max(float(torch.linalg.vector_norm(x)) for x in (slope, product))
        off = max(float(torch.linalg.vector_norm(wrong)) - noise, 0.0) / size if size else 0.0
        if off < best.off:
            parts = data.parameters.unravel(wrong)
            best = _Comparison(off, max(parts, key=lambda name: float(torch.linalg.vector_norm(parts[name]))))
        if best.off <= _LIMIT[dtype] / 10:
            break
    return best


def random_unit(like: torch.Tensor) -> torch.Tensor:
    """A unit vector of the shape, dtype and device of another, always the same."""
    v = torch.randn(like.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    return v / torch.linalg.vector_norm(v)
