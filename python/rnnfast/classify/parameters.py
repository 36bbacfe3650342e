"""The parameters of the estimators, as scikit-learn has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._options import (
    BELOW_1,
    COUNT,
    FLAG,
    NOT_NEGATIVE,
    TRAINING_CHECKS,
    Check,
    TrainingOptions,
    check_nonlinearity,
    check_options,
    one_of,
    optional,
    plain,
)
from .model import CELLS, POOLINGS
from .task import Augment

__all__ = ["CLASS_WEIGHT", "POOLING", "Array", "Parameters"]

Array: TypeAlias = NDArray[Any]
POOLING = one_of(*POOLINGS)
_LABEL = (str, int, float, np.integer, np.floating, np.bool_)
CLASS_WEIGHT: Check = (
    "None, 'balanced' or a dict of labels and their weights, numbers of at least 0",
    lambda v: (
        all(isinstance(label, _LABEL) and NOT_NEGATIVE[1](weight) for label, weight in v.items())
        if isinstance(v, Mapping)
        else v is None or (isinstance(v, str) and v == "balanced")
    ),
)
_CHECKS: dict[str, Check] = {
    **TRAINING_CHECKS,
    "hidden_size": COUNT,
    "num_layers": COUNT,
    "cell": one_of(*CELLS),
    "bidirectional": FLAG,
    "embedding_size": optional(COUNT),
    "vocab_size": optional(COUNT),
    "dropout": BELOW_1,
    "nonlinearity": one_of("tanh", "relu"),
    "channels_first": optional(FLAG),
    "scale": FLAG,
    "augment": ("None or a function of a list of sequences and a generator", lambda v: v is None or callable(v)),
    "verbose": FLAG,
}


@dataclass(eq=False, repr=False, kw_only=True)
class Parameters(TrainingOptions):
    """What all estimators can be told; SequenceClassifier says what each parameter is."""

    batch_size: int = 32
    grad_clip: float | None = 1.0
    hidden_size: int = 64
    num_layers: int = 1
    cell: str = "lstm"
    bidirectional: bool = False
    embedding_size: int | None = None
    vocab_size: int | None = None
    dropout: float = 0.0
    nonlinearity: str = "tanh"
    channels_first: bool | None = None
    scale: bool = False
    augment: Augment | None = None
    verbose: bool = False

    CHECKS: ClassVar[dict[str, Check]] = {}
    FROZEN: ClassVar[tuple[str, ...]] = (
        *TrainingOptions.FROZEN,
        *("hidden_size", "num_layers", "cell", "bidirectional", "embedding_size", "dropout", "nonlinearity", "scale"),
        *("augment", "class_weight", "pooling", "per_step"),
    )
    _estimator_type: ClassVar[str | None] = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name and return the estimator; they are checked by fit."""
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(
                    f"{name!r} is no parameter of {type(self).__name__}, whose parameters are {', '.join(known)}"
                )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = (f for f in fields(self) if getattr(self, f.name) is not f.default)
        changed = (f for f in changed if repr(getattr(self, f.name)) != repr(f.default))
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    def __sklearn_tags__(self) -> Any:  # scikit-learn calls it, so it is there
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type=self._estimator_type,
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if self._estimator_type == "classifier" else None,
            regressor_tags=RegressorTags() if self._estimator_type == "regressor" else None,
            input_tags=InputTags(three_d_array=True, two_d_array=False),
        )

    def _check(self, validation: bool) -> None:
        check_options(self, {**_CHECKS, **self.CHECKS}, validates=validation or self.val_frac > 0)
        check_nonlinearity(self)

    def _jsonable(self) -> dict[str, Any]:
        options = plain(self)
        if self.augment is not None:
            options["augment"] = getattr(self.augment, "__qualname__", type(self.augment).__qualname__)
        if isinstance(options.get("class_weight"), Mapping):  # pairs: JSON's names are strings, labels need not be
            pairs = options["class_weight"].items()
            options["class_weight"] = [[np.asarray(k).item(), float(v)] for k, v in pairs]
        return options

    @staticmethod
    def _from_jsonable(options: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that _jsonable made this of; of augment only its name is known."""
        weight = options.get("class_weight")
        return {**options, "augment": None, **({"class_weight": dict(weight)} if isinstance(weight, list) else {})}
