"""What was compiled for one operator serves all others of the same loss and shapes."""

import jax
import jax.numpy as jnp
import pytest

import slq
from slq_jax import (
    _data,
    _operator,
    ggn_operator,
    gradient_covariance_operator,
    hessian_operator,
)

N = 28


def forward(w, batch):
    return jnp.tanh(batch[0] @ w["a"]) @ w["b"]


def squares(z, batch):
    return jnp.mean((z - batch[1]) ** 2)


def loss(w, batch):
    return squares(forward(w, batch), batch)


MAKERS = {
    "Hessian": lambda w, data: hessian_operator(loss, w, data),
    "Hessian, microbatches": lambda w, data: hessian_operator(loss, w, data, microbatch=4),
    "Hessian, penalty": lambda w, data: hessian_operator(loss, w, data, weight_decay=0.1),
    "Gauss-Newton": lambda w, data: ggn_operator(forward, squares, w, data),
    "covariance": lambda w, data: gradient_covariance_operator(loss, w, data),
}


@pytest.fixture
def problem(rng):
    """Other parameters and data at each call, of the same shapes; the batches of two sizes."""

    def make():
        w = {"a": rng.normal(size=(6, 4)), "b": rng.normal(size=4)}
        return w, [(rng.normal(size=(k, 6)), rng.normal(size=k)) for k in (8, 8, 5)]

    return make


def use(A, seed):
    A.matvec(jnp.ones(N))
    A.gradient()
    A.loss()
    measure = slq.spectral_measure(A, num_probes=2, num_steps=12, rng=seed)
    measure.extend(A, num_probes=2)
    slq.lanczos(A, jnp.ones((2, N)), 12, reorthogonalize=False)


def compiled(work, caplog):
    """What JAX says that it compiles."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        work()
    return [r.message[:120] for r in caplog.records if r.message.startswith("Compiling")]


# The Hessian stands for all where memory is short.
CASES = [(name, "linearisations") for name in MAKERS] + [("Hessian", "data"), ("Hessian", "nothing")]


@pytest.mark.parametrize(("name", "kept"), CASES)
def test_nothing_is_compiled_again(name, kept, problem, caplog, monkeypatch):
    """Neither for other parameters and data, nor where a measure is extended."""
    if kept != "linearisations":
        monkeypatch.setattr(_operator, "_SHARE", 1 << 60)
    if kept == "nothing":
        monkeypatch.setattr(_data, "_SHARE", 1 << 60)
    make = MAKERS[name]
    assert compiled(lambda: use(make(*problem()), 1), caplog)
    assert compiled(lambda: use(make(*problem()), 2), caplog) == []


def test_number_of_compilations_does_not_depend_on_the_number_of_steps(problem, caplog):
    A, V = hessian_operator(loss, *problem()), jnp.ones((1, N))
    slq.lanczos(A, V, 6)
    few, many = (len(compiled(lambda m=m: slq.lanczos(A, V, m), caplog)) for m in (10, 25))
    assert few == many > 0
