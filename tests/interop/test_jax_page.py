"""The recipes of docs/jax-libraries.md, where their libraries are installed: the operators are Hessians."""

import re
from pathlib import Path

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from slq_jax import hessian_operator
from tests.jax_models import load

PAGE = (Path(__file__).parents[2] / "docs" / "jax-libraries.md").read_text()
FIRST, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
LIBRARIES = {"Flax linen": "flax", "Flax nnx": "flax", "Equinox": "equinox", "Haiku": "haiku", "Optax": "optax"}

# What the libraries warn of on import or use is theirs to mend.
pytestmark = pytest.mark.filterwarnings("default")


def blocks(text):
    return re.findall(r"^```(?:python|text)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_sections():
    assert [section.partition("\n")[0] for section in SECTIONS] == list(LIBRARIES)
    assert all(blocks(text) for text in (FIRST, *SECTIONS))


@pytest.mark.parametrize("section", SECTIONS, ids=LIBRARIES)
def test_recipe(section):
    load(LIBRARIES[section.partition("\n")[0]])
    seen = []

    def record(*arguments):
        seen.append((*arguments, hessian_operator(*arguments)))
        return seen[-1][-1]

    names = {"__name__": __name__}  # dataclasses look for the module of a class
    for number, block in enumerate(blocks(FIRST) + blocks(section)):
        exec(compile(block, f"block {number}", "exec"), names)
        names["hessian_operator"] = record  # in place of what the first block imports
    loss, params, data, op = seen[-1]

    def mean_loss(v):
        losses = [loss(unravel(v), batch) for batch in data]
        weights = [len(batch[0]) for batch in data]
        sums = [x[0] if isinstance(x, tuple) else x * weight for x, weight in zip(losses, weights, strict=True)]
        return sum(sums) / sum(weights)

    flat, unravel = ravel_pytree(params)
    exact = jax.hessian(mean_loss)(flat)
    product = op.matvec(jnp.eye(len(flat), dtype=flat.dtype))
    np.testing.assert_allclose(product, exact, rtol=0, atol=1e-6)  # measured: 6e-8
