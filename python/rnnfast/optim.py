"""Optimisers, by PyTorch's formulas, and clipping of gradients. Each call is one pass of the compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core, _cuda_dense, cuda
from ._check import integer
from ._inputs import not_in_place
from ._numbers import finite_from_zero, positive, real
from ._threads import get_num_threads
from .module import Module

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "clip_grad_value"]

Array = NDArray[Any]
_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class _Entry(NamedTuple):
    name: str  # "<index of the module>.<name of the parameter>"
    param: Any  # Array, or cuda.DeviceArray
    grad: Any
    on_device: bool


def _entries(modules: Any) -> list[_Entry]:
    """Every parameter once, the first of its names counting."""
    entries: dict[int, _Entry] = {}
    for index, module in enumerate(modules):
        if not isinstance(module, Module):
            raise TypeError(f"modules must be rnnfast modules, got {type(module).__name__}")
        for name, param in module.params.items():
            if id(param) not in entries:
                on_device = isinstance(param, cuda.DeviceArray)
                entries[id(param)] = _Entry(f"{index}.{name}", param, module.grads[name], on_device)
    if not entries:
        raise ValueError("modules must have at least one parameter, got none")
    for entry in entries.values():
        _check_arrays(entry)
    return list(entries.values())


def _check_arrays(entry: _Entry) -> None:
    """The arrays of `params` and `grads` are the caller's to replace, and the kernels take them as they are."""
    on_host = () if entry.on_device else (("parameter", entry.param), ("gradient of parameter", entry.grad))
    for kind, array in on_host:
        if not isinstance(array, np.ndarray) or array.dtype not in _DTYPES:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{kind} {entry.name} must be a float32 or float64 array, got {got}")
        if not array.flags.carray:  # aligned too
            got = not_in_place(array)
            raise ValueError(f"{kind} {entry.name} must be aligned, C-contiguous and writeable, got {got}")
    if entry.on_device and not isinstance(entry.grad, cuda.DeviceArray):
        got = type(entry.grad).__name__
        raise TypeError(f"gradient of parameter {entry.name} must be a DeviceArray as the parameter is, got {got}")
    if entry.grad.shape != entry.param.shape or entry.grad.dtype != entry.param.dtype:
        raise ValueError(
            f"gradient of parameter {entry.name} must be {entry.param.dtype} of shape {entry.param.shape}, "
            f"got {entry.grad.dtype} of shape {entry.grad.shape}"
        )


def _gradients(modules: Any) -> tuple[list[list[Array]], list[Any]]:
    """The gradients of all parameters, those of one dtype together, and those on a device."""
    modules = (modules,) if isinstance(modules, Module) else modules
    if not isinstance(modules, Iterable):
        raise TypeError(f"modules must be a list of rnnfast modules, got {type(modules).__name__}")
    entries = _entries(modules)
    grads = [entry.grad for entry in entries if not entry.on_device]
    groups = ([grad for grad in grads if grad.dtype == dtype] for dtype in _DTYPES)
    return [group for group in groups if group], [entry.grad for entry in entries if entry.on_device]


def clip_grad_norm(modules: Iterable[Module] | Module, max_norm: float) -> float:
    """Scale all gradients together so that their norm is at most `max_norm`; returns the norm before.

    The norm is summed in double, with the same bits for any number of threads; infinity measures only. A norm that is
    not finite raises FloatingPointError, and nothing has changed.
    """
    max_norm = positive("max_norm", max_norm)
    groups, on_device = _gradients(modules)
    threads = get_num_threads()
    squares = sum(_core.sum_of_squares(group, threads) for group in groups)
    norm = math.sqrt(squares + (_cuda_dense.norm(on_device) if on_device else 0.0))
    if not math.isfinite(norm):
        raise FloatingPointError(f"the norm of the gradients must be finite, got {norm}")
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for group in groups:
            _core.scale_values(group, factor, threads)
        if on_device:
            _cuda_dense.scale_values(on_device, factor)
    return norm


def clip_grad_value(modules: Iterable[Module] | Module, clip_value: float) -> None:
    """Limit every element of the gradients to -clip_value .. clip_value; NaN stays NaN."""
    clip_value = positive("clip_value", clip_value)
    groups, on_device = _gradients(modules)
    for group in groups:
        _core.clip_values(group, clip_value, get_num_threads())
    if on_device:
        _cuda_dense.clip_values(on_device, clip_value)


class Optimizer:
    """Base of the optimisers. `lr` may be set at any time; what an optimiser keeps of the gradients belongs to the
    modules' places in `step`, so every step must be given the same ones.
    """

    _kind = ""

    def __init__(self, lr: float, **hyper: Any) -> None:
        self._hyper: dict[str, Any] = self._checked({"lr": lr, **hyper})
        self._step = 0
        self._arrays: dict[str, Any] = {}

    @property
    def lr(self) -> float:
        return float(self._hyper["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        self._hyper["lr"] = finite_from_zero("lr", value)

    def _states(self) -> tuple[str, ...]:
        """The arrays that are kept of a parameter, in the kernels' order."""
        raise NotImplementedError

    def _checked(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for name, value in hyper.items():
            if name == "nesterov":
                if not isinstance(value, bool | np.bool_):
                    raise TypeError(f"nesterov must be a bool, got {value!r}")
                checked[name] = bool(value)
            elif name == "betas":
                checked[name] = self._betas(value)
            elif name == "alpha":
                checked[name] = _fraction(name, value)
            else:
                checked[name] = finite_from_zero(name, value)
        if checked.get("nesterov") and checked["momentum"] == 0:
            raise ValueError("nesterov needs a momentum greater than 0, got momentum 0")
        return checked

    @staticmethod
    def _betas(value: Any) -> tuple[float, float]:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise TypeError(f"betas must be a pair of numbers in [0, 1), got {value!r}")
        return _fraction("betas[0]", value[0]), _fraction("betas[1]", value[1])

    def step(self, *modules: Module, grad_scale: float = 1.0) -> None:
        """One update of all parameters by their gradients, which are multiplied by grad_scale first.

        Raises:
            TypeError, ValueError: an argument or a hyperparameter is wrong, or the modules are not those of the earlier
                steps; nothing has changed then.
        """
        self._hyper = self._checked(self._hyper)
        scale = real("grad_scale", grad_scale, "a finite number", math.isfinite)
        entries = _entries(modules)
        arrays = self._arrays_for(entries)
        hyper = {k: v for k, v in self._hyper.items() if k != "betas"}
        if "betas" in self._hyper:
            hyper["beta1"], hyper["beta2"] = self._hyper["betas"]
        step = _core.OptimiserStep(kind=self._kind, grad_scale=scale, step=self._step + 1, **hyper)
        # Noted first: the kernels run to their end, and a Ctrl-C meanwhile is raised right behind them.
        before = self._arrays, self._step
        self._arrays, self._step = arrays, self._step + 1
        try:
            self._update(step, hyper, scale, entries)
        except Exception:  # for want of memory, before they changed anything
            self._arrays, self._step = before
            raise

    def _update(self, step: Any, hyper: dict[str, Any], scale: float, entries: list[_Entry]) -> None:
        arrays = self._arrays
        for dtype in _DTYPES:
            group = [e for e in entries if e.param.dtype == dtype and not e.on_device]
            if group:
                state = [[arrays[f"{e.name}.{kind}"] for e in group] for kind in self._states()]
                _core.optimiser_step(step, [e.param for e in group], [e.grad for e in group], state, get_num_threads())
        kept = [
            (e.param, e.grad, [arrays[f"{e.name}.{kind}"] for kind in self._states()]) for e in entries if e.on_device
        ]
        if kept:
            _cuda_dense.optimiser_step(self._kind, hyper, self._step, scale, kept)

    def _arrays_for(self, entries: list[_Entry]) -> dict[str, Any]:
        """The kept arrays of these parameters; zeros before the first step."""
        wanted = {f"{e.name}.{kind}": e.param for e in entries for kind in self._states()}
        if self._step == 0:
            return {name: _zeros(param) for name, param in wanted.items()}
        if wanted.keys() != self._arrays.keys():
            names = sorted(wanted.keys() ^ self._arrays.keys())
            raise ValueError(
                "modules must be those of the steps before: their parameters and what the optimiser keeps "
                f"({len(self._arrays)} arrays) differ in {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
            )
        for name, param in wanted.items():
            kept = self._arrays[name]
            if isinstance(param, cuda.DeviceArray) != isinstance(kept, cuda.DeviceArray):  # as load_state_dict left it
                kept = self._arrays[name] = (
                    cuda.to_device(kept) if isinstance(param, cuda.DeviceArray) else kept.numpy()
                )
            if kept.shape != param.shape or kept.dtype != param.dtype:
                raise ValueError(
                    f"modules must be those of the steps before: {name} is {kept.dtype} of shape {kept.shape}, "
                    f"got a parameter of {param.dtype} and shape {param.shape}"
                )
        return self._arrays

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on: "type", "hyper" and "step" can be JSON, "arrays" are copies."""
        hyper = {k: list(v) if isinstance(v, tuple) else v for k, v in self._hyper.items()}
        arrays = {name: np.array(array) for name, array in self._arrays.items()}
        return {"type": self._kind, "hyper": hyper, "step": self._step, "arrays": arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, the learning rate and the other hyperparameters among it; arrays are copied.

        Raises TypeError or ValueError where the state is another optimiser's or damaged; nothing has changed then.
        """
        if not isinstance(state, Mapping) or not {"type", "hyper", "step", "arrays"} <= state.keys():
            raise ValueError("state must have the keys type, hyper, step and arrays")
        if state["type"] != self._kind:
            raise ValueError(f"state must be of {self._kind}, got one of {state['type']}")
        if not isinstance(state["hyper"], Mapping) or state["hyper"].keys() != self._hyper.keys():
            raise ValueError(f"state['hyper'] must have the keys {', '.join(self._hyper)}, got {state['hyper']!r}")
        hyper = self._checked(state["hyper"])
        step = integer("state['step']", state["step"], 0, 2**63 - 1)
        if not isinstance(state["arrays"], Mapping):
            raise TypeError(f"state['arrays'] must be a dict of arrays, got {type(state['arrays']).__name__}")
        arrays = {str(name): np.array(array, order="C") for name, array in state["arrays"].items()}
        for name, array in arrays.items():
            if array.dtype not in _DTYPES:
                raise TypeError(f"state['arrays']['{name}'] must be float32 or float64, got {array.dtype}")
        self._hyper, self._step, self._arrays = hyper, step, arrays

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._hyper.items())})"


def _zeros(like: Any) -> Any:
    return (
        cuda.to_device(np.zeros(like.shape, like.dtype)) if isinstance(like, cuda.DeviceArray) else np.zeros_like(like)
    )


def _fraction(name: str, value: Any) -> float:
    return real(name, value, "a number in [0, 1)", lambda v: 0 <= v < 1)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (also Nesterov's) and weight decay."""

    _kind = "SGD"

    def __init__(self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def _states(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self._hyper["momentum"] > 0 else ()


class RMSprop(Optimizer):
    """Gradients divided by the root of a running mean of their squares (Hinton, 2012)."""

    _kind = "RMSprop"

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)

    def _states(self) -> tuple[str, ...]:
        return ("square_avg", "momentum_buffer") if self._hyper["momentum"] > 0 else ("square_avg",)


class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015); weight decay is added to the gradient."""

    _kind = "Adam"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _states(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")


class AdamW(Adam):
    """Adam with the decay applied to the parameter itself (Loshchilov & Hutter, 2019)."""

    _kind = "AdamW"

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(lr, betas=betas, eps=eps, weight_decay=weight_decay)
