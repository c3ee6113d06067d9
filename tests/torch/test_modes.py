"""The ways to differentiate give one Hessian; what each keeps, refuses and reports."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from slq.errors import OperatorError, PrecisionWarning, RequestError
from slq_torch import hessian_operator
from slq_torch._data_pass import Piece

WAYS = ("double_backward", "jvp", "linearize", "difference")
# Measured: exact ways at most 2e-16 and 8e-16 apart, differences 3e-9.
CLOSE = {"double_backward": 1e-13, "jvp": 1e-13, "linearize": 1e-13, "difference": 1e-7}


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def batch():
    return torch.randn(9, 4), torch.randint(3, (9,))


def in_parts(batch, *ends):
    return [(batch[0][low:high], batch[1][low:high]) for low, high in zip((0, *ends), (*ends, None), strict=True)]


@pytest.mark.parametrize("parts", [(), (4,)], ids=["one batch", "two batches"])
@pytest.mark.parametrize("ad", WAYS)
def test_every_way_gives_the_hessian(ad, parts, model, batch, dense, distance):
    exact = dense(hessian_operator(model, cross_entropy, batch))
    op = hessian_operator(model, cross_entropy, in_parts(batch, *parts), ad=ad)
    assert op.ad == ad
    assert distance(dense(op), exact) < CLOSE[ad]
    assert distance(dense(op), exact) < CLOSE[ad]  # and again, from what was kept
    v = torch.randn(op.shape[0])
    assert distance(op.matvec(v), exact @ v) < CLOSE[ad]


@pytest.mark.parametrize("ad", WAYS)
def test_every_way_gives_the_block_of_chosen_parameters(ad, model, batch, dense, distance):
    """The others require gradients, too, and are constants."""
    exact = dense(hessian_operator(model, cross_entropy, batch))[25:, 25:]
    op = hessian_operator(model, cross_entropy, batch, params="2.*", ad=ad)
    product = op.matvec(torch.eye(18))
    assert distance(product, exact) < CLOSE[ad]
    assert not product.requires_grad


def test_differences_know_their_error(model, batch, dense, distance):
    op = hessian_operator(model, cross_entropy, batch, ad="difference")
    error = distance(dense(op), dense(hessian_operator(model, cross_entropy, batch)))
    assert error < op.difference_error < 1e-5
    assert hessian_operator(model, cross_entropy, batch).difference_error == 0
    assert not op.matvec(torch.zeros(op.shape[0])).any()


@pytest.mark.parametrize("ad", ["double_backward", "linearize"])
def test_single_batch_is_evaluated_once(ad, model, batch):
    calls = 0

    def counted(model, batch):
        nonlocal calls
        calls += 1
        return cross_entropy(model, batch)

    op = hessian_operator(model, counted, batch, ad=ad)
    before = calls
    for _ in range(3):
        op.matvec(torch.ones(2, op.shape[0]))
    assert calls == before


def test_graph_that_does_not_fit_is_built_each_time(model, batch, monkeypatch, dense):
    exact = dense(hessian_operator(model, cross_entropy, batch, ad="double_backward"))
    monkeypatch.setattr("slq_torch._chosen.available_memory", lambda _: 1000)
    calls = []
    op = hessian_operator(model, lambda *args: calls.append(0) or cross_entropy(*args), batch, ad="double_backward")
    before = len(calls)
    assert torch.equal(dense(op), exact)
    assert torch.equal(dense(op), exact)
    assert len(calls) == before + 2


class OnceDifferentiable(torch.autograd.Function):
    """x², with a derivative that torch cannot differentiate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


def test_differences_need_one_derivative_only(model, batch, dense, distance):
    op = hessian_operator(model, lambda m, b: OnceDifferentiable.apply(m(b[0])).mean(), batch, ad="difference")
    exact = hessian_operator(model, lambda m, b: m(b[0]).square().mean(), batch)
    assert distance(dense(op), dense(exact)) < CLOSE["difference"]


def test_auto_falls_back_to_differences_and_says_so(batch, dense, distance):
    model = nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(), nn.Linear(5, 3))
    with pytest.warns(
        PrecisionWarning, match=r"hardsigmoid_backward.*central differences.*error of about.*you mean it"
    ):
        op = hessian_operator(model, cross_entropy, batch)
    assert op.ad == "difference"
    by_hand = nn.Sequential(model[0], _Piecewise(), model[2])
    assert distance(dense(op), dense(hessian_operator(by_hand, cross_entropy, batch))) < 1e-4


class _Piecewise(nn.Module):
    def forward(self, x):
        return torch.clamp(x / 6 + 0.5, 0, 1)


def test_way_that_torch_lacks_is_refused(batch):
    model = nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(), nn.Linear(5, 3))
    with pytest.raises(
        OperatorError,
        match=r"ad='jvp' cannot differentiate this loss: .*the Hessian has ad='difference', which needs gradients only",
    ):
        hessian_operator(model, cross_entropy, batch, ad="jvp")


class _Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize("ad", ["jvp", "difference"])
def test_recurrent_layers(ad, dense, distance):
    model, batch = _Recurrent(), (torch.randn(6, 5, 4), torch.randint(3, (6,)))
    enabled = torch.backends.mkldnn.enabled
    exact = dense(hessian_operator(model, cross_entropy, batch))
    assert distance(dense(hessian_operator(model, cross_entropy, batch, ad=ad)), exact) < CLOSE[ad]
    assert torch.backends.mkldnn.enabled == enabled


LSTM_BATCH = torch.randn(6, 5, 4, dtype=torch.float64), torch.randint(3, (6,))


@pytest.mark.parametrize("check", [True, False])
def test_wrong_trace_is_found(check):
    """A trace of torch 2.13 writes to constants that it has folded, so that calls differ: with a check and without."""
    with pytest.raises(OperatorError):
        hessian_operator(_Recurrent(), cross_entropy, LSTM_BATCH, ad="linearize", check=check)


def test_trace_whose_calls_differ(model, batch):
    targets = torch.rand(9, 3)

    def binary(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    with pytest.raises(OperatorError, match=r"ad='linearize' cannot.*results change from call to call"):
        hessian_operator(model, binary, (batch[0], targets), ad="linearize", check=False)


def test_trace_of_what_torch_would_crash_on(model, batch):
    with pytest.raises(OperatorError, match=r"ad='linearize' cannot differentiate this loss: ZeroTensors"):
        hessian_operator(model, lambda m, b: F.mse_loss(m(b[0]), b[0][:, :3]), batch, ad="linearize", check=False)


def test_product_that_is_not_finite(model, batch):
    """The norm of zeros has a gradient, and no second derivative."""

    def loss(model, batch):
        z = model(batch[0])
        return torch.linalg.vector_norm(z - z.detach()) + z.square().mean()

    with pytest.raises(OperatorError, match=r"contains NaN or infinity for 0\.weight of Linear; look for norms, roots"):
        hessian_operator(model, loss, batch)
    hessian_operator(model, loss, batch, check=False)


def test_parameters_that_the_loss_writes_to_come_back():
    weight = nn.Embedding(5, 3)
    before = weight.weight.detach().clone()

    def loss(model, batch):
        return F.embedding(batch, model.weight, max_norm=0.1).square().mean()

    with pytest.raises(
        OperatorError, match=r"the loss writes to parameter weight in place.*restored; take the operation"
    ):
        hessian_operator(weight, loss, torch.randint(5, (4,)))
    assert torch.equal(weight.weight, before)


class _Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 5), nn.Linear(5, 3), reentrant

    def forward(self, x):
        return self.last(checkpoint(lambda x: torch.tanh(self.first(x)), x, use_reentrant=self.reentrant))


def test_checkpoints(batch, dense, distance):
    model = _Checkpointed(False)
    plain = nn.Sequential(model.first, nn.Tanh(), model.last)
    exact = dense(hessian_operator(plain, cross_entropy, batch))
    found = dense(hessian_operator(model, cross_entropy, batch))
    assert distance(found, exact) < CLOSE["jvp"]
    batch[0].requires_grad_()
    with pytest.raises(OperatorError, match=r"reentrant activation checkpoint.*use_reentrant=False"):
        hessian_operator(_Checkpointed(True), cross_entropy, batch)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.filterwarnings("ignore::slq.errors.UnusedParameterWarning")
def test_reentrant_checkpoint_of_plain_inputs_is_found(batch):
    with pytest.raises(OperatorError, match="checkpoints without use_reentrant=False"):
        hessian_operator(_Checkpointed(True), cross_entropy, batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:the parameters are in torch")
def test_half_precision(dtype, model, batch, dense, distance):
    """Vectors in float32; a product is as exact as the model, or as its copy."""
    model = model.to(dtype)
    batch = batch[0].to(dtype), batch[1]
    exact = dense(hessian_operator(model, cross_entropy, batch, compute_dtype=torch.float64))
    assert exact.dtype == torch.float64
    eps = torch.finfo(dtype).eps
    for ad in ("double_backward", "jvp"):
        op = hessian_operator(model, cross_entropy, batch, ad=ad)
        assert op.like.dtype == torch.float32
        assert distance(dense(op).double(), exact) < 3 * eps  # measured: 0.6 eps
    copy = hessian_operator(model, cross_entropy, batch, compute_dtype=torch.float32)
    assert distance(dense(copy).double(), exact) < 1e-6
    assert model[0].weight.dtype == dtype
    with pytest.raises(RequestError, match=r"rounds the steps.*compute_dtype=torch\.float32"):
        hessian_operator(model, cross_entropy, batch, ad="difference")
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(OperatorError, match=r"0\.weight changed"):
        copy.matvec(torch.ones(copy.shape[0]))


def test_half_precision_is_told(model, batch, distance, dense):
    """That of the parameters and that of autocast, with a mend that works."""
    exact = dense(hessian_operator(model, cross_entropy, batch))
    single, data = model.float(), (batch[0].float(), batch[1])

    def autocast(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model(batch[0]).float(), batch[1])

    message = r"autocast computes in torch\.bfloat16.*errors of about 0\.0078; leave it out.*dtype=torch\.float64"
    with pytest.warns(PrecisionWarning, match=message) as record:
        op = hessian_operator(single, autocast, data)
    assert [(w.filename, len(record)) for w in record] == [(__file__, 1)]
    assert 1e-3 < distance(dense(op).double(), exact) < 0.05  # measured: 0.01
    wide = hessian_operator(single, autocast, data, compute_dtype=torch.float64)
    assert distance(dense(wide), exact) < 1e-6  # the rounding of the parameters
    half = single.bfloat16()
    with pytest.warns(PrecisionWarning, match=r"parameters are in torch\.bfloat16.*compute_dtype=torch\.float32 dif"):
        hessian_operator(half, cross_entropy, (batch[0].bfloat16(), batch[1]))
    hessian_operator(half, cross_entropy, batch, compute_dtype=torch.float32)  # silent: warnings are errors here


@pytest.mark.parametrize("ad", WAYS)
def test_forecast_of_the_workspace(ad, batch):
    """More vectors at once take more where they are pushed together, and no more where they come one by one."""
    model = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3))
    op = hessian_operator(model, cross_entropy, batch, ad=ad)
    one, ten = op.workspace(1), op.workspace(10)
    assert one > 0
    assert (ten > 5 * one) == (ad in ("jvp", "linearize"))


class _Way:
    """A way that takes its time, on a clock of the test's."""

    def __init__(self, name, seconds, clock, product):
        self.name, self._seconds, self._clock, self._product = name, seconds, clock, product

    def add_products(self, piece, vectors, total):
        assert isinstance(piece, Piece)
        self._clock[0] += self._seconds
        return self._product(piece, vectors, total)


def test_choice(model, batch, monkeypatch):
    """Of the ways that agree with the safest, the fastest is taken; the others are named with the reason."""
    clock = [0.0]
    monkeypatch.setattr("slq_torch._choice.time.perf_counter", lambda: clock[0])
    op = hessian_operator(model, cross_entropy, batch, ad="auto")
    right = op._mode.add_products

    def fails(piece, vectors, total):
        raise RuntimeError("no forward derivative\nof this")

    op._mode = _Way("double_backward", 5.0, clock, right)
    ways = {"little": (4.9, right), "wrong": (1.0, lambda *_: None), "failing": (1.0, fails), "fast": (2.0, right)}
    made = [_Way(name, seconds, clock, product) for name, (seconds, product) in ways.items()]
    monkeypatch.setattr(op, "_candidates", lambda _: [(lambda way=way: way, 1.0) for way in made])
    op.matvec(torch.ones(2, op.shape[0]))
    assert op.ad == "fast"
    assert op.tried == {
        "double_backward": "5 s",
        "little": "4.9 s",
        "wrong": "differs by 1 of the size",
        "failing": "RuntimeError: no forward derivative",
        "fast": "2 s",
    }


def test_short_products_do_not_depend_on_a_clock(model, batch):
    """Nothing else is tried where a block of products takes less than ten milliseconds."""
    op = hessian_operator(model, cross_entropy, batch)
    op.matvec(torch.ones(2, op.shape[0]))
    assert op.ad == "double_backward"
    assert list(op.tried) == ["double_backward"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch's compiler says of itself
@pytest.mark.parametrize(("ad", "parts"), [("linearize", ()), ("jvp", (4,))])
def test_compiled(ad, parts, model, batch, dense, distance):
    exact = dense(hessian_operator(model, cross_entropy, batch))
    op = hessian_operator(model, cross_entropy, in_parts(batch, *parts), ad=ad, compile=True)
    assert distance(dense(op), exact) < CLOSE["jvp"]
    assert op.ad == f"{ad}, compiled"
    auto = hessian_operator(model, cross_entropy, in_parts(batch, *parts), compile=True)
    assert distance(dense(auto), exact) < CLOSE["jvp"]
    assert any("compiled" in name for name in auto.tried)


def test_cuda_graph_needs_cuda(model, batch):
    with pytest.raises(RequestError, match=r"cuda_graph=True records.*not on cpu.*leave it out"):
        hessian_operator(model, cross_entropy, batch, cuda_graph=True)
    with pytest.raises(RequestError, match="records double backward, not jvp"):
        hessian_operator(model, cross_entropy, batch, cuda_graph=True, ad="jvp")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_graph(model, batch, distance):
    model, batch = model.cuda(), tuple(x.cuda() for x in batch)
    plain = hessian_operator(model, cross_entropy, batch)
    recorded = hessian_operator(model, cross_entropy, batch, cuda_graph=True)
    for rows in (1, 3, 1):
        v = torch.randn(rows, plain.shape[0], device="cuda")
        assert distance(recorded.matvec(v), plain.matvec(v)) < 1e-12
    with pytest.raises(RequestError, match="not over 2 batches"):
        hessian_operator(model, cross_entropy, [batch, batch], cuda_graph=True)
