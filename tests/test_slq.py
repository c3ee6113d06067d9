"""slq/_slq.py: from an operator to a measure."""

import threading

import numpy as np
import pytest

import slq
from slq.errors import ClippedStepsWarning, RequestError, ShapeError, SlqError
from tests.problems import indefinite, mix, problem, uniform

A = problem(uniform(24))
OPTIONS = {"num_probes": 4, "num_steps": 9}


def test_defaults_are_ten_sphere_probes_of_seed_zero():
    measure = slq.spectral_measure(problem(uniform(100)).matrix)
    assert repr(measure) == "SpectralMeasure(n=100, num_probes=10, num_steps=80, sampler='sphere')"
    assert measure.seeds == (0,) * 10
    assert measure.probe_ids == tuple(range(10))
    assert measure.products == 800


@pytest.mark.parametrize("sampler", [slq.sphere, slq.rademacher, slq.gaussian], ids=lambda s: s.__name__)
def test_measures_are_those_of_their_probes(sampler):
    measure = slq.spectral_measure(A.matrix, probes=sampler, rng=7, first_probe=3, **OPTIONS)
    x = sampler(7, range(3, 7), None, 24, np.empty(0))
    assert measure.sampler == sampler.__name__
    assert (measure.seeds, measure.probe_ids) == ((7,) * 4, (3, 4, 5, 6))
    np.testing.assert_allclose(measure.squared_norms, (x**2).sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(measure.quadratic_forms(np.log), A.forms(x, np.log), rtol=1e-9)


def test_a_sampler_may_be_the_users_own():
    def spikes(seed, probe_ids, index, n, like):
        assert seed == 5
        return np.sqrt(n) * np.eye(n)[list(probe_ids)]

    measure = slq.spectral_measure(A.matrix, probes=spikes, rng=5, num_probes=24, num_steps=9)
    assert measure.sampler == "spikes"
    # All unit vectors together see the trace exactly.
    assert measure.trace().value == pytest.approx(uniform(24).sum(), rel=1e-12)
    assert measure.trace().stderr > 0


def test_given_vectors_may_have_any_length():
    x = np.random.default_rng(0).normal(size=(3, 24)) * np.array([[1.0], [1e-8], [1e8]])
    measure = slq.spectral_measure(A.matrix, probes=x, num_steps=9)
    assert (measure.sampler, measure.num_probes) == ("fixed", 3)
    np.testing.assert_allclose(measure.squared_norms, (x**2).sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(measure.quadratic_forms(np.log), A.forms(x, np.log), rtol=1e-9)
    one = slq.spectral_measure(A.matrix, probes=x[0], num_steps=9)
    np.testing.assert_allclose(one.alpha, measure.alpha[:1], atol=1e-13)


def test_given_vectors_of_every_library(xp):
    x = np.random.default_rng(0).normal(size=(3, 24))
    measure = slq.spectral_measure(xp.asarray(A.matrix), probes=xp.asarray(x), num_steps=9)
    np.testing.assert_allclose(measure.quadratic_forms(np.log), A.forms(x, np.log), rtol=1e-9)


# No vectors at all: a bare ValueError from range().
@pytest.mark.parametrize("shape", [(0, 24), (2, 23), (2, 3, 24)])
def test_the_shape_of_given_vectors_is_checked(shape):
    with pytest.raises(ShapeError, match="each row a start vector, got"):
        slq.spectral_measure(A.matrix, probes=np.ones(shape), num_steps=9)


def test_equal_seeds_give_equal_measures_and_other_seeds_others():
    first, again, other = (slq.spectral_measure(A.matrix, rng=rng, **OPTIONS) for rng in (3, np.int32(3), 4))
    np.testing.assert_array_equal(first.alpha, again.alpha)
    assert np.abs(first.alpha - other.alpha).max() > 1e-3
    generator = slq.spectral_measure(A.matrix, rng=np.random.default_rng(1), **OPTIONS)
    np.testing.assert_array_equal(
        generator.alpha, slq.spectral_measure(A.matrix, rng=generator.seeds[0], **OPTIONS).alpha
    )


def test_a_fresh_seed_is_recorded():
    fresh, other = (slq.spectral_measure(A.matrix, rng=None, **OPTIONS) for _ in range(2))
    assert fresh.seeds != other.seeds
    again = slq.spectral_measure(A.matrix, rng=fresh.seeds[0], **OPTIONS)
    np.testing.assert_array_equal(again.alpha, fresh.alpha)


def test_progress_counts_products_of_all_batches():
    seen = []
    slq.spectral_measure(A.matrix, num_probes=5, num_steps=3, batch_size=2, progress=lambda *call: seen.append(call))
    assert seen == [(2, 15), (4, 15), (6, 15), (8, 15), (10, 15), (12, 15), (13, 15), (14, 15), (15, 15)]


def test_a_batch_limits_the_block_that_the_operator_sees():
    sizes = set()
    operator = slq.aslinearoperator(lambda x: (sizes.add(len(x)), x @ A.matrix)[1], like=np.zeros(24), batched=True)
    slq.spectral_measure(operator, num_probes=5, num_steps=3, batch_size=2)
    assert sizes == {1, 2}


@pytest.mark.parametrize("name", ["num_probes", "num_steps", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, np.nan])
def test_counts_are_checked(name, value):
    with pytest.raises(RequestError, match=f"{name}= expects an integer >= 1, got"):
        slq.spectral_measure(A.matrix, **{"num_steps": 5} | {name: value})


@pytest.mark.parametrize("value", [-1, 0.5, "1", True, None])
def test_the_first_probe_is_checked(value):
    with pytest.raises(RequestError, match="first_probe= expects an integer >= 0, got"):
        slq.spectral_measure(A.matrix, num_steps=5, first_probe=value)


@pytest.mark.parametrize("value", ["sphere", None, 3, [[1.0, 2.0]]])
def test_probes_are_a_sampler_or_an_array(value):
    with pytest.raises(RequestError, match=r"probes= expects a sampler such as slq.sphere, or a \(k, n\) array, got"):
        slq.spectral_measure(A.matrix, num_steps=5, probes=value)


def test_more_steps_than_dimensions_are_cut_with_a_warning():
    with pytest.warns(ClippedStepsWarning, match="num_steps=80 exceeds the dimension: 24 steps are exact"):
        assert slq.spectral_measure(A.matrix).num_steps == 24


def test_runs_that_end_early_are_not_warned_about():
    assert slq.spectral_measure(np.eye(24)).products == 10


def test_short_cuts_are_the_long_way():
    measure = slq.spectral_measure(A.matrix, rng=2, **OPTIONS)
    assert slq.spectral_sum(A.matrix, np.sqrt, rng=2, **OPTIONS) == measure.trace(np.sqrt)
    assert slq.logdet(A.matrix, rng=2, **OPTIONS) == measure.logdet()


# Operators that hold their vectors in parts or in another order


class Shard:
    """Some coordinates of a matrix; what needs the others goes through `exchange`, which adds over all shards."""

    def __init__(self, matrix, index, exchange, gather):
        self.shape = matrix.shape
        self.like = np.empty(0)
        self.index = index
        self._rows = matrix[index]
        self._exchange = exchange
        self._gather = gather

    def matvec(self, x, /):
        return self._gather(x) @ self._rows.T

    def vecdot(self, x, y):
        return self._exchange((x * y).sum(axis=-1))

    def put(self, block):
        return np.array(block)


@pytest.mark.parametrize("sampler", [slq.sphere, slq.gaussian, slq.rademacher], ids=lambda s: s.__name__)
@pytest.mark.parametrize("index", [np.random.default_rng(0).permutation(24), slice(0, 24)], ids=["order", "slice"])
def test_one_shard_with_all_coordinates_is_the_whole(sampler, index):
    order = np.arange(24)[index]
    inverse = np.argsort(order)
    shard = Shard(A.matrix, index, lambda x: x, lambda x: x[..., inverse])
    whole = slq.spectral_measure(A.matrix, probes=sampler, **OPTIONS)
    measure = slq.spectral_measure(shard, probes=sampler, **OPTIONS)
    np.testing.assert_allclose(measure.alpha, whole.alpha, atol=1e-12)
    np.testing.assert_allclose(measure.squared_norms, whole.squared_norms, rtol=1e-14)


# The start vectors are scaled by the largest entry of each half, and orthogonalised by the products of each half.
@pytest.mark.parametrize("reorthogonalize", [False, True])
def test_two_processes_with_half_the_coordinates_each_agree_with_one(reorthogonalize):
    # Threads stand for processes: each runs the whole program on its half, and all meet at the inner products.
    halves = [slice(0, 10), slice(10, 24)]
    board, barrier, results = [None, None], threading.Barrier(2, timeout=60), [None, None]

    def meet(rank, value):
        board[rank] = value
        barrier.wait()
        both = list(board)
        barrier.wait()
        return both

    def work(rank):
        try:
            shard = Shard(
                A.matrix,
                halves[rank],
                lambda x: sum(meet(rank, x)),
                lambda x: np.concatenate(meet(rank, x), axis=-1),
            )
            results[rank] = slq.spectral_measure(shard, reorthogonalize=reorthogonalize, **OPTIONS)
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = slq.spectral_measure(A.matrix, reorthogonalize=reorthogonalize, **OPTIONS)
    for measure in results:
        assert not isinstance(measure, BaseException), measure
        np.testing.assert_allclose(measure.alpha, whole.alpha, atol=1e-11)
        np.testing.assert_allclose(measure.beta, whole.beta, atol=1e-11)


# Nothing is shared


def test_runs_in_threads_equal_runs_alone():
    matrices = [problem(indefinite(60), seed=i).matrix for i in range(4)]
    alone = [slq.spectral_measure(matrix, num_probes=3, num_steps=20, rng=i) for i, matrix in enumerate(matrices)]
    found = [None] * 4

    def work(i):
        found[i] = slq.spectral_measure(matrices[i], num_probes=3, num_steps=20, rng=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one.alpha, other.alpha)


def test_global_state_is_left_alone():
    np.random.seed(0)  # noqa: NPY002 - the global state is what is examined
    random, errors, options = np.random.get_state()[1].copy(), np.geterr(), np.get_printoptions()  # noqa: NPY002
    slq.spectral_measure(A.matrix, **OPTIONS).summary()
    np.testing.assert_array_equal(np.random.get_state()[1], random)  # noqa: NPY002
    assert np.geterr() == errors
    assert np.get_printoptions() == options


def test_a_run_may_run_inside_a_product():
    def product(x):
        slq.spectral_measure(np.eye(3), num_probes=2, num_steps=2)
        return x @ A.matrix

    nested = slq.spectral_measure(slq.aslinearoperator(product, like=np.zeros(24), batched=True), **OPTIONS)
    np.testing.assert_array_equal(nested.alpha, slq.spectral_measure(A.matrix, **OPTIONS).alpha)


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_given_vectors_without_direction_are_refused_before_any_product(value, batch_size):
    calls = []
    operator = slq.aslinearoperator(lambda x: calls.append(1) or x, like=np.zeros(24), batched=True)
    vectors = np.ones((3, 24))
    vectors[1] = value
    with pytest.raises(RequestError, match=r"start vectors \[\d\] are zero or not finite; a start vector needs a dir"):
        slq.spectral_measure(operator, probes=vectors, batch_size=batch_size)
    with pytest.raises(ShapeError, match="each row a start vector"):
        slq.spectral_measure(operator, probes=vectors[:, :5], batch_size=batch_size)
    assert not calls


def test_one_base_class_catches_everything():
    for call in (
        lambda: slq.spectral_measure(None),
        lambda: slq.spectral_measure(A.matrix, num_steps=0),
        lambda: slq.spectral_measure(A.matrix * np.nan, num_steps=3),
        lambda: slq.logdet(-A.matrix, num_steps=9),
        lambda: slq.spectral_measure(mix(np.eye(24), seed=1), num_steps=3),
    ):
        with pytest.raises(SlqError):
            call()
