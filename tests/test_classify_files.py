"""Files and runs of rnnfast.classify: what is loaded predicts the same, what is resumed goes on to the bit."""

from __future__ import annotations

import signal
from types import MappingProxyType

import numpy as np
import pytest

from cases import assert_same, same_bits
from classify_data import MAKE, NEW, SMALL, X, Y, make, quick
from rnnfast import checkpoint
from rnnfast.classify import NotFittedError, SequenceClassifier, SequenceLabeler, load
from rnnfast.train import LAST
from toy import comparable

EACH = pytest.mark.parametrize("kind", MAKE)


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
        seed=1,
        max_steps=3,
        scale=True,
        class_weight=MappingProxyType({-3: 2.0}),
        augment=lambda x, rng: x,
        learning_rate_decay=np.float64(0.3),
        learning_rate=np.float32(0.01),
        hidden_size=np.int64(16),
        bidirectional=np.bool_(True),
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
    for x in sequences:
        x += 0.1 * rng.standard_normal(x.shape, np.float32)
    return sequences


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
    same = "as in the run that is resumed"
    for other, data, word in (
        ({"hidden_size": 3}, (X, Y), f"hidden_size must be 16 {same}, got 3"),
        ({"batch_size": 3}, (X, Y), f"batch_size must be 32 {same}, got 3"),
        ({"weight_decay": 5.0}, (X, Y), f"weight_decay must be None {same}, got 5.0"),
        ({"class_weight": {"red": 2}}, (X, Y), f"class_weight must be None {same}"),
        ({}, (X, Y[::-1]), "run with another sha256"),
        ({"seed": 4}, (X, Y), f"seed must be 1 {same}, got 4"),
    ):
        with pytest.raises(ValueError, match=word):
            SequenceClassifier(**(quick_params | other)).fit(*data, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="is not empty"):
        SequenceClassifier(**quick_params).fit(X, Y, out=tmp_path)
    with pytest.raises(ValueError, match="resume needs out"):
        SequenceClassifier(**quick_params).fit(X, Y, resume=True)
    with pytest.raises(checkpoint.CheckpointError, match="must be a checkpoint of a sequence labeler"):
        make("labeler")[0].fit(X, MAKE["labeler"][1](X), out=tmp_path, resume=True)
    more = SequenceClassifier(**(quick_params | {"max_steps": 6})).fit(X, Y, out=tmp_path, resume=True)
    assert more.result_.step == 6
