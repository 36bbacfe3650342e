"""The GPU backend: what there is of it, arrays in its memory, and arrays of others (torch, CuPy) as it reads them.

A layer made with `device="cuda"` has its parameters and gradients in device memory, as `DeviceArray`. It takes torch
and CuPy arrays of that device without a copy, runs on their current stream with memory from their allocator, and gives
arrays of the same kind; backward, too, runs on the stream that is current when it is called. NumPy arrays are copied to
the device, and results back to NumPy, which waits for the device. Lengths, resets and tokens are read by the host: pass
them in host memory where a wait would hurt. What is done to parameters and gradients themselves (loading, zero_grad,
optimisers) runs on the default stream. A call on another stream comes after what the default stream has by then, and
what the default stream is given later comes after the call; the host waits for neither.

In a build with RNNFAST_CUDA=EMULATE the device is emulated on the CPU: for tests, not for use.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_cuda: Any = None
_missing = "this build of rnnfast has no GPU kernels (build it with RNNFAST_CUDA=ON)"
try:
    _cuda = importlib.import_module("rnnfast._cuda")
except ModuleNotFoundError:
    pass
except ImportError as error:
    _missing = f"the GPU kernels of rnnfast cannot be loaded: {error}"

__all__ = ["DeviceArray", "available", "describe", "problem", "recurrence", "synchronize"]

Array = NDArray[Any]
_CUDA_HOST, _CUDA_DEVICE = 1, 2  # DLPack's kDLCPU and kDLCUDA


def problem() -> str:
    """What keeps device="cuda" from working here; empty if nothing does."""
    if _cuda is None:
        return _missing
    if _cuda.device_count() == 0:
        return f"there is no CUDA device: {_cuda.why_no_device()}"
    _find_cublas()
    return _cuda.gemm_problem() or ""


def available() -> bool:
    """Whether device="cuda" works here (also on the emulated device of a build for tests)."""
    return not problem()


def describe() -> dict[str, Any]:
    """The backend as plain values, for `rnnfast.info()`."""
    trouble = problem()
    if trouble:
        return {"available": False, "problem": trouble}
    return {"available": True, "emulated": _cuda.emulated, **_cuda.device_info(_cuda.current_device())}


def device_name(device: Any) -> str | None:
    """None or "cpu" to None; "cuda" and "cuda:N" to "cuda:N", where there is one; else an error."""
    if device is None or device == "cpu":
        return None
    name, _, number = str(device).partition(":")
    if name != "cuda" or (number and not number.isdecimal()):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    trouble = problem()
    if trouble:
        raise RuntimeError(f"device={str(device)!r} cannot be used: {trouble}")
    index, current = int(number or _cuda.current_device()), _cuda.current_device()
    if index >= _cuda.device_count():
        raise ValueError(f"device must be below cuda:{_cuda.device_count()}, got {device!r}")
    if index != current:
        raise ValueError(f"device must be the current one, cuda:{current} (torch.cuda.set_device), got {device!r}")
    return f"cuda:{index}"


def check_device(name: str, device: int) -> None:
    """A call runs on the current device, so what it is given must be there."""
    current = _cuda.current_device()
    if device != current:
        raise ValueError(
            f"{name} must be on the current device, cuda:{current} (torch.cuda.set_device), got cuda:{device}"
        )


_searched = False


def _find_cublas() -> None:
    """Tell the module of the wheel nvidia-cublas, which also comes with torch."""
    global _searched
    if _searched:
        return
    _searched = True
    for folder in map(Path, [p for p in sys.path if p] or [os.getcwd()]):
        for pattern in ("nvidia/cu13/lib/libcublas.so.*", "nvidia/cublas/lib/libcublas.so.*"):
            for path in sorted(folder.glob(pattern), reverse=True):
                _cuda.gemm_search(str(path))


# ---- how the recurrence runs ----

_wish = "automatic"


@contextlib.contextmanager
def recurrence(kind: str) -> Iterator[None]:
    """Choose the kernels of the recurrence: "small", "persistent", "step" or "automatic". Where a layer does not fit,
    it takes "step". For tests and measurements: the automatic choice is made for speed."""
    global _wish
    if kind not in ("automatic", "small", "persistent", "step"):
        raise ValueError(f"kind must be 'automatic', 'small', 'persistent' or 'step', got {kind!r}")
    before, _wish = _wish, kind
    try:
        yield
    finally:
        _wish = before


def wished() -> str:
    return _wish


def synchronize(stream: int = 0) -> None:
    """Wait for the device."""
    _cuda.synchronize(stream)


# ---- arrays ----


class DeviceArray:
    """A C-contiguous float32 or int32 array in device memory, for exchange by DLPack and `__cuda_array_interface__`.

    `numpy()` copies it to the host, `array[...] = values` copies from the host.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any = np.float32, *, owner: Any = None, address: int = 0,
        device: int | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        if self.dtype not in (np.dtype(np.float32), np.dtype(np.int32)):
            raise TypeError(f"dtype must be float32 or int32, got {self.dtype}")
        if owner is None:
            owner = _cuda.Memory(max(self.nbytes, 1), 0)
            address = owner.address
        self.owner, self.address = owner, address
        self.device: int = _cuda.current_device() if device is None else device

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"

    def reshape(self, *shape: int) -> DeviceArray:
        """A view of another shape."""
        known = int(np.prod([n for n in shape if n != -1], dtype=np.int64))
        full = tuple(self.size // max(known, 1) if n == -1 else n for n in shape)
        if int(np.prod(full, dtype=np.int64)) != self.size:
            raise ValueError(f"shape must have {self.size} elements, got {shape}")
        return DeviceArray(full, self.dtype, owner=self.owner, address=self.address, device=self.device)

    def numpy(self) -> Array:
        """A copy on the host; waits for the device."""
        check_device("an array that is read", self.device)
        array: Array = np.empty(self.shape, self.dtype)
        _cuda.copy(array.ctypes.data, self.address, self.nbytes, 0)
        _cuda.synchronize(0)
        return array

    def copy(self) -> DeviceArray:
        check_device("an array that is copied", self.device)
        made = DeviceArray(self.shape, self.dtype)
        _cuda.copy(made.address, self.address, self.nbytes, 0)
        return made

    def fill(self, value: float) -> None:
        check_device("an array that is set", self.device)
        if value == 0:
            _cuda.fill(self.address, 0, self.nbytes, 0)
        else:
            self[...] = np.full(self.shape, value, self.dtype)

    def __setitem__(self, index: Any, values: Any) -> None:
        if index is not Ellipsis and index != slice(None):
            raise TypeError("a DeviceArray is set as a whole: array[...] = values")
        check_device("an array that is set", self.device)
        if isinstance(values, DeviceArray) and values.shape == self.shape and values.dtype == self.dtype:
            _cuda.copy(self.address, values.address, self.nbytes, 0)
            return
        array = np.ascontiguousarray(np.broadcast_to(np.asarray(values), self.shape), self.dtype)
        _cuda.copy(self.address, array.ctypes.data, self.nbytes, 0)
        _cuda.synchronize(0)  # the host's array may go

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array on a device cannot be used by NumPy without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CUDA_HOST, 0) if _cuda.emulated else (_CUDA_DEVICE, self.device)

    def __dlpack__(
        self, *, stream: int | None = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        """The memory itself, or with `copy` a copy of it, for use on `stream` (None: the default one, -1: no matter
        which) after what the default stream has now. BufferError where it is asked for on another device."""
        kind, device = self.__dlpack_device__()
        if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != (kind, device):
            raise BufferError(f"dl_device must be {(kind, device)}, where the array is, got {tuple(dl_device)}")
        array = self.copy() if copy else self
        if stream is not None and stream != -1 and not _cuda.emulated:
            check_device("an array that is exported", self.device)
            _cuda.put_after(stream, 0)
        code = 2 if self.dtype == np.float32 else 0  # kDLFloat, kDLInt
        return _cuda.to_dlpack(array.address, array.shape, code, kind, device, array)

    def __getattr__(self, name: str) -> Any:
        if name == "__cuda_array_interface__" and not _cuda.emulated:
            return {
                "shape": self.shape,
                "typestr": self.dtype.str,
                "data": (self.address, False),
                "strides": None,
                "version": 3,
                "stream": 1,
            }
        raise AttributeError(name)

    def __reduce__(self) -> Any:
        return _on_device, (self.numpy(),)


def _on_device(values: Array) -> DeviceArray:
    made = DeviceArray(values.shape, values.dtype)
    made[...] = values
    return made


def to_device(values: Any) -> DeviceArray:
    """A copy of a host array on the current device."""
    array = np.asarray(values)
    return _on_device(np.ascontiguousarray(array, np.int32 if array.dtype.kind in "iub" else np.float32))


# ---- arrays of others ----


class Kind:
    """Where a call's arrays come from and what its results become. This one: NumPy, copied to the device and back."""

    stream = 0
    allocate: Any = None  # nbytes -> (address, owner); None is the device's own pool

    def now(self) -> Kind:
        """The same for a later call, on the stream that is current now."""
        return self

    def floats(self, name: str, value: Any) -> DeviceArray:
        if isinstance(value, DeviceArray):
            check_device(name, value.device)
            return value
        return to_device(np.asarray(to_host(value), np.float32))

    def empty(self, shape: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(shape)

    def result(self, array: DeviceArray | None) -> Any:
        return None if array is None else array.numpy()


class _Own(Kind):
    def result(self, array: DeviceArray | None) -> Any:
        return array


class _Foreign(Kind):
    """An array with `__cuda_array_interface__`."""

    device: int

    def _contiguous(self, value: Any) -> Any:
        """A C-contiguous float32 array of the library's on the device."""
        raise NotImplementedError

    def _view(self, value: Any) -> DeviceArray:
        face = value.__cuda_array_interface__
        assert face.get("strides") is None
        dtype, address = np.dtype(face["typestr"]), face["data"][0]
        return DeviceArray(face["shape"], dtype, owner=value, address=address, device=self.device)

    def floats(self, name: str, value: Any) -> DeviceArray:
        if isinstance(value, DeviceArray) or type(kind_of(value)) is Kind:
            return super().floats(name, value)
        return self._view(self._contiguous(value))

    def result(self, array: DeviceArray | None) -> Any:
        return None if array is None else array.owner.reshape(array.shape)


class _Torch(_Foreign):
    def __init__(self, device: Any) -> None:
        self._torch, self._device = sys.modules["torch"], device
        self.device = device.index
        check_device("tensors", self.device)
        self._stream = self._torch.cuda.current_stream(device)  # kept as long as a cache has memory of it
        self.stream = self._stream.cuda_stream

    def now(self) -> Kind:
        return _Torch(self._device)

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        made = self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)
        return made.data_ptr(), made

    def _contiguous(self, value: Any) -> Any:
        value = value.detach().to(self._device, self._torch.float32).contiguous().resolve_neg()
        # Kernels read up to 16 bytes at once; zeros that were never made have no address.
        return value.clone() if value._is_zerotensor() or value.data_ptr() % 16 else value

    def empty(self, shape: tuple[int, ...]) -> DeviceArray:
        return self._view(self._torch.empty(shape, dtype=self._torch.float32, device=self._device))

    def _view(self, value: Any) -> DeviceArray:
        shape = tuple(value.shape)
        return DeviceArray(shape, np.float32, owner=value, address=value.data_ptr(), device=self.device)


class _Cupy(_Foreign):
    def __init__(self, device: int) -> None:
        self._cupy, self.device = sys.modules["cupy"], device
        check_device("CuPy arrays", device)
        self._stream = self._cupy.cuda.get_current_stream()  # kept as long as a cache has memory of it
        self.stream = self._stream.ptr

    def now(self) -> Kind:
        return _Cupy(self.device)

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        made = self._cupy.cuda.alloc(nbytes)
        return made.ptr, made

    def _contiguous(self, value: Any) -> Any:
        return self._cupy.ascontiguousarray(self._cupy.asarray(value), dtype=np.float32)

    def empty(self, shape: tuple[int, ...]) -> DeviceArray:
        return self._view(self._cupy.empty(shape, np.float32))


def kind_of(value: Any) -> Kind:
    """How to read a value, and in what form to give results."""
    if isinstance(value, DeviceArray):
        return _Own()
    module = type(value).__module__.partition(".")[0]
    if module == "torch" and value.is_cuda:
        return _Torch(value.device)
    if module == "cupy":
        return _Cupy(value.device.id)
    return Kind()


def to_host(value: Any) -> Any:
    """Integers and masks as the host reads them."""
    if isinstance(value, DeviceArray):
        return value.numpy()
    module = type(value).__module__.partition(".")[0]
    if module == "torch":
        return value.detach().cpu().numpy()
    return value.get() if module == "cupy" else value


def dtype_kind(value: Any) -> str:
    """NumPy's letter for the kind of a value's numbers."""
    if type(value).__module__.partition(".")[0] == "torch":
        return "f" if value.is_floating_point() else "c" if value.is_complex() else "i"
    dtype = getattr(value, "dtype", None)
    return str(np.dtype(dtype).kind if dtype is not None else np.asarray(value).dtype.kind)


def check_floating(name: str, value: Any) -> None:
    """As on the CPU."""
    if dtype_kind(value) != "f":
        dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
        raise TypeError(f"{name} must be floating point, got dtype {dtype}")
