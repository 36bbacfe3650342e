"""What every layer and model is: named parameters and their gradients in fixed NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import checkpoint, cuda

__all__ = ["Module", "compute_dtype_name", "on_host", "parameter_dtype"]

Array = NDArray[Any]


def parameter_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 or float64, however it is spelt."""
    try:
        name = "" if dtype is None else np.dtype(dtype).name  # NumPy takes None for float64
    except TypeError:
        name = ""
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    return np.dtype(name)


def _aligned(values: Array) -> Array:
    """A copy that begins at a cache line: kernels stream through parameters, and NumPy aligns to 16 bytes only."""
    memory = np.empty(values.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array: Array = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    array[...] = values
    return array


def compute_dtype_name(compute_dtype: Any, dtype: np.dtype[Any]) -> str:
    """What products multiply: None for parameters and activations as they are, or "bfloat16" where they are float32."""
    if compute_dtype is None:
        return dtype.name
    try:
        name = np.dtype(compute_dtype).name
    except TypeError:
        name = str(compute_dtype)  # NumPy has no bfloat16 of its own
    if name != dtype.name and not (name == "bfloat16" and dtype == np.float32):
        allowed = f"None or '{dtype.name}'" if dtype != np.float32 else "None, 'float32' or 'bfloat16'"
        raise ValueError(f"compute_dtype must be {allowed} where dtype is {dtype.name}, got {compute_dtype!r}")
    return name


def on_host(module: Any) -> Any:
    """A copy of a module whose parameters are NumPy arrays."""
    copy = type(module)(**{**module.config, "device": None})
    copy.load_state_dict(module.state_dict())
    return copy


class Module:
    """Base of all layers and models.

    On a device (`device="cuda"`) the arrays are `rnnfast.cuda.DeviceArray`; state_dict copies them to the host.

    `params` and `grads` are dicts with the same names; their arrays stay the same objects as long as the module lives,
    so they may be read and written in place at any time. Backward passes add to `grads`. A subclass passes its
    constructor's arguments to `super().__init__` as `config`, from which pickle and deepcopy make a new one.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.params: dict[str, Any] = {}  # Array, or on a device cuda.DeviceArray
        self.grads: dict[str, Any] = {}
        self._parts: list[Module] = []
        self._frozen: Any = None  # not None between freeze and unfreeze: what inference reads of this module's own

    def _register(self, name: str, array: Array, device: str | None = None) -> Any:
        """A parameter with these values, and its gradient; on the device as cuda.DeviceArray."""
        place: Any = _aligned if device is None else cuda.to_device
        self.params[name] = place(array)
        self.grads[name] = place(np.zeros_like(array))
        return self.params[name]

    def _adopt(self, prefix: str, module: Module) -> None:
        """Make another module's parameters this one's too, under `prefix.`; it freezes with this one."""
        self._parts.append(module)
        for name in module.params:
            self.params[f"{prefix}.{name}"] = module.params[name]
            self.grads[f"{prefix}.{name}"] = module.grads[name]

    @property
    def num_parameters(self) -> int:
        """How many numbers are learnt; an array that has two names counts once."""
        return sum(array.size for array in {id(a): a for a in self.params.values()}.values())

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for grad in self.grads.values():
            grad.fill(0)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters."""
        return {name: np.array(array) for name, array in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy parameters in, by name. With `strict` the names must be exactly this module's.

        Raises ValueError for missing or unexpected names and for wrong shapes, TypeError for arrays that are not
        floating point; then nothing has changed.
        """
        new = dict(self._checked(state, strict))
        for name, array in new.items():
            self.params[name][...] = array

    def _checked(self, state: Mapping[str, Any], strict: bool) -> Iterator[tuple[str, Array]]:
        missing = [name for name in self.params if name not in state]
        unexpected = [name for name in state if name not in self.params]
        if strict and (missing or unexpected):
            raise ValueError(
                f"state must have exactly the parameters of {type(self).__name__}; "
                f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}"
            )
        for name, param in self.params.items():
            if name in state:
                array = np.asarray(state[name])
                if array.dtype.kind != "f":
                    raise TypeError(f"state['{name}'] must be floating point, got {array.dtype}")
                if array.shape != param.shape:
                    raise ValueError(f"state['{name}'] must have shape {param.shape}, got {array.shape}")
                yield name, array

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to one safetensors file, atomically."""
        checkpoint.save(
            path,
            {name: np.asarray(array) for name, array in self.params.items()},
            {"kind": "parameters", "class": type(self).__name__},
        )

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote into this module's arrays; on any error nothing has changed."""
        arrays, _ = checkpoint.load(path)
        self.load_state_dict(arrays)

    def freeze(self) -> None:
        """Hold the parameters as they are now: calls stop looking at the arrays and are faster where they are small.
        `lm` samplers and streams pack what the arrays hold when they begin, frozen or not; a copy freezes what they
        hold when it is made. Training raises RuntimeError until unfreeze."""
        for part in self._parts:
            part.freeze()
        self._frozen = True

    def unfreeze(self) -> None:
        """Look at the parameters again."""
        for part in self._parts:
            part.unfreeze()
        self._frozen = None

    def _check_unfrozen(self) -> None:
        if self._frozen is not None:
            raise RuntimeError("forward needs the parameters as they are now: call unfreeze() first")

    def _extra_state(self) -> dict[str, Any]:
        """What a copy needs beside the parameters."""
        return {}

    def _load_extra_state(self, state: dict[str, Any]) -> None:
        pass

    def __getstate__(self) -> dict[str, Any]:
        grads = {name: np.array(grad) for name, grad in self.grads.items()}
        of = {"config": self.config, "params": self.state_dict(), "grads": grads, "extra": self._extra_state()}
        return {**of, "frozen": self._frozen is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["config"])  # type: ignore[misc]
        self.load_state_dict(state["params"])
        for name, grad in state["grads"].items():
            self.grads[name][...] = grad
        self._load_extra_state(state["extra"])
        if state["frozen"]:
            self.freeze()

    def __repr__(self) -> str:
        args = ", ".join(f"{name}={value!r}" for name, value in self.config.items() if value is not None)
        return f"{type(self).__name__}({args})"
