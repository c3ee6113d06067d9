"""The diagonal by which an optimiser divides."""

import torch

from slq.errors import RequestError
from slq_torch._layers import BlockOperator
from slq_torch._operator import ModelOperator

__all__ = ["adam_diagonal"]

# They hold the same moments, and divide by something else.
_OTHERS = (torch.optim.RAdam, torch.optim.SparseAdam)


def adam_diagonal(
    optimizer: torch.optim.Optimizer, operator: ModelOperator | BlockOperator, *, eps: float | None = None
) -> torch.Tensor:
    """The diagonal √v̂ + ε of Adam's preconditioner, for `slq.precondition`.

    Parameters
    ----------
    optimizer : torch.optim.Adam, AdamW or NAdam
        After at least one step. With ``amsgrad`` it is the running maximum that divides.
    operator : operator of a model, or a block of one
        Whose parameters, in whose order.
    eps : float, optional
        In place of the ε of the optimiser's parameter groups.

    Returns
    -------
    (n,) tensor

    Raises
    ------
    RequestError
        If the optimiser does not hold second moments of a parameter, or `eps` is negative.

    References
    ----------
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, algorithm 1. Cohen et al., Adaptive gradient
    methods at the edge of stability, 2022: the curvature that counts is that of the preconditioned Hessian.

    Examples
    --------
    >>> import slq
    >>> model = torch.nn.Linear(3, 1)
    >>> batch = torch.randn(8, 3), torch.randn(8, 1)
    >>> loss = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean()
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> loss(model, batch).backward()
    >>> optimizer.step()
    >>> from slq_torch import hessian_operator
    >>> A = hessian_operator(model, loss, batch)
    >>> slq.precondition(A, adam_diagonal(optimizer, A)).shape
    (4, 4)
    """
    if isinstance(optimizer, _OTHERS):
        raise RequestError(
            f"{type(optimizer).__name__} does not divide by √v̂ + ε; adam_diagonal takes Adam, AdamW, NAdam"
        )
    if eps is not None and not eps >= 0:
        raise RequestError(f"eps= expects a number >= 0, got {eps!r}")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    diagonal = {}
    for name, p in operator.parameters.items():
        group, state = groups.get(id(p)), optimizer.state.get(p, {})
        if group is None or "exp_avg_sq" not in state or "betas" not in group:
            reason = "does not hold it" if group is None else "holds no second moments of it"
            raise RequestError(
                f"parameter {name}: {type(optimizer).__name__} {reason}; adam_diagonal needs Adam or a relative, after "
                "a step on all parameters of the operator"
            )
        steps = float(state["step"])
        second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
        unbiased = second.to(operator.like.dtype) / (1 - float(group["betas"][1]) ** steps)
        diagonal[name] = unbiased.sqrt() + (group["eps"] if eps is None else eps)
    return operator.ravel(diagonal)
