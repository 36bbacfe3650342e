"""What models that generate sequences share: training on known targets, evaluation, search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._check import integer
from .._inputs import as_array, as_tokens
from .._numbers import real
from ..batches import Bucketed, pad
from ..module import Module
from ..random import CounterRng
from ..train import update
from .search import Hypothesis, SearchOptions, pack, search

if TYPE_CHECKING:
    from .decoder import Decoder

__all__ = ["Beginning", "SequenceGenerator", "Targets", "read_numbers", "read_tokens", "side_by_side"]

Array = NDArray[Any]
State = Any


class Beginning(NamedTuple):
    """What a decoder begins with: its state, and what it attends to."""

    state: State
    memory: Any  # (S, B, E), or None where nothing is attended to
    lengths: Any  # (B,) steps of the memory
    steps: int = 0  # that an encoder took


class Targets(NamedTuple):
    """Targets side by side, as the decoder reads and says them."""

    inputs: Array  # (T + 1, B) int32: the end, then the tokens
    lengths: NDArray[np.int32]  # (B,) of inputs
    where: NDArray[np.bool_]  # (T + 1, B) which of them count: those before a sequence's length
    labels: NDArray[np.int32]  # (N,) of those: the tokens, then the end

    def padded(self, rows: Array) -> Array:
        """(N, ...) values of those that count as (T + 1, B, ...), zero elsewhere."""
        result = np.zeros((*self.where.shape, *rows.shape[1:]), rows.dtype)
        result[self.where] = rows
        return result


class SequenceGenerator(Module):
    """Base of Decoder and Seq2Seq.

    A *condition* is what sequences are made from: vectors (B, N) for a Decoder, a list of B sources for a Seq2Seq.
    *Targets* are a list of B sequences of tokens 0 .. V - 1 (arrays or lists, of any lengths, none among them).
    `rng` counts the steps of dropout and of scheduled sampling.
    """

    def __init__(self, config: dict[str, Any], seed: int) -> None:
        super().__init__(config)
        self.rng = CounterRng(seed)

    @property
    def decoder(self) -> Decoder:
        raise NotImplementedError

    def _read(self, condition: Any) -> Any:
        """The condition, checked, as the other methods take it."""
        raise NotImplementedError

    def _rows(self, condition: Any) -> int:
        """How many sequences are to be made."""
        raise NotImplementedError

    def _take(self, condition: Any, indices: Any) -> Any:
        """Some of the condition's rows."""
        raise NotImplementedError

    def _lengths(self, condition: Any) -> NDArray[np.int64]:
        """(B,) what a search takes batches of about one length by."""
        return np.zeros(self._rows(condition), np.int64)

    def _begin(self, condition: Any, *, training: bool, step: int, keep: bool) -> tuple[Beginning, Any]:
        """What the decoder begins with, and with `keep` the cache for _begin_backward."""
        raise NotImplementedError

    def _begin_backward(self, dstate: State, dmemory: Array | None, cache: Any) -> None:
        raise NotImplementedError

    # --- Known targets ---

    def __call__(self, condition: Any, targets: Sequence[Any]) -> tuple[Array, NDArray[np.int32]]:
        """Logits (T + 1, B, V + 1) of each token behind those before it, of the end behind the last, and how many of
        them each sequence has (B,), behind which are zeros. No dropout."""
        condition, tokens = self._read_pairs(condition, targets)
        read = side_by_side(tokens, self.decoder.end)
        begin, _ = self._begin(condition, training=False, step=0, keep=False)
        return read.padded(self.decoder.output(self.decoder.features(read, begin))), read.lengths

    def train_step(
        self,
        condition: Any,
        targets: Sequence[Any],
        optimizer: Any,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        label_smoothing: float = 0.0,
        scheduled_sampling: float = 0.0,
    ) -> tuple[float, int]:
        """One update: (mean loss in nats of a token or end, how many of these there are).

        The decoder reads the targets' own tokens (teacher forcing); with `scheduled_sampling` (Bengio et al. 2015) each
        is, with this probability, the likeliest token that the model itself says there. It says all of them in one
        pass, in which it reads the targets' tokens (the parallel form of Duckworth et al. 2019 and Mihaylova & Martins
        2019), so that both passes are fused. Through the choice of tokens flows no gradient.

        Gradients are clipped by value, then by norm. If it raises (a loss that is not finite included), neither the
        parameters nor the optimiser nor the generator have changed.
        """
        condition, tokens = self._read_pairs(condition, targets)
        read = side_by_side(tokens, self.decoder.end)
        share = real("scheduled_sampling", scheduled_sampling, "a number in [0, 1]", lambda p: 0 <= p <= 1)

        def gradients() -> float:
            loss = self._gradients(condition, read, label_smoothing, share)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss}")
            return loss

        return update(self, optimizer, gradients, clip_norm=clip_norm, clip_value=clip_value), len(read.labels)

    def loss_and_gradients(
        self, condition: Any, targets: Sequence[Any], *, label_smoothing: float = 0.0, training: bool = True
    ) -> float:
        """The mean loss of train_step, whose gradients are added to `grads`; without `training` without dropout."""
        condition, tokens = self._read_pairs(condition, targets)
        read = side_by_side(tokens, self.decoder.end)
        return self._gradients(condition, read, label_smoothing, 0.0, training=training)

    def _gradients(
        self, condition: Any, read: Targets, label_smoothing: float, share: float, *, training: bool = True
    ) -> float:
        step, decoder = self.rng.step, self.decoder
        begin, begin_cache = self._begin(condition, training=training, step=step, keep=True)
        if share > 0:
            read = read._replace(inputs=self._mixed(read, begin, share, step))
        features, cache = decoder.forward_features(read, begin, training=training, step=step)
        loss, dfeatures = decoder.loss(features, read.labels, label_smoothing=label_smoothing)
        assert dfeatures is not None
        dstate, dmemory = decoder.backward_features(dfeatures, cache)
        self._begin_backward(dstate, dmemory, begin_cache)
        if training:  # dropout of the features counts rows
            self.rng.step += max(len(read.labels), begin.steps)
        return float(loss)

    def _mixed(self, read: Targets, begin: Beginning, share: float, step: int) -> Array:
        """The inputs, some of them the model's own."""
        logits = read.padded(self.decoder.output(self.decoder.features(read, begin)))
        own = logits[:-1, :, : self.decoder.end].argmax(axis=-1).astype(np.int32)
        generator = np.random.default_rng([self.rng.seed, step])
        inputs = read.inputs.copy()
        inputs[1:] = np.where(generator.random(own.shape) < share, own, inputs[1:])
        return inputs

    def evaluate(self, condition: Any, targets: Sequence[Any], *, batch_size: int = 256) -> tuple[float, int]:
        """(mean loss in nats of a token or end, how many of these there are), without dropout."""
        total, count = 0.0, 0
        for _, losses, read in self._losses(*self._read_pairs(condition, targets), batch_size):
            total, count = total + float(losses.sum(dtype=np.float64)), count + len(read.labels)
        return (total / count if count else math.nan), count

    def log_probabilities(
        self, condition: Any, targets: Sequence[Any], *, batch_size: int = 256
    ) -> NDArray[np.float64]:
        """(B,) log-probability of each target, its end included."""
        condition, tokens = self._read_pairs(condition, targets)
        result = np.zeros(len(tokens))
        for indices, losses, read in self._losses(condition, tokens, batch_size):
            result[indices] = -read.padded(losses).sum(axis=0, dtype=np.float64)
        return result

    def _losses(
        self, condition: Any, tokens: Sequence[NDArray[np.int32]], batch_size: int
    ) -> Iterator[tuple[NDArray[np.intp], Array, Targets]]:
        """(indices, losses (N,), targets) of batches of about one length, of what _read_pairs has checked."""
        lengths = np.stack([self._lengths(condition), [len(t) for t in tokens]], axis=1)
        for indices in Bucketed(lengths, batch_size).epoch():
            part, read = self._take(condition, indices), side_by_side([tokens[i] for i in indices], self.decoder.end)
            begin, _ = self._begin(part, training=False, step=0, keep=False)
            features = self.decoder.features(read, begin)
            yield indices, self.decoder.loss(features, read.labels, gradient=False, reduction="none")[0], read

    def _read_pairs(self, condition: Any, targets: Sequence[Any]) -> tuple[Any, list[NDArray[np.int32]]]:
        """The condition and as many targets, checked."""
        condition, end = self._read(condition), self.decoder.end
        count = self._rows(condition)
        if isinstance(targets, str) or not hasattr(targets, "__len__"):
            raise TypeError(f"targets must be a list of sequences, got {type(targets).__name__}")
        if len(targets) != count:
            raise ValueError(f"targets must be as many as there are sequences to make, {count}, got {len(targets)}")
        if count == 0:
            raise ValueError("targets must hold at least one sequence, got none")
        return condition, [read_tokens(f"targets[{i}]", t, end) for i, t in enumerate(targets)]

    # --- Search ---

    def generate(
        self,
        condition: Any,
        *,
        beam_size: int = 1,
        length_penalty: float = 0.0,
        min_length: int = 0,
        max_length: int = 200,
        n_best: int = 1,
        attention: bool = False,
        batch_size: int = 64,
    ) -> list[list[Hypothesis]]:
        """For each row of the condition its likeliest sequences that were found, the best first.

        Args:
            beam_size: hypotheses that are followed at a time; 1 is greedy search.
            length_penalty: 0 orders by log-probability; larger prefers longer sequences, see Hypothesis.
            min_length, max_length: bounds on the tokens of a sequence. At max_length nothing but the end is allowed.
            n_best: how many to return, at most beam_size; there may be fewer.
            attention: return the attention weights too.
            batch_size: rows at a time; neither it nor what else is in a batch changes a bit of a row's result.

        Raises:
            FloatingPointError: the logits of a row are not numbers to choose by (NaN or infinite).
        """
        wanted = SearchOptions(beam_size, length_penalty, min_length, max_length, n_best, attention)
        options = wanted.checked(self.decoder.attention is not None)
        condition = self._read(condition)
        results: list[list[Hypothesis]] = [[]] * self._rows(condition)
        size, packed = integer("batch_size", batch_size, 1), pack(self.decoder)
        for indices in Bucketed(self._lengths(condition), size).epoch() if results else ():
            begin, _ = self._begin(self._take(condition, indices), training=False, step=0, keep=False)
            found = search(self.decoder, packed, begin, options, indices)
            for i, hypotheses in zip(indices, found, strict=True):
                results[i] = hypotheses
        return results

    def _extra_state(self) -> dict[str, Any]:
        return {"rng": self.rng.state_dict()}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        self.rng.load_state_dict(state["rng"])


def side_by_side(tokens: Sequence[NDArray[np.int32]], end: int) -> Targets:
    """Checked targets, padded, with the end before and behind them."""
    padded, lengths = pad(tokens)
    ends = np.full((1, len(tokens)), end, np.int32)
    inputs, labels = np.concatenate([ends, padded]), np.concatenate([padded, ends])
    at = np.arange(len(labels))[:, None]
    labels[at == lengths] = end
    where = at <= lengths
    return Targets(inputs, (lengths + 1).astype(np.int32), where, labels[where])


def read_numbers(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in the model's dtype, or an error that names the first number that is not finite there."""
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, dtype)
    finite = np.isfinite(numbers)
    if not finite.all():
        raise ValueError(f"{name} must be finite in {dtype}, got {array[~finite][0]}")
    return numbers


def read_tokens(name: str, value: Any, vocabulary: int) -> NDArray[np.int32]:
    """(n,) tokens below `vocabulary`, or an error that names them."""
    if isinstance(value, str):
        raise TypeError(f"{name} must be integers, got the text {value!r}")
    array = np.zeros(0, np.int32) if isinstance(value, list | tuple) and not value else as_array(name, value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}")
    return as_tokens(name, array, vocabulary)
