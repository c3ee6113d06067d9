"""Operators whose parameters are spread over two processes give, in each, what one process gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import slq
from slq_jax import hessian_operator
from tests.jax.sharded_cases import STEPS, batches, loss, model

ROOT = Path(__file__).parents[2]
SECONDS = 240  # alone on two cores: 30; beyond, one waits for the other for ever


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")
@pytest.mark.parametrize("devices", [1, 2])
def test_equals_one_process(devices):
    found = run_both(devices)
    assert found[0]["processes"] == 2
    assert found[0]["devices"] == 2 * devices
    for one in found:
        held = one.pop("held")
        assert held < 181  # of 177 and what is copied to both
    assert found[0] == found[1]
    p, data = model()
    in_batches = {"batches", "too much for one"}
    for name in ("the same", "own rule", "across", *in_batches):
        require_equal(found[0][name], hessian_operator(loss, p, batches(data) if name in in_batches else data))


def require_equal(found, B):
    m = slq.spectral_measure(B, num_probes=3, num_steps=STEPS)
    gradient = B.gradient()
    along = slq.spectral_measure(B, probes=gradient[None], num_steps=3, check=False)
    expected = {
        "alpha": m.alpha, "beta": m.beta, "loss": B.loss(), "square": float(gradient @ gradient), "along": along.alpha,
    }  # fmt: skip
    assert expected.keys() == found.keys()
    for name, value in expected.items():  # only the order of sums differs; measured: 1e-15
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-11, err_msg=name)


def run_both(devices):
    """What the processes print; where one fails or hangs, both are ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "backends"))), "NPROC": "32"}
    command = [sys.executable, "-m", "tests.jax.one_of_two_processes", str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(devices)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(error for _, error in outputs)
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]
