"""Recurrent layers: RNN, LSTM and GRU over whole sequences, forward and backward.

Shapes: T time steps, B sequences, I inputs, H hidden units, L layers, D directions (1 or 2). Parameters have PyTorch's
names, layouts and gate orders, so weights are exchanged by copying.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, cuda
from ._check import MOST_LAYERS, MOST_TOKENS, integer
from ._cuda_rnn import DeviceRnn
from ._inputs import Sequences, as_rows, check_state, read_sequences
from ._stepping import Stream
from ._threads import get_num_threads
from .module import Module, compute_dtype_name, parameter_dtype
from .random import CounterRng, fresh_seed

__all__ = ["GRU", "LSTM", "RNN", "Cache", "Recurrent"]

Array = NDArray[Any]
_CORES: dict[str, Any] = {"float32": _core.Rnn32, "float64": _core.Rnn64, "bfloat16": _core.RnnBf16}
State = Any  # LSTM: (h, c); RNN and GRU: h


class Cache:
    """What a backward pass needs of its forward pass, the weights of that time among it. Opaque; used once."""

    def __init__(self, owner: Recurrent, core: Any, sequences: Sequences) -> None:
        self._owner, self._core, self._sequences = owner, core, sequences

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the cache holds; 0 once it is used."""
        return int(self._core.nbytes)


class Recurrent(Module):
    """Base of RNN, LSTM and GRU."""

    _cell = ""
    _gates = 0
    _states = 1

    def __init__(
        self,
        config: dict[str, Any],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: Any,
        compute_dtype: Any,
        recompute: bool,
        device: str | None,
        seed: int | None,
    ) -> None:
        self.input_size = integer("input_size", input_size, 1, MOST_TOKENS)
        self.hidden_size = integer("hidden_size", hidden_size, 1)
        self.num_layers = integer("num_layers", num_layers, 1, MOST_LAYERS)
        for name, value in (
            ("bias", bias),
            ("batch_first", batch_first),
            ("bidirectional", bidirectional),
            ("recompute", recompute),
        ):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name} must be a bool, got {value!r}")
        self.bias, self.batch_first, self.bidirectional = bool(bias), bool(batch_first), bool(bidirectional)
        self.recompute = bool(recompute)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float | np.number):
            raise TypeError(f"dropout must be a number in [0, 1), got {dropout!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
        self.dropout = float(dropout)
        self.dtype = parameter_dtype(dtype)
        self.compute_dtype = compute_dtype_name(compute_dtype, self.dtype)
        self.device = cuda.device_name(device)
        if self.device is not None and (self.dtype != np.float32 or self.recompute):
            wanted = f"dtype {self.dtype.name}, recompute {self.recompute}"
            raise ValueError(f"device='cuda' computes in float32 or bfloat16, without recompute, got {wanted}")
        self.seed = fresh_seed(seed)
        used = {"dtype": self.dtype.name, "seed": self.seed}
        if compute_dtype is not None:
            used["compute_dtype"] = self.compute_dtype
        super().__init__({**config, **used})
        self.rng = CounterRng(self.seed)
        self._make_parameters()

    def _make_parameters(self) -> None:
        # As in PyTorch every array, biases too, is uniform in +-1/sqrt(H).
        generator = np.random.Generator(np.random.PCG64(self.seed))
        bound = 1 / np.sqrt(self.hidden_size)
        rows, directions = self._gates * self.hidden_size, self.num_directions
        core_params: list[Any] = []
        core_grads: list[Any] = []
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else directions * self.hidden_size
            bias = (rows,) if self.bias else None
            shapes = {
                "weight_ih": (rows, width),
                "weight_hh": (rows, self.hidden_size),
                "bias_ih": bias,
                "bias_hh": bias,
            }
            for suffix in ("", "_reverse")[:directions]:
                for kind, shape in shapes.items():
                    if shape is None:
                        core_params.append(None)
                        core_grads.append(None)
                        continue
                    name = f"{kind}_l{layer}{suffix}"
                    values = generator.uniform(-bound, bound, shape).astype(self.dtype)
                    core_params.append(self._register(name, values, self.device))
                    core_grads.append(self.grads[name])
        if self.device is not None:
            self._core: Any = DeviceRnn(
                self._cell, self.input_size, self.hidden_size, self.num_layers, directions,
                self.compute_dtype == "bfloat16", core_params, core_grads,
            )  # fmt: skip
            return
        self._core = _CORES[self.compute_dtype](
            self._cell, self.input_size, self.hidden_size, self.num_layers, directions, self.recompute,
            core_params, core_grads,
        )  # fmt: skip

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def __call__(self, x: Any, state: State = None, *, lengths: Any = None, reset: Any = None) -> tuple[Array, State]:
        """Inference: no cache, no dropout.

        Args:
            x: (T, B, I) numbers, (B, T, I) with batch_first, (T, I) for one sequence without a batch; or integers of
                shape (T, B), (B, T) or (T,), each a one-hot row of width I. Other floating-point types, strides and
                DLPack arrays in CPU memory are converted to the layer's dtype.
            state: initial state, (L*D, B, H), or (L*D, H) without a batch; for an LSTM a pair (h, c). None is zeros.
            lengths: (B,) integers in 0 .. T: the outputs past a sequence's end are zero, its final state is that of
                its last step, and the reverse direction starts there. Values of x past the end are never looked at.
            reset: (T, B) booleans, (B, T) with batch_first: true cuts between this step and the one before it, in both
                directions; at the first step it ignores `state`.

        Returns:
            y, (T, B, D*H) (or as x is laid out), and the final state.

        Raises:
            TypeError, ValueError: an argument is wrong; the message names it.
        """
        y, new_state, _ = self._run(x, state, lengths, reset, keep=False)
        return y, new_state

    def forward(
        self,
        x: Any,
        state: State = None,
        *,
        lengths: Any = None,
        reset: Any = None,
        training: bool = True,
        rng: CounterRng | None = None,
        copy: bool = True,
    ) -> tuple[Array, State, Cache]:
        """As a call, and with the cache that `backward` needs.

        Without `copy` the cache may read x, y and the parameters where they are: none of them may be written to before
        `backward`. That saves memory, and the time of copies: of a plain RNN's training step 5 %, of a call of a single
        step, where the parameters' take longer than all else, half.

        With `training`, the outputs of all layers but the last are dropped with probability `dropout`, by the counter
        of `rng` (the layer's own where it is None), which then moves on by T steps.
        """
        self._check_unfrozen()
        if rng is not None and not isinstance(rng, CounterRng):
            raise TypeError(f"rng must be a rnnfast.random.CounterRng or None, got {rng!r}")
        rng = (rng or self.rng) if training and self.dropout > 0 else None
        y, new_state, cache = self._run(x, state, lengths, reset, keep=True, copy=bool(copy), rng=rng)
        assert cache is not None
        return y, new_state, cache

    def _run(
        self,
        x: Any,
        state: State,
        lengths: Any,
        reset: Any,
        *,
        keep: bool,
        copy: bool = True,
        rng: CounterRng | None = None,
    ) -> tuple[Array, State, Cache | None]:
        if self.device is not None:
            return self._run_on_device(x, state, lengths, reset, keep, rng)
        seq = read_sequences(x, lengths, reset, self.input_size, self.batch_first, self.dtype)
        states = check_state("state", state, self._states, self._state_shape(seq), self.dtype)
        y, last, core = self._core.forward(
            None if seq.tokens else seq.x,
            seq.x if seq.tokens else None,
            self.batch_first and not seq.unbatched,
            states,
            seq.lengths,
            seq.reset,
            keep,
            copy,
            self.dropout if rng is not None else 0.0,
            rng.seed if rng is not None else 0,
            rng.step if rng is not None else 0,
            self._frozen,
            get_num_threads(),
        )
        if rng is not None:
            rng.step += seq.steps
        if seq.unbatched:
            y, last = y[:, 0], tuple(s[:, 0] for s in last)
        return y, last if self._states > 1 else last[0], Cache(self, core, seq) if keep else None

    def _run_on_device(
        self, x: Any, state: State, lengths: Any, reset: Any, keep: bool, rng: CounterRng | None
    ) -> tuple[Array, State, Cache | None]:
        self._core.check_device()
        seq, kind = self._core.read(x, lengths, reset, self.batch_first)
        states = self._core.states("state", state, self._state_shape(seq), kind)
        form = "batch first" if self.batch_first and not seq.unbatched else "sequences"
        y, last, core = self._core.forward(seq, kind, form, states, keep, self.dropout, rng, self._frozen)
        if rng is not None:
            rng.step += seq.steps
        if seq.unbatched:
            y, last = y.reshape(seq.steps, -1), [s.reshape(*self._state_shape(seq)) for s in last]
        state = tuple(kind.result(s) for s in last)
        return kind.result(y), state if self._states > 1 else state[0], Cache(self, core, seq) if keep else None

    def _back_on_device(
        self,
        dy: Any,
        dstate: State,
        cache: Cache,
        want_dx: bool,
        want_dstate0: bool,
        keep_cache: bool,
        accumulate: bool,
    ) -> tuple[Any, State]:
        self._core.check_device()
        seq, core = cache._sequences, cache._core
        kind = core.kind.now()
        width = self.num_directions * self.hidden_size
        dy = self._core.floats("dy", dy, (seq.steps, width) if seq.unbatched else (*seq.leading, width), kind)
        dstates = self._core.states("dstate", dstate, self._state_shape(seq), kind)
        dx, first = self._core.backward(core, kind, seq, dy, dstates, want_dx, want_dstate0, keep_cache, accumulate)
        if seq.unbatched:
            dx = None if dx is None else dx.reshape(seq.steps, -1)
            first = [s.reshape(*self._state_shape(seq)) for s in first]
        state = tuple(kind.result(s) for s in first)
        return kind.result(dx), None if not want_dstate0 else state if self._states > 1 else state[0]

    def backward(
        self,
        dy: Any,
        dstate: State,
        cache: Cache,
        *,
        want_dx: bool = True,
        want_dstate0: bool = True,
        keep_cache: bool = False,
        accumulate: bool = True,
    ) -> tuple[Array | None, State]:
        """The gradients of a forward pass, with the weights of that time.

        Args:
            dy: gradient of y, of its shape; None is zeros. Values past a sequence's end are never looked at.
            dstate: gradient of the final state, of its shape; None is zeros.
            cache: what `forward` returned. It is used up unless `keep_cache`.
            want_dx, want_dstate0: False saves the work for a gradient that is not needed, and None is returned for it.
            accumulate: add to `grads`. False takes their place, as after zero_grad(), which it saves.

        Returns:
            dx (None where x was integers) and the gradient of the initial state. Those of the parameters go to `grads`,
            without a lock: not from two threads at a time. After an error they are as before, and after a Ctrl-C that
            stopped the call; one that comes when it is about to end is raised behind it.
        """
        if not isinstance(cache, Cache):
            raise TypeError(f"cache must be what forward returned, got {type(cache).__name__}")
        if cache._owner is not self:
            raise ValueError("cache must be of this layer's forward, got one of another layer")
        if cache._core.used:
            raise ValueError(
                "cache must not have been used, got one that backward has consumed (keep_cache=True keeps it)"
            )
        if self.device is not None:
            return self._back_on_device(dy, dstate, cache, want_dx, want_dstate0, keep_cache, accumulate)
        seq = cache._sequences
        width = self.num_directions * self.hidden_size
        if dy is not None:
            shape = (seq.steps, width) if seq.unbatched else (*seq.leading, width)
            dy = as_rows("dy", dy, shape, self.dtype)
            dy = dy[:, None] if seq.unbatched else dy
        dstates = check_state("dstate", dstate, self._states, self._state_shape(seq), self.dtype)
        dx, first = self._core.backward(
            cache._core, dy, dstates, want_dx, want_dstate0, keep_cache, accumulate, get_num_threads()
        )
        if seq.unbatched:
            dx, first = None if dx is None else dx[:, 0], tuple(s[:, 0] for s in first)
        if not want_dstate0:
            return dx, None
        return dx, first if self._states > 1 else first[0]

    def _state_shape(self, seq: Sequences) -> tuple[int, ...]:
        rows = self.num_layers * self.num_directions
        return (rows, self.hidden_size) if seq.unbatched else (rows, seq.batch, self.hidden_size)

    def stream(self, batch_size: int = 1) -> Stream:
        """Step-by-step inference with low latency: packs the parameters as they are now, and carries the state."""
        if self.device is not None:
            raise ValueError("stream needs a layer on the CPU, got one on " + self.device)
        if self.bidirectional:
            raise ValueError("stream needs a layer with one direction, got a bidirectional one")
        return Stream(self, integer("batch_size", batch_size, 1))

    def pack(self) -> Any:
        """The parameters as they are now, for the compiled kernels."""
        return self._core.pack(get_num_threads())

    def packed(self) -> Any:
        """The same, or what freeze() has packed."""
        return self.pack() if self._frozen is None else self._frozen

    def freeze(self) -> None:
        self._frozen = self.pack()

    def _extra_state(self) -> dict[str, Any]:
        return {"rng": self.rng.state_dict()}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        self.rng.load_state_dict(state["rng"])


class RNN(Recurrent):
    """Elman network of one or more layers: h' = tanh(W x + b + R h + b'), or with nonlinearity="relu" max(0, ...).

    Args:
        input_size: I, numbers of a step of x, or the vocabulary where x is integers.
        hidden_size: H.
        num_layers: layers, each reading the outputs of the one below.
        nonlinearity: "tanh" or "relu".
        bias: False leaves bias_ih and bias_hh out.
        batch_first: x, y and reset are (B, T, ...); states stay (L*D, B, H).
        dropout: probability in [0, 1) with which, in training, an output of a layer that feeds another is dropped.
        bidirectional: a second set of weights reads each sequence from its end; y has its outputs beside the first's.
        dtype: "float32" or "float64".
        compute_dtype: None computes in dtype. "bfloat16", with dtype "float32", rounds what products multiply (inputs,
            h, weights, and the gradients of pre-activations) to bf16 and adds in float32; parameters, states, gates
            and all gradients handed out stay float32. Where the processor has no fast instruction for it, AVX-512's
            is emulated, to the same bits; AMX adds in an order of its own. On a GPU the products run on tensor cores.
        recompute: caches keep the states alone (h; c of an LSTM) and `backward` computes the gates again, layer by
            layer: the same bits, for less memory and the time of another forward pass.
        device: None or "cpu"; "cuda" (or "cuda:N") keeps the parameters and computes on a GPU, with dtype "float32"
            alone: see `rnnfast.cuda` for the arrays that it takes and gives.
        seed: draws the weights and keys dropout; None draws a fresh one, recorded in `seed`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = "float32",
        compute_dtype: Any = None,
        recompute: bool = False,
        device: str | None = None,
        seed: int | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.nonlinearity = nonlinearity
        self._cell, self._gates = f"rnn_{nonlinearity}", 1
        super().__init__(
            config, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype,
            compute_dtype, recompute, device, seed,
        )  # fmt: skip


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    c' = f * c + i * g and h' = o * tanh(c'), with gates i, f, g, o in PyTorch's order. The state is (h, c).
    Arguments as for RNN.
    """

    _cell, _gates, _states = "lstm", 4, 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = "float32",
        compute_dtype: Any = None,
        recompute: bool = False,
        device: str | None = None,
        seed: int | None = None,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(
            config, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype,
            compute_dtype, recompute, device, seed,
        )  # fmt: skip


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014) as PyTorch and cuDNN have it, the reset gate after the product.

    n = tanh(W x + b + r * (R h + b')) and h' = (1 - z) * n + z * h, with gates r, z, n in PyTorch's order.
    Arguments as for RNN.
    """

    _cell, _gates, _states = "gru", 3, 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = "float32",
        compute_dtype: Any = None,
        recompute: bool = False,
        device: str | None = None,
        seed: int | None = None,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(
            config, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype,
            compute_dtype, recompute, device, seed,
        )  # fmt: skip
