"""Gauss-Newton and Fisher matrices of a mean loss over a data set."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Unpack

import torch

from slq.errors import OperatorError, RequestError
from slq_torch._chosen import ChosenOperator, Way
from slq_torch._data_pass import DataPass
from slq_torch._jacobian_modes import JacobianJvp, JacobianLinearize, TwoBackward, output_tensors
from slq_torch._output_curvature import Curvature, empirical, of_loss, sampled
from slq_torch._parameters import Selection
from slq_torch._settings import Options, Settings
from slq_torch._torch_losses import closed_form
from slq_torch._trees import with_leaves
from slq_torch._verify import random_unit

__all__ = ["GaussNewtonOperator", "fisher_operator", "ggn_operator"]

Forward = Callable[[torch.nn.Module, Any], Any]

# Of differences, along unit vectors, in double precision: the first for outputs far larger than their slopes, the last
# because ReLUs bend between any two points that are farther apart than the nearest kink of any sample.
_STEPS = (1e-4, 1e-6, 1e-8)
_LIMIT = 1e-3  # of their disagreement; measured on smooth networks: 1e-8


def ggn_operator(
    model: torch.nn.Module,
    forward: Forward,
    loss: Any,
    data: Any,
    *,
    params: Selection = None,
    **options: Unpack[Options],
) -> "GaussNewtonOperator":
    """Make the generalised Gauss-Newton matrix of the mean loss over `data` an operator.

    That is Σ Jᵀ M J / Σ weights, where J is the Jacobian of the outputs with respect to the parameters and M the second
    derivative of the summed loss with respect to the outputs: the Hessian without the curvature of the model.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode to be studied, usually after ``model.eval()``. It is left as it is.
    forward : callable
        ``forward(model, batch)`` returns the outputs: a tensor, or a tuple, list or dict of tensors.
    loss : callable or torch.nn loss
        ``loss(outputs, batch)`` returns a scalar, the mean over the samples of the batch, or ``(sum, weight)``. M is
        known in closed form for `CrossEntropy`, `SquaredError` and `BinaryCrossEntropy`, and for
        `torch.nn.CrossEntropyLoss`, `MSELoss` and `BCEWithLogitsLoss`, which stand for these with the targets
        ``batch["labels"]`` or ``batch[1]``; of any other loss, and of torch's other modules, it is differentiated.
    data, params, **options
        As for `hessian_operator`; there is no ``ad="difference"``.

    Returns
    -------
    GaussNewtonOperator
        Of shape (n, n); positive semidefinite where the loss is convex in the outputs.

    Raises
    ------
    SlqError
        As `hessian_operator`.

    References
    ----------
    Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural Computation 14 (2002).

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> batch = torch.randn(8, 3), torch.randint(2, (8,))
    >>> ggn_operator(model, lambda model, batch: model(batch[0]), torch.nn.CrossEntropyLoss(), batch).shape
    (8, 8)
    """
    loss = closed_form(loss)
    return GaussNewtonOperator(model, forward, loss, of_loss(loss), data, params, Settings(**options))


def fisher_operator(
    model: torch.nn.Module,
    forward: Forward,
    loss: Any,
    data: Any,
    *,
    params: Selection = None,
    samples: int | None = None,
    empirical: bool = False,
    rng: int = 0,
    **options: Unpack[Options],
) -> "GaussNewtonOperator":
    """Make the Fisher information matrix of a model, over the inputs in `data`, an operator.

    Parameters
    ----------
    model, forward, data, params, **options
        As for `ggn_operator`.
    loss : loss
        `CrossEntropy`, `SquaredError` or `BinaryCrossEntropy`, or torch's modules for them: negative log-likelihoods,
        which say how labels are drawn. With ``empirical=True`` any loss.
    samples : int, optional
        How many labels to draw for each row (sample or token) from the model; default: the exact expectation.
    empirical : bool
        Take the labels of the data instead: Σ g gᵀ / Σ weights, where g is the gradient of the summed loss of a row.
        This is another matrix, with no claim to be near the Fisher information away from a well fitted model. Weights
        of classes enter squared. A scalar loss is the mean of those of the samples: where it is also a mean over d
        outputs, as ``F.mse_loss``, g is that of the mean over outputs, and the matrix d times smaller than that of
        `SquaredError`, which sums them.
    rng : int
        The seed of the labels. With the number of the batch it gives the same labels for each product; a loader that
        shuffles would give a sample other labels each time, and is refused.

    Returns
    -------
    GaussNewtonOperator

    Raises
    ------
    RequestError
        If labels are to be drawn but the loss is no likelihood, or `samples` is out of range.

    Notes
    -----
    The exact matrix is the Gauss-Newton matrix, as outputs are natural parameters of these likelihoods. Weights of
    classes and labels multiply the rows, as they do in the loss.

    References
    ----------
    Martens, New insights and perspectives on the natural gradient method, JMLR 21 (2020).

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> batch = torch.randn(8, 3), torch.randint(2, (8,))
    >>> F = fisher_operator(model, lambda m, b: m(b[0]), torch.nn.CrossEntropyLoss(), batch, samples=5)
    >>> bool((F.matvec(torch.ones(8)) @ torch.ones(8)) >= 0)
    True
    """
    loss = closed_form(loss)
    if empirical and samples is not None:
        raise RequestError("samples= draws labels from the model, empirical=True takes those of the data; choose one")
    if not empirical and not hasattr(loss, "sampled_gradients"):
        raise RequestError(
            f"the Fisher matrix needs a likelihood, from which labels can be drawn, and {loss!r} names none; take "
            "CrossEntropy, SquaredError or BinaryCrossEntropy, or empirical=True"
        )
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise RequestError(f"samples= expects a positive integer or None, got {samples!r}")
    if samples is not None and _shuffles(data):
        raise RequestError(
            "labels are drawn for each sample of a batch, but the loader shuffles: pass one with shuffle=False"
        )
    curvature = _empirical(loss) if empirical else of_loss(loss) if samples is None else sampled(loss, samples, rng)
    return GaussNewtonOperator(model, forward, loss, curvature, data, params, Settings(**options))


_empirical = empirical  # the parameter of that name hides the function


class GaussNewtonOperator(ChosenOperator):
    """The operator that `ggn_operator` and `fisher_operator` make.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) tensor
        Dtype and device of the vectors.
    ad : str
        The way of differentiation, as far as it is chosen.
    tried : dict of str to str
        What "auto" found: seconds of each way, or why it was not taken.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        forward: Forward,
        loss: Any,
        curvature: Curvature,
        data: Any,
        params: Selection,
        settings: Settings,
    ) -> None:
        self._forward, self._loss, self._curvature = forward, loss, curvature
        super().__init__(model, lambda model, batch: loss(forward(model, batch), batch), data, params, settings)

    def _make_ways(self, direction: torch.Tensor) -> Mapping[str, Way]:
        del direction
        kinds: dict[str, Way] = {
            "double_backward": TwoBackward,
            "jvp": JacobianJvp,
            "linearize": JacobianLinearize,
        }
        return {name: partial(kind, forward=self._forward, curvature=self._curvature) for name, kind in kinds.items()}

    def _require_right(self, way: Way) -> None:
        """Compare vᵀ(Jᵀ M J v) with the same of a difference of the outputs, in double precision."""
        try:
            found, others = self._forms(way, self._data.copy_in(torch.float64, 16))
        except (RuntimeError, TypeError, ValueError):  # the loss wants its own dtype, model or number of samples
            if self.like.dtype != torch.float64:
                return
            found, others = self._forms(way, self._data)
        expected = min(others, key=lambda other: abs(other - found))
        if abs(found - expected) > _LIMIT * max(abs(found), abs(expected)):
            raise OperatorError(
                f"the product by {way(self._data).name} is not that of the Jacobian: vᵀ Jᵀ M J v is {found:.6g}, and "
                f"{expected:.6g} by differences of the outputs; look for detached tensors and custom derivatives, take "
                "another ad=, or check=False to accept outputs that jump"
            )

    def _forms(self, way: Way, data: DataPass) -> tuple[float, list[float]]:
        """vᵀ Jᵀ M J v of the first piece, by a product and by differences of each step."""
        with data.differentiating():
            v = random_unit(self._parameters.join([None] * len(self._parameters.tensors)).double())
            product = torch.zeros(1, len(v), dtype=v.dtype, device=v.device)
            way(data).add_products(data.first, v[None], product)
            return float(product[0] @ v), [self._quadratic_form(data, v, step) for step in _STEPS]

    def _quadratic_form(self, data: DataPass, v: torch.Tensor, step: float) -> float:
        """The same with Jv by a central difference."""
        moved = []
        for h in (step, -step, 0.0):
            with torch.no_grad(), data.parameters.displaced(v * h), data.evaluating(data.first):
                moved.append(self._forward(data.model, data.first.batch))
        ahead, behind, outputs = (output_tensors(z) for z in moved)
        slope = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
        products = self._curvature(data, data.first, with_leaves(moved[2], outputs), outputs)(slope)
        return float(sum((t * p).sum() for t, p in zip(slope, products, strict=True)))


def _shuffles(data: Any) -> bool:
    samplers = [getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None)]
    kinds = torch.utils.data.RandomSampler, torch.utils.data.SubsetRandomSampler, torch.utils.data.WeightedRandomSampler
    return any(isinstance(sampler, kinds) for sampler in samplers)
