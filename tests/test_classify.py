"""Sequence classifier, labeler and regressor: they learn, whatever form the data have, and predict in the form of y."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import rnnfast
from cases import assert_same, same_bits
from classify_data import MAKE, NEW, SMALL, C, X, Y, largest_channel, make, quick, ragged, running_sign
from rnnfast.classify import SequenceClassifier, SequenceLabeler
from rnnfast.classify.task import SequenceTask

EACH = pytest.mark.parametrize("kind", MAKE)


@EACH
def test_it_learns(kind):
    estimator, targets = make(kind, max_steps=400)
    assert estimator.fit(X, targets(X)) is estimator
    assert estimator.score(NEW, targets(NEW)) >= 0.88
    assert estimator.result_.step == 400 and estimator.model_.num_parameters > 0


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_poolings_and_cells_learn(pooling, cell):
    estimator = SequenceClassifier(**SMALL, cell=cell, pooling=pooling, bidirectional=True, max_steps=250).fit(X, Y)
    assert estimator.score(NEW, largest_channel(NEW)) >= 0.8


@pytest.mark.parametrize("embedding_size", [None, 4])
def test_tokens(embedding_size):
    tokens, new = ragged(300, tokens=True), ragged(50, seed=3, tokens=True)
    some = [4 in t for t in tokens]
    estimator = SequenceClassifier(**SMALL, embedding_size=embedding_size, max_steps=300).fit(tokens, some)
    assert estimator.n_features_in_ == 5
    assert estimator.score(new, [4 in t for t in new]) >= 0.95


def test_tensors_are_as_arrays(torch):
    same = np.stack([x[:2] for x in X])[:, :, :2]
    signs = np.stack(running_sign(list(same)))
    model = SequenceLabeler(**SMALL, max_steps=2).fit(torch.from_numpy(same), torch.from_numpy(signs))
    assert same_bits(model.predict_proba(torch.from_numpy(same)), model.predict_proba(same))


def test_strings_of_any_length_are_labels():
    labels = Y.astype(np.dtypes.StringDType())
    assert quick("classifier").classes_.tolist() == SequenceClassifier(max_steps=1).fit(X, labels).classes_.tolist()


def test_predictions_have_the_shape_and_labels_of_y():
    same = np.stack([x[:2] for x in X])
    classifier = quick("classifier")
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    assert classifier.predict(NEW).shape == (100,) and set(classifier.predict(NEW)) <= {"red", "green", "blue"}
    proba = classifier.predict_proba(NEW)
    assert proba.shape == (100, 3) and proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(classifier.classes_[proba.argmax(axis=1)], classifier.predict(NEW))
    labeler = quick("labeler")
    assert labeler.classes_.dtype == bool
    for i, (labels, p) in enumerate(zip(labeler.predict(NEW), labeler.predict_proba(NEW), strict=True)):
        assert labels.shape == (len(NEW[i]),) and p.shape == (len(NEW[i]), 2) and labels.dtype == bool
    assert labeler.predict(same).shape == (300, 2) and labeler.predict_proba(same).shape == (300, 2, 2)
    assert quick("regressor").predict(NEW).shape == (100,)
    assert quick("regressor of two").predict(NEW).shape == (100, 2)
    assert quick("regressor per step").predict(same).shape == (300, 2)
    assert quick("regressor of two per step").predict(NEW)[3].shape == (len(NEW[3]), 2)


def test_every_form_of_x_is_the_same():
    steps = max(map(len, X))
    padded, lengths = np.full((len(X), steps, C), np.nan), np.array([len(x) for x in X])
    for i, x in enumerate(X):
        padded[i, : len(x)] = x
    expected = quick("classifier", scale=True).predict_proba(NEW)
    objects = np.empty(len(X), object)
    objects[:] = X
    for given, kwargs, params in (
        (padded, {"lengths": lengths}, {}),
        (padded.transpose(0, 2, 1), {"lengths": lengths}, {"channels_first": True}),
        (objects, {}, {}),
        (tuple(x.astype(np.float64) for x in X), {}, {}),
        ([x.tolist() for x in X], {}, {}),
    ):
        estimator = SequenceClassifier(**SMALL, max_steps=12, scale=True, **params).fit(given, Y, **kwargs)
        new = [x.T for x in NEW] if params else NEW
        assert same_bits(estimator.predict_proba(new), expected)
    tokens = np.random.default_rng(0).integers(0, 5, (40, 6))
    by_rows = SequenceClassifier(**SMALL, max_steps=5).fit(list(tokens), tokens[:, 0])
    assert same_bits(SequenceClassifier(**SMALL, max_steps=5).fit(tokens, tokens[:, 0]).predict_proba(tokens),
                     by_rows.predict_proba(list(tokens)))  # fmt: skip


def test_scaling_makes_units_irrelevant():
    units, shift = np.array([1e3, 1e-3, 8.0], np.float32), np.array([512.0, -2.0, 0.25], np.float32)
    moved = [x * units + shift for x in X]
    estimator = SequenceClassifier(**SMALL, scale=True, max_steps=400).fit(moved, Y)
    assert estimator.score([x * units + shift for x in NEW], largest_channel(NEW)) >= 0.85
    flat = [np.concatenate([x, np.full((len(x), 1), 7, np.float32)], axis=1) for x in X]  # never changes
    assert np.isfinite(SequenceClassifier(**SMALL, scale=True, max_steps=5).fit(flat, Y).predict_proba(flat)).all()


def test_a_channel_that_never_changes_has_deviation_1():
    for value in (0.1, -1e30, 0.0, 7.3e-9):
        columns = np.concatenate([np.full((1001, 1), value), np.arange(1001.0)[:, None]], axis=1)
        _, deviation = rnnfast.classify.data.mean_and_deviation([columns[:7], columns[7:]])
        assert deviation[0] == 1 and deviation[1] > 100


def test_targets_are_scaled_by_the_training_part_alone():
    numbers = np.array([x.sum() for x in X], np.float64)
    model, _ = make("regressor", max_steps=1)
    model.fit(X, numbers)
    train, val = rnnfast.classify.data.split(len(X), 0.1, 1)
    assert len(val) and model.target_scaling_[0] == pytest.approx(numbers[train].mean(), abs=1e-12)
    assert model.target_scaling_[1] == pytest.approx(numbers[train].std(), abs=1e-12)


def test_class_weights():
    rare = [i for i, y in enumerate(Y) if y != "red"] + [i for i, y in enumerate(Y) if y == "red"][:8]
    some, labels = [X[i] for i in rare], Y[rare]

    def reds(weight):
        estimator = SequenceClassifier(**SMALL, class_weight=weight, max_steps=40).fit(some, labels)
        return float((estimator.predict(NEW) == "red").mean()), estimator

    (none, _), (balanced, estimator) = reds(None), reds("balanced")
    assert balanced > none
    assert reds({"red": 0.0})[0] <= none
    estimator.class_weight, estimator.classes_ = {"1": 3.0, 2: 5.0}, np.array([1, 2, 10])  # "1" is 1 in a JSON file
    assert estimator._class_weights([]).tolist() == [3, 5, 1]
    estimator.class_weight, estimator.classes_ = "balanced", np.unique(labels)
    trained = np.unique(labels, return_counts=True)[1]
    weights = estimator._class_weights(list(np.repeat([0, 1, 2], trained)))
    np.testing.assert_allclose(weights * trained, len(labels) / 3)


def test_an_augmentation_may_change_what_it_gets():
    def wipe(sequences, rng):
        for x in sequences:
            x[:] = 0
        return sequences

    given = np.stack([x[:2] for x in X])
    before = given.copy()
    SequenceClassifier(**SMALL, max_steps=12, augment=wipe, channels_first=False).fit(given, Y)
    assert same_bits(given, before)


def test_an_evaluation_keeps_no_padding():
    """Its memory grows with the steps, not with the number of sequences times the longest."""
    lengths = np.r_[np.full(400, 5), 4000]
    val = [np.random.default_rng(n).standard_normal((n, 1)).astype(np.float32) for n in lengths]
    labels = [x[:, 0] > 0 for x in val]
    peaks = []
    model = SequenceLabeler(hidden_size=2, max_steps=1, batch_size=1, val_frac=0.0)
    evaluate = SequenceTask.evaluate

    def traced(self):
        tracemalloc.start()
        result = evaluate(self)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SequenceTask, "evaluate", traced)
        model.fit(val[:50], labels[:50], validation=(val, labels))
    loss = sum(
        -np.log(p[np.arange(len(p)), y.astype(int)]).sum()
        for p, y in zip(model.predict_proba(val), labels, strict=True)
    )
    assert model.result_.loss == pytest.approx(loss / len(val), rel=1e-5)
    assert peaks[0] < 400 * 4000 * 2 * 4  # bytes of all outputs, padded


def test_augmentation_sees_the_training_batches_alone():
    seen = []

    def flip(sequences, rng):
        assert isinstance(rng, np.random.Generator)
        seen.append(len(sequences))
        return [x * np.float32(rng.choice([0.9, 1.1])) for x in sequences]

    estimator = quick("classifier", augment=flip, eval_every=3)
    assert len(seen) == 12 and set(seen) <= {32, 270 % 32}
    assert same_bits(estimator.predict_proba(NEW), quick("classifier", augment=flip).predict_proba(NEW))
    assert not same_bits(estimator.predict_proba(NEW), quick("classifier").predict_proba(NEW))


def test_validation():
    estimator = quick("classifier", eval_every=4)
    rows = [r for r in estimator.result_.rows if r["val_loss"] is not None]
    assert [r["step"] for r in rows] == [4, 8, 12]
    assert estimator.result_.best_loss == min(r["val_loss"] for r in rows)
    none = quick("classifier", val_frac=0.0)
    assert none.result_.best_loss is None
    given = SequenceClassifier(**SMALL, max_steps=12, val_frac=0.0, patience=1).fit(
        X, Y, validation=(NEW, largest_channel(NEW))
    )
    assert given.result_.best_loss is not None
    assert given.result_.loss == pytest.approx(
        -np.mean(
            np.log(given.predict_proba(NEW)[np.arange(100), np.searchsorted(given.classes_, largest_channel(NEW))])
        ),
        rel=1e-5,
    )


def test_the_split_takes_of_each_class_alike():
    classes = np.repeat([0, 1, 2], [100, 50, 10])
    train, val = rnnfast.classify.data.split(160, 0.2, 5, classes)
    assert np.bincount(classes[val]).tolist() == [20, 10, 2]
    assert sorted([*train, *val]) == list(range(160))
    assert rnnfast.classify.data.split(160, 0.2, 6, classes)[1].tolist() != val.tolist()
    assert len(rnnfast.classify.data.split(7, 0.0, 5)[1]) == 0


@pytest.mark.parametrize("classes", [[0] * 9 + [1], list(range(10)), [0, 1] * 5, [3, 0, 0, 3, 1] * 4])
def test_the_split_leaves_something_of_each_class_to_train_on(classes):
    for seed in range(20):
        train, val = rnnfast.classify.data.split(len(classes), 0.1, seed, np.array(classes))
        assert sorted([*train, *val]) == list(range(len(classes)))
        assert set(np.array(classes)[train]) == set(classes)


def test_estimators_are_told_apart():
    one, other = SequenceClassifier(hidden_size=8), SequenceClassifier(hidden_size=8)
    assert one == one and one != other and len({one, other}) == 2


@pytest.mark.parametrize("offset", [1.7e9, -3e12])
def test_channels_far_from_zero_are_scaled_before_they_are_rounded(offset):
    near = quick("classifier", scale=True)
    far = make("classifier", scale=True, max_steps=12)[0].fit([np.float64(x) + offset for x in X], largest_channel(X))
    expected = near.predict_proba(NEW)
    assert np.abs(far.predict_proba([np.float64(x) + offset for x in NEW]) - expected).max() < 0.02


def test_swapped_axes_warn(recwarn):
    wide = np.random.default_rng(0).standard_normal((20, 4, 9))
    y = np.arange(20) % 2
    with pytest.warns(UserWarning, match=r"9 channels and, in the middle, 4 steps, .* set channels_first=True if"):
        SequenceClassifier(max_steps=1).fit(wide, y)
    for said in (False, True):
        SequenceClassifier(max_steps=1, channels_first=said).fit(wide, y)
    SequenceClassifier(max_steps=1).fit(wide.transpose(0, 2, 1), y)
    assert not recwarn.list


def test_the_progress_shows_the_accuracy(capsys):
    quick("classifier", verbose=True)
    assert "accuracy 0." in capsys.readouterr().err
    quick("classifier")
    assert capsys.readouterr() == ("", "")


@pytest.mark.isa
def test_any_number_of_threads_gives_the_same_bits():
    def weights(n):
        with rnnfast.threads(n):
            return quick("classifier", bidirectional=True, dropout=0.2).model_.state_dict()

    assert_same(weights(1), weights(3))
