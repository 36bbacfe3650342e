"""Sequence classifier, labeler and regressor: they learn, they are scikit-learn's, files and resumed runs are exact."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

import rnnfast
from cases import assert_same, same_bits
from classify_data import SMALL, C, largest_channel, ragged, running_sign
from rnnfast import checkpoint
from rnnfast.classify import (
    NotFittedError,
    SequenceClassifier,
    SequenceLabeler,
    SequenceRegressor,
    load,
)
from rnnfast.train import LAST
from test_train import comparable

X, Y = ragged(300), largest_channel(ragged(300))
NEW = ragged(100, seed=9)
MAKE = {
    "classifier": (SequenceClassifier, largest_channel, {}),
    "labeler": (SequenceLabeler, running_sign, {}),
    "regressor": (SequenceRegressor, lambda X: np.array([x.sum() for x in X]), {"scale": True}),
    "regressor of two": (SequenceRegressor, lambda X: np.array([x[:, :2].sum(0) for x in X]), {"scale": True}),
    "regressor per step": (SequenceRegressor, lambda X: [np.cumsum(x[:, 0]) for x in X], {"per_step": True}),
    "regressor of two per step": (SequenceRegressor, lambda X: [x.cumsum(0)[:, :2] for x in X], {"per_step": True}),
}
EACH = pytest.mark.parametrize("kind", MAKE)


def make(kind, **params):
    cls, targets, extra = MAKE[kind]
    return cls(**(SMALL | extra | params)), targets


def quick(kind, **params):
    estimator, targets = make(kind, **({"max_steps": 12} | params))
    return estimator.fit(X, targets(X))


# ---- they learn ----


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


def test_class_weights():
    rare = [i for i, y in enumerate(Y) if y != "red"] + [i for i, y in enumerate(Y) if y == "red"][:8]
    some, labels = [X[i] for i in rare], Y[rare]

    def reds(weight):
        estimator = SequenceClassifier(**SMALL, class_weight=weight, max_steps=40).fit(some, labels)
        return float((estimator.predict(NEW) == "red").mean()), estimator

    (none, _), (balanced, estimator) = reds(None), reds("balanced")
    assert balanced > none
    assert reds({"red": 0.0})[0] <= none
    trained = np.unique(labels, return_counts=True)[1]
    weights = estimator._class_weights(list(np.repeat([0, 1, 2], trained)))
    np.testing.assert_allclose(weights * trained, len(labels) / 3)


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


def test_swapped_axes_warn():
    tall = np.random.default_rng(0).standard_normal((20, 4, 9))
    y = np.arange(20) % 2
    with pytest.warns(UserWarning, match=r"9 channels and, in the middle, 4 steps, .* set channels_first=True"):
        SequenceClassifier(max_steps=1).fit(tall, y)
    with pytest.warns(UserWarning, match=r"read as \(N, C, T\); .* set channels_first=False"):
        SequenceClassifier(max_steps=1, channels_first=True).fit(tall.transpose(0, 2, 1), y)


# ---- scikit-learn ----


def test_parameters():
    estimator = SequenceClassifier(hidden_size=8, class_weight={"a": 2.0})
    params = estimator.get_params()
    assert params["hidden_size"] == 8 and params["pooling"] == "last" and params["batch_size"] == 32
    assert estimator.set_params(hidden_size=9, cell="gru") is estimator and estimator.hidden_size == 9
    assert repr(estimator) == "SequenceClassifier(hidden_size=9, cell='gru', class_weight={'a': 2.0})"
    with pytest.raises(ValueError, match="'hiden_size' is no parameter of SequenceClassifier, .* hidden_size"):
        estimator.set_params(hiden_size=3, cell="rnn")
    assert estimator.cell == "gru"


@EACH
def test_fitted_estimators_are_pickled(kind):
    estimator = quick(kind)
    other = pickle.loads(pickle.dumps(estimator))
    for a, b in zip(other.predict(NEW), estimator.predict(NEW), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scikit_learn_is_not_imported():
    code = "import sys, rnnfast.classify; assert not [m for m in sys.modules if m.startswith('sklearn')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@EACH
def test_clone(kind, sklearn):
    from sklearn.base import clone, is_classifier, is_regressor

    estimator = quick(kind)
    other = clone(estimator)
    assert other.get_params() == estimator.get_params() and not hasattr(other, "model_")
    assert is_classifier(estimator) == (kind == "classifier")
    assert is_regressor(estimator) == kind.startswith("regressor")


@pytest.mark.parametrize("kind", ["classifier", "labeler", "regressor"])
def test_grid_search_in_two_processes(kind, sklearn):
    from sklearn.model_selection import GridSearchCV

    estimator, targets = make(kind, max_steps=60)
    grid = {"hidden_size": np.array([1, 16]), "cell": ["gru"]}
    search = GridSearchCV(estimator, grid, cv=2, n_jobs=2, error_score="raise").fit(X, targets(X))
    assert search.best_params_["hidden_size"] == 16
    assert search.best_score_ > search.cv_results_["mean_test_score"].min()
    assert 0 < search.score(NEW, targets(NEW)) <= 1
    serial = GridSearchCV(estimator, grid, cv=2, error_score="raise").fit(X, targets(X))
    np.testing.assert_array_equal(serial.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"])


def test_pipeline(sklearn):
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    steps = [("halve", FunctionTransformer(halved)), ("model", SequenceClassifier(**SMALL))]
    pipeline = Pipeline(steps).set_params(model__max_steps=150, model__cell="gru")
    assert pipeline.fit(X, Y).score(NEW, largest_channel(NEW)) > 0.7
    assert pipeline.predict_proba(NEW).shape == (100, 3)
    padded = np.stack([x[:2] for x in X])
    assert len(cross_val_score(SequenceClassifier(**SMALL, max_steps=5), padded, Y, cv=3)) == 3


def halved(X):
    return [x / 2 for x in X]


# ---- files ----


@EACH
def test_save_and_load(kind, tmp_path):
    estimator = quick(kind)
    estimator.save(tmp_path / "model.safetensors")
    for other in (load(tmp_path / "model.safetensors"), type(estimator).load(tmp_path / "model.safetensors")):
        assert type(other) is type(estimator) and repr(other) == repr(estimator) and other.seed_ == estimator.seed_
        for a, b in zip(other.predict(NEW), estimator.predict(NEW), strict=True):
            np.testing.assert_array_equal(a, b)
    if hasattr(estimator, "classes_"):
        assert other.classes_.dtype == estimator.classes_.dtype


def test_load_keeps_what_is_odd(tmp_path):
    labels = np.array([10, -3], np.int8)[(Y == "red").astype(int)]
    estimator = SequenceClassifier(
        **SMALL,
        max_steps=3,
        scale=True,
        class_weight={-3: 2.0},
        augment=lambda x, rng: x,
        learning_rate_decay=np.float64(0.3),
    ).fit(X, labels)
    estimator.save(tmp_path / "model")
    other = load(tmp_path / "model")
    assert other.class_weight == {-3: 2.0} and other.augment is None and other.classes_.dtype == np.int8
    assert same_bits(other.predict_proba(NEW), estimator.predict_proba(NEW))
    with pytest.raises(
        checkpoint.CheckpointError, match="must be a checkpoint of a sequence labeler, got one of sequence"
    ):
        SequenceLabeler.load(tmp_path / "model")
    arrays, meta = checkpoint.load(tmp_path / "model")
    checkpoint.save(tmp_path / "other", arrays, {"task": {"kind": "language model"}})
    with pytest.raises(
        checkpoint.CheckpointError, match="checkpoint of a sequence estimator, got one of language model"
    ):
        load(tmp_path / "other")
    meta["task"]["config"]["hidden_size"] = 3
    checkpoint.save(tmp_path / "other", arrays, meta)
    with pytest.raises(checkpoint.CheckpointError, match="the sequence classifier in it cannot be made: .*shape"):
        load(tmp_path / "other")


def test_not_fitted(tmp_path):
    for call in (lambda e: e.predict(X), lambda e: e.score(X, Y), lambda e: e.save(tmp_path / "x")):
        with pytest.raises(NotFittedError, match="SequenceClassifier must be fitted"):
            call(SequenceClassifier())
    estimator = quick("classifier")
    with pytest.raises(ValueError, match="y must hold one label each"):
        estimator.fit(X, Y[:3])
    with pytest.raises(NotFittedError):
        estimator.predict(X)


def jitter(sequences, rng):
    return [x + 0.1 * rng.standard_normal(x.shape, np.float32) for x in sequences]


class Stop:
    """An augmentation that presses Ctrl-C before batch `at`."""

    def __init__(self, at):
        self.at, self.batches = at, 0
        self.__qualname__ = "jitter"

    def __call__(self, sequences, rng):
        self.batches += 1
        if self.batches == self.at:
            signal.raise_signal(signal.SIGINT)
        return jitter(sequences, rng)


@pytest.mark.parametrize("at", [1, 6, 14])
@pytest.mark.parametrize("kind", ["classifier", "labeler"])
def test_interrupted_and_resumed_is_the_same_to_the_bit(kind, at, tmp_path):
    params = {"max_steps": 20, "eval_every": 5, "dropout": 0.3, "num_layers": 2, "scale": True, "seed": None}
    estimator, targets = make(kind, **(params | {"augment": Stop(at)}))
    estimator.fit(X, targets(X), out=tmp_path / "out")
    assert estimator.result_.stopped == "interrupted" and estimator.result_.step == at
    resumed, _ = make(kind, **(params | {"augment": jitter}))
    resumed.fit(X, targets(X), out=tmp_path / "out", resume=True)
    straight, _ = make(kind, **(params | {"augment": jitter, "seed": estimator.seed_}))
    straight.fit(X, targets(X), out=tmp_path / "straight")
    assert_same(resumed.model_.params, straight.model_.params)
    assert comparable(checkpoint.load(tmp_path / "out" / LAST)) == comparable(
        checkpoint.load(tmp_path / "straight" / LAST)
    )
    assert repr(load(tmp_path / "out").predict(NEW)) == repr(straight.predict(NEW))


def test_resume_refuses_another_run(tmp_path):
    quick_params = SMALL | {"max_steps": 4}
    SequenceClassifier(**quick_params).fit(X, Y, out=tmp_path)
    for other, data, word in (
        ({"hidden_size": 3}, (X, Y), "run with another hidden_size: 16, not 3"),
        ({"batch_size": 3}, (X, Y), "run with another batch_size: 32, not 3"),
        ({}, (X, Y[::-1]), "run with another sha256"),
        ({"seed": 4}, (X, Y), "run with another seed: 1, not 4"),
    ):
        with pytest.raises(checkpoint.CheckpointError, match=word):
            SequenceClassifier(**(quick_params | other)).fit(*data, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="is not empty"):
        SequenceClassifier(**quick_params).fit(X, Y, out=tmp_path)
    with pytest.raises(ValueError, match="resume needs out"):
        SequenceClassifier(**quick_params).fit(X, Y, resume=True)
    more = SequenceClassifier(**(quick_params | {"max_steps": 6})).fit(X, Y, out=tmp_path, resume=True)
    assert more.result_.step == 6


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
