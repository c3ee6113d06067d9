"""Sharded parameters, in processes of their own: how many devices JAX has is fixed when it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_four_devices(which):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", which]
    command += ["--capture=sys"]  # what XLA says before it aborts is written past Python
    environment = os.environ | {
        # Twice in three runs of the whole suite JAX aborted in the core's loop, which dispatches one collective
        # operation after the other; of that test alone or beside others, none of 46 runs did. XLA gives up after 40 s
        # of waiting, and operations that overlap can wait for each other's threads: so one at a time, and no hurry.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_cpu_collective_call_terminate_timeout_seconds=600",
        "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
        # XLA's threads: with four, one for each device, a collective operation now and then waited for ever for one
        # that was busy (two cores: twice in some 300 runs of the core's loop; with 32, never in 600).
        "NPROC": "32",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "backends"))),
    }
    run = subprocess.run(
        [*command, *(f"tests/jax/{name}_on_four_devices.py" for name in ("numbers", "memory"))],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
