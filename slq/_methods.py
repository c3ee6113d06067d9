"""Floor 3: how a spectral sum spends its products: the methods by name."""

from collections.abc import Callable, Mapping
from typing import Any

from slq._krylov_aware import KrylovAware, krylov_aware
from slq._measure import SpectralMeasure
from slq._slq import spectral_measure
from slq.errors import RequestError

__all__ = ["measured"]


def measured(A: Any, method: str, options: dict[str, Any]) -> SpectralMeasure | KrylovAware:
    """What `method` makes of an operator; it answers ``trace(f)`` and ``logdet()``.

    Raises
    ------
    RequestError
        If there is no such method, or it does not take one of the options.
    """
    if not isinstance(method, str) or method not in _METHODS:
        raise RequestError(f"method= expects one of {', '.join(map(repr, _METHODS))}, got {method!r}")
    return _METHODS[method](A, **options)


def _deflate(A: Any, **options: Any) -> SpectralMeasure:
    return spectral_measure(A, **options).deflate()


def _block(A: Any, **options: Any) -> SpectralMeasure:
    return spectral_measure(A, **{"block": True, **options}).deflate()


def _krylov(A: Any, **options: Any) -> KrylovAware:
    unknown = sorted(set(options) - _OF_KRYLOV)
    if unknown:
        raise RequestError(
            f"method='krylov' does not take {unknown[0]}=, only {', '.join(sorted(_OF_KRYLOV))}; leave it out, or take "
            "method='slq'"
        )
    return krylov_aware(A, **options)


_OF_KRYLOV = {"num_probes", "num_steps", "rng", "first_probe", "batch_size", "check", "progress"}
_METHODS: Mapping[str, Callable[..., SpectralMeasure | KrylovAware]] = {
    "slq": spectral_measure,
    "deflate": _deflate,
    "block": _block,
    "krylov": _krylov,
}
