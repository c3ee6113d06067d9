"""Blocks of a Hessian from one pass over the data, against blocks of the dense matrix."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slq
from slq.errors import OperatorError, RequestError, ShapeError, UnusedParameterWarning
from slq_torch import cross_block_operator, hessian_operator, layer_operators

CLOSE = 1e-13  # measured: at most 6e-16


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)
    ).eval()


@pytest.fixture
def model():
    return convolutional()


@pytest.fixture
def batch():
    return torch.randn(9, 1, 6, 6), torch.randint(3, (9,))


def in_parts(batch, *ends):
    return [(batch[0][low:high], batch[1][low:high]) for low, high in zip((0, *ends), (*ends, None), strict=True)]


def slices(op, names):
    """Where the parameters of each name lie in the flat vector."""
    places = op.unravel(torch.arange(op.shape[0], dtype=torch.get_default_dtype()))
    return torch.cat([places[name].reshape(-1).long() for name in names])


@pytest.mark.parametrize("parts", [(), (2, 7)], ids=["one batch", "three batches"])
@pytest.mark.parametrize("blocks", ["modules", "parameters"])
def test_every_block_is_that_of_the_dense_matrix(blocks, parts, model, batch, dense, distance):
    whole = hessian_operator(model, cross_entropy, batch)
    matrix = dense(whole)
    layers = layer_operators(model, cross_entropy, in_parts(batch, *parts), blocks=blocks)
    assert list(layers)[:2] == (["0", "1"] if blocks == "modules" else ["0.weight", "0.bias"])
    together = layers.matvecs({name: torch.eye(A.shape[0]) for name, A in layers.items()})
    size = 0
    for name, A in layers.items():
        at = slices(whole, A.unravel(torch.zeros(A.shape[0])))
        exact = matrix[at][:, at]
        assert distance(dense(A), exact) < CLOSE
        assert torch.equal(together[name], dense(A))
        assert distance(A.gradient(), whole.gradient()[at]) < CLOSE
        v = torch.randn(A.shape[0])
        assert torch.equal(A.ravel(A.unravel(v)), v)
        assert A.loss() == pytest.approx(whole.loss(), rel=1e-14)
        assert A.workspace(2) > 0
        size += A.shape[0]
    assert size == whole.shape[0]
    traces = sum(float(dense(A).trace()) for A in layers.values())
    assert traces == pytest.approx(float(matrix.trace()), rel=1e-12)


def test_one_pass_and_one_graph_serve_all(model, batch):
    """Each step of all blocks and probes evaluates the loss of each batch once."""
    calls = []

    def counted(model, batch):
        calls.append(len(batch[0]))
        return cross_entropy(model, batch)

    layers = layer_operators(model, counted, in_parts(batch, 4))
    before = len(calls)
    slq.spectral_measures(layers, num_probes=3, num_steps=5, check=False)
    assert len(calls) - before == 5 * 2


def test_measures_are_those_of_one_run_per_layer(model, batch):
    layers = layer_operators(model, cross_entropy, in_parts(batch, 4))
    options = {"num_probes": 2, "num_steps": 6}
    measures = slq.spectral_measures(layers, **options)
    assert list(measures) == list(layers)
    for name, measure in measures.items():
        alone = hessian_operator(model, cross_entropy, batch, params=f"{name}.*")
        exact = slq.spectral_measure(alone, **options)
        size = abs(exact.nodes).max()
        np.testing.assert_allclose(measure.alpha, exact.alpha, rtol=0, atol=1e-10 * size)
        np.testing.assert_allclose(measure.beta, exact.beta, rtol=0, atol=1e-10 * size)


@pytest.mark.parametrize("size", [1, 7, 9])
def test_pieces_and_decay(size, model, batch, dense, distance):
    options = {"microbatch": size, "weight_decay": {"0.*": 0.5, "6.bias": 2.0}}
    layers = layer_operators(model, cross_entropy, batch, **options)
    whole = hessian_operator(model, cross_entropy, batch, weight_decay=options["weight_decay"])
    matrix = dense(whole)
    for A in layers.values():
        at = slices(whole, A.unravel(torch.zeros(A.shape[0])))
        assert distance(dense(A), matrix[at][:, at]) < CLOSE


class WithLora(nn.Module):
    """A frozen linear map and a trainable one of low rank."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x))


@pytest.mark.parametrize("blocks", ["modules", {"first": "0.*", "last": "2.*"}])
def test_low_rank_updates(blocks, dense, distance):
    """Chosen from free and frozen parameters; others that require gradients are constants."""
    model = nn.Sequential(WithLora(4, 5), nn.Tanh(), WithLora(5, 3), nn.Linear(3, 3))
    batch = torch.randn(7, 4), torch.randint(3, (7,))
    layers = layer_operators(model, cross_entropy, batch, params="*lora_*", blocks=blocks)
    whole = hessian_operator(model, cross_entropy, batch, params="*lora_*")
    matrix = dense(whole)
    assert list(layers) == (
        ["first", "last"] if blocks != "modules" else [f"{i}.lora_{x}" for i in (0, 2) for x in "AB"]
    )
    for A in layers.values():
        at = slices(whole, A.unravel(torch.zeros(A.shape[0])))
        assert distance(dense(A), matrix[at][:, at]) < CLOSE


@pytest.mark.parametrize(
    "options",
    [
        {"batch_norm": "population", "seed": 3},
        {"batch_norm": "batch", "seed": 3},
        {"batch_norm": "running", "seed": 3},
        {"batch_norm": "running", "seed": 3, "accumulate": torch.float64, "max_batches": 2},
    ],
)
def test_options_are_those_of_the_hessian(options, batch, dense, distance):
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Dropout(), nn.Linear(48, 3)
    )
    data = in_parts(batch, 5)
    layers = layer_operators(model, cross_entropy, data, **options)
    whole = hessian_operator(model, cross_entropy, data, ad="double_backward", **options)
    matrix = dense(whole)
    for A in layers.values():
        at = slices(whole, A.unravel(torch.zeros(A.shape[0])))
        assert distance(dense(A), matrix[at][:, at]) < CLOSE


def test_the_model_is_left_alone(batch):
    model = convolutional().train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    layers = layer_operators(model, cross_entropy, in_parts(batch, 4))
    layers.matvecs({name: torch.ones(2, A.shape[0]) for name, A in layers.items()})
    layers["6"].gradient()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True, True, True, True]
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "0.weight")


def test_partitions(model, batch):
    def names(blocks, **options):
        layers = layer_operators(model, cross_entropy, batch, blocks=blocks, **options)
        return {name: A.shape[0] for name, A in layers.items()}

    assert names({"first": ["0.*", "1.weight"], "rest": "[!01].*", "shift": "1.bias"}) == {
        "first": 33,
        "rest": 26 + 57,
        "shift": 3,
    }
    assert names(lambda name: name.rpartition(".")[2]) == {"weight": 27 + 3 + 24 + 54, "bias": 3 + 3 + 2 + 3}
    assert names("modules", params="6.*") == {"6": 57}
    for blocks, message in (
        ({"a": "0.*"}, r"1\.weight, .* is in no block; add one for the rest"),
        ({"a": "*", "b": "none.*"}, r"block 'b' \(none\.\*\) is empty; the parameters are 0\.weight"),
        ({"a": "*", "b": "0.bias"}, r"0\.bias is in the blocks 'a' and 'b'; a partition has it in one"),
        (lambda _: None, r"blocks= gave None for 0\.weight; a function must return the name of a block"),
        ("layers", r"blocks= expects \"modules\", \"parameters\".*not 'layers'"),
    ):
        with pytest.raises(RequestError, match=message):
            names(blocks)


def test_tied_weights_belong_to_their_first_module(dense, distance):
    model = nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 5))
    model[2].weight = model[0].weight
    batch = torch.randint(5, (6,)), torch.randint(5, (6,))
    layers = layer_operators(model, cross_entropy, batch)
    assert {name: A.shape for name, A in layers.items()} == {"0": (15, 15), "2": (5, 5)}
    whole = hessian_operator(model, cross_entropy, batch)
    assert distance(dense(layers["0"]), dense(whole)[:15, :15]) < CLOSE


def test_blocks_that_the_loss_does_not_bend(batch, dense):
    """A linear and an unused parameter: zero blocks."""
    model = nn.ModuleDict({"line": nn.Linear(36, 3), "idle": nn.Linear(2, 2), "bent": nn.Linear(36, 3)})

    def loss(model, batch):
        x = batch[0].flatten(1)
        return model["line"](x).mean() + torch.tanh(model["bent"](x)).square().mean()

    with pytest.warns(UnusedParameterWarning, match=r"idle\.weight, idle\.bias"):
        layers = layer_operators(model, loss, batch)
    for name in ("line", "idle"):
        assert not dense(layers[name]).any()
    assert dense(layers["bent"]).any()


def test_refusals(model, batch):
    for options in ({"ad": "jvp"}, {"compile": True}, {"cuda_graph": True}):
        with pytest.raises(
            RequestError, match="share the graph of double backward: leave ad=, compile=, cuda_graph= out"
        ):
            layer_operators(model, cross_entropy, batch, **options)
    layers = layer_operators(model, cross_entropy, batch)
    with pytest.raises(ShapeError, match=r"expects vectors of shape \(\.\.\., 57\), got \(2, 3\)"):
        layers["6"].matvec(torch.ones(2, 3))
    with pytest.raises(RequestError, match="there is no block '5'; the blocks are 0, 1, 3, 6"):
        layers.matvecs({"6": torch.ones(57), "5": torch.ones(3)})
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(OperatorError, match=r"0\.weight changed"):
        layers["6"].matvec(torch.ones(57))


@pytest.mark.parametrize("parts", [(), (4,)], ids=["one batch", "two batches"])
def test_cross_block(parts, model, batch, dense, distance):
    whole = hessian_operator(model, cross_entropy, batch, weight_decay=0.5)
    matrix = dense(whole)
    op = cross_block_operator(
        model, cross_entropy, in_parts(batch, *parts), rows="0.*", columns=["6.*", "0.bias"], weight_decay=0.5
    )
    rows = slices(whole, ["0.weight", "0.bias"])
    columns = slices(whole, ["0.bias", "6.weight", "6.bias"])
    exact = matrix[rows][:, columns]
    assert op.shape == exact.shape == (30, 60)
    assert distance(op.matvec(torch.eye(60)).T, exact) < CLOSE
    assert distance(op.rmatvec(torch.eye(30)), exact) < CLOSE
    values = torch.linalg.svdvals(exact)
    measure = slq.singular_measure(op, num_probes=2, num_steps=30)
    assert measure.support[1] == pytest.approx(float(values[0]), rel=1e-10)


def test_cross_block_of_a_wrapped_model(model, batch, distance):
    options = {"rows": "0.*", "columns": "6.*"}
    plain = cross_block_operator(model, cross_entropy, batch, **options)
    wrapped = cross_block_operator(nn.DataParallel(model), cross_entropy, batch, **options)
    assert distance(wrapped.matvec(torch.eye(57)), plain.matvec(torch.eye(57))) < CLOSE


def test_in_inference_mode(model, batch):
    layers = layer_operators(model, cross_entropy, batch)
    expected = layers["6"].matvec(torch.ones(57))
    with torch.inference_mode():
        assert torch.equal(layers["6"].matvec(torch.ones(57)), expected)
