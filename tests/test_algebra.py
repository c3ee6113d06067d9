"""slq/_algebra.py and slq/_subspaces.py: operators made of operators, against the dense matrices they stand for."""

import numpy as np
import pytest
import scipy.sparse

import slq
from slq import add, aslinearoperator, deflate, generalized, gram, precondition, restrict, scale, shift
from slq._arrays import real, to_host
from slq._products import Products
from slq.errors import DtypeError, DtypeWarning, PlacementError, ProductError, RequestError, ShapeError
from tests.problems import K, N, indefinite, problem, uniform

A = problem(indefinite(N)).matrix
B = problem(uniform(N), seed=1).matrix
H = problem(indefinite(N), dtype=complex).matrix
RNG = np.random.default_rng(0)
X = RNG.normal(size=(K, N))
Z = X + 1j * RNG.normal(size=(K, N))
INDEX = np.asarray([3, 0, 17, -1])
MASK = np.arange(N) % 3 == 0
V = RNG.normal(size=(2, N))
W = V + 1j * RNG.normal(size=(2, N))

# Measured: at most 2e-14, where matrices reach norm 16.
CLOSE = {"rtol": 1e-13, "atol": 1e-13}


def complement(vectors):
    q = np.linalg.qr(vectors.T)[0]
    return np.eye(N) - q @ q.conj().T


# name -> (operator of a matrix, its dense matrix)
MADE = {
    "shift": (lambda A: shift(A, -0.5), lambda A: A - 0.5 * np.eye(N)),
    "shift by a diagonal": (lambda A: shift(A, real(A)[0, :]), lambda A: A + np.diag(A[0].real)),
    "precondition": (
        lambda A: precondition(A, real(A)[0, :] ** 2 + 1),
        lambda A: A / np.sqrt(np.outer(A[0].real ** 2 + 1, A[0].real ** 2 + 1)),
    ),
    "scale": (lambda A: scale(A, np.float32(2)), lambda A: 2 * A),
    "add": (lambda A: add(A, shift(A, 1.0), A), lambda A: 3 * A + np.eye(N)),
    "add one": (lambda A: add(A), lambda A: A),
    "restrict to a slice": (lambda A: restrict(A, slice(2, 9)), lambda A: A[2:9, 2:9]),
    "restrict to every other": (lambda A: restrict(A, slice(None, None, -2)), lambda A: A[::-2, ::-2]),
    "restrict to integers": (lambda A: restrict(A, INDEX), lambda A: A[np.ix_(INDEX, INDEX)]),
    "restrict to a mask": (lambda A: restrict(A, MASK), lambda A: A[np.ix_(MASK, MASK)]),
    "restrict to all": (lambda A: restrict(A, slice(None)), lambda A: A),
    "restrict twice": (lambda A: restrict(restrict(A, MASK), [4, 1]), lambda A: A[np.ix_([12, 3], [12, 3])]),
    "scale a shifted block": (
        lambda A: scale(shift(restrict(A, slice(4)), 3), -1),
        lambda A: -(A[:4, :4] + 3 * np.eye(4)),
    ),
    "gram of a shift": (lambda A: gram(shift(A, 2.0)), lambda A: (A + 2 * np.eye(N)) @ (A + 2 * np.eye(N))),
    "restrict a gram": (lambda A: restrict(gram(A), slice(3)), lambda A: (A @ A)[:3, :3]),
}


def check(operator, dense, xp):
    """Both products, of a block and of one vector, in the dtype of the operator."""
    m = dense.shape[0]
    assert tuple(operator.shape) == dense.shape
    block = (Z if np.iscomplexobj(dense) else X)[:, :m]
    for x in (block, block[0]):
        product = Products(operator)(xp.asarray(x))
        np.testing.assert_allclose(to_host(product), x @ dense.T, **CLOSE)


@pytest.mark.parametrize("kind", MADE)
def test_what_is_made_of_an_operator_is_what_is_made_of_its_matrix(xp, kind):
    make, dense = MADE[kind]
    check(make(xp.asarray(A)), dense(A), xp)


@pytest.mark.parametrize("kind", MADE)
def test_complex_hermitian_operators(xp, kind):
    make, dense = MADE[kind]
    check(make(xp.asarray(H)), dense(H), xp)


@pytest.mark.parametrize(("matrix", "vectors"), [(A, V), (H, W), (H, V), (A, V[0]), (A, np.eye(N)[:3])])
def test_deflation_projects_on_both_sides(xp, matrix, vectors):
    P = complement(np.atleast_2d(vectors))
    operator = deflate(xp.asarray(matrix), xp.asarray(vectors))
    check(operator, P @ matrix @ P, xp)
    check(shift(operator, 1.0), P @ matrix @ P + np.eye(N), xp)


def test_deflated_eigenvectors_leave_the_other_eigenvalues():
    p = problem(indefinite(N))
    measure = slq.spectral_measure(deflate(p.matrix, p.vectors[-5:]), num_probes=1, num_steps=N)
    # 19 distinct values are left, and zero; the quadratic forms of the first probe tell them all
    nodes = measure.nodes[measure.weights > 1e-20]
    expected = np.sort(np.append(p.eigenvalues[:-5], 0.0))
    np.testing.assert_allclose(np.sort(nodes), expected, atol=1e-12)  # measured 1e-15


def test_everything_may_be_deflated():
    np.testing.assert_allclose(deflate(A, RNG.normal(size=(N, N))).matvec(X), 0.0, atol=1e-13)


def test_half_precision_is_projected_in_single():
    torch = pytest.importorskip("torch")
    half = torch.tensor(A, dtype=torch.bfloat16)
    operator = deflate(half, torch.tensor(V, dtype=torch.bfloat16))
    x = torch.tensor(X, dtype=torch.float32)
    P = complement(torch.tensor(V, dtype=torch.bfloat16).double().numpy().astype(float))
    expected = X @ P @ half.double().numpy() @ P
    product = Products(operator)(x)
    assert operator.like.dtype == torch.bfloat16
    assert product.dtype == torch.float32
    # x, P x and the product are each rounded to bfloat16 (eps 2^-8), entries up to 4: measured 0.007
    np.testing.assert_allclose(product.numpy(), expected, atol=0.03)


def test_integer_directions_are_directions():
    np.testing.assert_allclose(
        deflate(A, np.eye(N, dtype=int)[:1]).matvec(X), deflate(A, np.eye(N)[:1]).matvec(X), **CLOSE
    )


def test_sparse_operands_compose_with_functions():
    sparse = scipy.sparse.csr_array(A)
    operator = add(sparse, aslinearoperator(lambda x: B @ x, like=X[0]))
    np.testing.assert_allclose(operator.matvec(X), X @ (A + B), **CLOSE)


def test_operands_may_share_a_buffer():
    buffer = np.empty((K, N))
    operands = [aslinearoperator(lambda x, M=M: np.matmul(x, M, out=buffer), like=X[0], batched=True) for M in (A, B)]
    np.testing.assert_allclose(add(*operands).matvec(X), X @ (A + B), **CLOSE)


class Sharded:
    """One process of one, which holds all coordinates."""

    shape = (N, N)
    like = np.empty(0)

    def __init__(self, index=slice(None), scale=1.0):
        self.index, self.scale = index, scale

    def matvec(self, x, /):
        return self.scale * (x @ A)

    def vecdot(self, x, y):
        return (x * y).sum(axis=-1)

    def put(self, block):
        return block * 1.0


OF_ANY = {
    "shift": lambda A: shift(A, 1.0),
    "scale": lambda A: scale(A, 3.0),
    "add": lambda A: add(A, A),
    "restrict": lambda A: restrict(A, INDEX),
    "deflate": lambda A: deflate(A, V),
    "generalized": lambda A: generalized(A, np.arange(1.0, N + 1)),
}


@pytest.mark.parametrize("kind", OF_ANY)
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_products_of_another_precision_are_taken_in(kind, dtype):
    whole = np.round(8 * A)
    odd = aslinearoperator(lambda x: (x @ whole).astype(dtype), like=X[0], batched=True)
    # products of ones are whole numbers; those of what deflation leaves of them are cut to whole numbers
    x = np.ones((K, OF_ANY[kind](A).shape[0]))
    product, exact = (OF_ANY[kind](operand).matvec(x) for operand in (odd, whole))
    if kind == "deflate" and dtype is np.int64:
        cut = np.trunc((x @ complement(V).T) @ whole)
        exact = cut @ complement(V).T
    np.testing.assert_allclose(product, exact, rtol=1e-5, atol=1e-5)  # single precision, numbers up to 50


@pytest.mark.parametrize("kind", OF_ANY)
def test_complex_products_of_real_vectors_are_refused(kind):
    operator = OF_ANY[kind](aslinearoperator(lambda x: x + 0j, like=X[0], batched=True))
    with pytest.raises(DtypeError, match="returned dtype complex128 for an input of float64"):
        operator.matvec(np.ones((K, operator.shape[0])))


@pytest.mark.parametrize("kind", OF_ANY)
def test_an_error_in_an_operand_names_the_step(kind):
    calls = []

    def fails(x):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory")
        return x @ A

    operator = OF_ANY[kind](aslinearoperator(fails, like=X[0], batched=True))
    starts = RNG.normal(size=(K, operator.shape[0]))
    step = 1 if kind == "add" else 2  # a sum of two takes two products a step
    with pytest.raises(ProductError, match=f"of step {step} raised RuntimeError for a block .*: out of memory"):
        slq.lanczos(operator, starts, 4, check=False)


@pytest.mark.parametrize("kind", ["scale", "deflate", "generalized"])
def test_a_narrower_product_is_warned_of(kind):
    operator = OF_ANY[kind](aslinearoperator(lambda x: (x @ A).astype(np.float32), like=X[0], batched=True))
    with pytest.warns(DtypeWarning, match="returns dtype float32 for vectors of float64, which limits the precision"):
        slq.lanczos(operator, X, 2)


@pytest.mark.parametrize("make", [lambda A: shift(A, 1.0), lambda A: scale(A, 2.0), lambda A: add(A, A), gram])
def test_optional_members_are_kept(make):
    sharded = Sharded()
    made = make(sharded)
    assert made.index is sharded.index
    assert made.vecdot == sharded.vecdot
    assert made.put == sharded.put
    assert not any(hasattr(make(A), name) for name in ("index", "vecdot", "put"))


def test_operators_sharded_alike_add():
    operator = add(Sharded(), Sharded(slice(0, N), 2.0), Sharded(np.arange(N), 3.0))
    np.testing.assert_allclose(operator.matvec(X), 6 * X @ A, **CLOSE)
    assert hasattr(operator, "vecdot")


class Placing:
    """An operator that places its blocks itself, and remembers the last."""

    shape = (N, N)
    like = np.empty(0)

    def matvec(self, x, /):
        return x @ A

    def put(self, block):
        self.placed = block
        return np.asfortranarray(block)


@pytest.mark.parametrize("index", [INDEX, slice(3, 8)])
def test_a_restricted_operator_is_placed_as_part_of_the_whole(index):
    whole = Placing()
    part = restrict(whole, index)
    block = X[:, : part.shape[0]]
    np.testing.assert_array_equal(part.put(block), block)
    np.testing.assert_array_equal(whole.placed[:, index], block)
    assert np.count_nonzero(whole.placed) == block.size


def test_one_inner_product_may_be_shared_by_operands():
    problem = generalized(A, np.arange(1.0, N + 1))
    operator = add(problem, shift(problem, 2.0))
    np.testing.assert_allclose(operator.matvec(X), 2 * problem.matvec(X) + 2 * X, **CLOSE)
    assert operator.vecdot == problem.vecdot


def test_derived_operators_show_their_kind_and_place():
    assert repr(shift(A, 1.0)) == "<Shift of shape (24, 24), numpy float64>"
    assert repr(aslinearoperator(A.astype(np.float32))) == "<Matrix of shape (24, 24), numpy float32>"


DIAGONAL = generalized(A, np.ones(N))

REFUSED = {
    "complex shift": (lambda: shift(A, 1j), RequestError, r"sigma= expects a finite real number, got 1j"),
    "complex shift of a Hermitian": (lambda: shift(H, 1 + 2j), RequestError, "would not be Hermitian"),
    "complex array": (lambda: shift(H, np.asarray(2j)), RequestError, "sigma= expects a finite real number"),
    "vector": (lambda: scale(A, np.ones(N)), RequestError, "factor= expects a finite real number"),
    "nan": (lambda: shift(A, np.nan), RequestError, "sigma= expects a finite real number, got nan"),
    "infinite": (lambda: scale(A, np.inf), RequestError, "factor= expects a finite real number, got inf"),
    "bool": (lambda: scale(A, True), RequestError, "factor= expects a finite real number, got True"),
    "text": (lambda: scale(A, "2"), RequestError, "factor= expects a finite real number, got '2'"),
    "complex factor": (lambda: scale(H, 1j), RequestError, "factor= expects a finite real number"),
    "rectangular": (lambda: shift(A[:3], 1.0), ShapeError, r"or slq.gram\(A\)"),
    "no operand": (lambda: add(), RequestError, "add expects at least one operator, got none"),
    "other shape": (lambda: add(A, A[:3, :3]), ShapeError, r"of one shape, got \(24, 24\) and \(3, 3\); restrict"),
    "other dtype": (lambda: add(A, H), DtypeError, "of one dtype, got float64 and complex128; convert one"),
    "other inner product": (lambda: add(A, DIAGONAL), RequestError, "their `vecdot` differ.*add before generalized"),
    "two inner products": (lambda: add(DIAGONAL, generalized(A, np.ones(N))), RequestError, "their `vecdot` differ"),
    "other part": (lambda: add(Sharded(), Sharded(slice(3))), RequestError, "their `index` differ; shard them"),
    "part and whole": (lambda: add(A, Sharded()), RequestError, "their `index` differ"),
    "restrict a part": (lambda: restrict(Sharded(), [0]), RequestError, "restrict needs whole vectors"),
    "deflate a part": (lambda: deflate(Sharded(), V), RequestError, "deflate needs whole vectors"),
    "restrict a metric": (lambda: restrict(DIAGONAL, [0]), RequestError, r"restrict A and B before generalized"),
    "out of range": (lambda: restrict(A, [N]), RequestError, "does not fit an operator of dimension 24: index 24"),
    "short mask": (lambda: restrict(A, MASK[:-1]), RequestError, "does not fit an operator of dimension 24"),
    "no coordinate": (lambda: restrict(A, slice(0)), RequestError, "selects none of the 24 coordinates"),
    "none of a mask": (lambda: restrict(A, MASK & False), RequestError, "selects none of the 24 coordinates"),
    "repeated": (lambda: restrict(A, [1, -23]), RequestError, "repeats a coordinate; name each once"),
    "number": (lambda: restrict(A, 3), RequestError, r"in one dimension, got 0 dimension\(s\) of int"),
    "fractions": (lambda: restrict(A, [0.5]), RequestError, r"got 1 dimension\(s\) of float64"),
    "list of directions": (
        lambda: deflate(A, [[1.0]]),
        PlacementError,
        "vectors is a list, but the operator is of numpy",
    ),
    "short directions": (lambda: deflate(A, V[:, 1:]), ShapeError, r"expects shape \(r, 24\).*got .*\(2, 23\)"),
    "no direction": (lambda: deflate(A, V[:0]), ShapeError, "with 1 <= r <= 24"),
    "too many": (lambda: deflate(A, RNG.normal(size=(N + 1, N))), ShapeError, "with 1 <= r <= 24"),
    "cube": (lambda: deflate(A, V[None]), ShapeError, r"got an array of shape \(1, 2, 24\)"),
    "complex directions": (lambda: deflate(A, W), RequestError, "vectors are complex, but .* float64; give real"),
    "dependent": (
        lambda: deflate(A, np.stack([V[0], V[1], V[0] - 3 * V[1]])),
        RequestError,
        r"vectors= \[2\] are zero",
    ),
    "zero direction": (lambda: deflate(A, np.stack([0 * V[0], V[0]])), RequestError, r"vectors= \[0\] are zero or"),
    "nan direction": (lambda: deflate(A, V * np.nan), RequestError, "vectors= contain NaN or infinity"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_arguments_are_refused(kind):
    make, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        make()


def test_an_inner_product_must_be_one():
    class Negative(Placing):
        def vecdot(self, x, y):
            return -(x * y).sum(axis=-1)

    with pytest.raises(RequestError, match="depend on each other in the operator's inner product; is it positive"):
        deflate(Negative(), V)


def test_near_dependence_is_no_dependence():
    vectors = np.stack([V[0], V[0] + 1e-8 * V[1]])
    P = complement(V)
    # the second direction is known to eps / 1e-8; measured 7e-9
    np.testing.assert_allclose(deflate(A, vectors).matvec(X), X @ (P @ A @ P), atol=3e-7)


def test_operands_of_other_libraries_are_refused(xp):
    other = np.asarray if xp.name != "numpy" else pytest.importorskip("torch").tensor
    with pytest.raises(PlacementError, match=r"an operator is of \w+, but the operator is of"):
        add(xp.asarray(A), other(A))
    with pytest.raises(PlacementError, match=r"vectors is of \w+, but the operator is of"):
        deflate(xp.asarray(A), other(V))


def test_operands_on_other_devices_are_refused():
    xs = pytest.importorskip("array_api_strict")
    one, two = (xs.asarray(A, device=xs.Device(name)) for name in ("CPU_DEVICE", "device1"))
    with pytest.raises(PlacementError, match=r"an operator is on .*device1.*, but the operator is on .*CPU_DEVICE"):
        add(one, two)
    with pytest.raises(PlacementError, match=r"vectors is on .*CPU_DEVICE.*move it there"):
        deflate(two, one[:2, :])


def test_sums_and_multiples_move_the_spectrum():
    sigma, factor = 0.75, -2.0
    plain = slq.spectral_measure(A, num_probes=2, num_steps=6)
    moved = slq.spectral_measure(scale(shift(A, sigma), factor), num_probes=2, num_steps=6)
    # Lanczos is affine in A: the nodes move with the spectrum, the weights stay (measured 4e-15)
    np.testing.assert_allclose(moved.nodes[:, ::-1], factor * (plain.nodes + sigma), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(moved.weights[:, ::-1], plain.weights, rtol=1e-13)
