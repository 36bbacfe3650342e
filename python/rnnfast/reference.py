"""The reference: every cell, loss, optimiser step and random draw of rnnfast in plain float64 NumPy.

Slow on purpose and meant to be read. Nothing here knows about SIMD, threads or packing, and nothing here imports the
compiled core: the kernels are tested against this file, and this file is tested against finite differences and torch.

How to read it: a *cell* (``VanillaTanh``, ``LSTM``, ``GRU``...) says what one step of one layer computes, and its
mirror image, the gradient. Everything else about a recurrent network (time, layers, directions, lengths, resets,
dropout) is written once, in ``_run`` and ``_run_back``, and serves every cell. The loss, the optimisers, the random
numbers and sampling are in ``reference_ops`` and can be had from here.

Add a cell: one small class with ``blocks``, ``states``, ``forward`` and ``backward``, and one entry in ``REGISTRY``.

Shapes: T time, B batch, I input, H hidden, G blocks of a weight matrix, D directions, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnnfast.reference_ops import *  # noqa: F403  (one place to import the whole reference from)
from rnnfast.reference_ops import Array, one_hot

States = tuple[Array, ...]  # (B, H) per state of the cell; state 0 is h, which recurs and is the output


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow for large negative x."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


# --- The cells ------------------------------------------------------------------------------------------------------
#
# A cell gets the two halves of its pre-activations, from the input  ax = x W_ih' + b_ih  and from the previous output
# ah = h_prev W_hh' + b_hh, both (B, G*H), and its previous states, each (B, H). It returns its new states and whatever
# it wants to see again in backward. Backward gets the gradient ds of every new state and returns the gradients of ax
# and ah, and the part of the gradient of the previous states that does not go through ah.


class Cell:
    """What one step computes. ``blocks``: H-row blocks in a weight matrix; ``states``: arrays carried on by a step."""

    blocks: int
    states: int

    def forward(self, ax: Array, ah: Array, prev: States) -> tuple[States, tuple[Array, ...]]:
        raise NotImplementedError

    def backward(self, saved: tuple[Array, ...], prev: States, ds: States) -> tuple[Array, Array, States]:
        raise NotImplementedError


class VanillaTanh(Cell):
    """h = tanh(ax + ah)"""

    blocks, states = 1, 1

    def forward(self, ax: Array, ah: Array, prev: States) -> tuple[States, tuple[Array, ...]]:
        h = np.tanh(ax + ah)
        return (h,), (h,)

    def backward(self, saved: tuple[Array, ...], prev: States, ds: States) -> tuple[Array, Array, States]:
        (h,), (dh,) = saved, ds
        da = dh * (1 - h * h)
        return da, da, (np.zeros_like(dh),)


class VanillaRelu(Cell):
    """h = max(ax + ah, 0)"""

    blocks, states = 1, 1

    def forward(self, ax: Array, ah: Array, prev: States) -> tuple[States, tuple[Array, ...]]:
        h = np.maximum(ax + ah, 0)
        return (h,), (h,)

    def backward(self, saved: tuple[Array, ...], prev: States, ds: States) -> tuple[Array, Array, States]:
        (h,), (dh,) = saved, ds
        da = dh * (h > 0)
        return da, da, (np.zeros_like(dh),)


class LSTM(Cell):
    """i, f, o = sigmoid(..), g = tanh(..); c = f c_prev + i g; h = o tanh(c). Blocks in the order i f g o."""

    blocks, states = 4, 2

    def forward(self, ax: Array, ah: Array, prev: States) -> tuple[States, tuple[Array, ...]]:
        _, c_prev = prev
        ai, af, ag, ao = np.split(ax + ah, 4, axis=-1)
        i, f, g, o = sigmoid(ai), sigmoid(af), np.tanh(ag), sigmoid(ao)
        c = f * c_prev + i * g
        u = np.tanh(c)
        return (o * u, c), (i, f, g, o, u)

    def backward(self, saved: tuple[Array, ...], prev: States, ds: States) -> tuple[Array, Array, States]:
        i, f, g, o, u = saved
        (_, c_prev), (dh, dc) = prev, ds
        dc = dc + dh * o * (1 - u * u)
        dai = dc * g * i * (1 - i)
        daf = dc * c_prev * f * (1 - f)
        dag = dc * i * (1 - g * g)
        dao = dh * u * o * (1 - o)
        da = np.concatenate([dai, daf, dag, dao], axis=-1)
        return da, da, (np.zeros_like(dh), dc * f)


class GRU(Cell):
    """r, z = sigmoid(..); n = tanh(ax_n + r * ah_n); h = (1 - z) n + z h_prev. Blocks r z n."""

    blocks, states = 3, 1

    def forward(self, ax: Array, ah: Array, prev: States) -> tuple[States, tuple[Array, ...]]:
        (h_prev,) = prev
        xr, xz, xn = np.split(ax, 3, axis=-1)
        hr, hz, hn = np.split(ah, 3, axis=-1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        n = np.tanh(xn + r * hn)
        return ((1 - z) * n + z * h_prev,), (r, z, n, hn)

    def backward(self, saved: tuple[Array, ...], prev: States, ds: States) -> tuple[Array, Array, States]:
        r, z, n, hn = saved
        (h_prev,), (dh,) = prev, ds
        dan = dh * (1 - z) * (1 - n * n)
        daz = dh * (h_prev - n) * z * (1 - z)
        dar = dan * hn * r * (1 - r)
        return np.concatenate([dar, daz, dan], axis=-1), np.concatenate([dar, daz, dan * r], axis=-1), (dh * z,)


REGISTRY: dict[str, Cell] = {"rnn_tanh": VanillaTanh(), "rnn_relu": VanillaRelu(), "lstm": LSTM(), "gru": GRU()}
CELLS = tuple(REGISTRY)


# --- What products multiply ----------------------------------------------------------------------------------------

Operand = Callable[[Array], Array]


def round_bf16(a: Array) -> Array:
    """The nearest bf16 numbers, ties to even, in a's dtype; NaN stays NaN."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    rounded = np.where(np.isnan(a), bits | np.uint32(0x400000), nearest) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32).astype(np.asarray(a).dtype)


def _as_it_is(a: Array) -> Array:
    return a


OPERANDS: dict[str | None, Operand] = {None: _as_it_is, "bfloat16": round_bf16}


# --- One layer in one direction -------------------------------------------------------------------------------------


@dataclass
class Step:
    """What one time step of one direction leaves behind. Rows that are not live at this step hold no meaning."""

    t: int
    live: Array  # (B, 1) bool: this row has not ended
    cut: Array  # (B, 1) bool: the previous states were replaced by zero
    prev: States  # after the cut, each (B, H)
    ax: Array  # (B, G*H)
    ah: Array  # (B, G*H)
    saved: tuple[Array, ...]
    dax: Array | None = None  # filled by backward
    dah: Array | None = None


@dataclass
class Direction:
    """One layer in one direction: its weights and its steps in the order they were computed."""

    cell: Cell
    suffix: str  # of the parameter names, "_l0" or "_l0_reverse"
    w: Array  # (G*H, I)
    r: Array  # (G*H, H)
    x: Array  # (T, B, I), zero past the end of a row
    operand: Operand
    steps: list[Step]


def _cuts(reset: Array, lengths: Array, reverse: bool) -> Array:
    """(T, B) bool: the step computed at t must not see the states of the step before it in the direction's own order.

    ``reset[t]`` cuts between t - 1 and t. Forward, the step at t loses its past (at t = 0 the given state); in reverse
    order the step at t - 1 does, unless the row has ended before t: its first step starts from the given state.
    """
    if not reverse:
        return reset
    t = np.arange(len(reset))[:, None]
    cuts = np.zeros_like(reset)
    cuts[:-1] = (reset & (t < lengths))[1:]
    return cuts


def _run(
    cell: Cell,
    p: Mapping[str, Array],
    suffix: str,
    x: Array,
    state: States,
    lengths: Array,
    reset: Array,
    operand: Operand,
) -> tuple[Array, States, Direction]:
    """All T steps: x (T, B, I) and the first states, each (B, H), to y (T, B, H), the last states, and the trace."""
    x, w, r = operand(x), operand(p["weight_ih" + suffix]), operand(p["weight_hh" + suffix])
    b_ih, b_hh = p.get("bias_ih" + suffix, 0), p.get("bias_hh" + suffix, 0)
    T, reverse = len(x), suffix.endswith("_reverse")
    cuts = _cuts(reset, lengths, reverse)
    y = np.zeros(x.shape[:2] + (r.shape[1],), x.dtype)
    steps = []
    for t in reversed(range(T)) if reverse else range(T):
        live, cut = (t < lengths)[:, None], cuts[t][:, None]
        prev = tuple(np.where(cut, 0, s).astype(x.dtype) for s in state)
        ax, ah = x[t] @ w.T + b_ih, operand(prev[0]) @ r.T + b_hh
        new, saved = cell.forward(ax, ah, prev)
        state = tuple(np.where(live, after, before) for after, before in zip(new, state, strict=True))
        y[t] = np.where(live, new[0], 0)
        steps.append(Step(t, live, cut, prev, ax, ah, saved))
    return y, state, Direction(cell, suffix, w, r, x, operand, steps)


def _run_back(run: Direction, dy: Array, dstate: States, grads: dict[str, Array]) -> tuple[Array, States]:
    """The mirror of ``_run``: dy (T, B, H) and the gradients of the last states to dx (T, B, I) and of the first."""
    dx = np.zeros_like(run.x)
    dw, dr = np.zeros_like(run.w), np.zeros_like(run.r)
    db_ih, db_hh = np.zeros_like(run.w[:, 0]), np.zeros_like(run.w[:, 0])
    for step in reversed(run.steps):
        ds = (dstate[0] + dy[step.t], *dstate[1:])
        dax, dah, dprev = run.cell.backward(step.saved, step.prev, ds)
        dax, dah = (run.operand(np.where(step.live, d, 0)) for d in (dax, dah))
        dprev = (dprev[0] + dah @ run.r, *dprev[1:])
        dprev = tuple(np.where(step.cut, 0, d) for d in dprev)
        dstate = tuple(np.where(step.live, before, after) for before, after in zip(dprev, dstate, strict=True))
        dx[step.t] = dax @ run.w
        dw += dax.T @ run.x[step.t]
        dr += dah.T @ run.operand(step.prev[0])
        db_ih += dax.sum(0)
        db_hh += dah.sum(0)
        step.dax, step.dah = dax, dah
    grads["weight_ih" + run.suffix], grads["weight_hh" + run.suffix] = dw, dr
    grads["bias_ih" + run.suffix], grads["bias_hh" + run.suffix] = db_ih, db_hh
    return dx, dstate


# --- The whole network ----------------------------------------------------------------------------------------------


@dataclass
class Cache:
    """What backward needs: the traces of all layers and directions, and how they were connected."""

    cell: Cell
    names: tuple[str, ...]  # of the parameters
    num_layers: int
    num_directions: int
    valid: Array  # (T, B, 1) bool: inside the row
    integer_input: bool
    masks: Sequence[Array]
    runs: list[Direction] = field(default_factory=list)  # layer by layer, forward before reverse


def forward(
    cell: str,
    params: Mapping[str, Array],
    x: Array,
    state: Any = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    lengths: Any = None,
    reset: Any = None,
    dropout_masks: Sequence[Array] | None = None,
    dtype: Any = np.float64,
    compute_dtype: str | None = None,
) -> tuple[Array, Any, Cache]:
    """A recurrent network: x (T, B, I), or (T, B) integers, to y (T, B, D*H), the last states and the cache.

    ``params`` has torch's names; without bias the keys are absent. ``state`` and the last states are h, or (h, c), each
    (L*D, B, H). ``lengths`` (B): past a row's end y is 0 and x is never looked at; the last state is that of the row's
    own last step, and the reverse direction starts there. ``reset`` (T, B) cuts between t - 1 and t. ``dropout_masks``:
    one (T, B, D*H) array of factors for the output of each layer but the last. ``compute_dtype`` "bfloat16" rounds what
    products multiply, forward and backward.
    """
    kind, D = REGISTRY[cell], 2 if bidirectional else 1
    p = {name: np.asarray(value, dtype) for name, value in params.items()}
    x = np.asarray(x)
    (T, B), H = x.shape[:2], p["weight_hh_l0"].shape[1]
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    reset = np.zeros((T, B), bool) if reset is None else np.asarray(reset)
    valid = (np.arange(T)[:, None] < lengths)[..., None]
    integers = np.issubdtype(x.dtype, np.integer)
    if integers:
        x = one_hot(np.where(valid[..., 0], x, 0), p["weight_ih_l0"].shape[1], dtype)
    out = np.where(valid, x, 0).astype(dtype)
    first = _states(kind, state, (num_layers * D, B, H), dtype)
    cache = Cache(kind, tuple(p), num_layers, D, valid, integers, dropout_masks or ())
    last: list[States] = []
    for layer in range(num_layers):
        outs = []
        for direction in range(D):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            start = tuple(s[layer * D + direction] for s in first)
            y, end, run = _run(kind, p, suffix, out, start, lengths, reset, OPERANDS[compute_dtype])
            outs.append(y)
            last.append(end)
            cache.runs.append(run)
        out = np.concatenate(outs, axis=-1)
        if dropout_masks and layer < num_layers - 1:
            out = out * dropout_masks[layer].astype(dtype)
    return out, _pack(last), cache


def backward(dy: Any, dstate: Any, cache: Cache) -> tuple[Array | None, Any, dict[str, Array]]:
    """The gradients (dx, dstate0, one array per parameter) of sum(y * dy) + sum(last state * dstate). None means zeros.

    dy past a row's end is never looked at, dx there is 0; dx is None for integer input.
    """
    D, L, run0 = cache.num_directions, cache.num_layers, cache.runs[0]
    (T, B), H, dtype = run0.x.shape[:2], run0.r.shape[1], run0.x.dtype
    d = np.zeros((T, B, D * H), dtype) if dy is None else np.where(cache.valid, dy, 0).astype(dtype)
    dlast = _states(cache.cell, dstate, (L * D, B, H), dtype)
    grads: dict[str, Array] = {}
    dfirst: list[States] = [()] * (L * D)
    for layer in reversed(range(L)):
        if cache.masks and layer < L - 1:
            d = d * cache.masks[layer].astype(dtype)
        dys, d = np.split(d, D, axis=-1), np.zeros((), dtype)
        for direction in range(D):
            index = layer * D + direction
            end = tuple(s[index] for s in dlast)
            dx, dfirst[index] = _run_back(cache.runs[index], dys[direction], end, grads)
            d = d + dx
    return (None if cache.integer_input else d), _pack(dfirst), {name: grads[name] for name in cache.names}


def _states(cell: Cell, state: Any, shape: tuple[int, ...], dtype: Any) -> States:
    """None, h or (h, c) as the user gives it, to one array (L*D, B, H) per state of the cell."""
    given = (state,) if cell.states == 1 else ((None,) * cell.states if state is None else state)
    return tuple(np.zeros(shape, dtype) if s is None else np.asarray(s, dtype).reshape(shape) for s in given)


def _pack(states: Sequence[States]) -> Any:
    """The states of every layer and direction, stacked: h, or (h, c)."""
    arrays = tuple(np.stack(s) for s in zip(*states, strict=True))
    return arrays[0] if len(arrays) == 1 else arrays
