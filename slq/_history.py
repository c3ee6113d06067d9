"""Floor 3: spectra along a training, one measure and some numbers per step, in a folder that a kill leaves readable."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from slq import _storage
from slq._estimate import Estimate
from slq._measure import SpectralMeasure
from slq._smoothed import resolved
from slq.errors import FileFormatError, RequestError

__all__ = ["Series", "SpectralHistory"]

_FILE = re.compile(r"step-(\d{10,})\.npz")
_PARTS = ("value", "low", "high")


class Series(NamedTuple):
    """A quantity along the steps.

    Attributes
    ----------
    steps : (s,) array of int
        Those that have it, increasing.
    values : (s, ...) array
    low, high : (s, ...) array
        The 95 % interval; equal to the values of quantities that are no estimates.
    """

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


class SpectralHistory(Mapping[int, SpectralMeasure]):
    """The measures of an operator that changes, by increasing steps, with numbers that were recorded beside them.

    All have the same probes and number of steps, so that `slq.difference` of two of them has the error of what changed.

    Parameters
    ----------
    path : path, optional
        The folder of the history: it is made if missing, and what it holds is part of the history. Each step is one
        file ``step-0000000100.npz``, written whole or not at all, which `SpectralMeasure.load` also reads. Without a
        path the history lives in memory.

    Raises
    ------
    FileFormatError
        If the path is a file.

    Examples
    --------
    >>> import numpy as np
    >>> import slq
    >>> history = SpectralHistory()
    >>> for step in (0, 100):
    ...     A = np.diag(np.linspace(0.0, 1.0 + step, 50))
    ...     measure = slq.spectral_measure(A, num_probes=2, num_steps=10)
    ...     history.append(step, measure, {"loss": 1 / (1 + step)})
    >>> list(history), history.series("loss").values.round(2).tolist()
    ([0, 100], [1.0, 0.01])
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._measures: dict[int, SpectralMeasure | None] = {}  # None: not read yet
        self._records: dict[int, dict[str, Any]] = {}
        if self.path is not None:
            if self.path.exists() and not self.path.is_dir():
                raise FileFormatError(f"{self.path} is a file; a history is a folder with one file per step")
            self.path.mkdir(parents=True, exist_ok=True)
            self.refresh()

    def refresh(self) -> None:
        """Look for steps that other processes have written into the folder since."""
        if self.path is not None:
            found = sorted(int(name[1]) for p in self.path.iterdir() if (name := _FILE.fullmatch(p.name)))
            self._measures = {step: self._measures.get(step) for step in found}

    # A mapping

    def __getitem__(self, step: int) -> SpectralMeasure:
        measure = self._measures[step]
        if measure is None:
            measure = self._measures[step] = SpectralMeasure.load(self._file(step))
        return measure

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._measures))

    def __len__(self) -> int:
        return len(self._measures)

    def __repr__(self) -> str:
        steps = list(self)
        held = f"steps {steps[0]} to {steps[-1]}, {len(steps)} of them" if steps else "no steps"
        return f"SpectralHistory({held}{'' if self.path is None else f', in {self.path}'})"

    # Growing

    def append(self, step: int, measure: SpectralMeasure, scalars: Mapping[str, Any] | None = None) -> None:
        """Add a step: on return it is on the disk.

        Parameters
        ----------
        step : int
            Not negative, and not there yet.
        measure : SpectralMeasure
            With the probes and the number of steps of the others.
        scalars : mapping of str to float, array or Estimate, optional
            Numbers to record beside it, of one shape at every step.

        Raises
        ------
        RequestError
            If the step is there, the measure does not compare with the others, or a number is none or of another
            shape.
        OSError
            If the file cannot be written; the history is then as it was.
        """
        if not isinstance(step, int | np.integer) or isinstance(step, bool) or step < 0:
            raise RequestError(f"append expects a step that is an integer >= 0, got {step!r}")
        step = int(step)
        if step in self._measures:
            raise RequestError(f"step {step} is in the history, to which steps are only added; take another folder")
        if not isinstance(measure, SpectralMeasure):
            raise RequestError(f"append expects a SpectralMeasure, got {type(measure).__name__}")
        self._require_comparable(measure)
        record = {str(name): _recorded(str(name), value) for name, value in (scalars or {}).items()}
        self._require_shapes(record)
        if self.path is not None:
            _storage.save(self._file(step), measure.state(), record)
        self._measures[step] = measure
        self._records[step] = record

    def _file(self, step: int) -> Path:
        assert self.path is not None  # in memory nothing is read or written
        return self.path / f"step-{step:010d}.npz"

    def _require_comparable(self, measure: SpectralMeasure) -> None:
        if not self._measures:
            return
        first = min(self._measures)
        for name, here, there in zip(_IDENTITY, _identity(measure), _identity(self[first]), strict=True):
            if here != there:
                raise RequestError(
                    f"the measures of a history compare only with common {name}: step {first} has {there}, this one "
                    f"has {here}; take another folder"
                )

    def _require_shapes(self, record: Mapping[str, Any]) -> None:
        for name, entry in record.items():
            known = next((r[name] for s in self if name in (r := self._record(s))), None)
            shapes = [np.shape(x["value"]) for x in (known, entry) if x is not None]
            if len(set(shapes)) > 1:
                raise RequestError(
                    f"{name!r} has shape {shapes[0]} at earlier steps and {shapes[1]} now; a series has one shape"
                )

    # Numbers along the steps

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the series, in the order in which they appeared."""
        return tuple(dict.fromkeys(name for step in self for name in self._record(step)))

    def series(self, name: str) -> Series:
        """What was recorded under a name.

        Raises
        ------
        RequestError
            If nothing was.
        """
        steps = [step for step in self if name in self._record(step)]
        if not steps:
            raise RequestError(f"the history has no series {name!r}; it has {', '.join(self.names) or 'none'}")
        parts = ([np.asarray(self._record(step)[name][part], dtype=np.float64) for step in steps] for part in _PARTS)
        return Series(np.array(steps), *(np.stack(part) for part in parts))

    def _record(self, step: int) -> dict[str, Any]:
        if step not in self._records:
            self._records[step] = _storage.load_series(self._file(step))
        return self._records[step]

    @property
    def width(self) -> float:
        """A smoothing width for all steps: the largest of their default widths.

        Raises
        ------
        RequestError
            If there are no steps.
        """
        if not self:
            raise RequestError("the history is empty: it has no width")
        return float(resolved(list(self.values()), None, "gaussian")[1])

    # Files, pictures

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all steps into another folder.

        Raises
        ------
        RequestError
            If that holds steps already.
        OSError
            If it cannot be written.
        """
        other = type(self)(path)
        if other:
            raise RequestError(f"{path} holds a history with {len(other)} steps; save expects a new folder")
        for step, measure in self.items():
            _storage.save(other._file(step), measure.state(), self._record(step))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Open a folder that holds a history.

        Raises
        ------
        FileFormatError
            If it does not.
        OSError
            If there is no such folder.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist; expected the folder of a history")
        history = cls(path)
        if not history:
            raise FileFormatError(f"{path} holds no step of a history; expected files such as step-0000000100.npz")
        return history

    def plot(self, kind: str = "heatmap", ax: Any = None, **options: Any) -> Any:
        """Draw the densities as a heat map or as ridge lines over the steps, or the series.

        Parameters
        ----------
        kind : {"heatmap", "ridges", "scalars"}
        ax : matplotlib.axes.Axes, optional
            Where to draw.
        **options
            Those of `slq.plotting.plot_heatmap`, `plot_ridges` or `plot_scalars`.

        Returns
        -------
        matplotlib.axes.Axes or matplotlib.figure.Figure

        Raises
        ------
        RequestError
            If there is no such kind.
        MissingPackageError
            If matplotlib is not installed.
        """
        from slq import plotting  # floor 4, and matplotlib, only when a picture is wanted

        if kind not in ("heatmap", "ridges", "scalars"):
            raise RequestError(f"plot(kind=) expects 'heatmap', 'ridges' or 'scalars', got {kind!r}")
        return getattr(plotting, f"plot_{kind}")(self, ax, **options)


_IDENTITY = ("dimension", "sampler", "seeds", "probes", "number of steps", "kind of run")


def _identity(measure: SpectralMeasure) -> tuple[Any, ...]:
    kind = "singular values" if measure.singular else "blocks" if measure.is_block else "single vectors"
    return measure.n, measure.sampler, measure.seeds, measure.probe_ids, measure.num_steps, kind


def _recorded(name: str, value: Any) -> dict[str, Any]:
    """What is stored of a number, an array or an estimate."""
    low, high = value.interval() if isinstance(value, Estimate) else (value, value)
    parts = [np.asarray(x) for x in ((value.value if isinstance(value, Estimate) else value), low, high)]
    if parts[0].dtype.kind not in "fiub" or parts[0].ndim > 1:
        raise RequestError(
            f"{name!r} expects a real number, a one-dimensional array of them, or an Estimate, got {value!r}"
        )
    return {part: x.astype(np.float64).tolist() for part, x in zip(_PARTS, parts, strict=True)}
