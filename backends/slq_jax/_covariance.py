"""The covariance of the gradients of batches or examples."""

from typing import Any, Unpack

from slq.errors import DataError, RequestError
from slq_jax._curvatures import Covariance
from slq_jax._objective import LossFunction, Objective
from slq_jax._operator import ModelOperator
from slq_jax._parameters import Selection
from slq_jax._settings import Options, Settings

__all__ = ["GradientCovarianceOperator", "gradient_covariance_operator"]


def gradient_covariance_operator(
    loss_fn: LossFunction,
    params: Any,
    data: Any,
    *,
    per: str = "batch",
    centered: bool = True,
    select: Selection = None,
    **options: Unpack[Options],
) -> "GradientCovarianceOperator":
    """Make the covariance of the gradients of mini-batches, or of examples, an operator.

    With gᵢ the gradient of the mean loss of item i, wᵢ its weight and g that of the mean loss of all, it is
    Σ wᵢ (gᵢ − g)(gᵢ − g)ᵀ / Σ wᵢ; not centred, Σ wᵢ gᵢ gᵢᵀ / Σ wᵢ.

    Parameters
    ----------
    loss_fn, params, data, select, **options
        As for `hessian_operator`; `weight_decay` has no meaning here, and `microbatch` none for batches.
    per : {"batch", "example"}
        The items: the batches that `data` holds, or the samples of each.
    centered : bool
        The covariance, or the second moment.

    Returns
    -------
    GradientCovarianceOperator
        Of shape (n, n), positive semidefinite; its rank is at most the number of items, less one if centred.

    Raises
    ------
    DataError
        If the losses of examples do not add up to that of their batch.
    RequestError
        If an option has no meaning here, the batches do not tell their samples, or there is one batch only.
    SlqError
        As `hessian_operator`.

    Notes
    -----
    Weights are exact: a batch weighs its samples, or what the loss says with ``(sum, weight)``. No gradient of an item
    is stored: with L the vector of their losses, a product is the derivative of L along a vector, then its transpose.

    References
    ----------
    Ghorbani, Krishnan and Xiao, An investigation into neural net optimization via Hessian eigenvalue density, ICML
    2019, section 4: gradients concentrate in the space of the outliers, as this matrix shows.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> loss = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
    >>> batches = [(jnp.ones((8, 3)) * i, jnp.ones(8)) for i in range(5)]
    >>> gradient_covariance_operator(loss, jnp.zeros(3), batches).shape
    (3, 3)
    """
    if "weight_decay" in options:
        raise RequestError("weight_decay has no meaning for a covariance of gradients; leave it out")
    if per not in ("batch", "example"):
        raise RequestError(f"per= expects 'batch' or 'example', got {per!r}")
    if per == "batch" and options.get("microbatch") is not None:
        raise RequestError("microbatch= would cut the batches whose gradients are meant; leave it out")
    return GradientCovarianceOperator(loss_fn, params, data, select, Settings(**options), per, centered)


class GradientCovarianceOperator(ModelOperator):
    """The operator that `gradient_covariance_operator` makes.

    Attributes
    ----------
    shape : (n, n)
        n is the number of parameters.
    like : (0,) array
        Dtype and device of the vectors.
    """

    def __init__(
        self,
        loss_fn: LossFunction,
        params: Any,
        data: Any,
        select: Selection,
        settings: Settings,
        per: str,
        centered: bool,
    ) -> None:
        curvature = Covariance(Objective(loss_fn, settings.reduction), per == "example")
        super().__init__(curvature, params, data, select, settings)
        weighed = self._data.weighed
        if per == "example":
            self._require_sum_of_examples(curvature)
        elif centered and weighed.num_batches == 1:
            raise RequestError(
                "the covariance of the gradients of one batch is zero; give several batches, or take per='example'"
            )
        if centered:
            self.give(mean=self._parameters.layout.split(self.gradient()))

    def _require_sum_of_examples(self, curvature: Covariance) -> None:
        """Refuse a loss that couples its examples: they have no gradients of their own."""
        if self._data.weighed.num_samples is None:
            raise RequestError("per='example' needs batches that tell their samples: arrays with a leading dimension")
        self._data.require_samples()
        p, batch = self._parameters, self._data.first.batch
        whole, parts = curvature.both_sums(p.tree, p.leaves, p.others, batch)
        if not abs(float(whole) - float(parts)) <= self._rounding**0.5 * max(abs(float(whole)), abs(float(parts))):
            raise DataError(
                f"the losses of the examples of batch 0 add up to {float(parts):.6g}, its own is {float(whole):.6g}; "
                "the loss must be a mean over samples, or (sum, weight), and nothing may couple them; or take "
                "per='batch'"
            )
