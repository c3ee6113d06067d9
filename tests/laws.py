"""Laws: properties that hold for every random problem, as many examples of each as time allows.

``make test`` tries 200 examples of each law, the same every time (profile "ci"). With SLQ_HYPOTHESIS_MINUTES set, all
collected laws share that time equally, each on fresh examples (profile "nightly"):

    SLQ_HYPOTHESIS_MINUTES=60 python -m pytest tests/test_properties*.py -p no:xdist

A line at the end of the session says how many examples each law has passed. What failed is kept in ``.hypothesis`` and
comes first in the next run.
"""

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings

__all__ = ["law", "load_profile", "share_time", "summary"]

_MINUTES = float(os.environ.get("SLQ_HYPOTHESIS_MINUTES", 0))
_ROUND = 1000  # examples between two looks at the clock: hypothesis needs many to leave the simplest behind
_ALL: list[str] = []  # the laws of this session
_tried = "examples"


def load_profile() -> None:
    """Register "ci" and "nightly" with hypothesis, and choose."""
    common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # machines are shared
    settings.register_profile("ci", max_examples=200, derandomize=True, **common)
    settings.register_profile("nightly", max_examples=_ROUND, print_blob=True, **common)
    settings.load_profile("nightly" if _MINUTES else "ci")


def law(**strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a function of random arguments."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        tried = 0

        @given(**strategies)
        @functools.wraps(body)
        def examples(*args: Any, **kwargs: Any) -> None:
            nonlocal tried
            body(*args, **kwargs)
            tried += 1  # those that `assume` turned away never come here

        # No functools.wraps: pytest would read the signature of the body through it.
        def test(record_property: Callable[[str, Any], None]) -> None:
            until = time.monotonic() + 60 * _MINUTES / max(len(_ALL), 1)
            try:
                examples()
                while time.monotonic() < until:
                    examples()
            finally:
                record_property(_tried, tried)

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        test.is_law = True  # type: ignore[attr-defined]
        return test

    return decorate


def share_time(items: list[Any]) -> None:
    """Let the laws among the collected tests share the time."""
    _ALL[:] = [item.nodeid for item in items if getattr(getattr(item, "obj", None), "is_law", False)]


def summary(reporter: Any) -> None:
    """Write how many examples were tried."""
    counts = {
        report.nodeid.rpartition("::")[2]: (dict(report.user_properties)[_tried], outcome)
        for outcome in ("passed", "failed")
        for report in reporter.getreports(outcome)
        if report.when == "call" and _tried in dict(report.user_properties)
    }
    if not counts:
        return
    reporter.section("laws")
    if _MINUTES:
        for name, (tried, outcome) in sorted(counts.items()):
            reporter.write_line(f"{tried:>9,} examples {outcome}  {name}")
    failed = sum(outcome == "failed" for _, outcome in counts.values())
    total = sum(tried for tried, _ in counts.values())
    reporter.write_line(f"{len(counts)} laws, {failed} failed, {total:,} examples passed")
