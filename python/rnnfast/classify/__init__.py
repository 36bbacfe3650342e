"""Sequences to a label, to a label at every step, or to numbers, with scikit-learn's interface."""

from .base import NotFittedError
from .estimators import SequenceClassifier, SequenceLabeler, SequenceRegressor, load
from .model import SequenceModel

__all__ = ["NotFittedError", "SequenceClassifier", "SequenceLabeler", "SequenceModel", "SequenceRegressor", "load"]
