# The compiled module. Its arguments are checked by the Python code that calls it.
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_Ids = NDArray[np.int32]
_Array = TypeVar("_Array")
_Packed = TypeVar("_Packed")
_Cache = TypeVar("_Cache")
_Stepper = TypeVar("_Stepper")
_Linear = TypeVar("_Linear")

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

# --- bind_rnn.cpp: classes of a name and, behind it, a type of numbers: float32, float64, or products of bf16 pairs

class _PackedRnn:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by pack() alone
    @property
    def nbytes(self) -> int: ...

class PackedRnn32(_PackedRnn): ...
class PackedRnn64(_PackedRnn): ...
class PackedRnnBf16(_PackedRnn): ...

class _RnnCache:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by forward() alone
    @property
    def used(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class RnnCache32(_RnnCache): ...
class RnnCache64(_RnnCache): ...
class RnnCacheBf16(_RnnCache): ...

class _RnnStepper(Generic[_Array]):
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by stepper() alone
    def step(self, x: object, out: object = None) -> Any: ...
    def get_state(self, k: int) -> _Array: ...
    def set_state(self, k: int, state: _Array | None) -> None: ...
    def reset_row(self, row: int) -> None: ...

class RnnStepper32(_RnnStepper[_F32]): ...
class RnnStepper64(_RnnStepper[_F64]): ...
class RnnStepperBf16(_RnnStepper[_F32]): ...

class _Rnn(Generic[_Array, _Packed, _Cache, _Stepper]):
    def __init__(
        self,
        cell: str,
        input: int,
        hidden: int,
        layers: int,
        directions: int,
        recompute: bool,
        params: list[_Array | None],
        grads: list[_Array | None],
    ) -> None: ...
    def pack(self, threads: int) -> _Packed: ...
    def forward(
        self,
        x: _Array | None,
        tokens: _Ids | None,
        batch_first: bool,
        state: list[_Array | None],
        lengths: _Ids | None,
        reset: NDArray[np.bool_] | None,
        keep: bool,
        copy: bool,
        dropout: float,
        seed: int,
        step: int,
        packed: _Packed | None,
        threads: int,
    ) -> tuple[_Array, tuple[_Array, ...], _Cache | None]: ...
    def backward(
        self,
        cache: _Cache,
        dy: _Array | None,
        dstate: list[_Array | None],
        want_dx: bool,
        want_dstate0: bool,
        keep: bool,
        accumulate: bool,
        threads: int,
    ) -> tuple[_Array | None, tuple[_Array, ...]]: ...
    def stepper(self, packed: _Packed, batch: int, threads: int, in_loops: bool) -> _Stepper: ...

class Rnn32(_Rnn[_F32, PackedRnn32, RnnCache32, RnnStepper32]): ...
class Rnn64(_Rnn[_F64, PackedRnn64, RnnCache64, RnnStepper64]): ...
class RnnBf16(_Rnn[_F32, PackedRnnBf16, RnnCacheBf16, RnnStepperBf16]): ...

# --- bind_tensors.cpp: tensors of PyTorch, as objects

class Tensors:
    def __init__(self, torch: object, functions: object) -> None: ...

class _TensorCache:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...  # made by forward() alone

class TensorCache32(_TensorCache): ...
class TensorCache64(_TensorCache): ...
class TensorCacheBf16(_TensorCache): ...

class _TensorRnn(Generic[_Packed]):
    def __init__(self, tensors: Tensors, network: object) -> None: ...
    @property
    def network(self) -> Any: ...
    def pack(self, weights: Sequence[Any]) -> _Packed | None: ...
    def forward(
        self,
        x: object,
        state: Sequence[Any],
        weights: Sequence[Any],
        given: tuple[Any, Any, Any],
        keep: bool,
        packed: _Packed | None,
    ) -> tuple[Any, ...] | None: ...
    def backward(
        self, place: object, slopes: Sequence[Any], sources: Sequence[Any], wanted: Sequence[bool], keep: bool
    ) -> tuple[Any, ...] | bool | None: ...

class TensorRnn32(_TensorRnn[PackedRnn32]): ...
class TensorRnn64(_TensorRnn[PackedRnn64]): ...
class TensorRnnBf16(_TensorRnn[PackedRnnBf16]): ...

# --- bind_ops.cpp

class _PackedLinear(Generic[_Array]):
    def __init__(self, weight: _Array, bias: _Array | None, backward: bool, threads: int) -> None: ...
    def forward(self, x: _Array, rows: NDArray[np.int64] | None, threads: int) -> _Array: ...
    def backward(
        self,
        dy: _Array,
        x: _Array,
        rows: NDArray[np.int64] | None,
        dweight: _Array,
        dbias: _Array | None,
        threads: int,
    ) -> _Array: ...

class PackedLinear32(_PackedLinear[_F32]): ...
class PackedLinear64(_PackedLinear[_F64]): ...

class _Sampler(Generic[_Stepper, _Array, _Linear]):
    def __init__(self, stepper: _Stepper, embedding: _Array | None, output: _Linear, threads: int) -> None: ...
    def prime(self, tokens: _Ids) -> None: ...
    def sample(
        self, length: int, temperature: float, top_k: int, top_p: float, seed: int, start: int
    ) -> NDArray[np.int64]: ...

class Sampler32(_Sampler[RnnStepper32, _F32, PackedLinear32]): ...
class Sampler64(_Sampler[RnnStepper64, _F64, PackedLinear64]): ...
class SamplerBf16(_Sampler[RnnStepperBf16, _F32, PackedLinear32]): ...

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
