"""slq/_basis.py: the Lanczos vectors that are kept, and in which precision."""

import numpy as np
import pytest

import slq
from slq import _basis
from slq._arrays import to_host
from slq.errors import RequestError
from tests.problems import hessian_like, indefinite, mix, problem

EXACT = problem(hessian_like(300))
START = mix(np.ones((2, 300)), seed=4)
TRUTH = EXACT.forms(START / np.linalg.norm(START, axis=1)[:, None], np.log)


def error(matrix, start, m=80, **options):
    """Of v'log(A)v, relative, with the same probes."""
    run = slq.lanczos(matrix, start, m, **options)
    nodes, weights = slq.golub_welsch(run.alpha, run.beta)
    used = np.where(weights > 0, nodes, 1.0)
    return np.abs(((weights * np.log(used)).sum(axis=1) - TRUTH) / TRUTH).max()


@pytest.mark.parametrize("kind", ["float32", "host", "bfloat16"])
def test_a_basis_may_be_stored_otherwise(xp, kind):
    matrix, start = (xp.asarray(x, "float32") for x in (EXACT.matrix, START))
    if kind == "bfloat16" and xp.name == "array_api_strict":
        with pytest.raises(RequestError, match="array_api_strict has no bfloat16; take basis_dtype='float32'"):
            slq.lanczos(matrix, start, 5, basis_dtype=kind)
        return
    # Measured: 1e-6 to 1.5e-5 with the basis in single precision, 1.3e-4 to 3.4e-4 in bfloat16, 1e-3 without a basis.
    bound = 6e-4 if kind == "bfloat16" else 5e-5
    assert error(matrix, start, basis_dtype=kind) < bound < error(matrix, start, reorthogonalize=False)


def test_a_narrow_basis_serves_double_precision_too():
    # The vectors removed are known to 2⁻²⁴ and 2⁻⁸ only; what is computed is far better. Measured: 2e-8, 1e-4.
    assert error(EXACT.matrix, START, basis_dtype="float32") < 1e-7
    assert error(EXACT.matrix, START, basis_dtype="bfloat16") < 1e-3


def test_storage_on_the_host_changes_no_number(xp):
    matrix, start = xp.asarray(EXACT.matrix), xp.asarray(START)
    plain, stored = (slq.lanczos(matrix, start, 20, basis_dtype=kind) for kind in (None, "host"))
    np.testing.assert_array_equal(stored.alpha, plain.alpha)
    np.testing.assert_array_equal(stored.beta, plain.beta)


def test_dtypes_of_the_library_are_names_too():
    torch = pytest.importorskip("torch")
    matrix, start = torch.tensor(EXACT.matrix).float(), torch.tensor(START).float()
    one, other = (slq.lanczos(matrix, start, 20, basis_dtype=kind) for kind in (torch.bfloat16, "bfloat16"))
    np.testing.assert_array_equal(one.alpha, other.alpha)


def test_the_upper_half_of_float32_is_bfloat16():
    torch = pytest.importorskip("torch")
    x = np.concatenate([np.random.default_rng(0).normal(size=10**4), [0.0, -0.0, 1e-40, 3.38e38]]).astype(np.float32)
    storage = _basis._HighHalf(np.uint16, 2, False)
    expected = torch.tensor(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(storage.widen(storage.narrow(x), x), expected)


def test_the_basis_comes_back_as_it_is_stored(xp):
    matrix, start = xp.asarray(EXACT.matrix), xp.asarray(START)
    run = slq.lanczos(matrix, start, 20, basis_dtype="float32", return_basis=True)
    assert "float32" in str(run.basis.dtype)
    assert to_host(run.basis).shape == (2, 20, 300)


@pytest.mark.parametrize("kind", ["float16", "int8", 3, "device"])
def test_other_storage_is_refused(kind):
    with pytest.raises(RequestError, match="basis_dtype= expects None, 'float32', 'bfloat16' or 'host'"):
        slq.lanczos(EXACT.matrix, START, 5, basis_dtype=kind)
    with pytest.raises(RequestError, match="for vectors of complex128"):
        slq.lanczos(EXACT.matrix + 0j, START, 5, basis_dtype="float32")


def test_a_second_projection_is_made_where_the_first_took_much(xp, monkeypatch):
    # Three clusters of width 1e-9, and products that are wrong by 1e-6 of the start vector: after three steps, the
    # residual is a thousandth of what the first projection takes away.
    n = 24
    exact = problem(np.repeat([1.0, 2.0, 3.0], n // 3) + 1e-9 * indefinite(n))
    start = np.random.default_rng(0).normal(size=(2, n))
    matrix, error = xp.asarray(exact.matrix), xp.asarray(1e-6 * start)
    passes = []
    original = _basis.Basis.remove_from
    monkeypatch.setattr(
        _basis.Basis, "remove_from", lambda self, w, work: (passes.append(self.size), original(self, w, work))[1]
    )
    operator = slq.aslinearoperator(lambda x: x @ matrix + error, like=matrix[0, ...], batched=True)
    run = slq.lanczos(operator, xp.asarray(start), 5, return_basis=True, check=False)
    gram = to_host(run.basis) @ np.swapaxes(to_host(run.basis), 1, 2)
    np.testing.assert_allclose(gram, np.tile(np.eye(5), (2, 1, 1)), atol=30 * n * 2.0**-52)
    assert len(passes) > 5
    passes.clear()
    slq.lanczos(xp.asarray(problem(indefinite(n)).matrix), xp.asarray(start), 5)
    assert len(passes) == 5  # one each where nothing calls for more
