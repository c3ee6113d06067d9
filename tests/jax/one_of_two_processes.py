"""One of two processes that share a computation: its results as JSON. Arguments: port, its number, its devices."""

import json
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import slq
from slq_jax import _driver, _layout, hessian_operator
from tests.jax.sharded_cases import STEPS, batches, loss, model


@jax.custom_vjp
def same(x):
    """The identity, with a derivative rule that construction verifies."""
    return x


same.defvjp(lambda x: (x, None), lambda _, g: (g,))


def own_rule(p, batch):
    """The loss, through that rule."""
    return same(loss(p, batch))


def main(port, number, devices):
    """Join the other, run, print."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", devices)
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=number, initialization_timeout=60)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
    p, data = model()
    sharded = {name: _placed(x, mesh, P("d") if name != "scale" and len(x) % 4 == 0 else P()) for name, x in p.items()}
    half = slice(8 * number, 8 * number + 8)
    kinds = {
        "the same": data,
        "own rule": data,
        "batches": batches(data),
        "across": tuple(
            jax.make_array_from_process_local_data(NamedSharding(mesh, P("d")), np.asarray(x)[half]) for x in data
        ),
        "too much for one": batches(data),
    }
    found = {"processes": jax.process_count(), "devices": jax.device_count()}
    _driver._SECONDS = (1e-4, 10.0)[number]  # how many steps a call takes is a matter of time
    for name, one in kinds.items():
        if name == "too much for one":
            _layout.available_memory = lambda _: (1 << 40, 1000)[number]
        A = hessian_operator(own_rule if name == "own rule" else loss, sharded, one)
        assert (A.linear() is None) == (name == "too much for one")
        m = slq.spectral_measure(A, num_probes=3, num_steps=STEPS)
        found[name] = {"alpha": m.alpha.tolist(), "beta": m.beta.tolist(), "loss": A.loss()}
        gradient = A.gradient()
        found[name]["square"] = float(A.vecdot(gradient[None], gradient[None])[0])
        along = slq.spectral_measure(A, probes=gradient[None], num_steps=3, check=False)
        found[name]["along"] = along.alpha.tolist()
    found["held"] = len(range(A.shape[0])[A.index] if isinstance(A.index, slice) else A.index)
    print(json.dumps(found))


def _placed(x, mesh, spec):
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda where: x[where])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
