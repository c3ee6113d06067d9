"""The asv suite: errors against exact spectra, times and memory, on one thread."""

import os

from threadpoolctl import threadpool_limits

# On one thread the ratio of two times can be repeated; on many it depends on what else the machine does.
# `OMP_NUM_THREADS=8 make bench` measures the other.
_threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PJRT_NPROC", _threads)  # XLA's own pool
threadpool_limits(int(_threads))  # asv has loaded NumPy by now, which reads the variable no more

BACKENDS = ("numpy", "torch", "jax", "cupy")
PROBLEMS = ("laplacian", "hessian_like", "diagonal")
