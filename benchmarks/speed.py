"""Time and memory of a measure, and the time of its products alone."""

from . import BACKENDS, PROBLEMS
from .problems import multiply, problem


class _Measure:
    """What is prepared is kept: asv calls `setup` before each sample."""

    params = (BACKENDS, PROBLEMS)
    param_names = ("backend", "problem")
    timeout = 120.0

    def setup(self, backend: str, name: str) -> None:
        self.operator = problem(name).operator(backend)

    def measure(self, backend: str, name: str) -> None:
        problem(name).measure(backend)  # ends on the host: there is nothing to wait for


def warm_up(backend: str, name: str) -> None:
    """Compile and touch memory, once per process: `--quick` has no warm-up of its own."""
    if (backend, name) not in _warm:
        problem(name).measure(backend)
        _warm.add((backend, name))


_warm: set[tuple[str, str]] = set()


class Time(_Measure):
    """`time_measure` over `time_bare_products` is what the recurrence, the probes and the quadrature cost."""

    def setup(self, backend: str, name: str) -> None:
        super().setup(backend, name)
        self.block = problem(name).probes(0, self.operator.like)
        multiply(self.operator, self.block, 1)

    def time_measure(self, backend: str, name: str) -> None:
        self.measure(backend, name)

    time_measure.setup = warm_up  # asv calls it besides the class's own

    def time_bare_products(self, backend: str, name: str) -> None:
        multiply(self.operator, self.block, problem(name).num_steps)


class Memory(_Measure):
    """Peak of the process, with its libraries and the operator; of a GPU's memory it sees nothing.

    Beside the libraries (100 to 350 MB), only the vectors of the diagonal (8 MB each) can be seen.
    """

    params = (BACKENDS, ("diagonal",))

    def peakmem_measure(self, backend: str, name: str) -> None:
        self.measure(backend, name)
