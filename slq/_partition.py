"""Floor 1: which parameters of a model make which block of its Hessian."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping

from slq.errors import RequestError

__all__ = ["Blocks", "partition"]

Blocks = str | Mapping[str, str | Iterable[str]] | Callable[[str], str]


def partition(names: list[str], blocks: Blocks) -> dict[str, list[str]]:
    """The names of the parameters of each block.

    Parameters
    ----------
    names : list of str
        All parameters.
    blocks : {"modules", "parameters"} or mapping or callable
        As for `layer_operators`.

    Raises
    ------
    RequestError
        If it is no partition of the names.
    """
    if isinstance(blocks, Mapping):
        return _by_patterns(names, blocks)
    if callable(blocks):
        block_of: Callable[[str], str] = blocks
    elif blocks in ("modules", "parameters"):
        block_of = (lambda name: name.rpartition(".")[0] or name) if blocks == "modules" else str
    else:
        raise RequestError(
            f'blocks= expects "modules", "parameters", a mapping of names to patterns, or a function, not {blocks!r}'
        )
    found: dict[str, list[str]] = {}
    for name in names:
        block = block_of(name)
        if not isinstance(block, str):
            raise RequestError(f"blocks= gave {block!r} for {name}; a function must return the name of a block")
        found.setdefault(block, []).append(name)
    return found


def _by_patterns(names: list[str], blocks: Mapping[str, str | Iterable[str]]) -> dict[str, list[str]]:
    found = {}
    taken: dict[str, str] = {}
    for block, patterns in blocks.items():
        chosen = [patterns] if isinstance(patterns, str) else list(patterns)
        found[block] = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in chosen)]
        if not found[block]:
            raise RequestError(f"block {block!r} ({', '.join(chosen)}) is empty; the parameters are {', '.join(names)}")
        for name in found[block]:
            if name in taken:
                raise RequestError(f"{name} is in the blocks {taken[name]!r} and {block!r}; a partition has it in one")
            taken[name] = block
    left = [name for name in names if name not in taken]
    if left:
        raise RequestError(f"{', '.join(left)} is in no block; add one for the rest, or choose the parameters first")
    return found
