"""Is the product the derivative of the gradient? Compared with finite differences, once, on the first piece."""

from typing import NamedTuple

import torch

from slq.adapters import warn_user
from slq.errors import OperatorError, PrecisionWarning
from slq_torch._data_pass import DataPass
from slq_torch._hessian_modes import DoubleBackward, gradient_at, gradient_of
from slq_torch._modules import owner_of, random_modules

__all__ = ["direction_for", "require_derivative", "require_repeatable"]

# Differences of smooth losses agree at one of the larger steps. ReLUs bend between any two points that are farther
# apart than the nearest kink of any sample, so that only the smallest one tells; single precision has none.
_STEPS = {torch.float64: (1e-3, 1e-5, 1e-7), torch.float32: (1e-1, 1e-2, 3e-3)}
_LIMIT = {torch.float64: 1e-3, torch.float32: 5e-2}


class _Comparison(NamedTuple):
    off: float  # relative
    parameter: str  # where it is farthest off


def require_repeatable(data: DataPass) -> torch.Tensor:
    """Differentiate the first piece twice: dropout and augmentation show as different gradients. The gradient."""
    first, second = (gradient_of(data, data.first)[0] for _ in range(2))
    difference, size = float((first - second).norm()), float(first.norm())
    # Atomic additions on a GPU change a few last digits, random numbers the first; half precision has only two.
    if difference > size * min(1e3 * data.rounding, 0.1):
        drawing = random_modules(data.model)
        raise OperatorError(
            f"the loss is random: two gradients of one batch differ by {difference / size:.2g} of their length"
            + (f", and {', '.join(drawing)} draws random numbers" if drawing else "")
            + "; call model.eval(), fix the random numbers inside the loss, or pass seed= to keep one mask a batch"
        )
    return first


def direction_for(gradient: torch.Tensor) -> torch.Tensor:
    """A unit vector to try: half random, half the gradient, along which curvature stands out of rounding."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(gradient.numel(), generator=generator, dtype=torch.float64).to(gradient)
    for part in (v, gradient):
        size = float(torch.linalg.vector_norm(part))
        v = v + part / size if size and part is gradient else (v / size if size else v)
    return v / torch.linalg.vector_norm(v)


def require_derivative(data: DataPass, direction: torch.Tensor, product: torch.Tensor) -> None:
    """Raise where a product on the first piece is not the derivative of the gradient.

    Raises
    ------
    OperatorError
        Naming the parameter where it is farthest off, and its module.

    Warns
    -----
    PrecisionWarning
        If single precision cannot tell, and no copy in double precision can be made.
    """
    dtype = data.parameters.like.dtype
    found = _compare(data, direction, product)
    if found.off > _LIMIT[dtype] and dtype != torch.float64:
        try:
            precise = data.copy_in(torch.float64)
            with precise.differentiating():
                wide = direction.double()
                again = torch.zeros(1, precise.parameters.n, dtype=torch.float64, device=wide.device)
                DoubleBackward(precise, keep=False).add_products(precise.first, wide[None], again)
                found = _compare(precise, wide, again[0])
                dtype = torch.float64
        except (RuntimeError, TypeError, ValueError) as error:
            warn_user(
                f"finite differences in {dtype} differ from the product by {found.off:.2g}, which kinks of ReLUs can "
                f"explain, and a copy in float64 does not run ({error}); check=False leaves this comparison out",
                PrecisionWarning,
            )
            return
    if found.off > _LIMIT[dtype]:
        raise OperatorError(
            f"the product is not the derivative of the gradient: finite differences differ by {found.off:.2g} of its "
            f"size, most for {owner_of(data.model, found.parameter)}; look there for detached tensors, custom backward "
            "passes and layers that change what they use; ad='difference' works without second derivatives, and "
            "check=False accepts a loss that jumps"
        )


def _compare(data: DataPass, direction: torch.Tensor, product: torch.Tensor) -> _Comparison:
    """How far the product is from the differences, at the step that agrees best, beyond their rounding."""
    best = _Comparison(float("inf"), "")
    dtype = data.parameters.like.dtype
    for step in _STEPS[dtype]:
        ahead, behind = (gradient_at(data, data.first, direction * h) for h in (step, -step))
        slope = (ahead - behind) / (2 * step)
        noise = 100 * data.rounding * float(torch.linalg.vector_norm(ahead)) / step
        wrong = slope - product
        size = max(float(torch.linalg.vector_norm(x)) for x in (slope, product))
        off = max(float(torch.linalg.vector_norm(wrong)) - noise, 0.0) / size if size else 0.0
        if off < best.off:
            parts = data.parameters.unravel(wrong)
            best = _Comparison(off, max(parts, key=lambda name: float(torch.linalg.vector_norm(parts[name]))))
        if best.off <= _LIMIT[dtype] / 10:
            break
    return best
