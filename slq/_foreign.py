"""Floor 1: operators of other packages, known by what they can do; none of the packages is imported."""

import itertools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from slq._arrays import Array, device_of, empty_dense, empty_like, fused, is_array, promote_inexact
from slq._products import LinearOperator
from slq._wrappers import Columns, Function, transposed
from slq.errors import DtypeWarning, OperatorError, ShapeError

__all__ = ["guess_like", "warn_converted", "wrap_foreign", "wrap_pydata", "wrap_torch_sparse"]

# A class belongs to the library of the first of these packages that any of its bases comes from.
_LIBRARIES = {"cupy": "cupy", "cupyx": "cupy", "jax": "jax.numpy", "jaxlib": "jax.numpy"}


def wrap_foreign(A: Any, like: Array) -> LinearOperator | None:
    """An operator of A if it is one of another package's, else None."""
    if isinstance(A, type):  # its attributes are those of its instances, without their values
        return None
    if hasattr(A, "mv") and hasattr(A, "in_structure"):
        return _lineax(A)
    has_shape = hasattr(A, "shape")
    if has_shape and (hasattr(A, "matmat") or hasattr(A, "__matmul__")):
        like = guess_like(A) if like is None else empty_like(like)
        if _package(A) in ("jax", "jaxlib"):
            return _jax_sparse(A, like)
        return Columns(A.matmat if hasattr(A, "matmat") else A.__matmul__, _two(A.shape), like, _adjoint(A))
    if hasattr(A, "matvec") and (has_shape or isinstance(getattr(A, "size", None), int)):
        # no product of a block: SciPy's own vocabulary, or that of hessian-eigenthings, which tells only a size
        like = guess_like(A) if like is None else empty_like(like)
        shape = _two(A.shape) if has_shape else (A.size, A.size)
        return Function(A.matvec, shape, like, adjoint=getattr(A, "rmatvec", None))
    return None


def wrap_torch_sparse(A: Any) -> LinearOperator:
    """One of torch's sparse tensors, of any layout."""
    torch = sys.modules["torch"]
    if not (A.is_floating_point() or A.is_complex()):
        warn_converted(A.dtype, torch.float64)
        A = A.to(torch.float64)
    blocked = A.layout in (torch.sparse_bsr, torch.sparse_bsc)
    if A.layout == torch.sparse_bsc:
        A = A.to_sparse_coo()  # torch 2.13 multiplies no BSC from the left, and no transposed BSR
    return Columns(
        A.__matmul__, _two(A.shape), empty_dense(A), transposed(lambda: (A.to_sparse_coo() if blocked else A).t())
    )


def wrap_pydata(A: Any) -> LinearOperator:
    """A PyData sparse array (COO, GCXS, DOK): an array by the standard, whose product with a dense block is dense."""
    if A.fill_value != 0:
        raise OperatorError(
            f"a sparse array filled with {A.fill_value} has no sparse product; give the sum of the sparse part and the "
            "filled one as a function, or A.todense()"
        )
    if not hasattr(A, "T"):
        A = A.asformat("coo")  # a dictionary of keys does not multiply
    like = promote_inexact(np.empty(0, dtype=A.dtype))
    if like.dtype != A.dtype:
        warn_converted(A.dtype, like.dtype)
        A = A.astype(like.dtype)
    return Columns(A.__matmul__, _two(A.shape), like, transposed(lambda: A.T))


def warn_converted(old: Any, new: Any) -> None:
    """Say that a matrix was converted."""
    warnings.warn(
        f"matrix of dtype {old} converted to {new}; convert it yourself to be silent", DtypeWarning, stacklevel=5
    )


def guess_like(A: Any) -> Array:
    """The vectors of a foreign operator, told from its dtype and package, whose library is loaded if A exists."""
    dtype, device = getattr(A, "dtype", None), getattr(A, "device", None)
    if type(dtype).__module__ == "torch":
        return promote_inexact(sys.modules["torch"].empty(0, dtype=dtype, device=device))
    backend = getattr(getattr(A, "xnp", None), "__name__", "")  # CoLA: cola.backends.jax_fns
    library = "jax.numpy" if "jax" in backend else _LIBRARIES.get(_package(A), "numpy")
    xp = sys.modules[library]
    if library == "jax.numpy" and backend:
        return promote_inexact(xp.empty(0, dtype=dtype, device=device))
    try:
        return promote_inexact(xp.empty(0, dtype=xp.float64 if dtype is None else dtype))
    except TypeError:
        raise OperatorError(
            f"cannot tell which vectors {type(A).__name__} multiplies (dtype {dtype!r}); give like= an example vector"
        ) from None


def _package(A: Any) -> str:
    """The first array library among the packages of A's class and its bases, or an empty string."""
    packages = (cls.__module__.split(".")[0] for cls in type(A).__mro__)
    return next((package for package in packages if package in _LIBRARIES), "")


def _two(shape: Any) -> tuple[int, int]:
    if len(shape) != 2:
        raise ShapeError(f"expected a matrix with 2 dimensions, got shape {tuple(shape)}; take one of the batch")
    return int(shape[0]), int(shape[1])


def _adjoint(A: Any) -> Callable[[Array], Array] | None:
    """The product y -> Aᴴ y of columns, in the vocabulary of SciPy, curvlinops, or matrices; None if A speaks none."""
    if hasattr(A, "rmatmat"):
        return lambda y: _rmatmat(A, y)
    if callable(getattr(A, "adjoint", None)):
        return lambda y: A.adjoint() @ y
    name = next((name for name in ("mT", "T") if hasattr(A, name)), None)
    return None if name is None else transposed(lambda: getattr(A, name))


def _rmatmat(A: Any, y: Array) -> Array:
    try:
        return A.rmatmat(y)
    except TypeError:  # SciPy calls None where no adjoint was given; only its `rmatvec` says so
        A.rmatvec(y[:, 0])
        raise


def _jax_sparse(A: Any, like: Array) -> LinearOperator:
    """JAX's BCOO, BCSR, CSR, COO: pytrees, so that their products compile."""
    if like.dtype != A.dtype:
        warn_converted(A.dtype, like.dtype)  # by each product, as JAX promotes
    transpose = transposed(lambda: A.to_bcoo().T if hasattr(A, "to_bcoo") else A.T)  # a BCSR has none
    return Columns(lambda x: _jax_product(x, A), _two(A.shape), like, transpose)


@fused
def _jax_product(x: Array, A: Any) -> Array:
    return A @ x


def _lineax(A: Any) -> LinearOperator:
    """A lineax operator: a product of pytrees, mapped over flat rows by JAX."""
    jax = sys.modules["jax"]
    leaves = jax.tree.leaves(A.in_structure())
    dtype = sys.modules["jax.numpy"].result_type(*leaves)
    arrays = (leaf for leaf in jax.tree.leaves(A) if is_array(leaf))
    device = next((device_of(leaf) for leaf in arrays), None)
    like = sys.modules["jax.numpy"].empty(0, dtype=dtype, device=device)

    def adjoint(y: Array) -> Array:
        return _flat(A.T.mv, A.out_structure())(y.conj()).conj()

    shape = (int(A.out_size()), int(A.in_size()))
    return Function(_flat(A.mv, A.in_structure()), shape, like, batched=True, adjoint=adjoint)


def _flat(mv: Callable[[Any], Any], structure: Any) -> Callable[[Array], Array]:
    """A product of pytrees as one of flat rows."""
    jax, jnp = sys.modules["jax"], sys.modules["jax.numpy"]
    leaves, tree = jax.tree.flatten(structure)
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))[:-1]

    def multiply(x: Array) -> Array:
        parts = zip(jnp.split(x, ends), leaves, strict=True)
        y = mv(tree.unflatten([part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in parts]))
        return jnp.concatenate([part.ravel() for part in jax.tree.leaves(y)])

    return jax.vmap(multiply)
