"""Which modules write in place to what autograd has saved."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

__all__ = ["is_of_writing", "who_wrote"]


def is_of_writing(error: BaseException) -> bool:
    """Whether torch raised an error because a saved tensor was written to."""
    return "modified by an inplace operation" in str(error)


def who_wrote(error: BaseException, model: torch.nn.Module, forward: Callable[[], Any]) -> str:
    """The message for such an error: `forward` is called once more to find the module and its operation."""
    writes = _Writes(model)
    with ExitStack() as stack:
        for handle in (
            register_module_forward_pre_hook(writes.enter),
            register_module_forward_hook(writes.leave, always_call=True),
        ):
            stack.callback(handle.remove)
        stack.enter_context(writes)
        forward()
    made = re.search(r"output \d+ of (\w+)", str(error))  # the function that made what was written to
    found = [who for who, function in writes.found if made is None or function.startswith(made[1])]
    who = ", ".join(dict.fromkeys(found or [who for who, _ in writes.found])) or "the model or the loss writes"
    return (
        f"{who} in place to a tensor that the derivative needs; take the operation that makes a new tensor "
        "(x = x + 1, inplace=False), or write to a clone()"
    )


class _Writes(TorchFunctionMode):
    """Collects who writes by which operation, and what made the tensor that is written to."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._names = {module: name or "the model" for name, module in model.named_modules()}
        self._inside: list[torch.nn.Module] = []
        self.found: list[tuple[str, str]] = []

    def enter(self, module: torch.nn.Module, _: Any) -> None:
        """Before a module is called."""
        self._inside.append(module)

    def leave(self, *_: Any) -> None:
        """After it was."""
        self._inside.pop()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):  # y += 1 shows as add_
            made = getattr(args[0], "grad_fn", None) if args else None
            if made is not None:
                self.found.append((f"{self._owner()} writes ({name})", made.name()))
        return func(*args, **(kwargs or {}))

    def _owner(self) -> str:
        if not self._inside:
            return "the loss"
        module = self._inside[-1]
        return f"{self._names.get(module, 'a module')} ({type(module).__name__})"
