"""slq/adapters.py: data sets that are read again and again, and batches that are weighed exactly."""

import numpy as np
import pytest

from slq.adapters import Batches, weigh
from slq.errors import DataError

SAMPLES = np.random.default_rng(0).exponential(size=10)


def read(data):
    """Two passes over the data."""
    batches = Batches(data)
    passes = list(batches), list(batches)
    assert len(passes[0]) == len(passes[1])
    return passes[0]


@pytest.mark.parametrize(
    "batch", [SAMPLES, (SAMPLES, SAMPLES), {"x": SAMPLES}, "text", None, object(), 3.0], ids=lambda b: type(b).__name__
)
def test_one_batch_is_itself(batch):
    (only,) = read(batch)
    assert only is batch


def test_iterables_and_functions_give_batches():
    batches = [SAMPLES[:4], SAMPLES[4:]]
    for data in (batches, lambda: iter(batches), lambda: (b for b in batches), set([1, 2])):
        assert len(read(data)) == 2

    class Loader:
        def __iter__(self):
            yield from batches

    assert read(Loader())[1] is batches[1]


@pytest.mark.parametrize("data", [iter([SAMPLES]), (b for b in [SAMPLES]), zip([1], [2], strict=True), map(abs, [1])])
def test_what_can_be_read_once_only_is_refused(data):
    with pytest.raises(DataError, match=rf"one-shot iterator \({type(data).__name__}\), .* pass a list"):
        Batches(data)


def weigh_losses(data, loss, *, size=len, rtol=1e-8):
    """The mean loss of batches that are arrays."""
    return weigh(Batches(data), loss, size, lambda batch, low, high: batch[low:high], rtol)


def mean(batch):
    """A mean over the samples, which says nothing about its weight."""
    return float(np.mean(batch)), None


@pytest.mark.parametrize("cuts", [[], [4], [4, 8], [1, 2, 9], range(1, 10)], ids=str)
def test_any_batching_has_the_mean_of_the_whole(cuts):
    result = weigh_losses(np.split(SAMPLES, cuts), mean)
    assert result.loss == pytest.approx(SAMPLES.mean(), rel=1e-14)
    assert result.weight == 10
    assert result.num_batches == len(cuts) + 1
    weighed = weigh_losses(np.split(SAMPLES, cuts), lambda b: (float(b.sum()), float(b.size)))
    assert weighed == pytest.approx(result)


def test_weights_of_the_users_own_are_summed():
    tokens = [np.array([1.0, 2.0]), np.array([]), np.array([3.0])]
    result = weigh_losses(tokens, lambda b: (float(b.sum()) if b.size else np.nan, float(b.size)))
    assert (result.loss, result.weight, result.num_batches) == (2.0, 3.0, 3)


def test_one_batch_may_have_any_loss():
    # Nothing is weighed, so nothing needs to be a mean or to have a size.
    assert weigh_losses(SAMPLES, lambda b: (float(b.sum()), None)).loss == SAMPLES.sum()
    assert weigh_losses(SAMPLES, mean, size=lambda _: None).weight == 1.0


@pytest.mark.parametrize(
    "loss",
    [
        lambda b: float(b.sum()),
        lambda b: float(b.max()),
        lambda b: float(b.mean() ** 2),
        lambda b: float(b.sum() / 4),
        lambda b: float(((b - b.mean()) ** 2).mean()),  # like batch normalisation
        lambda b: float(b[:3].mean()) if b.size > 2 else np.nan,
    ],
    ids=["sum", "max", "square", "fixed size", "batch statistics", "no mean of a part"],
)
@pytest.mark.parametrize("cuts", [[4], [4, 8]], ids=str)
def test_what_is_no_mean_over_samples_is_refused(loss, cuts):
    with pytest.raises(
        DataError, match=r"the loss is not a mean over the samples of batch \d: .* return \(sum, weight\)"
    ):
        weigh_losses(np.split(SAMPLES, cuts), lambda b: (loss(b), None))


def test_equal_halves_do_not_pass_for_a_mean():
    with pytest.raises(DataError, match="the loss is not a mean over the samples of batch 0"):
        weigh_losses([np.array([1.0, 2.0, 1.0, 2.0]), SAMPLES], lambda b: (float(b.max()), None))


def test_a_mean_may_round():
    def rounded(batch):
        return float(np.float32(batch.mean())), None

    data = np.split(SAMPLES, [4])
    assert weigh_losses(data, rounded, rtol=np.finfo(np.float32).eps ** 0.5).weight == 10
    with pytest.raises(DataError, match="not a mean"):
        weigh_losses(data, rounded, rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_losses_must_be_finite(bad):
    with pytest.raises(
        DataError,
        match=rf"the loss of batch 1 is {bad}, and its second derivatives would silently .*look for an overflow",
    ):
        weigh_losses([SAMPLES[:4], SAMPLES[4:]], lambda b: (float(b.sum()) if b.size == 4 else bad, float(b.size)))
    with pytest.raises(DataError, match=rf"the loss of batch 0 is {bad}"):
        weigh_losses(SAMPLES, lambda _: (bad, None))


def test_there_must_be_a_batch():
    for data in ([], lambda: iter(())):
        with pytest.raises(DataError, match="the data hold no batch; check the loader, its sampler and drop_last"):
            weigh_losses(data, mean)


def test_some_sample_must_count():
    with pytest.raises(DataError, match="all batches have weight zero"):
        weigh_losses([SAMPLES, SAMPLES], lambda _: (np.nan, 0.0))


def test_batches_must_tell_their_size_if_they_are_to_be_weighed():
    with pytest.raises(DataError, match="batch 0 does not tell how many samples it has"):
        weigh_losses([SAMPLES, SAMPLES], mean, size=lambda _: None)


def weigh_dicts(batches, loss, first="x", **options):
    """The mean loss of batches of arrays with names, of which one is said to hold a row for each sample."""

    def cut(batch, low, high, size=None):
        size = len(batch[first]) if size is None else size
        return {name: x[low:high] if len(x) == size else x for name, x in batch.items()}

    def lengths(batch):
        return map(len, batch.values())

    return weigh(Batches(batches), loss, lambda batch: len(batch[first]), cut, 1e-8, lengths=lengths, **options)


X, OTHER = np.arange(1.0, 6), np.ones(7)
UNEVEN = [{"x": X[:2], "other": OTHER}, {"x": X[2:], "other": OTHER}]


def test_arrays_that_are_no_samples():
    """Cut by its length, such an array changes nothing, or what is computed from it has no shape."""
    assert weigh_dicts(UNEVEN, lambda batch: (batch["x"].mean() * batch["other"].mean(), None)).loss == X.mean()
    scales = [{**batch, "other": np.ones((7, 4))} for batch in UNEVEN]

    def multiplied(batch):
        return float((batch["x"].mean() * np.ones(7) @ batch["other"]).mean()), None

    assert weigh_dicts(scales, multiplied).loss == pytest.approx(7 * X.mean())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("first", ["x", "other"])
def test_means_over_two_dimensions_do_not_tell_the_number_of_samples(first, reduction):
    def loss(batch):
        factors = [x.mean() if reduction == "mean" else x.sum() for x in batch.values()]
        return float(np.prod(factors)), None

    batches = [{"x": x, "other": np.arange(1.0, 8)} for x in np.split(X, [2])]
    sizes = "2 and of 7" if first == "x" else "7 and of 2"
    with pytest.raises(DataError, match=rf"has arrays of {sizes} rows.*{reduction} over either.*\(sum, weight\)"):
        weigh_dicts(batches, loss, first, reduction=reduction)
    weighed = weigh_dicts(batches, lambda batch: (batch["x"].sum(), len(batch["x"])), first)
    assert weighed.loss == pytest.approx(X.mean())


@pytest.mark.parametrize("rows", [7, 1])
def test_first_array_that_is_none_of_samples(rows):
    """Nothing is cut, so that a mean over anything passes."""
    batches = [{**batch, "other": np.ones(rows)} for batch in UNEVEN]
    with pytest.raises(DataError, match=rf"batch 0 has arrays of {rows} and of 2 rows"):
        weigh_dicts(batches, lambda batch: (batch["x"].mean(), None), "other")


def test_equal_losses_do_not_tell_the_number_of_samples():
    with pytest.raises(DataError, match="batch 0 has arrays of 2 and of 7 rows"):
        weigh_dicts(UNEVEN, lambda batch: (1.0 + 0 * len(batch), None))


def test_one_mean_over_two_dimensions_needs_no_weight():
    assert weigh_dicts(UNEVEN[:1], lambda batch: (1.0 + 0 * len(batch), None)).loss == 1
