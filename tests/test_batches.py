"""Batches by length: every sequence once, little padding, the same ones again for the same arguments."""

import numpy as np
import pytest

from rnnfast.batches import Bucketed, pad, padding


def some_lengths(count, columns=1, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 30, count)
    return lengths if columns == 1 else np.stack([lengths, lengths + rng.integers(-2, 3, count)], axis=1)


@pytest.mark.parametrize("count", [1, 7, 33, 129])
@pytest.mark.parametrize("seed", [None, 3])
def test_each_once_in_full_batches(count, seed):
    batches = Bucketed(some_lengths(count), 7, seed=seed, pool=2)
    for epoch in range(3):
        got = list(batches.epoch(epoch))
        assert len(got) == len(batches) == -(-count // 7)
        assert sorted(np.concatenate(got)) == list(range(count))
        assert sorted(map(len, got))[1:] == [7] * (len(got) - 1)


def test_the_same_again_from_any_batch_on_and_another_order_in_each_epoch():
    lengths = some_lengths(100)
    batches = [b.tolist() for b in Bucketed(lengths, 8, seed=5).epoch(2)]
    assert [b.tolist() for b in Bucketed(lengths, 8, seed=5).epoch(2, start=4)] == batches[4:]
    for other in (Bucketed(lengths, 8, seed=5).epoch(3), Bucketed(lengths, 8, seed=6).epoch(2)):
        assert [b.tolist() for b in other] != batches
    assert [b.tolist() for b in Bucketed(np.full(100, 9), 8, seed=5).epoch(0)][0] != list(range(8))


def test_without_a_seed_from_the_shortest_to_the_longest():
    lengths = some_lengths(50)
    order = np.concatenate(list(Bucketed(lengths, 7).epoch()))
    np.testing.assert_array_equal(order, np.argsort(lengths, kind="stable"))


@pytest.mark.parametrize("columns", [1, 2])
def test_little_padding(columns):
    lengths = some_lengths(6400, columns)
    batches = Bucketed(lengths, 32, seed=1)
    assert padding(lengths, batches.epoch()) < (0.02, 0.08)[columns - 1]
    assert padding(lengths, np.arange(6400).reshape(-1, 32)) > 0.4
    assert padding([3, 3], [[0, 1]]) == 0 and padding([1, 3], [[0, 1]]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_pad(shape):
    rng = np.random.default_rng(0)
    sequences = [rng.standard_normal((n, *shape)).astype(np.float32) for n in (3, 0, 7)]
    batch, lengths = pad(sequences)
    assert batch.shape == (7, 3, *shape) and batch.dtype == np.float32 and lengths.tolist() == [3, 0, 7]
    for i, sequence in enumerate(sequences):
        np.testing.assert_array_equal(batch[: lengths[i], i], sequence)
        assert not batch[lengths[i] :, i].any()


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        (([1.0, 2.0], 3), TypeError, "lengths must be integers"),
        (([[[1]]], 3), TypeError, "got int64 of shape .1, 1, 1."),
        (([1, 2], 0), ValueError, "batch_size must be an integer of at least 1, got 0"),
        (([1, 2], 3, -1), ValueError, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_errors(arguments, error, word):
    with pytest.raises(error, match=word):
        Bucketed(*arguments[:2], seed=arguments[2] if len(arguments) > 2 else None)
