"""Losses as keys of compiled functions, and what they refuse."""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slq.errors import DtypeError, RequestError, ShapeError
from slq_jax._losses import BinaryCrossEntropy, CrossEntropy, SquaredError

LOSSES = [CrossEntropy(), SquaredError(), BinaryCrossEntropy()]
WEIGHTS = [0.5, 2.0, 1.0]
Z = jnp.zeros((2, 3), jnp.float32)
LABELS = jnp.zeros(2, jnp.int32)


def labels_of(batch):
    return batch["y"]


EQUAL = {
    "plain": (CrossEntropy(), CrossEntropy(ignore_index=np.int64(-100), label_smoothing=0, class_dim=-1)),
    "arrays": (CrossEntropy(class_weights=WEIGHTS), CrossEntropy(class_weights=jnp.asarray(WEIGHTS, jnp.bfloat16))),
    "smoothing": (CrossEntropy(label_smoothing=0.25), CrossEntropy(label_smoothing=jnp.asarray(0.25))),
    "targets": (SquaredError(targets=labels_of), SquaredError(targets=labels_of)),
    "squares": (SquaredError(), SquaredError()),
    "one": (BinaryCrossEntropy(pos_weight=2), BinaryCrossEntropy(pos_weight=np.float32(2))),
    "table": (
        BinaryCrossEntropy(pos_weight=[[1, 2], [3, 4]]),
        BinaryCrossEntropy(pos_weight=np.array([[1, 2], [3, 4]])),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_losses_of_equal_options_are_equal(name):
    a, b = EQUAL[name]
    assert a == b
    assert hash(a) == hash(b)
    assert pickle.loads(pickle.dumps(a)) == a
    assert len({*LOSSES, a, b}) == (3 if a in LOSSES else 4)


@pytest.mark.parametrize(
    "other",
    [
        CrossEntropy(ignore_index=0),
        CrossEntropy(label_smoothing=0.1),
        CrossEntropy(class_weights=[1, 1, 1]),
        CrossEntropy(class_dim=1),
        CrossEntropy(targets=labels_of),
        SquaredError(),
        type("Tripled", (CrossEntropy,), {})(),
    ],
)
def test_losses_of_other_options_are_not(other):
    """Nor are subclasses, which may compute something else."""
    assert other != CrossEntropy()


def test_options_are_kept_as_numbers():
    assert CrossEntropy(class_weights=jnp.asarray(WEIGHTS)).class_weights == (0.5, 2.0, 1.0)
    assert BinaryCrossEntropy(pos_weight=np.ones((2, 1))).pos_weight == ((1.0,), (1.0,))
    with pytest.raises(AttributeError, match="cannot assign to field"):
        CrossEntropy().class_dim = 1


@pytest.mark.parametrize("name", [name for name in EQUAL if name != "targets"])
def test_equal_losses_are_compiled_once(name):
    traces = []

    @partial(jax.jit, static_argnums=0)
    def value(loss, z, y):
        traces.append(loss)
        return loss(z, (None, y))

    a, b = EQUAL[name]
    z, y = (jnp.zeros((2, 2)), jnp.zeros((2, 2))) if name == "table" else (Z, LABELS)
    y = y if isinstance(a, CrossEntropy) else jnp.zeros_like(z)
    assert value(a, z, y) == value(b, z, y)
    assert len(traces) == 1


def test_targets_are_found():
    for batch, options in (
        ((None, LABELS), {}),
        ([None, np.zeros(2, int)], {}),
        ({"labels": LABELS}, {}),
        ({"y": LABELS}, {"targets": labels_of}),
        (LABELS, {"targets": lambda batch: batch}),
        ((None, [0, 0]), {}),
    ):
        assert float(CrossEntropy(**options)(Z, batch)[1]) == 2
    with pytest.raises(KeyError, match="y"):  # of the function itself, as it is
        CrossEntropy(targets=labels_of)(Z, {"labels": LABELS})


@pytest.mark.parametrize("batch", [{"y": 1}, (Z,), (Z, None), 3.0, Z, np.zeros((2, 3))], ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_batches_without_targets(loss, batch):
    with pytest.raises(
        RequestError,
        match=rf"{type(loss).__name__} finds no targets in a {type(batch).__name__}: they are batch\[1\] or "
        r'batch\["labels"\] unless targets= is a function',
    ):
        loss(Z, batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=2), "label_smoothing= expects a number from 0 to 1, got 2"),
        (lambda: CrossEntropy(label_smoothing=np.nan), "label_smoothing= expects a number from 0 to 1, got nan"),
        (lambda: CrossEntropy(class_dim=0), "class_dim= expects 1 or -1, got 0"),
        (lambda: CrossEntropy(ignore_index=None), "ignore_index= expects an integer, got None"),
        (
            lambda: CrossEntropy(class_weights=np.ones((2, 3))),
            r"class_weights= expects one number for each class, got shape \(2, 3\)",
        ),
        (
            lambda: CrossEntropy(class_weights=[1.0, np.inf]),
            r"class_weights= expects finite numbers, got \[1.0, inf\]; mend what",
        ),
        (lambda: BinaryCrossEntropy(pos_weight="two"), "pos_weight= expects finite numbers, got 'two'; mend what"),
        (
            lambda: jax.jit(lambda w: BinaryCrossEntropy(pos_weight=w)(Z, (None, Z)))(2.0),
            "pos_weight= expects numbers, got a traced array; losses are keys of compiled functions: make them outside",
        ),
        (
            lambda: CrossEntropy(targets=LABELS),
            "targets= expects a hashable function batch -> targets, got a ArrayImpl; wrap it in a function defined",
        ),
        (lambda: SquaredError(targets=1), "targets= expects a hashable function batch -> targets, got a int"),
    ],
)
def test_options_that_cannot_be(make, message):
    with pytest.raises(RequestError, match=message):
        make()


METHODS = {
    "value": lambda loss, z, batch: loss(z, batch),
    "product": lambda loss, z, batch: loss.hessian_product(z, batch, z),
    "samples": lambda loss, z, batch: loss.sampled_gradients(z, batch, jax.random.key(0)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("loss", "z", "y", "error", "message"),
    [
        (
            CrossEntropy(),
            Z,
            jnp.zeros(3, jnp.int32),
            ShapeError,
            r"class indices of shape \(2,\) for logits of shape \(2, 3\) with the classes along dimension -1, got "
            r"targets of shape \(3,\) and dtype int32; class_dim=1 takes logits \(N, classes, \.\.\.\)",
        ),
        (
            CrossEntropy(class_dim=1),
            jnp.zeros((2, 3, 4)),
            jnp.zeros((4, 2), jnp.int32),  # as many as there are, and wrong for all but a few
            ShapeError,
            r"class indices of shape \(2, 4\) .* along dimension 1, got targets of shape \(4, 2\)",
        ),
        (
            CrossEntropy(),
            Z,
            jnp.zeros(2, jnp.float32),
            ShapeError,
            "got targets of .* and dtype float32; .* probabilities as targets need a loss of your own, a function",
        ),
        (CrossEntropy(), Z, jnp.zeros(2, bool), ShapeError, "class indices .* and dtype bool"),
        (
            CrossEntropy(),
            Z[0],
            jnp.zeros((), jnp.int32),
            ShapeError,
            r"logits of two dimensions or more, got shape \(3,\)",
        ),
        (
            CrossEntropy(),
            Z.astype(jnp.complex64),
            LABELS,
            DtypeError,
            "CrossEntropy expects real floating-point outputs",
        ),
        (
            CrossEntropy(class_weights=[1, 2]),
            Z,
            LABELS,
            ShapeError,
            "class_weights= expects one number for each of the 3 classes along dimension -1 of the logits, got 2; give",
        ),
        (
            BinaryCrossEntropy(),
            Z,
            jnp.zeros(2),
            ShapeError,
            r"BinaryCrossEntropy expects targets of the shape of the outputs \(2, 3\), got \(2,\); reshape one",
        ),
        (
            BinaryCrossEntropy(),
            Z,
            Z.astype(jnp.complex64),
            DtypeError,
            "BinaryCrossEntropy expects real targets, got dtype complex64; give real and imaginary parts",
        ),
        (
            BinaryCrossEntropy(),
            LABELS,
            LABELS,
            DtypeError,
            "BinaryCrossEntropy expects real floating-point outputs, got dtype int32; convert them",
        ),
        (
            BinaryCrossEntropy(pos_weight=[1, 2]),
            Z,
            Z,
            ShapeError,
            r"pos_weight= of shape \(2,\) does not broadcast to outputs of shape \(2, 3\); give one number, or one for",
        ),
        (
            BinaryCrossEntropy(pos_weight=np.ones((1, 1, 3))),
            Z,
            Z,
            ShapeError,
            r"pos_weight= of shape \(1, 1, 3\) does not broadcast",
        ),
    ],
)
def test_outputs_and_targets_that_do_not_fit(method, loss, z, y, error, message):
    """Known when the function is traced: no compiled code runs."""
    with pytest.raises(error, match=message):
        jax.eval_shape(partial(METHODS[method], loss), z, (None, y))


def test_squares_that_do_not_fit():
    """The second derivative does not depend on targets; the value does."""
    with pytest.raises(ShapeError, match=r"SquaredError expects targets of the shape of the outputs \(2, 3\), got \(2"):
        SquaredError()(Z, (None, jnp.zeros(2)))
    with pytest.raises(ShapeError, match=r"SquaredError expects outputs \(N, \.\.\.\), one row a sample, got a scalar"):
        SquaredError().rows(jnp.zeros(()))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_outputs_that_are_no_array(loss):
    with pytest.raises(
        RequestError, match=rf"{type(loss).__name__} is a loss of one array, but forward returns a dict; return the ar"
    ):
        loss({"logits": Z}, (None, LABELS))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_empty_batches_have_no_weight(loss):
    y = LABELS[:0] if isinstance(loss, CrossEntropy) else Z[:0]
    assert [float(x) for x in loss(Z[:0], (None, y))] == [0, 0]
    assert loss.rows(Z[:0]).shape == (0, 3)
    assert loss.from_rows(loss.hessian_product(Z[:0], (None, y), Z[:0]), Z[:0]).shape == (0, 3)
