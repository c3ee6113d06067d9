"""A network on meshes of four devices: what the tests of sharded parameters go through."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import slq
from slq_jax import CrossEntropy, fisher_operator, ggn_operator, gradient_covariance_operator, hessian_operator

__all__ = ["CURVATURES", "MESHES", "STEPS", "batches", "gaps", "gaps_of_measures", "loss", "model", "on_mesh", "pair"]

STEPS = 8

# Each with the axes of the mesh, how the leaves are sharded (the others are copied to all devices; their five entries
# and one do not divide among four), and options.
MESHES: dict[str, tuple[dict[str, int], dict[str, P], dict[str, Any]]] = {
    "fsdp": ({"d": 4}, {"w1": P("d"), "b1": P("d"), "w2": P("d")}, {}),
    "tensor": ({"t": 4}, {"w1": P(None, "t"), "b1": P("t"), "w2": P("t")}, {}),
    "copies": ({"d": 4}, {}, {}),
    "two axes": ({"f": 2, "t": 2}, {"w1": P("f", "t"), "b1": P("t"), "w2": P(("t", "f"))}, {}),
    "probes": ({"p": 2, "t": 2}, {"w1": P(None, "t"), "b1": P("t"), "w2": P("t")}, {"probe_axis": "p"}),
    "probes only": ({"p": 4}, {}, {"probe_axis": "p"}),
}


def model(dtype=np.float64):
    """Parameters and data."""
    rng = np.random.default_rng(0)
    p = {
        "w1": rng.normal(size=(8, 12)) / 3,
        "b1": rng.normal(size=12),
        "w2": rng.normal(size=(12, 5)) / 3,
        "b2": rng.normal(size=5),
        "scale": np.asarray(1.3),
    }
    return {name: x.astype(dtype) for name, x in p.items()}, (
        rng.normal(size=(16, 8)).astype(dtype),
        rng.integers(5, size=16),
    )


def forward(p, batch):
    return jnp.tanh(batch[0] @ p["w1"] + p["b1"]) @ p["w2"] * p["scale"] + p["b2"]


def loss(p, batch):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(forward(p, batch)) * jax.nn.one_hot(batch[1], 5), 1))


def batches(data):
    """Three, of two shapes: two are stacked, one is alone."""
    return list(zip(*(np.split(x, [6, 12]) for x in data), strict=True))


CURVATURES = {
    "Hessian": lambda p, data, **o: hessian_operator(loss, p, data, **o),
    "Gauss-Newton": lambda p, data, **o: ggn_operator(forward, CrossEntropy(), p, data, **o),
    "sampled Fisher": lambda p, data, **o: fisher_operator(forward, CrossEntropy(), p, data, samples=2, rng=3, **o),
    "batches": lambda p, data, **o: gradient_covariance_operator(loss, p, batches(data), **o),
    "examples": lambda p, data, **o: gradient_covariance_operator(loss, p, data, per="example", **o),
}


def on_mesh(p, mesh, kind=AxisType.Auto):
    """Parameters on the devices, and the options that go with them."""
    axes, specs, options = MESHES[mesh]
    made = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))
    return {name: jax.device_put(x, NamedSharding(made, specs.get(name, P()))) for name, x in p.items()}, options


def pair(mesh, make=CURVATURES["Hessian"], *, dtype=np.float64, data=None, **options):
    """The operator of the sharded parameters, and that of the same on one device."""
    p, everything = model(dtype)
    sharded, more = on_mesh(p, mesh)
    data = everything if data is None else data
    return make(sharded, data, **options, **more), make(p, data, **options)


def gaps(A, B, **options):
    """How far what A, on several devices, gives is from what B gives."""
    V = np.random.default_rng(1).uniform(-1, 1, size=(3, B.shape[0])).astype(B.like.dtype)
    b = slq.spectral_measure(B, **{"num_probes": 4, "num_steps": STEPS} | options)
    a = slq.spectral_measure(A, **{"num_probes": 4, "num_steps": STEPS} | options)
    size = np.abs(b.nodes).max()
    gradients = [x.unravel(x.gradient()) for x in (A, B)]
    steepest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradients[1]))
    return gaps_of_measures(a, b) | {
        "rows": _gap(A.matvec(V), B.matvec(jnp.asarray(V))) / size,
        "one vector": _gap(A.matvec(V[0]), B.matvec(jnp.asarray(V[0]))) / size,
        "gradient": max(jax.tree.leaves(jax.tree.map(_gap, *gradients))) / steepest,
        "trees": max(jax.tree.leaves(jax.tree.map(_gap, A.unravel(A.ravel(gradients[1])), gradients[1]))),
        "loss": abs(A.loss() - B.loss()) / abs(B.loss()),
    }


def gaps_of_measures(a, b):
    """Distances relative to the largest node."""
    size = float(np.abs(b.nodes).max())
    found = {name: _gap(getattr(a, name), getattr(b, name)) / size for name in ("alpha", "beta", "nodes")}
    return found | {"trace": abs(float(a.trace()) - float(b.trace())) / (size * b.n)}


def _gap(a, b):
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
