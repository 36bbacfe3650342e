"""Linear, Embedding and Dropout: what stands around recurrent layers, with the same forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core, _cuda_dense, cuda
from ._check import MOST_TOKENS, integer
from ._inputs import as_array, as_float, as_tokens
from ._numbers import real
from ._threads import get_num_threads
from .module import Module, parameter_dtype
from .random import CounterRng, fresh_seed

__all__ = ["Dropout", "Embedding", "Linear"]

Array = NDArray[Any]


class _LinearCache(NamedTuple):
    owner: Module
    x: Any  # (rows, in), a copy; on a device as it came
    packed: Any  # the weights of the forward pass
    leading: tuple[int, ...]
    chosen: NDArray[np.int64] | None = None  # the rows that count


class _EmbeddingCache(NamedTuple):
    owner: Module
    tokens: Any  # int32, flat, a copy; on a device as it came
    leading: tuple[int, ...]


class _DropoutCache(NamedTuple):
    owner: Module
    p: float
    seed: int
    step: int
    shape: tuple[int, ...]


def _floats(name: str, value: Any, width: int, dtype: np.dtype[Any]) -> Array:
    """A C-contiguous (..., width) array."""
    array = as_array(name, value)
    if array.ndim == 0 or array.shape[-1] != width:
        raise ValueError(f"{name} must have shape (..., {width}), got {array.shape}")
    return as_float(name, array, array.shape, dtype)


def _chosen(where: Any, leading: tuple[int, ...]) -> NDArray[np.int64] | None:
    """The numbers of the rows that `where` picks, or None for all of them."""
    if where is None:
        return None
    array = np.asarray(where)
    if array.dtype != np.bool_:
        raise TypeError(f"where must be bool, got dtype {array.dtype}")
    if array.shape != leading:
        raise ValueError(f"where must have shape {leading}, got {array.shape}")
    return np.flatnonzero(array)


def _cache(cache: Any, kind: type, owner: Module) -> Any:
    if not isinstance(cache, kind):
        raise TypeError(f"cache must be what forward returned, got {type(cache).__name__}")
    if cache.owner is not owner:  # type: ignore[attr-defined]
        raise ValueError("cache must be of this layer's forward, got one of another layer")
    return cache


def _device(device: str | None, dtype: np.dtype[Any]) -> str | None:
    """The device's name, or None for the CPU."""
    name = cuda.device_name(device)
    if name is not None and dtype != np.float32:
        raise ValueError(f"device='cuda' computes in float32, got dtype {dtype.name}")
    return name


def _device_config(device: str | None) -> dict[str, str]:
    """What the configuration says of the device: nothing on the CPU, as it always was."""
    return {} if device is None else {"device": device}


def _copies(params: dict[str, Any]) -> dict[str, Any]:
    return {name: array.copy() for name, array in params.items()}


def _own(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A parameter or gradient as it is now: the caller may have put another array in its place, and the kernels take
    it as it is."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a {dtype.name} array, got {got}")
    if array.shape != shape or not array.flags.carray:
        kind = "" if array.flags.carray else " that is not aligned, C-contiguous and writeable"
        raise ValueError(
            f"{name} must have shape {shape}, aligned, C-contiguous and writeable, got {array.shape}{kind}"
        )
    return array


class _Frozen(NamedTuple):
    params: dict[str, Any]
    packed: Any  # None on a device


class Linear(Module):
    """y = x W^T + b over the last axis of x.

    Parameters: weight (out_features, in_features) and bias (out_features), drawn as PyTorch does, uniformly from
    +-1/sqrt(in_features). `seed` None draws a fresh one, recorded in `seed`. With `device` "cuda" (float32 only) it
    takes and gives rnnfast.cuda.DeviceArray; host arrays are copied, and the result is a DeviceArray all the same.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: Any = "float32",
        device: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.in_features = integer("in_features", in_features, 1)
        self.out_features = integer("out_features", out_features, 1)
        if not isinstance(bias, bool | np.bool_):
            raise TypeError(f"bias must be a bool, got {bias!r}")
        self.bias, self.dtype, self.seed = bool(bias), parameter_dtype(dtype), fresh_seed(seed)
        self.device = _device(device, self.dtype)
        super().__init__(
            {
                "in_features": self.in_features,
                "out_features": self.out_features,
                "bias": self.bias,
                "dtype": self.dtype.name,
                "seed": self.seed,
                **_device_config(device),
            }
        )
        generator = np.random.Generator(np.random.PCG64(self.seed))
        bound = 1 / np.sqrt(self.in_features)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        for name, shape in shapes.items():
            self._register(name, generator.uniform(-bound, bound, shape).astype(self.dtype), self.device)

    def pack(self, *, backward: bool = False) -> Any:
        """The parameters as they are now, for the compiled kernels; `backward`: also for the gradient of x."""
        kind = _core.PackedLinear32 if self.dtype == np.float32 else _core.PackedLinear64
        return kind(*self._arrays(self.params, ""), backward, get_num_threads())

    def packed(self) -> Any:
        """The same, or what freeze() has packed."""
        return self.pack() if self._frozen is None else self._frozen.packed

    def _arrays(self, of: dict[str, Any], what: str) -> tuple[Array, Array | None]:
        weight = _own(f"{what}weight", of["weight"], (self.out_features, self.in_features), self.dtype)
        return weight, _own(f"{what}bias", of["bias"], (self.out_features,), self.dtype) if self.bias else None

    def __call__(self, x: Any, *, where: Any = None) -> Array:
        """(..., in_features) to (..., out_features).

        `where` (...) booleans picks the rows that count, on the CPU: y is 0 in the others, whose x is not read.
        """
        if self.device is not None:
            self._check_no_choice(where)
            return self._on_device(_cuda_dense.floats("x", x, self.in_features), self.held)
        array = _floats("x", x, self.in_features, self.dtype)
        rows = array.reshape(-1, self.in_features)
        y: Array = self.packed().forward(rows, _chosen(where, array.shape[:-1]), get_num_threads())
        return y.reshape(*array.shape[:-1], self.out_features)

    def forward(
        self, x: Any, training: bool = True, rng: CounterRng | None = None, *, copy: bool = True, where: Any = None
    ) -> tuple[Array, Any]:
        """As a call, and with the cache that backward needs; training and rng make no difference here. Without `copy`
        the cache may hold x itself, which must not be written to before backward."""
        self._check_unfrozen()
        if self.device is not None:
            self._check_no_choice(where)
            on_device, params = _cuda_dense.floats("x", x, self.in_features), _copies(self.params)
            return self._on_device(on_device, params), _LinearCache(self, on_device, params, on_device.shape[:-1])
        array = _floats("x", x, self.in_features, self.dtype)
        leading = array.shape[:-1]
        rows = array.reshape(-1, self.in_features)
        chosen = _chosen(where, leading)
        cache = _LinearCache(self, rows.copy() if copy else rows, self.pack(backward=True), leading, chosen)
        y: Array = cache.packed.forward(rows, chosen, get_num_threads())
        return y.reshape(*leading, self.out_features), cache

    def backward(self, dy: Any, cache: Any) -> Array:
        """The gradient of x, by the weights of the forward pass; those of the parameters are added to `grads`."""
        cache = _cache(cache, _LinearCache, self)
        if self.device is not None:
            given = _cuda_dense.floats("dy", dy, shape=(*cache.leading, self.out_features))
            result: Any = _cuda_dense.linear_backward(given, cache.packed["weight"])
            _cuda_dense.add_linear_gradients(given, cache.x, self.grads["weight"], self.grads.get("bias"))
            return result
        dy = as_float("dy", dy, (*cache.leading, self.out_features), self.dtype).reshape(-1, self.out_features)
        grads = self._arrays(self.grads, "the gradient of ")
        dx: Array = cache.packed.backward(dy, cache.x, cache.chosen, *grads, get_num_threads())
        return dx.reshape(*cache.leading, self.in_features)

    def _check_no_choice(self, where: Any) -> None:
        if where is not None:
            raise ValueError("where must be None on a device, whose products take all rows")

    def _on_device(self, x: Any, params: Any) -> Any:
        return _cuda_dense.linear_forward(x, params["weight"], params.get("bias"))

    @property
    def held(self) -> dict[str, Any]:
        """The parameters that inference goes by: `params`, or copies of them since freeze()."""
        return self.params if self._frozen is None else self._frozen.params

    def freeze(self) -> None:
        self._frozen = _Frozen(_copies(self.params), self.pack() if self.device is None else None)


class Embedding(Module):
    """Rows of a table: integers (...) to (..., embedding_dim).

    Parameter: weight (num_embeddings, embedding_dim), drawn from N(0, 1). With `device` "cuda" (float32 only) the rows
    are a rnnfast.cuda.DeviceArray.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: Any = "float32",
        device: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.num_embeddings = integer("num_embeddings", num_embeddings, 1, MOST_TOKENS)
        self.embedding_dim = integer("embedding_dim", embedding_dim, 1)
        self.dtype, self.seed = parameter_dtype(dtype), fresh_seed(seed)
        self.device = _device(device, self.dtype)
        super().__init__(
            {
                "num_embeddings": self.num_embeddings,
                "embedding_dim": self.embedding_dim,
                "dtype": self.dtype.name,
                "seed": self.seed,
                **_device_config(device),
            }
        )
        generator = np.random.Generator(np.random.PCG64(self.seed))
        self._shape = (self.num_embeddings, self.embedding_dim)
        self._register("weight", generator.standard_normal(self._shape).astype(self.dtype), self.device)

    def _tokens(self, x: Any) -> Any:
        if isinstance(x, _cuda_dense.DeviceTokens):
            return x
        array = as_array("x", x)
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"x must be integers, got dtype {array.dtype}")
        tokens = as_tokens("x", array, self.num_embeddings)
        return tokens if self.device is None else _cuda_dense.tokens_on_device(tokens)

    def _gather(self, table: Any, tokens: Any) -> Any:
        if self.device is not None:
            return _cuda_dense.embedding_forward(_cuda_dense.own("weight", table, self._shape), tokens)
        table = _own("weight", table, self._shape, self.dtype)
        y: Array = _core.embedding_forward(table, tokens.reshape(-1), get_num_threads())
        return y.reshape(*tokens.shape, self.embedding_dim)

    def __call__(self, x: Any) -> Array:
        return self._gather(self.table, self._tokens(x))

    def forward(self, x: Any, training: bool = True, rng: CounterRng | None = None) -> tuple[Array, Any]:
        """As a call, and with the cache that backward needs; training and rng make no difference here."""
        self._check_unfrozen()
        tokens = self._tokens(x)
        kept = tokens.flatten() if self.device is None else tokens
        return self._gather(self.params["weight"], tokens), _EmbeddingCache(self, kept, tokens.shape)

    def backward(self, dy: Any, cache: Any) -> None:
        """Adds into `grads`; tokens have no gradient."""
        cache = _cache(cache, _EmbeddingCache, self)
        if self.device is not None:
            given = _cuda_dense.floats("dy", dy, shape=(*cache.leading, self.embedding_dim))
            on_device = _cuda_dense.own("the gradient of weight", self.grads["weight"], self._shape)
            return _cuda_dense.embedding_backward(given, cache.tokens, on_device)
        dy = as_float("dy", dy, (*cache.leading, self.embedding_dim), self.dtype)
        grad = _own("the gradient of weight", self.grads["weight"], self._shape, self.dtype)
        _core.embedding_backward(dy.reshape(-1, self.embedding_dim), cache.tokens, grad, get_num_threads())

    @property
    def table(self) -> Any:
        """The rows that inference goes by: `params["weight"]`, or a copy of it since freeze()."""
        return self.params["weight"] if self._frozen is None else self._frozen

    def freeze(self) -> None:
        self._frozen = self.params["weight"].copy()


class Dropout(Module):
    """In training, each element becomes 0 with probability p, else is divided by 1 - p; a call changes nothing.

    x is (T, ..., n): an element's fate is a function of (seed, step + t, index, row, unit), where a row is one of the
    n-vectors of a time step, so it depends neither on threads nor on how a sequence is cut into chunks. Several modules
    that follow one generator need a different `index` each, or they would drop the same elements.
    """

    def __init__(self, p: float, *, seed: int | None = None, index: int = 0) -> None:
        self.p = real("p", p, "a number in [0, 1]", lambda v: 0 <= v <= 1)
        self.seed = fresh_seed(seed)
        self.index = integer("index", index, 0)
        if self.index >= 0x8000:
            raise ValueError(f"index must be below {0x8000}, got {index}")
        super().__init__({"p": self.p, "seed": self.seed, "index": self.index})
        self.rng = CounterRng(self.seed)

    def __call__(self, x: Any) -> Array:
        return as_array("x", x)

    def forward(self, x: Any, training: bool = True, rng: CounterRng | None = None) -> tuple[Array, Any]:
        """y, and the cache for backward. `rng` (the module's own where it is None) moves on by T steps if it drops."""
        if rng is not None and not isinstance(rng, CounterRng):
            raise TypeError(f"rng must be a rnnfast.random.CounterRng or None, got {rng!r}")
        array: Any = x if isinstance(x, cuda.DeviceArray) else as_array("x", x)
        if array.dtype.kind != "f":
            raise TypeError(f"x must be floating point, got dtype {array.dtype}")
        if not training or self.p == 0:
            return array, None
        rng = self.rng if rng is None else rng
        cache = _DropoutCache(self, self.p, rng.seed, rng.step, array.shape)
        y = self._drop(array, cache)
        rng.step += array.shape[0] if array.ndim > 1 else 1
        return y, cache

    def backward(self, dy: Any, cache: Any) -> Array:
        """dy through the mask of the forward pass, which is drawn again."""
        array: Any = dy if isinstance(dy, cuda.DeviceArray) else as_array("dy", dy)
        if cache is None:  # nothing was dropped
            return array
        cache = _cache(cache, _DropoutCache, self)
        if isinstance(array, cuda.DeviceArray):
            return self._drop(_cuda_dense.floats("dy", array, shape=cache.shape), cache)
        return self._drop(as_float("dy", array, cache.shape, array.dtype), cache)

    def _drop(self, array: Any, cache: _DropoutCache) -> Any:
        if isinstance(array, cuda.DeviceArray):
            return _cuda_dense.drop(array, cache.p, cache.seed, cache.step, 0x8000 + self.index)
        dtype = np.float64 if array.dtype.itemsize >= 8 else np.float32
        shape = array.shape if array.ndim > 1 else (1, *array.shape)
        steps, width = (shape[0], shape[-1]) if shape else (1, 1)
        flat = np.ascontiguousarray(array, dtype).reshape(steps, int(np.prod(shape[1:-1], dtype=np.int64)), width)
        stream = 0x8000 + self.index
        y: Array = _core.dropout(flat, cache.p, cache.seed, cache.step % 2**64, stream, get_num_threads())
        return y.reshape(array.shape)

    def _extra_state(self) -> dict[str, Any]:
        return {"rng": self.rng.state_dict()}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        self.rng.load_state_dict(state["rng"])
