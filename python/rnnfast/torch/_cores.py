"""Forward and backward of a call without autograd, by the core that there is for where its tensors are.

A core looks at each tensor itself: whether it is a plain one of its device, of which dtype and shape, and where its
numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from .. import _core
from ._gpu import GpuRnn
from ._network import PLAIN, Call, Network

__all__ = ["backward", "core_of", "cpu_core", "forward", "on_gpu", "unwrapped"]

Tensor = Any
_CORES: dict[str, Any] = {
    "float32": _core.TensorRnn32,
    "float64": _core.TensorRnn64,
    "bfloat16": _core.TensorRnnBf16,
}
# With functions that read tensors fast, where torch has them.
_TENSORS = _core.Tensors(torch, getattr(torch.Tensor, "__dlpack_c_exchange_api__", None))


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is for the GPU's kernels. Tests on an emulated device have a function in its place."""
    there: bool = tensor.is_cuda
    return there


@lru_cache(maxsize=256)
def cpu_core(*network: Any) -> Any:
    """Of the fields of a Network, which is its `network`."""
    net = Network(*network)
    return _CORES[net.compute](_TENSORS, net)


@lru_cache(maxsize=256)
def _gpu_core(net: Network) -> GpuRnn:
    return GpuRnn(net)


def core_of(net: Network, like: Tensor) -> Any:
    """The core for tensors that are where `like` is."""
    return _gpu_core(net) if on_gpu(like) else cpu_core(*net)


def forward(call: Call, keep: bool, packed: Any = None) -> tuple[Tensor, ...]:
    """(y, the last states[, cache]); a cell's y is its first state, so only c follows it.

    The cache (with `keep`) is a tensor that stands for what backward needs, and owns it: a copy of it, or one whose
    cache was used, is worth nothing, and `backward` then computes forward again. `packed`: what the core's `pack` has
    made of the weights."""
    (x,), state, weights = map(unwrapped, ((call.x,), call.state, call.weights))
    made: tuple[Tensor, ...] | None
    made = core_of(call.net, weights[0]).forward(x, state, weights, call.given, keep, packed)
    if made is None:
        raise ValueError(f"x, states or weights are not what {call.net} takes")
    return made


def backward(
    call: Call, cache: Tensor, slopes: Sequence[Tensor | None], wanted: Sequence[bool], keep: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of `call.sources` as far as they are `wanted`, else None; of weights all or none. `slopes`: those
    of y and of the last states, where None is zeros."""
    core, sources, slopes = core_of(call.net, call.weights[0]), unwrapped(call.sources), unwrapped(slopes)
    made: Any = core.backward(cache, slopes, sources, wanted, keep)
    if made is False:  # a copy of the cache, or another pass has used it
        made = core.backward(forward(call, True)[-1], slopes, sources, wanted, False)
    if not made:
        raise ValueError(f"gradients of what {call.net} makes must be of its dtype, on the device of its weights")
    found: tuple[Tensor | None, ...] = made
    return found


def unwrapped(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Plain ones, where a subclass is but a name."""
    return tuple(t if t is None or type(t) in PLAIN else t.as_subclass(torch.Tensor) for t in tensors)
