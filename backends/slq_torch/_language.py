"""The loss of a causal language model, by tokens."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slq.errors import DataError, OperatorError, ShapeError
from slq_torch._linear_cross_entropy import linear_cross_entropy

__all__ = ["causal_lm_loss"]

_SHORT_INPUTS = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}  # which every body understands
_PROBED = 16  # tokens on which the two ways to the logits are compared


def causal_lm_loss(
    *, chunk_size: int = 1024, ignore_index: int = -100, label_smoothing: float = 0.0
) -> Callable[[nn.Module, Mapping[str, Any]], tuple[Tensor, Tensor]]:
    """Make the loss function of a causal language model: cross-entropies of the next token, and how many there are.

    Parameters
    ----------
    chunk_size : int
        Tokens whose logits exist at a time; see `linear_cross_entropy`.
    ignore_index : int
        Labels that do not count.
    label_smoothing : float
        See `linear_cross_entropy`.

    Returns
    -------
    callable
        ``loss_fn(model, batch) -> (sum, number)`` for `hessian_operator`. A batch is a mapping with ``input_ids``
        (b, t) and optionally ``attention_mask`` (b, t) and ``labels`` (b, t), which are shifted by one inside; without
        labels, the tokens that are not masked are predicted. A masked position predicts nothing: with padding on the
        left, the first token of a sequence does not count. Other entries go to the model. The model is one of
        Hugging Face's, or a module which, called with these entries by name, returns logits (b, t, V), or a structure
        with them as ``logits``. The function raises `DataError` or `ShapeError` for other batches, `OperatorError` for
        other models.

    Notes
    -----
    Where the logits of a Hugging Face model are its output layer's of its body's last hidden states, the logits of all
    tokens never exist at once. That is looked for in the model's configuration and tried on a few tokens. Models that
    scale or cap their logits (Cohere, Granite, Gemma 2), have another kind of output layer (quantised, or with an
    adapter), or get other entries, are called as they are, and all logits of a batch exist.

    What a model adds to its loss (the balance of experts) is not part of this one.

    Examples
    --------
    >>> class Bigrams(torch.nn.Embedding):
    ...     def forward(self, input_ids):
    ...         return super().forward(input_ids)
    >>> tokens = torch.randint(0, 5, (4, 9))
    >>> total, number = causal_lm_loss()(Bigrams(5, 5), {"input_ids": tokens})
    >>> int(number)  # 8 of each sequence are predicted
    32
    """
    short_ways: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def loss_fn(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        inputs, targets = _inputs_and_targets(batch, ignore_index)
        if model not in short_ways:
            short_ways[model] = _ends_in_a_linear_layer(model, inputs)
        if short_ways[model] and set(inputs) <= _SHORT_INPUTS:
            hidden, head = _hidden(model, inputs)[:, :-1], _head(model)
            return linear_cross_entropy(
                hidden,
                head.weight,
                targets,
                bias=head.bias,
                ignore_index=ignore_index,
                label_smoothing=label_smoothing,
                chunk_size=chunk_size,
            )
        counting = targets != ignore_index
        logits = _logits(model, inputs)[:, :-1][counting]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = F.cross_entropy(wide, targets[counting], reduction="sum", label_smoothing=label_smoothing)
        return total, counting.sum()

    return loss_fn


def _inputs_and_targets(batch: Any, ignore_index: int) -> tuple[dict[str, Any], Tensor]:
    """What the model is called with, and the token that each position but the last is to predict."""
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        found = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise DataError(f"a batch of a language model expects a mapping with input_ids, got {found}")
    inputs = {name: value for name, value in batch.items() if value is not None}
    tokens = inputs["input_ids"]
    labels = inputs.pop("labels", None)
    mask = inputs.get("attention_mask")
    for name, value in {"input_ids": tokens, "labels": labels}.items():
        if value is not None and (not isinstance(value, Tensor) or value.ndim != 2 or value.shape != tokens.shape):
            raise ShapeError(
                f"{name} expects a (b, t) tensor, the same for labels and input_ids, got "
                f"{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}; "
                "a tokenizer gives tensors with return_tensors='pt'"
            )
    if mask is not None and mask.shape != tokens.shape:
        raise ShapeError(
            f"attention_mask expects the shape of input_ids, {tuple(tokens.shape)}, got {tuple(mask.shape)}"
        )
    targets = (tokens if labels is None else labels)[:, 1:]
    if mask is not None:
        padding = mask == 0
        from_nothing = padding[:, :-1] if labels is not None else padding[:, :-1] | padding[:, 1:]
        targets = targets.masked_fill(from_nothing, ignore_index)
    return inputs, targets


def _ends_in_a_linear_layer(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether the logits are a linear layer's of the body's last hidden states, and nothing is done to them after."""
    head, body = _head(model), getattr(model, "base_model", model)
    if type(head) is not nn.Linear or body is model or _treats_logits(getattr(model, "config", None)):
        return False
    tokens, mask = inputs["input_ids"], inputs.get("attention_mask")
    some = tokens.reshape(-1) if mask is None else tokens[mask != 0]
    probe = {"input_ids": (some if len(some) else tokens.reshape(-1))[None, :_PROBED]}
    devices = [tokens.device] if tokens.is_cuda else []
    with torch.no_grad():
        with torch.random.fork_rng(devices):  # both ways with the same random numbers, if the model draws any
            logits = _logits(model, probe)
        with torch.random.fork_rng(devices):
            hidden = _hidden(model, probe)
        if hidden.shape[-1] != head.in_features:
            return False
        found = head(hidden)
    if found.shape != logits.shape:
        return False
    # Measured on the CPU for GPT-2 and Llama, float64 to bfloat16: no difference at all.
    return bool((found - logits).abs().max() <= 16 * torch.finfo(found.dtype).eps * logits.abs().max())


def _treats_logits(config: Any) -> bool:
    """Whether a configuration names a factor or a cap of the logits, which may not show on the logits of a few tokens.

    In transformers 5.23: final_logit_softcapping, logit_scale, logits_scaling, lm_head_multiplier and their like.
    """
    if config is None:
        return False
    settings = vars(config.get_text_config() if hasattr(config, "get_text_config") else config)
    return any(
        value not in (None, False, 1)
        for name, value in settings.items()
        if name.endswith("_multiplier") or ("logit" in name and any(word in name for word in ("cap", "scal", "mup")))
        if "attn" not in name
    )


def _head(model: nn.Module) -> Any:
    """The output layer of a Hugging Face model; None of others."""
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if callable(getter) else None


def _hidden(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    return model.base_model(**inputs, use_cache=False)[0]


def _logits(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    options = {"use_cache": False} if hasattr(model, "get_output_embeddings") else {}
    output = model(**inputs, **options)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    shape = inputs["input_ids"].shape
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != shape:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise OperatorError(
            f"a language model must return logits ({shape[0]}, {shape[1]}, V), as a tensor or as .logits, got {found}"
        )
    return logits
