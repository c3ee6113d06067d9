"""Floor 2: a measure that grows: its probes run in as many parts as wanted, each part of as many steps as wanted."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from slq._arrays import is_complex, recurrence_like
from slq._batches import Batches, memory_needed, require_memory
from slq._check_operator import quick_check
from slq._lanczos import run
from slq._measure import SpectralMeasure
from slq._memory import available
from slq._probes import Sampler, seed_of
from slq._products import LinearOperator, Products, complexified
from slq._recurrence import Until
from slq._source import count, source_of

__all__ = ["Growth"]

_SHARE = 0.5  # of the free memory that runs may take whose size nobody asked for

Progress = Callable[[int, int], None] | None


class Growth:
    """Runs of consecutive probes of one seed.

    The arguments are those of `spectral_measure`.

    Attributes
    ----------
    operator : LinearOperator
        As it was given; probes may be complex where it is real.
    products : Products
        Of the operator that multiplies the probes.
    is_complex : bool
        Whether the probes are complex.
    spent : int
        The products of all runs so far, whether their measures are still in use or not; not those of the check.
    """

    def __init__(
        self,
        A: LinearOperator,
        *,
        probes: Sampler,
        rng: Any,
        first_probe: int,
        reorthogonalize: bool | int,
        basis_dtype: Any,
        batch_size: int | None,
        check: bool | Mapping[str, str],
    ) -> None:
        self._source = functools.partial(source_of, probes, rng=seed_of(rng))
        first = self._source(1, first_probe=first_probe)
        self.operator = A
        self.products = Products(complexified(A) if first.is_complex and not is_complex(A.like) else A)
        self.is_complex = is_complex(self.products.operator.like)
        self.spent = 0
        self._first_probe = first_probe
        self._batch_size = None if batch_size is None else count("batch_size", batch_size)
        self._check, self._watch = check, check is not False
        self._started = False
        self._options = {"reorthogonalize": reorthogonalize, "basis_dtype": basis_dtype}

    def plain_products(self) -> Products:
        """Products of real vectors where probes are complex for their own sake."""
        if self.products.operator is self.operator:
            return self.products
        plain = Products(self.operator)
        plain.eps = max(plain.eps, self.products.eps)
        return plain

    def most_steps(self, num_steps: int) -> int:
        """`num_steps`, or as many as half of the free memory takes of one probe."""
        while num_steps > 1 and not self._fits(1, num_steps):
            num_steps = max(1, int(0.8 * num_steps))
        return num_steps

    def add(
        self, first: int, num_probes: int, num_steps: int, progress: Progress, until: Until | None = None
    ) -> SpectralMeasure:
        """The measure of the probes from number `first` on; see `Until` for how runs end before `num_steps`.

        Raises
        ------
        SlqError
            As `spectral_measure` does.
        """
        rows = self._rows(num_probes, num_steps)
        require_memory(
            self.products.operator,
            num_probes=num_probes,
            batch_size=rows,
            num_steps=num_steps,
            check=not self._started and self._watch,
            **self._options,
        )
        self._check_once(rows)
        source = self._source(num_probes, first_probe=self._first_probe + first)
        go = functools.partial(run, self.products, num_steps=num_steps, check=self._watch, until=until, **self._options)
        batches = Batches(
            self.products,
            source,
            lambda v, report: go(v=v, progress=report),
            reorthogonalize=self._options["reorthogonalize"],
        )
        batches.add_all(rows, progress)
        part = batches.measure()
        self.spent += part.products
        return part

    def _check_once(self, rows: int) -> None:
        if self._watch and not self._started:
            expected = self._check if isinstance(self._check, Mapping) else None
            self.products.eps, self._watch = quick_check(
                self.products.operator, self.products, expected_failures=expected, batch_size=rows
            )
        self._started = True

    def _rows(self, num_probes: int, num_steps: int) -> int:
        """How many probes run together: as asked for, or as many as fit."""
        if self._batch_size is not None:
            return min(num_probes, self._batch_size)
        rows = num_probes
        while rows > 1 and not self._fits(rows, num_steps):
            rows = -(-rows // 2)
        return rows

    def _fits(self, rows: int, num_steps: int) -> bool:
        A = self.products.operator
        free = available(recurrence_like(A.like))
        needed = memory_needed(A, num_probes=rows, num_steps=num_steps, check=self._watch, **self._options)
        return free is None or needed <= _SHARE * free
