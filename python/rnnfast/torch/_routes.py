"""Which way a call goes: to the core at once, through the operators, or to torch.nn's own code, with a warning."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from . import _autograd, _cores, _gpu, _network, _operators, _transforms
from ._dynamo import constant_in_graphs
from ._network import PLAIN, Call, Network

__all__ = ["DTYPES", "Autocast", "autocast", "is_eager", "run", "tell", "unusable"]

Tensor = Any
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
_told: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def is_eager() -> bool:
    """Whether nothing but PyTorch's autograd, and no cast, stands between a module and the core."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
    )


def run(call: Call, packed: Any = None) -> tuple[Tensor, ...]:
    """(y, the last states). `packed`: weights that were frozen."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        way = _operators.apply
    elif torch._C._are_functorch_transforms_active():
        way = _transforms.apply
    elif not call.x.is_meta and PLAIN.issuperset(map(type, call.sources)):
        way = _autograd.apply
    else:
        way = _operators.apply
    return way(call, packed)


def unusable(net: Network, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]) -> str | None:
    """Why the kernels cannot take these tensors; None where they can. What is wrong beyond that is for torch to say."""
    place, dtype = weights[0].device, weights[0].dtype
    if not net.compute:
        return f"its parameters are {_name(dtype)}"
    if _cores.on_gpu(weights[0]):
        trouble = _gpu.problem(net.compute, net.form, weights[0].is_cuda)
        if trouble is not None:
            return trouble
    elif place.type not in ("cpu", "meta"):
        return _whereabouts(weights[0])
    if forward_ad._current_level >= 0:  # torch.func.jvp and hessian too
        return "forward-mode differentiation has no kernels"
    for tensor, shape in zip(weights, _network.weight_shapes(net), strict=True):
        if tensor is None:
            return "a parameter is missing"
        if tensor.dtype is not dtype:
            return f"its parameters are {_name(dtype)} and {_name(tensor.dtype)}"
        if tensor.shape != shape:
            return f"a parameter has shape {tuple(tensor.shape)} instead of {shape}"
        if tensor.device != place or tensor.layout is not torch.strided:
            return _whereabouts(tensor)
    for tensor in (x, *state):
        if tensor.device != place or tensor.layout is not torch.strided:
            return _whereabouts(tensor)
    return None


def _whereabouts(tensor: Tensor) -> str:
    if tensor.layout is not torch.strided:
        return f"a tensor has the layout {_name(tensor.layout)}"
    return f"a tensor is on the device {tensor.device}"


def tell(module: torch.nn.Module, reason: str) -> None:
    """The one warning that torch's own code runs, for each module and reason."""
    told = _told.setdefault(module, set())
    if reason not in told:
        told.add(reason)
        _warn(f"rnnfast.torch.{type(module).__name__} runs on torch.nn's own code: {reason}")


@constant_in_graphs
def _warn(message: str) -> None:
    # Past tell, _by_torch, forward and the two of torch.nn.Module that call it.
    warnings.warn(message, RuntimeWarning, stacklevel=7)


class Autocast:
    """Under autocast to bfloat16 on the CPU: products of bf16 pairs, and results of the dtype that torch.nn's have."""

    def __init__(self, x: Tensor, lowers: bool) -> None:
        self.dtype = torch.bfloat16 if lowers else x.dtype if x.is_floating_point() else torch.float32

    @staticmethod
    def enter(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype is torch.bfloat16 else tensor

    def leave(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t.to(self.dtype) for t in tensors)


def autocast(x: Tensor, weights: Sequence[Tensor], lowers: bool) -> Autocast | str | None:
    """None where autocast is off or does not concern these dtypes; a reason where torch must do it."""
    device = "cuda" if _cores.on_gpu(weights[0]) else "cpu"
    if not torch._C._is_any_autocast_enabled() or not torch.is_autocast_enabled(device):
        return None
    if device == "cuda":
        return "autocast is on, which is torch's on a GPU"
    if weights[0].dtype is not torch.float32:
        return None
    to = torch.get_autocast_dtype("cpu")
    return Autocast(x, lowers) if to is torch.bfloat16 else f"autocast is to {_name(to)}"


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")
