"""Floor 1: how much memory a run will take, and how much there is."""

import os
import sys
from pathlib import Path
from typing import Any

from slq._arrays import Array, library_name
from slq.errors import MemoryForecastError, OutOfMemoryError

__all__ = ["available", "forecast", "forecast_check", "is_out_of_memory", "out_of_memory", "require"]

_CGROUPS = (  # limit, usage and statistics of a container (version 2, then 1)
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def forecast(rows: int, n: int, kept: int, itemsize: int, basis_itemsize: int) -> int:
    """Bytes that a run of `rows` probes of local length `n` takes: three vectors each, the product, and the basis.

    What the product needs for itself is the operator's own and not counted.
    """
    return rows * n * (4 * itemsize + kept * basis_itemsize)


def forecast_check(rows: int, n: int, itemsize: int) -> int:
    """Bytes that the ten products of `check_operator` take: measured 7 vectors for one row at a time, 20 for five."""
    return (4 * min(rows, 5) + 3) * n * itemsize


# What torch says on the host and on Apple's GPUs, CUDA where a library passes its word on, and JAX: in an error of a
# class that says nothing.
_NO_MEMORY = (
    "can't allocate memory",
    "backend out of memory",
    "CUDA error: out of memory",
    "cudaErrorMemoryAllocation",
    "STATUS_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that a device or the host has no memory left."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, CuPy's
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def out_of_memory(error: Exception, where: str, mend: str) -> OutOfMemoryError:
    """What to raise where less memory cannot be asked for; to be chained to `error`."""
    cause = error.__cause__ or error
    failed = OutOfMemoryError(f"out of memory {where} ({type(cause).__name__}: {cause}); {mend}")
    failed.partial = getattr(error, "partial", None)
    failed.step = getattr(error, "step", 0)
    return failed


def available(like: Array) -> int | None:
    """Bytes that are free where arrays like `like` live, or None where nothing tells."""
    library: str = library_name(like)
    device: Any = getattr(like, "device", None)
    if library == "torch" and getattr(device, "type", "cpu") == "cuda":
        return int(sys.modules["torch"].cuda.mem_get_info(device)[0])
    if library == "cupy":
        return int(device.mem_info[0])
    if library == "jax":
        stats = next(iter(like.sharding.addressable_devices)).memory_stats()  # None on the CPU
        if stats and "bytes_limit" in stats:
            return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return _host_memory()


def _host_memory() -> int | None:
    free = []
    try:
        free.append(_table("/proc/meminfo")["MemAvailable"] * 1024)
    except (OSError, KeyError, ValueError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit, usage, statistics in _CGROUPS:
        try:
            cached = _table(statistics).get("inactive_file", 0)  # counted as used, but given back when needed
            free.append(int(Path(limit).read_text()) - int(Path(usage).read_text()) + cached)
        except (OSError, ValueError):  # not in a container, or "max"
            continue
    return min(free) if free else None


def _table(path: str) -> dict[str, int]:
    """A file of lines `name number`."""
    rows = (line.replace(":", " ").split() for line in Path(path).read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def require(like: Array, needed: int, options: dict[str, int]) -> None:
    """Raise if `needed` bytes are more than there are.

    Parameters
    ----------
    like : array
        Tells the device.
    needed : int
        The forecast of the run as asked for.
    options : dict of str to int
        What could be asked for instead, with its forecast.

    Raises
    ------
    MemoryForecastError
        It names each option that fits, with its bytes.
    """
    free = available(like)
    if free is None or needed <= free:
        return
    fitting = [f"{option} ({_readable(size)})" for option, size in options.items() if size <= free]
    raise MemoryForecastError(
        f"the run needs about {_readable(needed)}, but {_readable(free)} are free; "
        + ("these fit: " + ", ".join(fitting) if fitting else "no option fits: the vectors alone are too large")
    )


def _readable(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.3g} TB"
