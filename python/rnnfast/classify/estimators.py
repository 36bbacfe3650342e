"""Sequences to labels or numbers, with scikit-learn's interface, on rnnfast's one trainer.

scikit-learn itself is not needed; its clone, GridSearchCV, Pipeline and cross_val_score take these estimators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import checkpoint
from .._options import FLAG, Check
from .._run_folder import checkpoint_in
from . import data
from .base import Estimator
from .parameters import CLASS_WEIGHT, POOLING, Array
from .task import Loss, Part, cross_entropy, squared_error

__all__ = ["SequenceClassifier", "SequenceLabeler", "SequenceRegressor", "load"]


@dataclass(eq=False, repr=False, kw_only=True)
class _Labels(Estimator):
    """What has classes."""

    class_weight: str | Mapping[Any, float] | None = None

    _LEARNT: ClassVar[tuple[str, ...]] = (*Estimator._LEARNT, "classes_")

    def _num_outputs(self) -> int:
        return len(self.classes_)

    def _learn_classes(self, labels: Array) -> None:
        self.classes_: Array = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least 2 classes, got {len(self.classes_)}: {self.classes_.tolist()}")

    def _loss(self, targets: list[Array]) -> Loss:
        return cross_entropy(self._class_weights(targets))

    def _class_weights(self, targets: list[Array]) -> Array | None:
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, str):
            flat = np.concatenate([np.atleast_1d(t) for t in targets])
            counts = np.bincount(flat, minlength=len(self.classes_))
            return counts.sum() / (len(counts) * np.maximum(counts, 1.0))
        weights = np.ones(len(self.classes_))
        by_name = {str(label): label for label in self.classes_.tolist()}  # as a JSON file has numbers
        for label, weight in self.class_weight.items():
            at = data.encode("class_weight", np.asarray([by_name.get(label, label)]), self.classes_)
            weights[at] = weight
        return weights

    def _measure(self, found: list[Array], targets: list[Array]) -> dict[str, float]:
        right = [np.argmax(f, axis=-1) == t for f, t in zip(found, targets, strict=True)]
        return {"accuracy": float(np.mean(np.concatenate([np.atleast_1d(r) for r in right])))}

    def _labels(self, found: Array) -> Array:
        labels: Array = self.classes_[np.argmax(found, axis=-1)]
        return labels


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceClassifier(_Labels):
    """A label for each sequence.

    y: (N,) labels: integers, booleans or strings.

    The model:
        hidden_size, num_layers, cell ("lstm", "gru", "rnn"), bidirectional, nonlinearity ("tanh", "relu", of cell
            "rnn"), dtype, compute_dtype: as for rnnfast.LSTM and the like.
        pooling: what the output layer sees: "last" the final state (of both directions), "mean" or "max" of the
            outputs over the steps.
        embedding_size: feed tokens as learnt vectors of this size; None as one-hot rows.
        vocab_size: how many different tokens there are; None: as many as the largest in X says.
        dropout: on embeddings, between layers and before the output layer.
        seed: draws the weights, dropout, the order of batches and the validation part; None draws a fresh one, which
            fit records in seed_.

    The data:
        channels_first: True: X is (N, C, T), as aeon and sktime have it. False: it is (N, T, C). None, the default,
            reads it as False does, and fit warns where there are fewer steps than channels.
        scale: subtract each channel's mean and divide by its deviation, both over all steps of the training part.
        class_weight: weights of the classes in the loss: a dict by label, or by str(label) (1 where it has none), or
            "balanced", in inverse proportion to how often they occur.
        augment: augment(sequences, generator) -> sequences, applied to each training batch: a list of B arrays
            (T_i, C), before they are scaled, its own to change, and a numpy.random.Generator, from which all its chance
            must come.
        val_frac: the part of the sequences that is kept to validate on; 0 for none.

    Training: batch_size, optimizer ("adam", "adamw", "rmsprop", "sgd"), learning_rate, momentum, decay_rate,
        weight_decay, grad_clip and grad_clip_by ("norm", "value"); schedule ("cosine", "constant", "step", "plateau"),
        warmup, min_learning_rate, learning_rate_decay, learning_rate_decay_after, learning_rate_decay_every,
        plateau_patience; max_epochs (50 without another limit), max_steps, max_time (seconds), patience (evaluations in
        a row without a better validation loss); eval_every, eval_seconds, save_every, log_every (steps): those of
        rnnfast.train and rnnfast.schedules. verbose shows the progress.

    After fit: classes_ (K,), model_ (a rnnfast.classify.SequenceModel), n_features_in_ (C, or the number of tokens),
    result_ (a rnnfast.train.Result), seed_.
    """

    pooling: str = "last"

    KIND: ClassVar[str] = "sequence classifier"
    CHECKS: ClassVar[dict[str, Check]] = {"pooling": POOLING, "class_weight": CLASS_WEIGHT}
    _estimator_type: ClassVar[str | None] = "classifier"

    def _pooling(self) -> str | None:
        return self.pooling

    def _learn_targets(self, y: Any, x: list[Array]) -> None:
        self._learn_classes(data.as_labels("y", y, len(x)))

    def _read_targets(self, y: Any, x: list[Array]) -> list[Array]:
        return list(data.encode("y", data.as_labels("y", y, len(x)), self.classes_))

    def predict(self, X: Any, *, lengths: Any = None) -> Array:
        """(N,) the likeliest label of each sequence. X and lengths as for fit."""
        return self._labels(np.stack(self._outputs(X, lengths)[1]))

    def predict_proba(self, X: Any, *, lengths: Any = None) -> Array:
        """(N, K) float64 probabilities of the classes, in the order of classes_. X and lengths as for fit."""
        return softmax(np.stack(self._outputs(X, lengths)[1]))


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceLabeler(_Labels):
    """A label for each step of each sequence. The loss of a sequence is the sum over its steps.

    y: (N, T) labels, or a list of N arrays (T_i,): integers, booleans or strings.

    Parameters and attributes are those of SequenceClassifier, but for pooling. A bidirectional model sees what comes
    after a step too.
    """

    KIND: ClassVar[str] = "sequence labeler"
    CHECKS: ClassVar[dict[str, Check]] = {"class_weight": CLASS_WEIGHT}

    def _pooling(self) -> str | None:
        return None

    def _learn_targets(self, y: Any, x: list[Array]) -> None:
        labels = self._each(y, x)
        kinds = {a.dtype.kind == "U" for a in labels}
        if len(kinds) > 1:
            raise ValueError("y must hold labels of one kind, got strings and numbers")
        self._learn_classes(np.concatenate(labels))

    def _read_targets(self, y: Any, x: list[Array]) -> list[Array]:
        return [data.encode(f"y[{i}]", labels, self.classes_) for i, labels in enumerate(self._each(y, x))]

    @staticmethod
    def _each(y: Any, x: list[Array]) -> list[Array]:
        rows = data.per_step(y, x)
        return [data.as_labels(f"y[{i}]", row, len(s)) for i, (row, s) in enumerate(zip(rows, x, strict=True))]

    def predict(self, X: Any, *, lengths: Any = None) -> Any:
        """The likeliest label of each step: (N, T) where X is an array without lengths, else a list of N arrays
        (T_i,)."""
        _, found = self._outputs(X, lengths)
        return as_given([self._labels(f) for f in found], X, lengths)

    def predict_proba(self, X: Any, *, lengths: Any = None) -> Any:
        """Float64 probabilities of the classes at each step: (N, T, K) where X is an array without lengths, else a list
        of N arrays (T_i, K)."""
        _, found = self._outputs(X, lengths)
        return as_given([softmax(f) for f in found], X, lengths)


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceRegressor(Estimator):
    """One number or several for each sequence, or with per_step for each of its steps. The loss is the squared error,
    the mean over the outputs and, with per_step, the sum over the steps.

    y: (N,) or (N, K) numbers; with per_step (N, T) or (N, T, K), or a list of N arrays (T_i,) or (T_i, K).

    Parameters are those of SequenceClassifier without class_weight, and per_step, with which pooling is not used.
    `scale` scales each output too; predictions are in the units of y. After fit n_outputs_ is K.
    """

    pooling: str = "last"
    per_step: bool = False

    KIND: ClassVar[str] = "sequence regressor"
    CHECKS: ClassVar[dict[str, Check]] = {"pooling": POOLING, "per_step": FLAG}
    _estimator_type: ClassVar[str | None] = "regressor"
    _LEARNT: ClassVar[tuple[str, ...]] = (*Estimator._LEARNT, "n_outputs_", "flat_", "target_scaling_")

    def _pooling(self) -> str | None:
        return None if self.per_step else self.pooling

    def _num_outputs(self) -> int:
        return self.n_outputs_

    def _learn_targets(self, y: Any, x: list[Array]) -> None:
        name, first, count = ("y[0]", data.per_step(y, x)[0], len(x[0])) if self.per_step else ("y", y, len(x))
        self.n_outputs_ = data.as_numbers(name, first, count, None).shape[1]
        self.flat_ = np.ndim(first) == 1  # predictions have no axis of outputs then

    def _read_targets(self, y: Any, x: list[Array]) -> list[Array]:
        outputs = self.n_outputs_
        if not self.per_step:
            return list(data.as_numbers("y", y, len(x), outputs))
        rows = enumerate(zip(data.per_step(y, x), x, strict=True))
        return [data.as_numbers(f"y[{i}]", row, len(s), outputs) for i, (row, s) in rows]

    def _learn_scaling(self, train: Part) -> None:
        super()._learn_scaling(train)
        self.target_scaling_: tuple[Array, Array] | None = None
        if self.scale:
            rows = train.targets if self.per_step else [np.stack(train.targets)]
            self.target_scaling_ = data.mean_and_deviation(rows)

    def _loss(self, targets: list[Array]) -> Loss:
        return squared_error(self.target_scaling_)

    def _values(self, found: list[Array]) -> list[Array]:
        """The model's outputs, float64 in the units of y."""
        mean, deviation = self.target_scaling_ or (np.zeros(self.n_outputs_), np.ones(self.n_outputs_))
        return [f * deviation + mean for f in found]

    def _measure(self, found: list[Array], targets: list[Array]) -> dict[str, float]:
        got, wanted = (np.concatenate([np.atleast_2d(a) for a in arrays]) for arrays in (self._values(found), targets))
        unexplained = np.square(got - wanted).sum(axis=0)
        total = np.square(wanted - wanted.mean(axis=0)).sum(axis=0)
        constant = np.where(unexplained == 0, 1.0, 0.0)  # as scikit-learn has it where y never changes
        return {"R2": float(np.mean(np.where(total > 0, 1 - unexplained / np.where(total > 0, total, 1), constant)))}

    def predict(self, X: Any, *, lengths: Any = None) -> Any:
        """Float64 numbers, (N,) or (N, K) as y was; with per_step (N, T) or (N, T, K) where X is an array without
        lengths, else a list of N arrays (T_i,) or (T_i, K)."""
        _, found = self._outputs(X, lengths)
        values = [v[..., 0] for v in self._values(found)] if self.flat_ else self._values(found)
        return as_given(values, X, lengths) if self.per_step else np.stack(values)


def softmax(outputs: Array) -> Array:
    """Over the last axis, in float64."""
    shifted = np.exp(outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def as_given(rows: list[Array], X: Any, lengths: Any) -> Any:
    """One array where X was one without lengths."""
    return np.stack(rows) if lengths is None and not data.is_list(X) and not isinstance(X, list | tuple) else rows


def load(path: str | Path) -> Any:
    """The fitted estimator in a file that save wrote, or in a run's checkpoint or folder, whichever of the three it is.

    Raises rnnfast.checkpoint.CheckpointError where it is none of them.
    """
    path = checkpoint_in(path)
    return estimator_in(path, checkpoint.read_header(path)).load(path)


def estimator_in(path: Path, header: Mapping[str, Any]) -> type[Estimator]:
    """Which of the three a checkpoint is of."""
    kind = header.get("task", header).get("kind", "something else")
    for estimator in (SequenceClassifier, SequenceLabeler, SequenceRegressor):
        if estimator.KIND == kind:
            return estimator
    raise checkpoint.CheckpointError(f"{path} must be a checkpoint of a sequence estimator, got one of {kind}")
