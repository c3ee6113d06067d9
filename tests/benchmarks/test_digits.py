"""The table of methods on the digits network: what it counts, and the order that makes it worth having."""

import numpy as np
import pytest

from benchmarks import digits
from benchmarks.digits import METHODS, Errors


@pytest.fixture(scope="module")
def found():
    return digits.collect(digits.operator(diagonal=True), range(5))


def test_every_method_makes_the_products_it_says(found):
    # `collect` raises where it does not
    assert found.keys() == METHODS.keys()
    assert {method.products for method in METHODS.values()} == {400, 800}
    assert all(len(rows) == 5 for rows in found.values())


def test_deflation_and_blocks_beat_plain_probes_on_the_same_seeds(found):
    plain = np.array(found["plain 10 × 80"])
    for name in ("deflated 10 × 80", "block 20 × 40, deflated", "block 10 × 80, deflated"):
        assert (np.array(found[name])[:, :2] < plain[:, :2]).all(), name  # measured: on these seeds, all of them


def test_diagonal_matrix_has_the_errors_of_the_network(found):
    """One seed of the network: within the range that five seeds of the diagonal span, threefold."""
    rows = digits.collect(digits.operator(diagonal=False), [0], ["plain 10 × 80"])["plain 10 × 80"]
    l1 = np.array(found["plain 10 × 80"])[:, 0]
    assert l1.min() / 3 < rows[0].density_l1 < 3 * l1.max()


def test_wrong_number_of_products_is_refused(monkeypatch):
    monkeypatch.setitem(METHODS, "plain 10 × 40", METHODS["plain 10 × 40"]._replace(products=401))
    with pytest.raises(RuntimeError, match="plain 10 × 40 made 400 products, not 401"):
        digits.collect(digits.operator(diagonal=True), [0], ["plain 10 × 40"])


def test_table_shows_medians_and_wins():
    rows = {
        "plain 10 × 80": [Errors(2e-3, 2e-4, 0.1), Errors(4e-3, 4e-4, 0.3), Errors(3e-3, 3e-4, 0.2)],
        "deflated 10 × 80": [Errors(1e-3, 1e-4, 0.1), Errors(5e-3, 1e-4, 0.1), Errors(2e-3, 5e-4, 0.1)],
    }
    assert digits.table(rows).splitlines()[2:] == [
        "| plain 10 × 80 | 800 | 0.00300 | 3.00e-04 | 20.00 % |  |",
        "| deflated 10 × 80 | 800 | 0.00200 | 1.00e-04 | 10.00 % | 2 and 2 |",
    ]
