"""Modules whose second derivatives torch gets wrong or cannot make, or that are random: known by their kind."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from slq.errors import OperatorError

__all__ = ["owner_of", "random_loss", "refuse", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside the wrappers that are made for the first derivative only: DataParallel, DDP, torch.compile.

    Raises
    ------
    OperatorError
        If parameters are sharded (FSDP).
    """
    while True:
        name = type(model).__name__
        if name in ("DataParallel", "DistributedDataParallel"):
            model = model.module  # type: ignore[assignment]
        elif name == "OptimizedModule":  # torch.compile: its backward is a kernel, which cannot be differentiated
            model = model._orig_mod  # type: ignore[assignment]
        elif name == "FullyShardedDataParallel" or type(model).__name__.startswith("FSDP"):
            raise OperatorError(
                f"the model is a {name}, whose sharded parameters have no second derivative in torch; build the "
                "operator from the plain module"
            )
        else:
            return model


def _draws(module: nn.Module) -> bool:
    if not module.training:
        return False
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return float(module.dropout) > 0
    return isinstance(module, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d)


def random_loss(model: nn.Module, evidence: str) -> str:
    """The message for a loss that is random, with the modules that may be the reason."""
    drawing = [f"{name or 'the model'} ({type(m).__name__})" for name, m in model.named_modules() if _draws(m)]
    return (
        f"the loss is random: {evidence}"
        + (f", and {', '.join(drawing)} draws random numbers" if drawing else "")
        + "; call model.eval(), fix the random numbers inside the loss, or pass seed= to keep one mask a batch"
    )


def refuse(model: nn.Module) -> None:
    """Raise for modules that cannot be right.

    Raises
    ------
    OperatorError
        With the module's name and the mend.
    """
    for name, module in model.named_modules():
        for problem, mend in _faults(module):
            raise OperatorError(f"{name or 'the model'} ({type(module).__name__}) {problem}; {mend}")


def _faults(module: nn.Module) -> Iterator[tuple[str, str]]:
    if module.training and _is_normalised(module, SpectralNorm):
        yield "is spectrally normalised and iterates with each forward pass in training mode", "call model.eval()"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        if module.max_norm is not None:
            yield (
                "rescales its weight in place with each forward pass (max_norm), which no derivative sees",
                "set max_norm=None once the rows are within it",
            )
        if module.sparse:
            yield "makes sparse gradients, which have no second derivative", "set sparse=False on it"


def _is_normalised(module: nn.Module, kind: type) -> bool:
    """By a hook of the old kind, or a parametrisation of the new."""
    parametrizations = getattr(module, "parametrizations", None)
    return any(isinstance(hook, kind) for hook in module._forward_pre_hooks.values()) or (
        isinstance(parametrizations, nn.ModuleDict)
        and any(type(part).__name__ == f"_{kind.__name__}" for part in parametrizations.modules())
    )


def owner_of(model: nn.Module, parameter: str) -> str:
    """A parameter and the kind of module that it belongs to, for a message; with what is known of that kind."""
    path = parameter.split(".")
    modules = dict(model.named_modules())
    owners = [modules[".".join(path[:i])] for i in range(len(path) - 1, -1, -1) if ".".join(path[:i]) in modules]
    # Parametrised weights hang below modules of torch's own.
    owner = next((m for m in owners if not type(m).__module__.startswith("torch.nn.utils")), model)
    owner = next((m for m in owners if hasattr(m, "parametrizations")), owner)
    known = ""
    if _is_normalised(owner, WeightNorm):
        known = " (the second derivative of torch._weight_norm is wrong in torch 2.13: write g * v / v.norm() by hand)"
    return f"{parameter} of {type(owner).__name__}{known}"
