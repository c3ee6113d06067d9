"""Layers and losses against dense Hessians of another kind of differentiation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import slq
from slq.errors import BatchStatisticsWarning, NotSymmetricError, OperatorError
from slq_torch import hessian_operator

# Measured: at most 8e-16 over all cases and ten seeds; one step in float32 would leave 1e-8.
TOLERANCE = 1e-13


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def squares(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def forward_over_reverse(model, loss_fn, batch):
    """The dense Hessian by torch.func, which pushes tangents through the gradient; the operator pulls twice.

    Not by torch.func.hessian: it is jacfwd(jacrev), wrong by 4 % and more for LayerNorm and BatchNorm in torch 2.13.
    """
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def loss(flat):
        parts = flat.split(sizes)
        tensors = {name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)}
        return loss_fn(lambda *x: functional_call(model, tensors, x), batch)

    point = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
        return torch.func.jacfwd(torch.func.grad(loss))(point)


class Tied(nn.Module):
    """A language model whose decoder is its encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(5, 3)
        self.decoder = nn.Linear(3, 5)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(torch.tanh(self.encoder(tokens)))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(2, 2, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    """Two heads; inputs of four dimensions, which a fused kernel would take."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.project(x).view(*x.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.head(mixed.transpose(1, 2).reshape(x.shape).mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, batch_first=True)

    def forward(self, x):
        return self.layer(x).mean(1)


class Checkpointed(nn.Module):
    def __init__(self, mlp, *, on=True):
        super().__init__()
        self.mlp, self.on = mlp, on

    def forward(self, x):
        return checkpoint(self.mlp, x, use_reentrant=False) if self.on else self.mlp(x)


def mlp(*middle):
    return nn.Sequential(nn.Linear(4, 5), *middle, nn.Linear(5, 3))


def points(*shape):
    return torch.randn(6, *shape), torch.randint(3, (6,))


def images():
    return nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)), points(2, 5, 5)


def in_eval_mode(model, batch):
    """Running statistics that differ from those of the batch, and are used."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval(), batch


def regression(loss):
    return mlp(nn.Tanh()), lambda model, batch: loss(model(batch[0]), batch[1]), (torch.randn(6, 4), torch.randn(6, 3))


MODELS = {
    "tanh": lambda: (mlp(nn.Tanh()), points(4)),
    "GELU": lambda: (mlp(nn.GELU()), points(4)),
    "SiLU": lambda: (mlp(nn.SiLU()), points(4)),
    "LayerNorm": lambda: (mlp(nn.LayerNorm(5), nn.Tanh()), points(4)),
    "RMSNorm": lambda: (mlp(nn.RMSNorm(5), nn.Tanh()), points(4)),
    "BatchNorm, running statistics": lambda: in_eval_mode(mlp(nn.BatchNorm1d(5), nn.Tanh()), points(4)),
    "convolution": images,
    "GroupNorm": lambda: (
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)),
        points(2, 5),
    ),
    "embedding": lambda: (
        nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)),
        (torch.randint(7, (6, 2)), torch.randint(3, (6,))),
    ),
    "tied weights": lambda: (Tied(), (torch.randint(5, (8,)), torch.randint(5, (8,)))),
    "LSTM": lambda: (Recurrent(nn.LSTM), points(4, 2)),
    "GRU": lambda: (Recurrent(nn.GRU), points(4, 2)),
    "attention": lambda: (Attention(), points(5, 4)),
    "TransformerEncoderLayer": lambda: (Encoder().eval(), points(5, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name, dense, distance):
    model, batch = MODELS[name]()
    hessian = dense(hessian_operator(model, cross_entropy, batch))
    assert distance(hessian, forward_over_reverse(model, cross_entropy, batch)) < TOLERANCE
    assert distance(hessian.T, hessian) < TOLERANCE


@pytest.mark.parametrize("name", ["convolution", "LSTM", "attention", "TransformerEncoderLayer"])
def test_float32_kernels(name, distance):
    """Float32 has kernels of its own (oneDNN, fused attention)."""
    model, batch = MODELS[name]()
    op = hessian_operator(model, cross_entropy, batch)
    v = torch.randn(2, op.shape[0])
    narrow = hessian_operator(copy.deepcopy(model).float(), cross_entropy, (batch[0].float(), batch[1]))
    assert narrow.like.dtype == torch.float32
    # Measured over ten seeds: at most 6e-7, five machine epsilons.
    assert distance(narrow.matvec(v.float()).double(), op.matvec(v)) < 1e-5


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        pytest.param(F.mse_loss, lambda o, y: ((o - y) ** 2).mean(), id="mse_loss"),
        pytest.param(
            lambda o, y: F.huber_loss(o, y, delta=0.7),
            lambda o, y: torch.where((o - y).abs() < 0.7, (o - y) ** 2 / 2, 0.7 * ((o - y).abs() - 0.35)).mean(),
            id="huber_loss",
        ),
    ],
)
def test_losses_without_forward_derivatives(loss, by_hand, dense, distance):
    model, loss_fn, batch = regression(loss)
    expected = forward_over_reverse(model, lambda model, batch: by_hand(model(batch[0]), batch[1]), batch)
    assert distance(dense(hessian_operator(model, loss_fn, batch)), expected) < TOLERANCE


def test_checkpointing(dense, distance):
    model, batch = Checkpointed(mlp(nn.Tanh())), points(4)
    expected = forward_over_reverse(Checkpointed(model.mlp, on=False), cross_entropy, batch)
    assert distance(dense(hessian_operator(model, cross_entropy, batch)), expected) < TOLERANCE


def test_batch_statistics_of_a_single_batch(dense, distance):
    """BatchNorm in training mode couples the samples; in one batch, that has a Hessian. Running statistics stay."""
    model, batch = mlp(nn.BatchNorm1d(5), nn.Tanh()), points(4)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.warns(BatchStatisticsWarning, match=r"1: in training mode.*batch_norm='batch' says that you mean it"):
        hessian = dense(hessian_operator(model, cross_entropy, batch))
    assert torch.equal(hessian, dense(hessian_operator(model, cross_entropy, batch, batch_norm="batch")))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    twin = mlp(nn.BatchNorm1d(5, track_running_stats=False), nn.Tanh())  # torch.func cannot update buffers
    twin.load_state_dict(model.state_dict(), strict=False)
    assert distance(hessian, forward_over_reverse(twin, cross_entropy, batch)) < TOLERANCE


def test_tied_weights_count_once():
    model, batch = MODELS["tied weights"]()
    assert hessian_operator(model, cross_entropy, batch).shape == (5 * 3 + 5, 5 * 3 + 5)


def test_weight_norm_is_right_or_refused(dense, distance):
    """torch 2.13 differentiates `_weight_norm` wrongly the second time; the asymmetry gives it away."""
    linear = parametrizations.weight_norm(nn.Linear(4, 5))
    model, batch = nn.Sequential(linear, nn.Tanh(), nn.Linear(5, 3)), points(4)

    def by_hand(_, batch):
        g, v = linear.parametrizations.weight.original0, linear.parametrizations.weight.original1
        hidden = torch.tanh(F.linear(batch[0], g * v / v.norm(dim=1, keepdim=True), linear.bias))
        return F.cross_entropy(model[2](hidden), batch[1])

    op = hessian_operator(model, cross_entropy, batch, check=False)
    if distance(dense(op), dense(hessian_operator(model, by_hand, batch))) > TOLERANCE:
        with pytest.raises(
            OperatorError, match=r"most for 0\.param.* of ParametrizedLinear \(the second derivative of"
        ):
            hessian_operator(model, cross_entropy, batch)
        with pytest.raises(NotSymmetricError):
            slq.spectral_measure(op, num_probes=2, num_steps=2)


def test_spectral_norm_in_training_mode_is_refused():
    model = mlp(nn.Tanh())
    with torch.no_grad():
        model[0].weight[:4] = torch.diag(torch.linspace(1, 0.9, 4))  # close singular values: power iteration goes on
    parametrizations.spectral_norm(model[0])
    with pytest.raises(OperatorError, match=r"0 \(ParametrizedLinear\) is spectrally.*call model.eval\(\)"):
        hessian_operator(model, cross_entropy, points(4))


def test_embedding_that_writes_to_its_weight_is_refused():
    model = nn.Sequential(nn.Embedding(7, 3, max_norm=0.5), nn.Tanh(), nn.Linear(3, 3))
    with pytest.raises(OperatorError, match=r"0 \(Embedding\) rescales its weight.*set max_norm=None"):
        hessian_operator(model, cross_entropy, (torch.randint(7, (6,)), torch.randint(3, (6,))))
