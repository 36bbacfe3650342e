"""The estimators of rnnfast.classify are scikit-learn's, which is not needed for them."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from classify_data import MAKE, NEW, SMALL, X, Y, largest_channel, make, quick
from rnnfast.classify import SequenceClassifier

EACH = pytest.mark.parametrize("kind", MAKE)


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
    assert len(cross_val_score(SequenceClassifier(**SMALL, max_steps=5, channels_first=False), padded, Y, cv=3)) == 3


def halved(X):
    return [x / 2 for x in X]
