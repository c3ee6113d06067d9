"""H71-H75: how torch runs a model: kernels, compilers, modes, precision, wrappers, and what happens in between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from slq.errors import OperatorError, PrecisionWarning
from slq_torch import hessian_operator
from tests.hostile.model_data import ROUNDING, cross_entropy, dense, exact, made, mlp, model_row, samples
from tests.hostile.row import Outcome, refused, right, warned


class _Attention(nn.Module):
    """Causal attention with two heads, by torch's kernel or written out."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.fused = nn.Linear(4, 12), True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.mix(x).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        if self.fused:
            found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
            found = torch.softmax((q @ k.mT / 2**0.5).masked_fill(~past, -torch.inf), -1) @ v
        return found.transpose(1, 2).flatten(2)


class _Multihead(nn.MultiheadAttention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x, x, x, need_weights=False)[0]


def _last(model: nn.Module, batch: tuple) -> torch.Tensor:
    return F.cross_entropy(model(batch[0])[:, -1], batch[1])


@model_row(
    "H71",
    "attention by torch's fused kernels, which have no second derivative; `MultiheadAttention`, "
    "`TransformerEncoderLayer`",
    "the right Hessian, by the kernel that has one; the user's choice of kernels is as before",
)
def h71() -> Iterator[Outcome]:
    batch, model = (torch.randn(5, 3, 4), torch.randint(4, (5,))), _Attention()
    model.fused = False
    reference = exact(model, _last, batch)
    model.fused = True
    yield right(reference, ROUNDING, made, model, _last, batch)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield right(reference, ROUNDING, made, model, _last, batch)
        assert not torch.backends.cuda.math_sdp_enabled()
    for layer in (_Multihead(4, 2, batch_first=True), nn.TransformerEncoderLayer(4, 2, 3, batch_first=True).eval()):
        with sdpa_kernel(SDPBackend.MATH):
            reference = exact(layer, _last, batch)
        yield right(reference, ROUNDING, made, layer, _last, batch)


class _Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inside, self.reentrant = mlp(), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inside, x, use_reentrant=self.reentrant)


class _Written(nn.Module):
    """Writes its outputs into a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(x), 3)
        out.copy_(self.inside(x))
        return out


@model_row(
    "H72",
    "`torch.compile`; checkpoints, reentrant or not; sparse gradients of embeddings; outputs written into a tensor",
    "the right Hessian of the module inside, of checkpoints, and of what is written, also by `torch.vmap`; reentrant "
    "checkpoints, sparse gradients: `OperatorError`",
)
def h72() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    yield right(exact(model, cross_entropy, batch), ROUNDING, made, torch.compile(model), cross_entropy, batch)
    kept = _Checkpointed(False)
    yield right(exact(kept.inside, cross_entropy, batch), ROUNDING, made, kept, cross_entropy, batch)
    entered = batch[0].clone().requires_grad_(), batch[1]
    cause, mend = "a reentrant activation checkpoint hides", "use_reentrant=False"
    yield refused(OperatorError, cause, mend, made, _Checkpointed(True), cross_entropy, entered)
    tokens = torch.randint(7, (11,)), batch[1]
    sparse = nn.Sequential(nn.Embedding(7, 4, sparse=True), mlp())
    cause, mend = r"0 \(Embedding\) makes sparse gradients", "set sparse=False"
    yield refused(OperatorError, cause, mend, made, sparse, cross_entropy, tokens)
    sparse[0].sparse = False
    yield right(exact(sparse, cross_entropy, tokens), ROUNDING, made, sparse, cross_entropy, tokens)
    written = _Written()
    reference = exact(written.inside, cross_entropy, batch)
    for ad in ("double_backward", "jvp"):
        yield right(reference, ROUNDING, partial(made, written, cross_entropy, batch, ad=ad))


@model_row(
    "H73",
    "`no_grad` or `inference_mode` around; parameters made under `inference_mode`",
    "the right Hessian; `OperatorError`, its mend works: clones",
)
def h73() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    reference = exact(model, cross_entropy, batch)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            yield right(reference, ROUNDING, made, model, cross_entropy, batch)
            assert not torch.is_grad_enabled()
    with torch.inference_mode():
        made_there = mlp()
    cause, mend = "0.weight was made under inference_mode", "make the model outside"
    yield refused(OperatorError, cause, mend, made, made_there, cross_entropy, batch)
    model.load_state_dict({name: tensor.clone() for name, tensor in made_there.state_dict().items()})
    yield right(exact(model, cross_entropy, batch), ROUNDING, made, model, cross_entropy, batch)


@model_row(
    "H74",
    "parameters in float16 or bfloat16; `autocast` in the loss",
    "`PrecisionWarning` with the machine epsilon; its mend works: `compute_dtype=`",
)
def h74() -> Iterator[Outcome]:
    for dtype in (torch.float16, torch.bfloat16):
        model, (x, y) = mlp().to(dtype).double(), samples()  # numbers that all of the dtypes hold
        x = x.to(dtype).double()
        reference = exact(model, cross_entropy, (x, y))
        eps = torch.finfo(dtype).eps

        def cast(model: nn.Module, batch: tuple, dtype: torch.dtype = dtype) -> torch.Tensor:
            with torch.autocast("cpu", dtype=dtype):
                return cross_entropy(model, batch)

        for kind, loss, cause in ((dtype, cross_entropy, "parameters are in"), (torch.float32, cast, "autocast")):
            call, mend = partial(made, model.to(kind), loss, (x.to(kind), y)), "compute_dtype=torch.float"
            # Measured: at most 0.9 machine epsilons.
            yield warned(PrecisionWarning, f"{cause}.* {dtype}.*{eps:.2g}", mend, reference, 4 * eps, call)
            yield right(reference, ROUNDING, partial(call, compute_dtype=torch.float64))


@contextmanager
def _one_process() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _stepped(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cross_entropy(model, samples()).backward()
    optimizer.step()


def _silently(model: nn.Module) -> None:
    model[0].weight.data.mul_(2)  # which no version counter sees


def _replaced(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(2 * model[0].weight.detach())


@model_row(
    "H75",
    "wrappers (`DistributedDataParallel`, sharded modules), hooks, parameters that are changed or frozen between "
    "products",
    "the right Hessian of the module inside, and with hooks that change nothing; `OperatorError` if it is sharded, "
    "if a hook changes gradients, or if a parameter is another than at the construction",
)
def h75() -> Iterator[Outcome]:
    model, batch = mlp(), samples()
    reference = exact(model, cross_entropy, batch)
    with _one_process():
        wrapped = nn.parallel.DistributedDataParallel(model)
        yield right(reference, ROUNDING, made, wrapped, cross_entropy, batch)
        sharded = fully_shard(mlp(), mesh=init_device_mesh("cpu", (1,)))
        cause, mend = "whose sharded parameters have no second derivative", "build the operator from the plain module"
        yield refused(OperatorError, cause, mend, made, sharded, cross_entropy, batch)

    seen: list[int] = []
    hooks = [model[0].register_forward_hook(lambda *_: seen.append(0))]
    hooks.append(model[0].weight.register_hook(lambda _: seen.append(1)))
    yield right(reference, ROUNDING, made, model, cross_entropy, batch)
    assert set(seen) == {0, 1}
    hooks.append(model[0].weight.register_hook(lambda gradient: 2 * gradient))
    cause, mend = "is not the derivative of the gradient", "look there for.*gradient hooks"
    yield refused(OperatorError, cause, mend, made, model, cross_entropy, batch)
    for hook in hooks:
        hook.remove()

    def used(change: Callable[[nn.Module], None]) -> None:
        operator = hessian_operator(model, cross_entropy, batch)
        dense(operator)
        change(model)
        operator.matvec(torch.ones(operator.shape[0]))

    for change in (_stepped, _silently, _replaced):
        cause, mend = "parameter 0.weight changed after", "build a new operator"
        yield refused(OperatorError, cause, mend, used, change)
    cause = "parameter 0.weight was frozen after"
    yield refused(OperatorError, cause, mend, used, lambda model: model[0].weight.requires_grad_(False))
