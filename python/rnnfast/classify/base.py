"""What the three estimators share: fitting on the one trainer, what they are for, files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import _run_folder, checkpoint
from .._options import check_frozen, make_trainer
from .._progress import Progress
from ..batches import pad
from ..module import parameter_dtype
from ..random import fresh_seed
from ..train import Trainer
from . import data
from .model import SequenceModel
from .parameters import Array, Parameters
from .task import Loss, Part, SequenceTask, outputs

__all__ = ["Estimator", "NotFittedError"]


class NotFittedError(ValueError, AttributeError):
    """The estimator has not been fitted. (scikit-learn's error of this name has the same bases.)"""


class Estimator(Parameters):
    """Base of the estimators."""

    KIND: ClassVar[str] = ""

    # ---- what a subclass says ----

    def _pooling(self) -> str | None:
        raise NotImplementedError

    def _learn_targets(self, y: Any, x: list[Array]) -> None:
        """Set what is learnt of y before training: classes_, n_outputs_."""
        raise NotImplementedError

    def _read_targets(self, y: Any, x: list[Array]) -> list[Array]:
        raise NotImplementedError

    def _num_outputs(self) -> int:
        raise NotImplementedError

    def _loss(self, targets: list[Array]) -> Loss:
        raise NotImplementedError

    def _measure(self, found: list[Array], targets: list[Array]) -> dict[str, float]:
        """How good these outputs are, for the progress and for score."""
        raise NotImplementedError

    # ---- what sort it is ----

    @property
    def has_classes(self) -> bool:
        """Whether it learns labels, and not numbers."""
        return hasattr(self, "class_weight")

    @property
    def of_steps(self) -> bool:
        """Whether there is a target for each step, and not for each sequence."""
        return self._pooling() is None

    # ---- fitting ----

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        lengths: Any = None,
        validation: tuple[Any, ...] | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Any:
        """Train on sequences X and their targets y, and return the estimator.

        Args:
            X: (N, T, C) numbers, or (N, C, T) with channels_first; a list of N arrays (T_i, C), or (C, T_i); or tokens:
                integers (N, T), or a list of N arrays (T_i,). All of them finite, and none without a step.
            y: a target for each sequence, or for each of its steps; see the class.
            lengths: (N,) integers from 1 to T: the steps of each sequence where X is an array; what is past them is not
                looked at.
            validation: (X, y) or (X, y, lengths) to validate on. None takes a part val_frac of what is given, drawn by
                the seed, of each class alike.
            out: a folder for checkpoints, metrics.csv and, with the `plot` extra, loss.png.
            resume: go on with the run in `out`, on the same data, to the bit as if it had never stopped.
            overwrite: begin anew in an `out` that is not empty.

        The model has the weights of the best validation loss; without a validation part, the last ones. Ctrl-C ends
        training and keeps the model so far.

        Raises:
            TypeError, ValueError: a parameter or an argument is wrong; the message names it, with the row. The
                estimator is not fitted then.
        """
        vars(self).pop("model_", None)
        self._check(validation is not None)
        _run_folder.check(out, resume=resume, overwrite=overwrite)
        seed = self._resumed_seed(Path(str(out), _run_folder.LAST)) if resume else self.seed
        x = self._read(X, lengths, y)
        if self.channels_first is None and data.looks_swapped(x):
            warnings.warn(
                f"X has {x[0].shape[1]} channels and, in the middle, {np.median([len(s) for s in x]):g} steps, read as "
                "(N, T, C); set channels_first=True if it is (N, C, T), or channels_first=False to silence this",
                stacklevel=2,
            )
        self._learn_inputs(x)
        self._learn_targets(y, x)
        self.seed_ = fresh_seed(seed)
        train, val = self._parts(Part(x, self._read_targets(y, x)), validation)
        self._learn_scaling(train)
        trainer = self._trainer(train, val, out)
        if resume:
            trainer.resume()
        self.result_ = trainer.run()
        if trainer.best_weights is not None:
            trainer.task.module.load_state_dict(trainer.best_weights)
        self.model_: SequenceModel = trainer.task.module
        return self

    def _resumed_seed(self, path: Path) -> int | None:
        """The seed of the run that is resumed, which must be one with these parameters."""
        header = checkpoint.read_header(path)
        _run_folder.check_kind(path, header, self.KIND)
        saved = header.get("options", {})
        seed: int | None = saved.get("seed") if self.seed is None else self.seed
        check_frozen(self.FROZEN, {**self._jsonable(), "seed": seed}, saved)
        return seed

    def _read(self, X: Any, lengths: Any, y: Any = None) -> list[Array]:
        # What is scaled keeps its precision until then: a channel's mean may be large beside what it changes by.
        dtype = np.dtype(np.float64) if self.scale else parameter_dtype(self.dtype)
        first = bool(self.channels_first)
        x = data.read_sequences(X, lengths, channels_first=first, dtype=dtype)
        if self.of_steps:
            data.check_steps(y, X, channels_first=first)
        return x

    def _learn_inputs(self, x: list[Array]) -> None:
        self.tokens_ = x[0].ndim == 1
        largest = max(int(s.max()) for s in x) + 1 if self.tokens_ else 0
        self.n_features_in_ = (self.vocab_size or largest) if self.tokens_ else x[0].shape[1]
        self._check_inputs(x)
        for name in ("embedding_size", "vocab_size"):
            self.require(name, self.tokens_ or getattr(self, name) is None, "None where X is not tokens")

    def _check_inputs(self, x: list[Array]) -> None:
        size = self.n_features_in_
        if (x[0].ndim == 1) != self.tokens_:
            kinds = ("numbers", "tokens")
            raise ValueError(f"X must be {kinds[self.tokens_]} as in fit, got {kinds[not self.tokens_]}")
        if not self.tokens_ and x[0].shape[1] != size:
            raise ValueError(f"X must have {size} channels as in fit, got {x[0].shape[1]}")
        for i, s in enumerate(x if self.tokens_ else ()):
            if s.max() >= size:
                raise ValueError(f"X[{i}] must hold tokens in 0 .. {size - 1}, got {s.max()} at step {s.argmax()}")

    def _parts(self, given: Part, validation: tuple[Any, ...] | None) -> tuple[Part, Part]:
        if validation is not None:
            if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
                raise TypeError(f"validation must be (X, y) or (X, y, lengths), got {type(validation).__name__}")
            try:
                x = self._read(validation[0], validation[2] if len(validation) == 3 else None, validation[1])
                self._check_inputs(x)
                return given, Part(x, self._read_targets(validation[1], x))
            except (TypeError, ValueError) as e:
                raise type(e)(f"validation: {e}") from e
        classes = np.array(given.targets) if self._estimator_type == "classifier" else None
        parts = data.split(len(given.x), self.val_frac, self.seed_, classes)
        train, val = (Part([given.x[i] for i in part], [given.targets[i] for i in part]) for part in parts)
        return train, val

    def _learn_scaling(self, train: Part) -> None:
        self.scaling_: tuple[Array, Array] | None = None
        if self.scale and not self.tokens_:
            self.scaling_ = data.mean_and_deviation(train.x)

    def _prepare(self, sequences: list[Array]) -> tuple[Array, Array]:
        x, lengths = pad(sequences)
        if self.scaling_ is not None:
            mean, deviation = self.scaling_
            x = ((x - mean) / deviation).astype(parameter_dtype(self.dtype))
        return x, lengths

    def _make_model(self) -> SequenceModel:
        try:
            return SequenceModel(
                self.n_features_in_,
                self._num_outputs(),
                self.hidden_size,
                self.num_layers,
                cell=self.cell,
                bidirectional=self.bidirectional,
                embedding_size=self.embedding_size,
                pooling=self._pooling(),
                dropout=self.dropout,
                nonlinearity=self.nonlinearity,
                dtype=self.dtype,
                compute_dtype=self.compute_dtype,
                seed=self.seed_,
            )
        except MemoryError as e:
            of = "tokens, as the largest in X or vocab_size says" if self.tokens_ else "channels"
            raise MemoryError(f"{e} for a model of {self.n_features_in_:,} {of}") from e

    def _trainer(self, train: Part, val: Part, out: str | Path | None) -> Trainer:
        model = self._make_model()
        task = SequenceTask(
            model,
            train,
            val,
            loss=self._loss(train.targets),
            prepare=self._prepare,
            batch_size=self.batch_size,
            seed=self.seed_,
            augment=self.augment,
            measure=self._measure,
            description={**self._describe(model), "data": None if out is None else _identity(train, val)},
        )
        return make_trainer(
            task,
            self,
            saved={**self._jsonable(), "seed": self.seed_},
            out=out,
            progress=Progress(quiet=not self.verbose),
            keep_best=len(val.x) > 0,
        )

    # ---- what it is for ----

    def _outputs(self, X: Any, lengths: Any, y: Any = None) -> tuple[list[Array], list[Array]]:
        """(the sequences, the model's outputs of each)"""
        if not hasattr(self, "model_"):
            raise NotFittedError(f"{type(self).__name__} must be fitted first: call fit, or load one that was saved")
        x = self._read(X, lengths, y)
        self._check_inputs(x)
        return x, outputs(self.model_, x, self._prepare, max(64, self.batch_size))

    def score(self, X: Any, y: Any, *, lengths: Any = None) -> float:
        """The accuracy, the part of labels that are predicted right; of a regressor R², the part of y's variance that
        is explained, as the mean over its outputs."""
        x, found = self._outputs(X, lengths, y)
        return next(iter(self._measure(found, self._read_targets(y, x)).values()))

    # ---- files ----

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file, atomically. `augment` is kept by name only."""
        if not hasattr(self, "model_"):
            raise NotFittedError(f"{type(self).__name__} must be fitted before it is saved")
        arrays = {f"model.{name}": array for name, array in self.model_.state_dict().items()}
        checkpoint.save(path, arrays, {"task": self._describe(self.model_), "options": self._jsonable()})

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """The fitted estimator in a file that `save` wrote, or in a run's checkpoint (of a folder: its best one, else
        its last). Raises rnnfast.checkpoint.CheckpointError where it is none of this class."""
        path = _run_folder.checkpoint_in(path)
        arrays, meta = checkpoint.load(path)
        _run_folder.check_kind(path, meta, cls.KIND)
        try:
            return cls._restored(arrays, meta["task"], meta["options"])
        except (KeyError, TypeError, ValueError) as e:
            raise checkpoint.CheckpointError(f"{path}: the {cls.KIND} in it cannot be made: {e}") from e

    @classmethod
    def _restored(cls, arrays: dict[str, Array], task: dict[str, Any], options: dict[str, Any]) -> Any:
        self = cls(**cls._from_jsonable(options))
        model = SequenceModel(**task["config"])
        model.load_state_dict(_run_folder.weights_in(arrays))
        for name, value in task["learnt"].items():
            setattr(self, name, _from_json(value))
        self.seed_, self.model_ = task["config"]["seed"], model
        return self

    _LEARNT: ClassVar[tuple[str, ...]] = ("tokens_", "n_features_in_", "scaling_")

    def _describe(self, model: SequenceModel) -> dict[str, Any]:
        learnt = {name: _to_json(getattr(self, name)) for name in self._LEARNT}
        return {"kind": self.KIND, "config": model.config, "learnt": learnt}


def _identity(train: Part, val: Part) -> dict[str, Any]:
    digest = data.fingerprint(train.x, train.targets, val.x, val.targets)
    return {"sequences": len(train.x), "validation": len(val.x), "sha256": digest}


def _to_json(value: Any) -> Any:
    """Arrays as {"dtype", "values"}, so that labels come back as what they were."""
    if isinstance(value, tuple):
        return [_to_json(v) for v in value]
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "values": value.tolist()}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(v) for v in value)
    if isinstance(value, dict):
        return np.array(value["values"], value["dtype"])
    return value
