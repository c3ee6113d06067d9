"""Floor 1: measures in `.npz` files, without pickle; what is read is validated before it is believed."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from slq._files import write_atomically
from slq.errors import FileFormatError, SlqError

__all__ = ["load", "load_series", "save"]

_T = TypeVar("_T")
_FORMAT = "slq.SpectralMeasure"
_VERSIONS = (1, 2)  # the second has block runs and deflated measures
_ARRAYS = ("alpha", "beta", "squared_norms")
_BLOCKS = "start"  # since version 2
_SERIES = "series"  # a step of a history has them beside the measure
_SLACK = 1 << 16  # bytes that the members' headers may add to the arrays


def save(path: str | os.PathLike[str], state: Mapping[str, Any], series: Mapping[str, Any] | None = None) -> None:
    """Write the fields of a measure: numbers as arrays, the rest as one JSON text; and `series` as another."""
    header = {name: value for name, value in state.items() if name not in (*_ARRAYS, _BLOCKS)}
    header["provenance"] = dict(header["provenance"])
    text = json.dumps({"format": _FORMAT, "version": _VERSIONS[-1], **header}, allow_nan=False)
    members = {name: state[name] for name in (*_ARRAYS, _BLOCKS)}
    if series is not None:
        members[_SERIES] = np.array(json.dumps(dict(series)))
    with write_atomically(path) as file:
        np.savez(file, header=np.array(text), **members)


def load(path: str | os.PathLike[str], make: Callable[..., _T]) -> _T:
    """Read the fields that `save` wrote and build a `make` of them."""
    with open(path, "rb") as file:  # only the opening may fail as an OSError
        try:
            _refuse_compression(file)
            with np.load(file, allow_pickle=False) as archive:
                header = json.loads(str(archive["header"]))
                names = (*_ARRAYS, _BLOCKS) if _BLOCKS in archive else _ARRAYS
                arrays = {name: archive[name] for name in names}
        except Exception as error:  # zipfile, NumPy and JSON raise a dozen kinds on damaged files
            raise FileFormatError(
                f"{Path(path)} is not a measure written by slq, or is damaged ({type(error).__name__}: {error}); "
                "expected an .npz file from SpectralMeasure.save"
            ) from error
    if not isinstance(header, dict) or header.pop("format", None) != _FORMAT:
        raise FileFormatError(f"{Path(path)} holds something else than a measure; expected format {_FORMAT!r}")
    if header.pop("version", None) not in _VERSIONS:
        raise FileFormatError(f"{Path(path)} was written by a newer version of slq; update slq to read it")
    try:
        return make(**header, **arrays)
    except (SlqError, TypeError, ValueError) as error:
        raise FileFormatError(f"{Path(path)} holds values that cannot be a measure: {error}") from error


def load_series(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the `series` that `save` wrote; none if it wrote none."""
    with open(path, "rb") as file:
        try:
            _refuse_compression(file)
            with np.load(file, allow_pickle=False) as archive:
                found = json.loads(str(archive[_SERIES])) if _SERIES in archive else {}
            if not isinstance(found, dict):
                raise TypeError(f"series are a {type(found).__name__}")
        except Exception as error:
            raise FileFormatError(
                f"{Path(path)} is not a step of a history written by slq, or is damaged ({type(error).__name__}: "
                f"{error}); remove it to have the step measured again"
            ) from error
    return found


def _refuse_compression(file: IO[bytes]) -> None:
    """Refuse members larger than the file (`save` never compresses): a small file must not claim a large memory."""
    with zipfile.ZipFile(file) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > file.seek(0, os.SEEK_END) + _SLACK:
        raise ValueError(f"it claims {claimed} bytes of data")
    file.seek(0)
