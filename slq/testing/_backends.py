"""The laws that slq keeps on every Array API library, run on one of them."""

from typing import Any

import numpy as np

from slq.errors import BackendError, RequestError
from slq.testing._laws import LAWS, Law, Library

__all__ = ["check_backend"]


def check_backend(xp: Any, *, device: Any = None, on_fail: str | None = "raise") -> list[dict[str, Any]]:
    """Run the exact laws of slq on an array library.

    Parameters
    ----------
    xp : namespace
        An Array API namespace: ``numpy``, ``torch``, ``jax.numpy``, ``cupy``, ``array_api_strict``, or another.
    device : optional
        A device of that library; its default if left out.
    on_fail : {"raise", None}
        ``"raise"``: an error names all laws that failed. None: the findings tell.

    Returns
    -------
    list of dict
        One finding for each law and dtype: ``name``; ``status`` (``"pass"``, ``"fail"``, or ``"skip"`` where the
        library has no such dtype); ``value``, the largest deviation, and ``threshold``, which it may not exceed;
        ``detail``, the error that the library raised, if it did.

    Raises
    ------
    BackendError
        If a law failed and `on_fail` is ``"raise"``.
    RequestError
        If `on_fail` is neither.

    Notes
    -----
    A few hundred products of dimension 24; nothing is compared but with closed forms and with NumPy. Float32 and
    complex64 are judged by their own precision. JAX has float64 only with ``jax_enable_x64``, and fails without.

    Examples
    --------
    >>> import numpy as np
    >>> findings = check_backend(np)
    >>> {finding["status"] for finding in findings}
    {'pass'}
    """
    if on_fail not in ("raise", None):
        raise RequestError(f'on_fail= expects "raise" or None, got {on_fail!r}')
    library = Library(xp, device)
    findings = [
        _judge(library, law, dtype, thresholds[dtype]) for law, thresholds in LAWS.items() for dtype in thresholds
    ]
    failed = [finding for finding in findings if finding["status"] == "fail"]
    if failed and on_fail == "raise":
        listed = "; ".join(
            f"{f['name']}: {f['detail'] or format(f['value'], '.3g')} (at most {f['threshold']:.3g})" for f in failed
        )
        raise BackendError(
            f"{xp.__name__} breaks {len(failed)} of {len(findings)} laws: {listed}. Results on this library cannot be "
            "trusted; check its version and its settings (JAX needs jax_enable_x64), or use another"
        )
    return findings


def _judge(library: Library, law: Law, dtype: str, threshold: float) -> dict[str, Any]:
    finding = {"name": f"{law.__name__.replace('_', ' ').strip()}, {dtype}", "threshold": threshold, "detail": ""}
    if not hasattr(library.xp, dtype):
        return finding | {"status": "skip", "value": np.nan}
    try:
        value = float(np.max(law(library, dtype)))
    except Exception as error:  # whatever the library raises is a finding
        text = (str(error).splitlines() or [""])[0]
        return finding | {"status": "fail", "value": np.nan, "detail": f"{type(error).__name__}: {text}"}
    return finding | {"status": "pass" if value <= threshold else "fail", "value": value}  # NaN fails
