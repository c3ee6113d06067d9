"""Sharded parameters on four devices against the same on one; run by test_sharding in a process that has four."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.sharding_impls import GSPMDSharding  # no public sharding over several devices is unnamed
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import slq
import slq_jax
from slq.errors import PlacementError, RequestError
from slq_jax import _data, _driver
from tests.jax.sharded_cases import (
    CURVATURES,
    MESHES,
    STEPS,
    batches,
    gaps,
    gaps_of_measures,
    loss,
    model,
    on_mesh,
    pair,
)

pytestmark = pytest.mark.filterwarnings("ignore::slq.errors.HeavyTailWarning")

# Only the order of sums differs. Measured over all cases here: 8e-15 and 4e-7.
LIMITS = {np.float64: 1e-11, np.float32: 1e-6}
QUICK = {("two axes", "Hessian", np.float64), ("probes", "Gauss-Newton", np.float32)}

CASES = [
    pytest.param(mesh, name, dtype, marks=[] if (mesh, name, dtype) in QUICK else pytest.mark.slow)
    for mesh in MESHES
    for name in CURVATURES
    for dtype in LIMITS
    # Each mesh with the Hessian, each curvature on one mesh: what they have to do with each other is tested by these.
    if (name == "Hessian" or mesh in ("fsdp", "probes"))
]

# Mesh, options of the operator, options of the measure.
OPTIONS = {
    "some leaves": ("two axes", {"select": ["w1", "b2", "scale"], "weight_decay": {"w1": 0.3}, "microbatch": 6}, {}),
    "batches": ("fsdp", {"data": batches(model()[1])}, {"num_steps": 30}),
    "vmap": ("probes", {"together": 8}, {}),
    "probes that do not divide": ("probes", {}, {"num_probes": 3}),
    "three vectors kept": ("tensor", {}, {"reorthogonalize": 3}),
    "none kept": ("tensor", {}, {"reorthogonalize": False}),
    "rounded basis": ("fsdp", {}, {"basis_dtype": "float32"}),
    "basis on the host": ("probes", {}, {"basis_dtype": "host"}),
    "unchecked": ("fsdp", {"check": False}, {"check": False}),
}


@pytest.fixture
def core_loop():
    """The recurrence is that of the core."""
    slq.register_driver("jax", None)
    yield
    slq.register_driver("jax", _driver.lanczos)


def require_equal(found, dtype=np.float64):
    assert max(found.values()) < LIMITS[dtype], found


def test_there_are_four_devices():
    assert jax.device_count() == 4


@pytest.mark.parametrize(("mesh", "name", "dtype"), CASES)
def test_equals_one_device(mesh, name, dtype):
    require_equal(gaps(*pair(mesh, CURVATURES[name], dtype=dtype)), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    mesh, options, run = OPTIONS[name]
    require_equal(gaps(*pair(mesh, **options), **run))


@pytest.mark.parametrize("mesh", [pytest.param("fsdp", marks=pytest.mark.slow), "copies"])
def test_explicit_axes(mesh):
    """The loss sees its arrays with the shardings in their types."""
    p, data = model()

    def explicit_loss(p, batch):
        seen.append(jax.typeof(p["w1"]).sharding.spec)
        p = p if mesh == "copies" else {name: jax.sharding.reshard(x, P()) for name, x in p.items()}
        return loss(p, batch)

    seen = []
    sharded, _ = on_mesh(p, mesh, AxisType.Explicit)
    A = slq_jax.hessian_operator(explicit_loss, sharded, data)
    assert P("d" if mesh == "fsdp" else None, None) in seen
    require_equal(gaps(A, slq_jax.hessian_operator(loss, p, data)))


@pytest.mark.slow
@pytest.mark.parametrize("in_batches", [False, True])
def test_data_on_the_mesh(in_batches):
    p, data = model()
    sharded, _ = on_mesh(p, "fsdp")
    over = NamedSharding(sharded["w1"].sharding.mesh, P("d"))
    parts = [tuple(x[low : low + 8] for x in data) for low in (0, 8)] if in_batches else data
    placed = jax.tree.map(lambda x: jax.device_put(x, over), parts)
    require_equal(gaps(slq_jax.hessian_operator(loss, sharded, placed), slq_jax.hessian_operator(loss, p, parts)))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp", "probes"])
def test_data_that_do_not_fit(mesh, monkeypatch):
    monkeypatch.setattr(_data, "_SHARE", 1 << 60)
    A, B = pair(mesh, data=batches(model()[1]))
    assert A.linear() is None
    require_equal(gaps(A, B))


@pytest.mark.parametrize("mesh", ["two axes", pytest.param("probes", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("core_loop")
def test_loop_of_the_core(mesh):
    A, B = pair(mesh)
    require_equal(gaps(A, B))
    require_equal(gaps_of_measures(*(slq.spectral_measure(slq.shift(x, 0.5), num_steps=STEPS) for x in (A, B))))


def test_given_vectors():
    """A vector on the mesh is in its order; one elsewhere, in that of the leaves."""
    A, B = pair("two axes")
    a, b = (slq.spectral_measure(x, probes=x.gradient()[None], num_steps=STEPS) for x in (A, B))
    require_equal({"alpha": np.abs(a.alpha - b.alpha).max(), "beta": np.abs(a.beta - b.beta).max()})
    V = np.random.default_rng(2).normal(size=(2, 2, B.shape[0]))
    expected = B.matvec(jnp.asarray(V))
    on_devices = A.put(V.reshape(4, -1)).reshape(2, 2, -1)
    found = A.layout.take(A.matvec(on_devices).reshape(4, -1)).reshape(V.shape)
    row = A.layout.take(A.matvec(on_devices[0, 1])[None])[0]
    replicated = jax.device_put(on_devices[0], NamedSharding(A.layout.mesh, P()))
    require_equal(
        {
            "on the host": np.abs(np.asarray(A.matvec(V)) - expected).max(),
            "on the mesh": np.abs(found - expected).max(),
            "one": np.abs(row - expected[0, 1]).max(),
            "replicated": np.abs(A.layout.take(A.matvec(replicated)) - expected[0]).max(),
        }
    )


@pytest.mark.slow
def test_basis():
    """It stays on the devices, sharded as the vectors are."""
    A, B = pair("probes")
    V = np.random.default_rng(2).normal(size=(2, B.shape[0]))
    a = slq.lanczos(A, A.put(V), STEPS, return_basis=True)
    b = slq.lanczos(B, jnp.asarray(V), STEPS, return_basis=True)
    assert a.basis.sharding.spec == P("p", None, "t")
    assert a.basis.addressable_shards[0].data.shape == (1, STEPS, A.layout.size // 2)
    require_equal({"basis": max(np.abs(A.layout.take(x) - y).max() for x, y in zip(a.basis, b.basis, strict=True))})


@pytest.mark.parametrize("mesh", ["fsdp", pytest.param("probes", marks=pytest.mark.slow)])
def test_blocks_of_layers(mesh):
    p, data = model()
    sharded, options = on_mesh(p, mesh)
    blocks = {"first": ["w1", "b1"], "last": ["w2", "b2", "scale"]}
    a, b = (
        slq.spectral_measures(
            slq_jax.layer_operators(loss, x, batches(data), blocks=blocks, **o), num_probes=2, num_steps=STEPS
        )
        for x, o in ((sharded, options), (p, {}))
    )
    for name in blocks:
        require_equal(gaps_of_measures(a[name], b[name]))


@pytest.mark.slow
def test_the_mesh_can_be_that_of_other_leaves():
    p, data = model()
    sharded, _ = on_mesh(p, "fsdp")
    sharded["b2"] = p["b2"]
    A, B = (slq_jax.hessian_operator(loss, x, data, select="b2") for x in (sharded, p))
    require_equal(gaps(A, B, num_steps=4))


def test_refuses_what_it_cannot_place():
    p, data = model()
    sharded, _ = on_mesh(p, "fsdp")
    other = jax.make_mesh((2, 2), ("d", "e"), axis_types=(AxisType.Auto,) * 2)
    elsewhere = sharded | {"b1": jax.device_put(p["b1"], NamedSharding(other, P("d")))}
    unnamed = GSPMDSharding.get_replicated(jax.devices())
    old = sharded | {"b1": jax.device_put(p["b1"], unnamed)}
    A = slq_jax.hessian_operator(loss, sharded, data, check=False)
    n, size = A.shape[0], A.layout.size
    refused = {
        "placed on 2 meshes; place them on one": (PlacementError, lambda: _build(elsewhere)),
        "'q' is none of the axes of the mesh, d": (RequestError, lambda: _build(sharded, probe_axis="q")),
        "b1 is sharded over 'd', over which probes": (RequestError, lambda: _build(sharded, probe_axis="d")),
        "b1 has a GSPMDSharding; place it with a jax": (PlacementError, lambda: _build(old)),
        "needs parameters that are placed on a mesh": (RequestError, lambda: _build(p, probe_axis="d")),
        "take vectors from `put` .*got shape": (PlacementError, lambda: A.vecdot(jnp.ones((1, n)), jnp.ones((1, n)))),
        "the operator multiplies on": (PlacementError, lambda: slq.lanczos(A, jnp.ones((1, n)), 3)),
        rf"shape \(2, {size}\) on the host": (PlacementError, lambda: A.matvec(np.ones((2, size)))),
    }
    assert n != size
    for message, (error, call) in refused.items():
        with pytest.raises(error, match=message):
            call()


def _build(p, **options):
    return slq_jax.hessian_operator(loss, p, model()[1], check=False, **options)


@pytest.mark.parametrize("mesh", ["two axes", "probes"])
def test_eigenpairs_are_sharded_like_other_vectors(mesh):
    sharded, whole = pair(mesh)
    found, expected = (slq.eigenpairs(A, 3, num_steps=20) for A in (sharded, whole))
    assert found.complete
    assert found.products == expected.products
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=LIMITS[np.float64])
    assert found.vectors.sharding.is_equivalent_to(sharded.put(np.zeros((3, sharded.shape[0]))).sharding, 2)
