"""slq/_ten_products.py: what ten products measure, how well, and at what cost."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from slq import aslinearoperator
from slq._ten_products import NUM_PRODUCTS, measure
from tests.problems import N, indefinite, mix, problem

SYMMETRIC = problem(indefinite(N)).matrix
HERMITIAN = problem(indefinite(N), dtype=complex).matrix


class Spied:
    """A matrix that writes down how many rows it multiplied in each call."""

    def __init__(self, matrix):
        self.shape, self.like, self.matrix = matrix.shape, matrix[0, :0], matrix
        self.calls = []

    def matvec(self, x):
        self.calls.append(x.shape[0])
        return x @ self.matrix.T


class Part:
    """The coordinates `index` of vectors of length n, times two."""

    def __init__(self, index, n, dtype=float):
        self.shape, self.like, self.index = (n, n), np.empty(0, dtype), index

    def matvec(self, x):
        return 2 * x


class Sharded(Part):
    """A matrix whose vectors are stored in another order, in the metric c²I, and placed by itself."""

    def __init__(self, matrix, c):
        super().__init__(np.random.default_rng(3).permutation(len(matrix)), len(matrix))
        self.matrix, self.c = matrix[np.ix_(self.index, self.index)], c

    def matvec(self, x):
        return x @ self.matrix.T

    def vecdot(self, x, y):
        return self.c**2 * np.vecdot(x, y)

    def put(self, block):
        return block.copy()


# The cost.


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 4, 5, 6, 100])
def test_ten_products_are_made_and_no_more_than_asked_for_at_once(batch_size):
    A = Spied(SYMMETRIC)
    measured = measure(A, 0, batch_size)
    assert sum(A.calls) == NUM_PRODUCTS == 10
    assert max(A.calls) == min(batch_size or 5, 5)
    assert len(A.calls) > 1  # else a state that changes with each call would not show
    assert measured.repeatability == 0  # in the same place of another block, BLAS rounds the same
    skew = measure(aslinearoperator(np.triu(SYMMETRIC)), 0, batch_size).symmetry
    assert 0.3 < skew < 3  # other pairs of the same six vectors


def test_memory_is_a_few_vectors():
    n = 300_000
    A = aslinearoperator(lambda x: 2 * x, like=np.zeros(n), batched=True)
    tracemalloc.start()
    try:
        measure(A, 0, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 7.5 * 8 * n  # input and output of a product, and five


# The measurements.


def skewed(kind, dtype=float):
    rng = np.random.default_rng(1)
    A = HERMITIAN if dtype is complex else SYMMETRIC
    B = rng.normal(size=(N, N)) + (1j * rng.normal(size=(N, N)) if dtype is complex else 0)
    u, v = B[:2]
    entry = np.zeros((N, N))
    entry[3, 17] = 1.0
    K = {"dense": B - B.conj().T, "entry": entry, "rank 2": np.outer(u, v) - np.outer(v, u)}[kind]
    A = A + 1e-3 * np.linalg.norm(A) / np.linalg.norm(K) * K
    return aslinearoperator(A), np.linalg.norm(A - A.conj().T) / np.linalg.norm(A)


@pytest.mark.parametrize(("kind", "dtype"), [("dense", float), ("dense", complex), ("entry", float), ("rank 2", float)])
def test_the_mean_square_of_the_estimate_is_the_truth(kind, dtype):
    A, truth = skewed(kind, dtype)
    squares = np.array([(measure(A, seed).symmetry / truth) ** 2 for seed in range(1000)])
    # 4 standard errors; the mean of ‖A w‖² below is close to its expectation, but not it: measured 0.98 to 1.00.
    assert abs(np.mean(squares) - 1) < 0.02 + 4 * np.std(squares) / 1000**0.5


# Three independent pairs would miss 0.2 % and 0.3 % (dense, entry); six of the same six vectors: 0, 0.08 % of 4000.
@pytest.mark.parametrize(("kind", "most"), [("dense", 0), ("entry", 6), ("rank 2", 6)])
def test_asymmetry_is_rarely_underestimated_ten_times(kind, most):
    A, truth = skewed(kind)
    assert sum(measure(A, seed).symmetry < truth / 10 for seed in range(2000, 4000)) <= most


def test_the_metric_and_the_order_of_a_sharded_operator_change_nothing():
    A = SYMMETRIC + 1e-3 * np.triu(SYMMETRIC)
    wanted = measure(aslinearoperator(A), 0)
    for c in (1e-3, 1.0, 1e3):
        got = measure(Sharded(A, c), 0)
        # The lengths of six vectors stand for their expectation: relative standard deviation √(2/6N) = 0.12.
        np.testing.assert_allclose(got.symmetry, wanted.symmetry, rtol=0.3)
        assert got.linearity < 1e-14


@pytest.mark.parametrize("exponent", [-900, 0, 900])
def test_two_processes_with_half_the_coordinates_each_agree(exponent):
    # Threads stand for processes: each runs the whole check on its half, and all meet at the products.
    A, halves = np.ldexp(np.triu(SYMMETRIC), exponent), (slice(0, 10), slice(10, N))
    board, barrier = [None, None], threading.Barrier(2, timeout=60)

    class Half(Part):
        def __init__(self, rank):
            super().__init__(halves[rank], N)
            self.rank = rank

        def meet(self, value):
            board[self.rank] = value
            barrier.wait()
            both = list(board)
            barrier.wait()
            return both

        def matvec(self, x):
            return np.concatenate(self.meet(x), axis=-1) @ A[halves[self.rank]].T

        def vecdot(self, x, y):
            return sum(self.meet((x * y).sum(axis=-1)))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: measure(Half(rank), 0), range(2))
    assert first == second
    wanted = measure(Sharded(A, 1.0), 0)  # one process, with the same measured lengths of the vectors
    np.testing.assert_allclose(first.symmetry, wanted.symmetry, rtol=1e-12)


@pytest.mark.parametrize("exponent", [-1000, -450, 450, 1000])
def test_scale_changes_nothing(exponent):
    wanted = measure(aslinearoperator(np.triu(SYMMETRIC)), 0)
    got = measure(aslinearoperator(np.ldexp(np.triu(SYMMETRIC), exponent)), 0)
    assert (got.symmetry, got.linearity, got.exponent) == (wanted.symmetry, wanted.linearity, wanted.exponent)


@pytest.mark.parametrize(("exponent", "k"), [(0, 6), (1010, 6), (1019, -4)])
def test_the_scaled_vector_leaves_room_for_the_product(exponent, k):
    got = measure(aslinearoperator(np.ldexp(np.eye(N), exponent)), 0)
    assert (got.exponent, got.scaling) == (k, 0)


def test_one_dimension_has_room_for_asymmetry_only_if_complex():
    assert measure(aslinearoperator(np.array([[3.0]])), 0).symmetry == 0
    # |uᴴ 2i v| over the length of i w, six times: 2 in the mean square of many.
    squares = [measure(aslinearoperator(np.array([[1j]])), seed).symmetry ** 2 for seed in range(400)]
    assert 3 < np.mean(squares) < 4.5


def test_affine_maps_show_in_the_product_of_zero():
    b = mix(np.eye(N))[0]
    A = aslinearoperator(lambda x: x @ SYMMETRIC + 1e-6 * b, like=np.zeros(N), batched=True)
    unit = 2.0 ** -round(np.log2(N) / 2)  # the size of the entries of the vectors
    # ‖A w‖ over six vectors, and their size: within a factor of two of ‖A‖ and one.
    np.testing.assert_allclose(measure(A, 0).zero, 1e-6 / (unit * np.linalg.norm(SYMMETRIC)), rtol=0.5)


def test_an_operator_may_return_the_same_buffer():
    buffer = np.empty((5, N))

    def product(x):
        return np.matmul(x, SYMMETRIC, out=buffer[: len(x)])

    assert measure(aslinearoperator(product, like=np.zeros(N), batched=True), 0) == measure(
        aslinearoperator(SYMMETRIC), 0
    )
