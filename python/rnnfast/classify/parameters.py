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
    TRAINING_CHECKS,
    Check,
    OptionError,
    TrainingOptions,
    check_options,
    one_of,
    optional,
    plain,
)
from ..module import compute_dtype_name, parameter_dtype
from .model import CELLS, POOLINGS
from .task import Augment

__all__ = ["CLASS_WEIGHT", "POOLING", "Array", "Parameters"]

Array: TypeAlias = NDArray[Any]
POOLING = one_of(*POOLINGS)
CLASS_WEIGHT: Check = (
    "None, 'balanced' or a dict of labels and weights",
    lambda v: v is None or isinstance(v, Mapping) or (isinstance(v, str) and v == "balanced"),
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
    "dtype": one_of("float32", "float64"),
    "compute_dtype": optional(one_of("float32", "float64", "bfloat16")),
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
    dtype: str = "float32"
    compute_dtype: str | None = None
    channels_first: bool | None = None
    scale: bool = False
    augment: Augment | None = None
    verbose: bool = False

    CHECKS: ClassVar[dict[str, Check]] = {}
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
        try:
            compute_dtype_name(self.compute_dtype, parameter_dtype(self.dtype))
        except ValueError as e:
            expected = f"None or {self.dtype!r} where dtype is {self.dtype!r}"
            raise OptionError("compute_dtype", expected, self.compute_dtype) from e

    def _frozen(self) -> dict[str, Any]:
        """Of the options, what the steps that are still to come of a resumed run depend on."""
        options = self._jsonable()
        names = ("val_frac", "batch_size", "optimizer", "momentum", "decay_rate", "scale", "augment", "class_weight")
        return {name: options[name] for name in names if name in options}

    def _jsonable(self) -> dict[str, Any]:
        options = plain(self)
        if self.augment is not None:
            options["augment"] = getattr(self.augment, "__qualname__", type(self.augment).__qualname__)
        if isinstance(options.get("class_weight"), dict):
            pairs = options["class_weight"].items()
            options["class_weight"] = [[np.asarray(k).item(), float(v)] for k, v in pairs]
        return options
