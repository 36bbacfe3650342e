# The compiled module. Its arguments are checked by the Python code that calls it.
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
def math_test(name: str, x: NDArray[Any]) -> NDArray[Any]: ...

# --- bind_rnn.cpp

class PackedRnn32:
    @property
    def nbytes(self) -> int: ...

class RnnCache32:
    @property
    def used(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class RnnStepper32:
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
        self, cache: RnnCache32, dy: _F32 | None, dstate: list[_F32 | None], keep: bool, threads: int
    ) -> tuple[_F32 | None, tuple[_F32, ...]]: ...
    def stepper(self, packed: PackedRnn32, batch: int, threads: int) -> RnnStepper32: ...

class PackedRnn64:
    @property
    def nbytes(self) -> int: ...

class RnnCache64:
    @property
    def used(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nbytes(self) -> int: ...

class RnnStepper64:
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
        self, cache: RnnCache64, dy: _F64 | None, dstate: list[_F64 | None], keep: bool, threads: int
    ) -> tuple[_F64 | None, tuple[_F64, ...]]: ...
    def stepper(self, packed: PackedRnn64, batch: int, threads: int) -> RnnStepper64: ...

