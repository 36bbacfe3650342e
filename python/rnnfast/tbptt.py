"""Truncated back-propagation through time over streams that are longer than memory.

A long stream is cut into B contiguous rows, and the rows into chunks of T steps (`batches`). Three ways to learn from
it:

* `truncated`: the state is carried from chunk to chunk, gradients stay inside a chunk, one update per chunk.
* `full`: the state is carried, and the gradient of the state is passed back from the last chunk to the first: the
  gradient of the whole sequence, computed in chunks. Every chunk's activations are alive at once.
* `k1k2`: an update every k1 steps, through the last k2 >= k1 steps (Williams and Peng's BPTT(h; h') with h = k2, h' =
  k1).

They work on anything with the layers' protocol,

    y, state, cache = model.forward(x, state)        # x (T, B, ...), time first
    dx, dstate0     = model.backward(dy, dstate, cache)  # adds into model.grads

together with `loss(y, target) -> (value, dy)`; the gradients are those of the sum of the values. A model that has its
own output layer and loss (`forward_features`, `backward_features`, `loss`: rnnfast.lm.LanguageModel) needs no `loss`.

`data` is an iterable of (x, target) or (x, target, reset) chunks, read lazily (each a new array: it may be kept), or
one such tuple of whole arrays. `update` is called without arguments each time the gradients of one update stand in
model.grads; it should leave them zero (`updater` makes such a function). Without `update` the gradients add up over
the whole stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import optim
from ._check import integer
from ._stream import Batches, Data, Piece, batches, cut, join, pairs, pieces

__all__ = ["Batches", "FullResult", "batches", "full", "k1k2", "pairs", "truncated", "updater"]

Array: TypeAlias = NDArray[Any]
State: TypeAlias = Any  # an array, or a tuple of arrays: whatever the model's forward takes and returns
Loss: TypeAlias = Callable[[Array, Array], tuple[Any, Array]]


def updater(
    optimizer: Any, *modules: Any, clip_norm: float | None = None, clip_value: float | None = None
) -> Callable[[], None]:
    """An `update` that clips the gradients (by value, then by norm), takes an optimiser step and zeroes them."""

    def update() -> None:
        if clip_value is not None:
            optim.clip_grad_value(modules, clip_value)
        if clip_norm is not None:
            optim.clip_grad_norm(modules, clip_norm)
        optimizer.step(*modules)
        for module in modules:
            module.zero_grad()

    return update


def truncated(
    model: Any,
    data: Data,
    loss: Loss | None = None,
    *,
    seq_length: int | None = None,
    update: Callable[[], Any] | None = None,
    state: State = None,
) -> Iterator[tuple[Any, State]]:
    """Truncated BPTT: yields (value of the loss, state) after each chunk and its update.

    Chunks are used as they come, or cut and joined to seq_length steps. Memory does not depend on the number of chunks.
    """
    length = None if seq_length is None else integer("seq_length", seq_length, 1)
    forward, backward, loss = _parts(model, loss)
    return _truncated(forward, backward, loss, pieces(data, length), update, state)


def _truncated(
    forward: Any, backward: Any, loss: Loss, pieces: Iterator[Piece], update: Callable[[], Any] | None, state: State
) -> Iterator[tuple[Any, State]]:
    for piece in pieces:
        y, state, cache = _forward(forward, piece, state)
        value, dy = loss(y, piece.target)
        backward(dy, None, cache)
        del y, dy, cache  # not alive while the caller, or the next chunk's forward, works
        if update is not None:
            update()
        yield value, state


class FullResult(NamedTuple):
    """What `full` returns: each chunk's value of the loss, the last state, the gradient of the first state."""

    values: list[Any]
    state: State
    dstate: State


def full(
    model: Any,
    data: Data,
    loss: Loss | None = None,
    *,
    seq_length: int | None = None,
    state: State = None,
    dstate: State = None,
) -> FullResult:
    """Full BPTT in chunks: forward through all of them, then back from the last to the first, passing dstate on.

    Adds the gradient of the whole sequence into model.grads. `dstate` is a gradient that reaches the last state, if
    any.
    """
    length = None if seq_length is None else integer("seq_length", seq_length, 1)
    forward, backward, loss = _parts(model, loss)
    values: list[Any] = []
    kept: list[tuple[Array, Any]] = []
    for piece in pieces(data, length):
        y, state, cache = _forward(forward, piece, state)
        value, dy = loss(y, piece.target)
        values.append(value)
        kept.append((dy, cache))
    if not values:
        raise ValueError("data must hold at least one chunk, got none")
    del y, dy, cache
    while kept:  # popping frees each chunk's activations as soon as they are used
        _, dstate = backward(kept[-1][0], dstate, kept[-1][1])
        kept.pop()
    return FullResult(values, state, dstate)


def k1k2(
    model: Any,
    data: Data,
    loss: Loss | None = None,
    *,
    k1: int,
    k2: int,
    update: Callable[[], Any] | None = None,
    state: State = None,
) -> Iterator[tuple[Any, State]]:
    """BPTT(k2; k1): every k1 steps, the gradient of the loss of the last k1 steps, through the last k2 >= k1 steps,
    and an update.

    Every loss counts once. The window of k2 steps is computed anew with today's weights from the state at its first
    step, which is constant (it was computed with the weights of the update before, but for a last piece of fewer than
    k1 steps, for which it is computed with today's); so each update is the exact
    gradient of what it computed, and costs k2 / k1 times the work of `truncated`. With k2 == k1 it is `truncated`;
    with k2 >= the length of the stream each update reaches its beginning, and without `update` the sum of the
    gradients is that of `full`. Dropout repeats its masks: the generator `model.rng` is set back to the step that a
    window starts at. Yields (value of the loss, state) after each update.
    """
    k1, k2 = integer("k1", k1, 1), integer("k2", k2, 1)
    if k2 < k1:
        raise ValueError(f"k2 must be at least k1 (the steps since the last update), got k1={k1} and k2={k2}")
    forward, backward, loss = _parts(model, loss)
    window = _Window(forward, getattr(model, "rng", None), k1, k2, state)
    return _k1k2(window, backward, loss, pieces(data, k1), update)


def _k1k2(
    window: _Window, backward: Any, loss: Loss, pieces: Iterator[Piece], update: Callable[[], Any] | None
) -> Iterator[tuple[Any, State]]:
    for piece in pieces:
        window.extend(piece)
        y, parts = window.forward(len(piece.x))
        value, dy = loss(y, piece.target)
        dstate: State = None
        while parts:
            first, last, cache = parts.pop()  # steps of the loss, negative before it
            _, dstate = backward(dy[first:last] if first >= 0 else None, dstate, cache)
        del y, dy, cache
        if update is not None:
            update()
        yield value, window.state


class _Window:
    """The last k2 steps of a stream: inputs, the constant state at the first of them, where the next window starts."""

    def __init__(self, forward: Any, rng: Any, k1: int, k2: int, state: State) -> None:
        self._run, self._rng, self._k1, self._k2 = forward, rng, k1, k2
        self._rng_origin = 0 if rng is None else int(rng.step)
        self._first = 0  # absolute step of the window's first input
        self._inputs: list[Piece] = []
        self._start = state  # at self._first
        self._next = (0, state)  # (absolute step, state there): where the window starts once k1 more steps have come
        self.state = state  # at the window's end

    def extend(self, piece: Piece) -> None:
        """Takes in the next steps and drops those that are now more than k2 steps from the end."""
        self._inputs = [join([*self._inputs, piece._replace(target=piece.x[:, :0])])]  # targets are not needed again
        steps = len(self._inputs[0].x)
        drop = max(0, steps - self._k2)
        if self._first + drop == self._next[0]:
            self._start = self._next[1]
        elif drop:  # a last piece of fewer than k1 steps: nobody has stored the state there
            self._start = self._forward(0, drop, self._start)[1]
        self._first += drop
        self._inputs = [cut(self._inputs[0], drop, steps)]

    def forward(self, new: int) -> tuple[Array, list[tuple[int, int, Any]]]:
        """Outputs of the last `new` steps; (first, last, cache) of the window's parts, counted from those steps."""
        steps = len(self._inputs[0].x)
        following = max(0, steps + self._k1 - self._k2)  # where the next full window starts, from this one's first step
        if following == 0:
            self._next = (self._first, self._start)
        state, outputs, parts = self._start, [], []
        for first, last in pairwise(sorted({0, following, steps - new, steps})):
            y, state, cache = self._forward(first, last, state)
            parts.append((first - steps + new, last - steps + new, cache))
            if last == following:
                self._next = (self._first + following, state)
            if first >= steps - new:
                outputs.append(y)
        self.state = state
        return (outputs[0] if len(outputs) == 1 else np.concatenate(outputs)), parts

    def _forward(self, first: int, last: int, state: State) -> tuple[Array, State, Any]:
        rng, piece = self._rng, cut(self._inputs[0], first, last)
        if rng is None:
            return _forward(self._run, piece, state)
        rng.step = before = self._rng_origin + self._first + first
        result = _forward(self._run, piece, state)
        if rng.step == before:  # nothing is dropped, so nothing is counted
            rng.step = self._rng_origin
        return result


def _forward(forward: Any, piece: Piece, state: State) -> tuple[Array, State, Any]:
    if piece.reset is None:
        result: tuple[Array, State, Any] = forward(piece.x, state)
    else:
        result = forward(piece.x, state, reset=piece.reset)
    return result


def _parts(model: Any, loss: Loss | None) -> tuple[Any, Any, Loss]:
    """The model's forward and backward, and the loss: the caller's, or the model's own output layer and loss."""
    if getattr(model, "batch_first", False):
        raise ValueError("model must be time first (T, B, ...), got a layer with batch_first=True")
    if loss is not None:
        return model.forward, model.backward, loss
    for name in ("forward_features", "backward_features", "loss"):
        if not hasattr(model, name):
            raise ValueError(f"loss must be given: {type(model).__name__} has no output layer and loss of its own")
    return model.forward_features, model.backward_features, model.loss
