# The compiled module. Its arguments are checked by the Python code that calls it.
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_Ids = NDArray[np.int32]

# --- bind_system.cpp

version: str
compiler: str
openmp: bool
cells: tuple[str, ...]

def isa() -> str: ...
def isas() -> list[str]: ...
def default_threads() -> int: ...
def pool_clear() -> None: ...
def peak_float32(threads: int, seconds: float) -> float: ...
def peak_bfloat16(threads: int, seconds: float) -> float: ...
def read_bandwidth(nbytes: int, threads: int, seconds: float) -> float: ...
def exchange_time(seconds: float) -> float: ...
def math_test(name: str, x: NDArray[Any]) -> NDArray[Any]: ...

# --- bind_rnn.cpp

class PackedRnn32:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by Rnn32 alone
    @property
    def nbytes(self) -> int: ...

class RnnCache32:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by Rnn32 alone
    @property
    def used(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class RnnStepper32:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by Rnn32 alone
    def step(self, x: object, out: object = None) -> Any: ...
    def get_state(self, k: int) -> _F32: ...
    def set_state(self, k: int, state: _F32 | None) -> None: ...
    def reset_row(self, row: int) -> None: ...

class Rnn32:
    def __init__(
        self,
        cell: str,
        input: int,
        hidden: int,
        layers: int,
        directions: int,
        recompute: bool,
        params: list[_F32 | None],
        grads: list[_F32 | None],
    ) -> None: ...
    def pack(self) -> PackedRnn32: ...
    def forward(
        self,
        x: _F32 | None,
        tokens: _Ids | None,
        batch_first: bool,
        state: list[_F32 | None],
        lengths: _Ids | None,
        reset: NDArray[np.bool_] | None,
        keep: bool,
        dropout: float,
        seed: int,
        step: int,
        packed: PackedRnn32 | None,
        threads: int,
    ) -> tuple[_F32, tuple[_F32, ...], RnnCache32 | None]: ...
    def backward(
        self,
        cache: RnnCache32,
        dy: _F32 | None,
        dstate: list[_F32 | None],
        want_dx: bool,
        want_dstate0: bool,
        keep: bool,
        threads: int,
    ) -> tuple[_F32 | None, tuple[_F32, ...]]: ...
    def stepper(self, packed: PackedRnn32, batch: int, threads: int) -> RnnStepper32: ...

class PackedRnn64:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by Rnn64 alone
    @property
    def nbytes(self) -> int: ...

class RnnCache64:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by Rnn64 alone
    @property
    def used(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class RnnStepper64:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by Rnn64 alone
    def step(self, x: object, out: object = None) -> Any: ...
    def get_state(self, k: int) -> _F64: ...
    def set_state(self, k: int, state: _F64 | None) -> None: ...
    def reset_row(self, row: int) -> None: ...

class Rnn64:
    def __init__(
        self,
        cell: str,
        input: int,
        hidden: int,
        layers: int,
        directions: int,
        recompute: bool,
        params: list[_F64 | None],
        grads: list[_F64 | None],
    ) -> None: ...
    def pack(self) -> PackedRnn64: ...
    def forward(
        self,
        x: _F64 | None,
        tokens: _Ids | None,
        batch_first: bool,
        state: list[_F64 | None],
        lengths: _Ids | None,
        reset: NDArray[np.bool_] | None,
        keep: bool,
        dropout: float,
        seed: int,
        step: int,
        packed: PackedRnn64 | None,
        threads: int,
    ) -> tuple[_F64, tuple[_F64, ...], RnnCache64 | None]: ...
    def backward(
        self,
        cache: RnnCache64,
        dy: _F64 | None,
        dstate: list[_F64 | None],
        want_dx: bool,
        want_dstate0: bool,
        keep: bool,
        threads: int,
    ) -> tuple[_F64 | None, tuple[_F64, ...]]: ...
    def stepper(self, packed: PackedRnn64, batch: int, threads: int) -> RnnStepper64: ...

class PackedRnnBf16:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by RnnBf16 alone
    @property
    def nbytes(self) -> int: ...

class RnnCacheBf16:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by RnnBf16 alone
    @property
    def used(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class RnnStepperBf16:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by RnnBf16 alone
    def step(self, x: object, out: object = None) -> Any: ...
    def get_state(self, k: int) -> _F32: ...
    def set_state(self, k: int, state: _F32 | None) -> None: ...
    def reset_row(self, row: int) -> None: ...

class RnnBf16:
    def __init__(
        self,
        cell: str,
        input: int,
        hidden: int,
        layers: int,
        directions: int,
        recompute: bool,
        params: list[_F32 | None],
        grads: list[_F32 | None],
    ) -> None: ...
    def pack(self) -> PackedRnnBf16: ...
    def forward(
        self,
        x: _F32 | None,
        tokens: _Ids | None,
        batch_first: bool,
        state: list[_F32 | None],
        lengths: _Ids | None,
        reset: NDArray[np.bool_] | None,
        keep: bool,
        dropout: float,
        seed: int,
        step: int,
        packed: PackedRnnBf16 | None,
        threads: int,
    ) -> tuple[_F32, tuple[_F32, ...], RnnCacheBf16 | None]: ...
    def backward(
        self,
        cache: RnnCacheBf16,
        dy: _F32 | None,
        dstate: list[_F32 | None],
        want_dx: bool,
        want_dstate0: bool,
        keep: bool,
        threads: int,
    ) -> tuple[_F32 | None, tuple[_F32, ...]]: ...
    def stepper(self, packed: PackedRnnBf16, batch: int, threads: int) -> RnnStepperBf16: ...

# --- bind_tensors.cpp: tensors of PyTorch, as objects

class Tensors:
    def __init__(self, torch: object, functions: object) -> None: ...

class TensorCache32:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by TensorRnn32 alone

class TensorRnn32:
    def __init__(self, tensors: Tensors, network: object) -> None: ...
    @property
    def network(self) -> Any: ...
    def pack(self, weights: Sequence[Any]) -> PackedRnn32 | None: ...
    def forward(
        self,
        x: object,
        state: Sequence[Any],
        weights: Sequence[Any],
        given: tuple[Any, Any, Any],
        keep: bool,
        packed: PackedRnn32 | None,
    ) -> tuple[Any, ...] | None: ...
    def backward(
        self, place: object, slopes: Sequence[Any], sources: Sequence[Any], wanted: Sequence[bool], keep: bool
    ) -> tuple[Any, ...] | bool | None: ...

class TensorCache64:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by TensorRnn64 alone

class TensorRnn64:
    def __init__(self, tensors: Tensors, network: object) -> None: ...
    @property
    def network(self) -> Any: ...
    def pack(self, weights: Sequence[Any]) -> PackedRnn64 | None: ...
    def forward(
        self,
        x: object,
        state: Sequence[Any],
        weights: Sequence[Any],
        given: tuple[Any, Any, Any],
        keep: bool,
        packed: PackedRnn64 | None,
    ) -> tuple[Any, ...] | None: ...
    def backward(
        self, place: object, slopes: Sequence[Any], sources: Sequence[Any], wanted: Sequence[bool], keep: bool
    ) -> tuple[Any, ...] | bool | None: ...

class TensorCacheBf16:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by TensorRnnBf16 alone

class TensorRnnBf16:
    def __init__(self, tensors: Tensors, network: object) -> None: ...
    @property
    def network(self) -> Any: ...
    def pack(self, weights: Sequence[Any]) -> PackedRnnBf16 | None: ...
    def forward(
        self,
        x: object,
        state: Sequence[Any],
        weights: Sequence[Any],
        given: tuple[Any, Any, Any],
        keep: bool,
        packed: PackedRnnBf16 | None,
    ) -> tuple[Any, ...] | None: ...
    def backward(
        self, place: object, slopes: Sequence[Any], sources: Sequence[Any], wanted: Sequence[bool], keep: bool
    ) -> tuple[Any, ...] | bool | None: ...

# --- bind_ops.cpp

class PackedLinear32:
    def __init__(self, weight: _F32, bias: _F32 | None, backward: bool, threads: int) -> None: ...
    def forward(self, x: _F32, threads: int) -> _F32: ...
    def backward(self, dy: _F32, x: _F32, dweight: _F32, dbias: _F32 | None, threads: int) -> _F32: ...

class PackedLinear64:
    def __init__(self, weight: _F64, bias: _F64 | None, backward: bool, threads: int) -> None: ...
    def forward(self, x: _F64, threads: int) -> _F64: ...
    def backward(self, dy: _F64, x: _F64, dweight: _F64, dbias: _F64 | None, threads: int) -> _F64: ...

class Sampler32:
    def __init__(self, stepper: RnnStepper32, embedding: _F32 | None, output: PackedLinear32, threads: int) -> None: ...
    def prime(self, tokens: _Ids) -> None: ...
    def sample(
        self, length: int, temperature: float, top_k: int, top_p: float, seed: int, start: int
    ) -> NDArray[np.int64]: ...

class Sampler64:
    def __init__(self, stepper: RnnStepper64, embedding: _F64 | None, output: PackedLinear64, threads: int) -> None: ...
    def prime(self, tokens: _Ids) -> None: ...
    def sample(
        self, length: int, temperature: float, top_k: int, top_p: float, seed: int, start: int
    ) -> NDArray[np.int64]: ...

class SamplerBf16:
    def __init__(
        self, stepper: RnnStepperBf16, embedding: _F32 | None, output: PackedLinear32, threads: int
    ) -> None: ...
    def prime(self, tokens: _Ids) -> None: ...
    def sample(
        self, length: int, temperature: float, top_k: int, top_p: float, seed: int, start: int
    ) -> NDArray[np.int64]: ...

class OptimiserStep:
    def __init__(
        self,
        *,
        kind: str,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        alpha: float = 0.0,
        beta1: float = 0.0,
        beta2: float = 0.0,
        eps: float = 0.0,
        grad_scale: float = 1.0,
        nesterov: bool = False,
        step: int = 1,
    ) -> None: ...

# The functions take float32 or float64 arrays, of one dtype in a call; results have it too.
def softmax_cross_entropy(
    logits: NDArray[Any],
    target: _Ids,
    weights: NDArray[Any] | None,
    smoothing: float,
    reduction: str,
    threads: int,
) -> tuple[Any, NDArray[Any]]: ...
def linear_cross_entropy(
    x: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    target: _Ids,
    weights: NDArray[Any] | None,
    smoothing: float,
    reduction: str,
    dweight: NDArray[Any] | None,
    dbias: NDArray[Any] | None,
    threads: int,
) -> tuple[Any, NDArray[Any] | None]: ...
def embedding_forward(table: NDArray[Any], tokens: _Ids, threads: int) -> NDArray[Any]: ...
def embedding_backward(dy: NDArray[Any], tokens: _Ids, dtable: NDArray[Any], threads: int) -> None: ...
def dropout(x: NDArray[Any], p: float, seed: int, step: int, stream: int, threads: int) -> NDArray[Any]: ...
def optimiser_step(
    step: OptimiserStep,
    params: list[NDArray[Any]],
    grads: list[NDArray[Any]],
    state: list[list[NDArray[Any]]],
    threads: int,
) -> None: ...
def sum_of_squares(arrays: list[NDArray[Any]], threads: int) -> float: ...
def scale_values(arrays: list[NDArray[Any]], factor: float, threads: int) -> None: ...
def clip_values(arrays: list[NDArray[Any]], limit: float, threads: int) -> None: ...

# --- bind_seq2seq.cpp

class BeamRule:
    def __init__(
        self, *, width: int, n_best: int, min_length: int, max_length: int, length_penalty: float, attention: bool
    ) -> None: ...

# As above, the arrays of a call are of one dtype; stepper and packed layers too.
def attention_forward(
    query: NDArray[Any],
    keys: NDArray[Any],
    values: NDArray[Any],
    lengths: _Ids | None,
    v: NDArray[Any] | None,
    threads: int,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def attention_backward(
    dcontext: NDArray[Any],
    weights: NDArray[Any],
    query: NDArray[Any],
    keys: NDArray[Any],
    values: NDArray[Any],
    lengths: _Ids | None,
    v: NDArray[Any] | None,
    threads: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any] | None]: ...
def tanh(x: NDArray[Any], threads: int) -> NDArray[Any]: ...
def beam_search(
    stepper: Any,
    embedding: NDArray[Any] | None,
    output: Any,
    keys: NDArray[Any] | None,
    values: NDArray[Any] | None,
    lengths: _Ids | None,
    v: NDArray[Any] | None,
    query: Any,
    joined: Any,
    rule: BeamRule,
    threads: int,
) -> tuple[_Ids, _Ids, _F64, _F64, NDArray[Any] | None, NDArray[np.bool_]]: ...
