"""The model, its random numbers and the modes of torch come back as they were."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from slq.errors import OperatorError
from slq_torch import hessian_operator

pytestmark = pytest.mark.filterwarnings("ignore::slq.errors.BatchStatisticsWarning")


class Fails(torch.autograd.Function):
    """The identity, with a backward function that raises."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, __):
        raise RuntimeError("out of memory")


class FailsTwice(torch.autograd.Function):
    """The identity, with a second derivative that raises."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, gradient):
        return Fails.apply(gradient)


class Network(nn.Module):
    """BatchNorm that trains, dropout that does not; `fails` counts down to an exception."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3)
        self.drop.eval()
        self.fails = -1

    def forward(self, x):
        self.fails -= 1
        if self.fails == 0:
            raise RuntimeError("out of luck")
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


def cross_entropy(model, batch):
    torch.rand(3)  # random numbers that do not touch the loss
    return F.cross_entropy(model(batch[0]), batch[1])


def state_of(model):
    """All that must come back, as values."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "identities": {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": [module.training for module in model.modules()],
        "random": torch.get_rng_state(),
        "modes": (
            torch.is_grad_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
    }


@pytest.fixture
def model():
    model = Network()
    model.last.bias.requires_grad_(False)
    model.first.weight.grad = torch.randn(5, 4)
    return model


@pytest.fixture
def unchanged(model):
    """Compares the state at the end of the test with that before."""
    before = state_of(model)
    yield
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)


@pytest.fixture
def batch():
    return torch.randn(6, 4), torch.randint(3, (6,))


ACTIONS = {
    "construction": lambda _: None,
    "product": lambda op: op.matvec(torch.ones(2, op.shape[0])),
    "gradient": lambda op: op.gradient(),
    "loss": lambda op: op.loss(),
}


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("action", ACTIONS)
def test_after_success(action, grad, model, batch, unchanged):
    with torch.set_grad_enabled(grad):
        ACTIONS[action](hessian_operator(model, cross_entropy, batch))
        assert torch.is_grad_enabled() == grad


def test_product_under_no_grad_is_the_product(model, batch):
    op = hessian_operator(model, cross_entropy, batch)
    v = torch.randn(op.shape[0])
    expected = op.matvec(v)
    with torch.no_grad():
        assert torch.equal(op.matvec(v), expected)
        assert torch.equal(hessian_operator(model, cross_entropy, batch).matvec(v), expected)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_exception_at_construction(call, model, batch, unchanged):
    model.fails = call
    with torch.no_grad(), pytest.raises(RuntimeError, match="out of luck"):
        hessian_operator(model, cross_entropy, batch)


@pytest.mark.parametrize("action", ["product", "gradient"])
def test_exception_in_the_loss(action, model, batch, unchanged):
    # In two batches: the graph of a single one would be kept, and the loss not called again.
    op = hessian_operator(model, cross_entropy, [batch, batch], batch_norm="batch")
    model.fails = 1
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="out of luck"):
            ACTIONS[action](op)
        assert not torch.is_grad_enabled()


def test_exception_in_the_derivative(model, batch, unchanged):
    """The gradient is built, its derivative fails, and the error is kept: the old state must not wait for its end."""

    def loss(model, batch):
        return FailsTwice.apply(model(batch[0])).square().mean()

    with torch.no_grad():
        with pytest.raises(RuntimeError, match="out of memory") as kept:
            hessian_operator(model, loss, batch)
        assert not torch.is_grad_enabled()
    assert kept.traceback


def test_exception_between_batches(model, batch, unchanged):
    def data():
        yield batch
        if stop:
            raise OSError("disk gone")

    stop = False
    op = hessian_operator(model, cross_entropy, data)
    stop = True
    with torch.no_grad():
        with pytest.raises(OSError, match="disk gone"):
            op.gradient()
        assert not torch.is_grad_enabled()


def test_shuffled_loader_leaves_the_random_state(model, batch, unchanged):
    loader = DataLoader(TensorDataset(*batch), batch_size=2, shuffle=True)
    model.eval()
    hessian_operator(model, cross_entropy, loader).matvec(torch.ones(50))
    model.train()
    model.drop.eval()


def test_gradients_that_were_none_stay_none(model, batch):
    op = hessian_operator(model, cross_entropy, batch)
    op.matvec(torch.ones(op.shape[0]))
    op.gradient()
    assert model.first.bias.grad is None


class Counting(nn.Module):
    """Replaces its buffer in each forward pass instead of writing into it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes = self.passes + 1
        return self.linear(x)


@pytest.mark.parametrize("training", [True, False])
def test_replaced_buffers_come_back(training, batch):
    model = Counting().train(training)
    passes = model.passes
    hessian_operator(model, cross_entropy, batch).matvec(torch.ones(15))
    assert model.passes is passes
    assert float(passes) == 0


def test_one_operator_does_not_disturb_another(model, batch):
    """Two operators of one model, used in turn."""
    first = hessian_operator(model, cross_entropy, batch)
    second = hessian_operator(model, lambda model, batch: model(batch[0]).square().mean(), batch)
    v = torch.randn(first.shape[0])
    before = first.matvec(v)
    second.matvec(v)
    second.gradient()
    assert torch.equal(first.matvec(v), before)


@pytest.mark.parametrize("training", [True, False])
def test_graphs_of_the_user_survive(training, model, batch):
    """A loss that waits for its backward pass refers to parameters and buffers, which must not be written to."""
    model.norm.train(training)
    loss = cross_entropy(model, batch)
    op = hessian_operator(model, cross_entropy, batch)
    op.matvec(torch.ones(op.shape[0]))
    loss.backward()


def test_detached_loss_error_restores(model, batch, unchanged):
    with torch.no_grad():
        with pytest.raises(OperatorError, match="does not depend on the parameters"):
            hessian_operator(model, lambda model, batch: cross_entropy(model, batch).detach(), batch)
        assert not torch.is_grad_enabled()


def test_product_in_inference_mode_is_the_product(model, batch):
    op = hessian_operator(model, cross_entropy, batch)
    v = torch.randn(op.shape[0])
    expected = op.matvec(v)
    with torch.inference_mode():
        assert torch.equal(op.matvec(v.clone()), expected)
