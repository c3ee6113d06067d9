"""Errors over what a batch is, or is not, and over what a loss does that JAX cannot trace, say so."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from slq.errors import DataError, OperatorError, SlqError
from slq_jax._objective import Piece
from slq_jax._verify import KEPT

__all__ = ["naming", "require_arrays"]

_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)

_CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


@contextmanager
def naming(piece: Piece) -> Iterator[None]:
    """Inside, errors that a loss raises say what it does, or what the batch is.

    Raises
    ------
    OperatorError
        If the loss asks for the value of an array that JAX traces, or uses one of an earlier call.
    DataError
        In place of another TypeError, LookupError, AttributeError or ValueError, to which it is chained.
    """
    try:
        yield
    except (SlqError, ArithmeticError):
        raise
    except jax.errors.UnexpectedTracerError as error:
        raise OperatorError(KEPT) from error
    except _CONCRETE as error:
        raise OperatorError(
            f"the loss asks for the value of an array while JAX traces it ({_first_line(error)}): use jax.numpy in "
            "place of NumPy, float() and .item(), jnp.where or jax.lax.cond in place of if, and a mask in place of "
            "x[mask], whose shape depends on values"
        ) from error
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise DataError(
            f"the loss raised {type(error).__name__} ({_first_line(error)}) for batch {piece.number}, "
            f"{_described(piece.batch)}; check that the loader gives the trees of arrays that the loss expects"
        ) from error


def require_arrays(number: Any, batch: Any) -> None:
    """Raise if a leaf of a batch is none that JAX takes, or its buffer is gone."""
    for leaf in jax.tree.leaves(batch):
        if isinstance(leaf, jax.core.Tracer):
            raise OperatorError(
                f"batch {number} is traced: an operator holds numbers, and cannot be built inside jit, grad or vmap; "
                "build it outside, or use slq_jax.lanczos, which can be traced"
            )
        if not isinstance(leaf, _ARRAYS) and not hasattr(type(leaf), "__jax_array__"):
            raise DataError(
                f"batch {number} holds a {type(leaf).__name__}, which is no array of JAX or NumPy; convert tensors of "
                "another library (.numpy()), make dicts of mappings of other types, and let the loader encode text"
            )
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise DataError(
                f"an array of batch {number} was donated to a compiled function, and its buffer is gone; do not donate "
                "the data, or pass a copy"
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _described(batch: Any) -> str:
    kinds = jax.tree.map(lambda x: f"{type(x).__name__}{list(np.shape(x)) if hasattr(x, 'shape') else ''}", batch)
    return f"{type(batch).__name__} {kinds}"
