"""backends/slq_torch/_language.py: causal language models of Hugging Face, and modules of one's own."""

import copy
import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from slq.errors import DataError, OperatorError, ShapeError
from slq_torch import _language, causal_lm_loss, hessian_operator

V, LENGTHS = 13, (7, 4, 5)

# Measured over ten seeds: at most 9e-16 and 2.1e-7. Llama normalises and rotates in float32, whatever its parameters.
TOLERANCE = {"gpt2": 1e-13, "llama": 1e-6}


@pytest.fixture(scope="module")
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported; nothing here is downloaded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers")
    module.utils.logging.set_verbosity_error()
    return module


@pytest.fixture
def build(transformers):
    """A tiny model of a kind, with random weights large enough for its softmax to be far from uniform."""

    def of(kind, attention="sdpa", **options):
        options = {"vocab_size": V, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} | options
        if kind == "gpt2":
            options = {"n_positions": 16, "n_embd": 4, "n_layer": 1, "n_head": 2} | options
        else:
            options = {
                "hidden_size": 4,
                "intermediate_size": 6,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 2,
                "max_position_embeddings": 16,
            } | options
        config = transformers.AutoConfig.for_model(kind, **options)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn_like(p))
        return model.double().eval()

    return of


def padded(lengths, *, left=False):
    """Random sequences of these lengths."""
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        part = slice(-length, None) if left else slice(length)
        tokens[row, part], mask[row, part] = torch.randint(3, V, (length,)), 1
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.fixture
def batches():
    """Sequences of several lengths in two batches, padded on the right."""
    return [padded(LENGTHS), padded((3, 6))]


def labels_of(batch):
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)


def plain(model, batch, label_smoothing=0.0):
    """From the logits of the whole batch."""
    logits = model(**{name: x for name, x in batch.items() if name != "labels"}).logits[:, :-1]
    targets = batch.get("labels", labels_of(batch))[:, 1:]
    total = F.cross_entropy(
        logits.reshape(-1, V), targets.reshape(-1), reduction="sum", label_smoothing=label_smoothing
    )
    return total, (targets != -100).sum()


def dense_hessian(model, batches):
    """Of the mean plain loss, by double backward."""
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def loss(flat):
        tensors = {name: x.view_as(p) for (name, p), x in zip(parameters.items(), flat.split(sizes), strict=True)}
        sums = [plain(lambda **inputs: functional_call(model, tensors, (), inputs), batch) for batch in batches]
        return sum(s for s, _ in sums) / sum(n for _, n in sums)

    with sdpa_kernel(SDPBackend.MATH):
        return hessian(loss, torch.cat([p.detach().reshape(-1) for p in parameters.values()]))


@pytest.fixture
def never_plain(monkeypatch):
    """Fails a test that goes by the logits of more than the few tokens that are tried."""
    whole = _language._logits

    def few(model, inputs):
        assert inputs["input_ids"].shape[0] == 1
        return whole(model, inputs)

    monkeypatch.setattr(_language, "_logits", few)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_operator_is_the_dense_hessian(kind, attention, build, batches, dense, distance, never_plain):
    model = build(kind, attention)
    op = hessian_operator(model, causal_lm_loss(chunk_size=5), batches)
    expected = dense_hessian(model, batches)
    assert distance(dense(op), expected) < TOLERANCE[kind]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_loss_is_the_models_own(kind, tied, build, batches, never_plain):
    model = build(kind, tie_word_embeddings=tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    for batch in batches:
        total, number = causal_lm_loss()(model, batch)
        own = model(**batch, labels=labels_of(batch)).loss  # the mean, of logits rounded to float32
        torch.testing.assert_close(total / number, own.double(), rtol=1e-6, atol=0)
    assert int(number) == 2 + 5  # of the last batch


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_labels_smoothing_and_ignored_tokens(kind, build, batches, never_plain):
    model, batch = build(kind), batches[0]
    batch["labels"] = labels_of(batch)
    batch["labels"][0, :4] = -100  # a prompt
    for smoothing in (0.0, 0.1):
        found = causal_lm_loss(label_smoothing=smoothing)(model, batch)
        torch.testing.assert_close(found, plain(model, batch, smoothing), rtol=1e-13, atol=0)
    renamed = batch | {"labels": batch["labels"].masked_fill(batch["labels"] == -100, -7)}
    torch.testing.assert_close(causal_lm_loss(ignore_index=-7)(model, renamed), plain(model, batch))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_padding_on_the_left(kind, build, dense, distance, never_plain):
    """Is as if each sequence were alone: its first token is not predicted from padding."""
    model, batch = build(kind), padded(LENGTHS, left=True)
    batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    rows = zip(batch["input_ids"], LENGTHS, strict=True)
    alone = [{"input_ids": row[None, -length:]} for row, length in rows]
    together, apart = (hessian_operator(model, causal_lm_loss(), data) for data in (batch, alone))
    assert together.loss() == pytest.approx(apart.loss(), rel=TOLERANCE[kind])
    assert distance(dense(together), dense(apart)) < TOLERANCE[kind]
    for labels in (None, labels_of(batch)):
        assert int(causal_lm_loss()(model, batch | {"labels": labels})[1]) == sum(LENGTHS) - len(LENGTHS)


def test_nothing_to_predict(build):
    for model in (build("gpt2"), build("gemma2", "eager")):
        for tokens in (torch.full((2, 1), 3), torch.full((2, 4), 3)):
            batch = {"input_ids": tokens, "attention_mask": torch.zeros_like(tokens)}
            total, number = causal_lm_loss()(model, batch)
            assert (float(total.detach()), int(number)) == (0, 0)


def test_without_a_mask_every_token_counts(build, batches):
    batch = {"input_ids": batches[0]["input_ids"], "attention_mask": None}
    assert int(causal_lm_loss()(build("gpt2"), batch)[1]) == 3 * 6


@pytest.mark.parametrize(
    ("kind", "options"),
    [("gemma2", {"final_logit_softcapping": 2.0}), ("cohere", {}), ("granite", {"logits_scaling": 4.0})],
    ids=["gemma2", "cohere", "granite"],
)
@pytest.mark.parametrize("told", [True, False], ids=["told", "found"])
def test_treated_logits_go_the_plain_way(kind, options, told, build, batches, monkeypatch):
    """Caps and factors of the logits count, whether the configuration tells of them or the logits show them."""
    model = build(kind, "eager", **options)
    if not told:
        monkeypatch.setattr(_language, "_treats_logits", lambda _: False)
    for batch in batches:
        found, expected = causal_lm_loss()(model, batch), plain(model, batch)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    weight = model.get_output_embeddings().weight
    gradients = [torch.autograd.grad(loss[0], weight)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        by_head = F.linear(model.base_model(**batch)[0], weight)
        assert float((by_head - model(**batch).logits).abs().max()) > 1e-3  # what the short way would have taken


def test_other_output_layers_go_the_plain_way(build, batches):
    class Adapted(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1 + x.mean(dim=-1, keepdim=True) * torch.arange(V)

    model = build("gpt2", tie_word_embeddings=False)
    model.lm_head.__class__ = Adapted
    torch.testing.assert_close(causal_lm_loss()(model, batches[0]), plain(model, batches[0]), rtol=1e-13, atol=0)


def test_other_inputs_go_to_the_model(build, batches):
    """Here a factor of the embeddings, which the body alone would not understand."""
    inner = build("gpt2")

    class Scaled(type(inner)):
        def forward(self, input_ids, attention_mask=None, factor=1.0, **options):
            embeddings = factor * self.get_input_embeddings()(input_ids)
            return super().forward(inputs_embeds=embeddings, attention_mask=attention_mask, **options)

    inner.__class__ = Scaled
    loss, batch = causal_lm_loss(), batches[0]
    torch.testing.assert_close(loss(inner, batch | {"factor": None}), loss(inner, batch), rtol=0, atol=0)
    found, expected = (f(inner, batch | {"factor": 2.0}) for f in (loss, plain))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert float((found[0] - loss(inner, batch)[0]).detach().abs()) > 1e-3


class Recurrent(nn.Module):
    """A model of one's own."""

    def __init__(self, wrap):
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(V, 3), nn.RNN(3, 3, batch_first=True), nn.Linear(3, V)
        self.wrap = wrap

    def forward(self, input_ids, **_):
        logits = self.head(self.cell(self.embed(input_ids))[0])
        return self.wrap(logits)


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("wrap", [lambda x: x, Output], ids=["tensor", "logits"])
def test_module_of_ones_own(wrap, batches, dense, distance):
    model = Recurrent(Output)
    expected = dense_hessian(model, batches)
    model.wrap = wrap
    assert distance(dense(hessian_operator(model, causal_lm_loss(), batches)), expected) < 1e-13


def test_half_precision(build, batches, distance):
    """The short way's logits are float32 even where the model's are bfloat16."""
    model = build("llama")
    expected = plain(model, batches[0])[0]
    total, _ = causal_lm_loss()(copy.deepcopy(model).bfloat16(), batches[0])
    assert total.dtype == torch.float32
    # Measured over ten seeds: at most 1e-3, from the body.
    assert distance(total.detach().double(), expected.detach()) < torch.finfo(torch.bfloat16).eps


def test_refusals(batches):
    loss, model = causal_lm_loss(), Recurrent(lambda x: x)
    batch = batches[0]
    with pytest.raises(DataError, match=r"expects a mapping with input_ids, got \['tokens'\]"):
        loss(model, {"tokens": batch["input_ids"]})
    with pytest.raises(DataError, match="expects a mapping with input_ids, got Tensor"):
        loss(model, batch["input_ids"])
    with pytest.raises(ShapeError, match=r"input_ids expects a \(b, t\) tensor.*got \(7,\)"):
        loss(model, {"input_ids": batch["input_ids"][0]})
    with pytest.raises(ShapeError, match=r"labels expects.*got list; a tokenizer gives tensors"):
        loss(model, batch | {"labels": [[1, 2]]})
    with pytest.raises(ShapeError, match=r"attention_mask expects the shape of input_ids, \(3, 7\), got \(3, 6\)"):
        loss(model, batch | {"attention_mask": batch["attention_mask"][:, 1:]})
    with pytest.raises(OperatorError, match=r"must return logits \(3, 7, V\).*got \(3, 13\)"):
        loss(Recurrent(lambda x: x[:, -1]), batch)
    with pytest.raises(OperatorError, match=r"as a tensor or as \.logits, got tuple"):
        loss(Recurrent(lambda x: (x,)), batch)
