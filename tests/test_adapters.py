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
