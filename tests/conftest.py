"""The array libraries and devices on which the tests run."""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests import laws

laws.load_profile()

_CPU = (
    ("numpy", "cpu"),
    ("array_api_strict", "CPU_DEVICE"),
    ("array_api_strict", "device1"),  # a fake GPU: refuses implicit copies to the host and mixed devices
    ("torch", "cpu"),
    ("jax.numpy", "cpu"),
)
_GPU = (("torch", "cuda"), ("jax.numpy", "gpu"), ("cupy", "cuda"))


@pytest.fixture(autouse=True, scope="module")
def _forget_compilations() -> Iterator[None]:
    """Give back what a module let JAX compile: it keeps it all, which came to four gigabytes in each worker."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


class Library(NamedTuple):
    """An array library and one of its devices."""

    name: str
    namespace: Any
    device: Any

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        """`values` as an array of this library on this device; `dtype` by name, default that of `values`."""
        values = np.asarray(values)
        kind = getattr(self.namespace, dtype or str(values.dtype))
        if self.name == "torch":
            return self.namespace.tensor(values, dtype=kind, device=self.device)
        if self.name == "cupy":  # places arrays on the current device, and has no argument for another
            return self.namespace.asarray(values, dtype=kind)
        return self.namespace.asarray(values, dtype=kind, device=self.device)


def load(name: str, device: str) -> Library:
    """The library `name` on `device`; skips the test, with the reason, where it is not available."""
    module = pytest.importorskip(name)
    if name == "torch" and device == "cuda" and not module.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if name == "jax.numpy":
        import jax

        jax.config.update("jax_enable_x64", True)
        try:
            return Library("jax", module, jax.devices(device)[0])
        except RuntimeError as error:
            pytest.skip(str(error).splitlines()[0])
    if name == "cupy":
        if not module.cuda.is_available():
            pytest.skip("CuPy sees no CUDA device")
        return Library(name, module, module.cuda.Device(0))
    return Library(name, module, module.Device(device) if name == "array_api_strict" else device)


@pytest.fixture(
    params=[
        *(pytest.param(case, id="-".join(case)) for case in _CPU),
        *(pytest.param(case, id="-".join(case), marks=pytest.mark.cuda) for case in _GPU),
    ]
)
def xp(request: pytest.FixtureRequest) -> Library:
    """Each array library on each of its devices."""
    return load(*request.param)


def pytest_collection_finish(session: pytest.Session) -> None:
    laws.share_time(session.items)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    laws.summary(terminalreporter)
