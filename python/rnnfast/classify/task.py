"""What the trainer needs to know about a sequence model and its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import ops
from ..batches import Bucketed, pad
from ..train import update
from .model import SequenceModel

__all__ = ["Augment", "Measure", "Part", "Prepare", "SequenceTask", "cross_entropy", "outputs", "squared_error"]

Array: TypeAlias = NDArray[Any]
Arrays = dict[str, Array]
Prepare: TypeAlias = Callable[[list[Array]], tuple[Array, Array]]  # sequences -> x (T, B, C) or (T, B), lengths (B,)
Augment: TypeAlias = Callable[[list[Array], np.random.Generator], list[Array]]
Loss: TypeAlias = Callable[[Array, Array, Array], tuple[float, Array]]  # outputs, targets, lengths -> sum, its gradient
See: TypeAlias = Callable[[Array, Array, Array], None]
Measure: TypeAlias = Callable[[list[Array], list[Array]], Mapping[str, float]]  # outputs, targets


class Part(NamedTuple):
    """Sequences, and a target of each: a class, numbers (K,), or one of these for each step."""

    x: list[Array]
    targets: list[Array]


def cross_entropy(weights: Array | None) -> Loss:
    """Of outputs (..., K) with classes (...), each times its class's weight; past a sequence's end nothing counts."""

    def loss(outputs: Array, targets: Array, lengths: Array) -> tuple[float, Array]:
        if targets.ndim == 2:
            targets = np.where(np.arange(len(targets))[:, None] < lengths, targets, -1)
        return ops.softmax_cross_entropy(outputs, targets, weights=weights, ignore_index=-1, reduction="sum")

    return loss


def squared_error(scaling: tuple[Array, Array] | None) -> Loss:
    """The mean over the outputs of squared errors, targets less scaling's mean and in units of its deviation; past a
    sequence's end nothing counts."""

    def loss(outputs: Array, targets: Array, lengths: Array) -> tuple[float, Array]:
        if scaling is not None:
            targets = (targets - scaling[0]) / scaling[1]
        error = outputs - targets.astype(outputs.dtype)
        if error.ndim == 3:
            error[np.arange(len(error))[:, None] >= lengths] = 0
        return float(np.square(error, dtype=np.float64).sum()) / error.shape[-1], error * (2 / error.shape[-1])

    return loss


def outputs(
    model: SequenceModel, x: list[Array], prepare: Prepare, batch_size: int, see: See = lambda *batch: None
) -> list[Array]:
    """The model's outputs of each sequence: (K,), or (T_i, K). The same bits in any batch. `see` is called with each
    batch: which sequences, their outputs side by side, their lengths."""
    found: list[Any] = [None] * len(x)
    for batch in Bucketed([len(s) for s in x], batch_size).epoch():
        inputs, lengths = prepare([x[i] for i in batch])
        values = model(inputs, lengths=lengths)
        see(batch, values, lengths)
        for j, i in enumerate(batch):  # copies, so that no batch with its padding is kept
            found[i] = values[j] if model.pooling is not None else values[: lengths[j], j].copy()
    return found


class SequenceTask:
    """Batches by length, in an order that the epoch and the seed give. The loss is the mean over the sequences of a
    batch; that of a sequence with a target a step is the sum over its steps."""

    unit = "sequences"

    def __init__(
        self,
        model: SequenceModel,
        train: Part,
        val: Part,
        *,
        loss: Loss,
        prepare: Prepare,
        batch_size: int,
        seed: int,
        augment: Augment | None,
        measure: Measure,
        description: dict[str, Any],
    ) -> None:
        self.module, self.train, self.val, self.description = model, train, val, description
        self.loss, self.prepare, self.augment, self.measure = loss, prepare, augment, measure
        self.batch_size, self.seed = batch_size, seed
        self.batches = Bucketed([len(s) for s in train.x], batch_size, seed=seed)
        self.steps_per_epoch = len(self.batches)

    def train_batches(self, epoch: int, start: int) -> Iterator[tuple[Array, Array, Array]]:
        for number, batch in enumerate(self.batches.epoch(epoch, start), start):
            x = [self.train.x[i] for i in batch]
            if self.augment is not None:
                x = self._augmented(x, np.random.default_rng([self.seed, epoch, number]))
            yield self._batch(x, [self.train.targets[i] for i in batch])

    def _augmented(self, x: list[Array], rng: np.random.Generator) -> list[Array]:
        assert self.augment is not None
        got = self.augment([s.copy() for s in x], rng)  # the sequences themselves may lie in the caller's arrays
        if not isinstance(got, list | tuple) or len(got) != len(x):
            count = len(got) if isinstance(got, list | tuple) else type(got).__name__
            raise ValueError(f"augment must return a list of {len(x)} sequences, got {count}")
        arrays = [np.asarray(s, before.dtype) for s, before in zip(got, x, strict=True)]
        for s, before in zip(arrays, x, strict=True):
            free = self.module.pooling is not None  # there is no target for each step
            if s.shape[1:] != before.shape[1:] or not (len(s) if free else len(s) == len(before)):
                wanted = ", ".join(map(str, ("T" if free else len(before), *before.shape[1:])))
                raise ValueError(f"augment must return sequences of shape ({wanted}), got {s.shape}")
        return arrays

    def _batch(self, x: list[Array], targets: list[Array]) -> tuple[Array, Array, Array]:
        inputs, lengths = self.prepare(x)
        return inputs, lengths, self._stack(targets)

    def _stack(self, targets: list[Array]) -> Array:
        return np.stack(targets) if self.module.pooling is not None else pad(targets)[0]

    def train_step(self, batch: tuple[Array, Array, Array], optimizer: Any, **clip: float) -> tuple[float, int]:
        x, lengths, targets = batch
        model, count = self.module, len(lengths)

        def gradients() -> float:
            y, cache = model.forward(x, lengths=lengths)
            total, dy = self.loss(y, targets, lengths)
            if not math.isfinite(total):
                raise FloatingPointError(f"the loss is {total}")
            model.backward(dy * (1 / count), cache)
            return total / count

        return update(model, optimizer, gradients, **clip), count

    def evaluate(self) -> dict[str, float] | None:
        """The loss on the validation part, by the measure of training, and what the estimator measures."""
        if not self.val.x:
            return None
        losses: list[float] = []

        def see(batch: Array, y: Array, lengths: Array) -> None:
            losses.append(self.loss(y, self._stack([self.val.targets[i] for i in batch]), lengths)[0])

        found = outputs(self.module, self.val.x, self.prepare, max(self.batch_size, 64), see)
        return {"loss": math.fsum(losses) / len(found), **self.measure(found, self.val.targets)}

    def sample(self, step: int) -> str | None:
        return None

    def describe(self) -> dict[str, Any]:
        return self.description

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        return {}, {"rng": self.module.rng.state_dict()}

    def load_state_dict(self, arrays: Arrays, meta: dict[str, Any]) -> None:
        self.module.rng.load_state_dict(meta["rng"])
