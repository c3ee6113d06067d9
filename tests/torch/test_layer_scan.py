"""Each layer and loss of torch gives what docs/layers.md says; none is silently wrong.

Where an outcome changes, with another torch, `python -m tests.torch.layer_scan` writes the page anew.
"""

import math
import re
from types import SimpleNamespace

import pytest
import torch

from slq_torch import hessian_operator
from tests.torch import layer_scan
from tests.torch.layer_scan import ENTRIES, PAGE, Found, examine, page

ROWS = re.findall(
    r"^\| ([^|]+?) \| (right|by differences|refused|wrong) \|[^|]*\|[^|]*\| (.*?) ?\|$",
    PAGE.read_text("utf-8"),
    re.MULTILINE,
)
SHOWN = {name: (outcome, remark) for name, outcome, remark in ROWS}


def cause(remark):
    """A remark without its numbers, whose last digits are another machine's."""
    return re.sub(r"-?\d[\d.e+-]*", "#", remark.replace("|", "/"))


@pytest.mark.parametrize("name", ENTRIES)
def test_outcome(name):
    found = examine(name)
    outcome, remark = SHOWN[name]
    assert found.outcome == outcome
    assert cause(found.remark) == cause(remark)


@pytest.mark.parametrize("factor", [1 + 1e-6, math.nan])
def test_wrong_products_are_found(factor, monkeypatch):
    """One part in a million, symmetric and the same each time, shows only in the difference."""

    def spoiled(*arguments, **options):
        op = hessian_operator(*arguments, **options)
        return SimpleNamespace(shape=op.shape, matvec=lambda V: factor * op.matvec(V))

    monkeypatch.setattr(layer_scan, "hessian_operator", spoiled)
    assert examine("Tanh").outcome == "wrong"


def test_differences_that_are_not_numbers_agree_with_nothing(monkeypatch):
    monkeypatch.setattr(layer_scan, "_differences", lambda *arguments: math.nan * arguments[-1])
    assert examine("Tanh").outcome == "wrong"


@pytest.mark.parametrize("name", [name for name in ENTRIES if SHOWN[name][0] == "right"])
def test_there_is_curvature_to_be_wrong_about(name):
    torch.manual_seed(1)
    model, value, batch, options = ENTRIES[name]()
    op = hessian_operator(model, value, batch, check=False, **options)
    assert float(op.matvec(torch.randn(1, op.shape[0])).norm()) > 1e-3


def slope_of(function, parameters, v, h):
    """Fourth-order differences of a function of the parameters along v."""
    place = torch.nn.utils.parameters_to_vector(parameters).detach()

    def at(step):
        torch.nn.utils.vector_to_parameters(place + step * v, parameters)
        found = function()
        torch.nn.utils.vector_to_parameters(place, parameters)
        return found

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def test_orthogonal_is_a_false_alarm():
    """Torch rounds the signs on the diagonal of the weight to integers; nothing else is in the way of a difference."""
    torch.manual_seed(1)
    model, value, batch, _ = ENTRIES["orthogonal"]()
    weight = model.layer.parametrizations.weight.original
    rest = [torch.ones_like(p) if p is not weight else torch.ones_like(p).fill_diagonal_(0) for p in model.parameters()]
    v, rest = torch.randn(sum(p.numel() for p in model.parameters())), torch.cat([r.reshape(-1) for r in rest])
    product, diagonal = hessian_operator(model, value, batch, check=False).matvec(torch.stack([v * rest, v - v * rest]))

    def gradient():
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value(model, batch), list(model.parameters()))])

    slope = slope_of(gradient, list(model.parameters()), v * rest, 1e-4)
    assert float((slope - product).norm() / product.norm()) < 1e-8  # measured: 1e-11
    assert not diagonal.any()


@pytest.mark.parametrize(("name", "right"), [("MaxUnpool2d", True), ("MaxUnpool2d, overlapping", False)])
def test_gradient_of_windows_that_overlap_is_wrong(name, right):
    torch.manual_seed(1)
    model, value, batch, _ = ENTRIES[name]()
    parameters = list(model.parameters())
    v = torch.randn(sum(p.numel() for p in parameters))
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value(model, batch), parameters)])
    slope = slope_of(lambda: value(model, batch).detach(), parameters, v, 1e-4)
    off = abs(float(slope - gradient @ v)) / float(gradient.norm() * v.norm())
    assert off < 1e-8 if right else off > 1e-3  # measured: 4e-13 and 0.016


def test_page_shows_all():
    assert [name for name, *_ in ROWS] == list(ENTRIES)
    assert len(ENTRIES) >= 150
    assert "wrong" not in {outcome for outcome, _ in SHOWN.values()}
    kinds = [outcome for outcome, _ in SHOWN.values()]
    prose = " ".join(PAGE.read_text("utf-8").split())
    assert f"{kinds.count('right')} right, {kinds.count('by differences')} by differences" in prose
    assert f"{kinds.count('refused')} refused, none silently wrong" in prose


def test_page_counts():
    text = page({"a": Found("right", "", 0.0, 3e-16, 0.0), "b": Found("refused", "Error: no | yes")})
    prose = " ".join(text.split())
    assert "for 2 layers and losses" in prose
    assert "1 right, 0 by differences" in prose
    assert "none silently wrong" in prose
    assert "1 silently wrong" in " ".join(page({"a": Found("wrong")}).split())
    assert "| a | right | 1e-15 | 0 |  |" in text
    assert "| b | refused | – | – | Error: no / yes |" in text
