"""What the layers and cells share: how a call is looked at before the core has it."""

from __future__ import annotations

from typing import Any

import torch

from . import _autograd, _cores, _routes
from ._frozen import Freezable
from ._network import Given, Network

__all__ = ["Module", "parts"]

Tensor = Any
_NOTHING = Given()


class Module(Freezable):
    """A mixin. `_cell` names the network, "" is none; `_fields(form, dropout, compute)` are those of a Network."""

    compute_dtype: str | None = None
    _cell = ""
    _lowers = True  # what torch's autocast to bfloat16 gives

    def __init__(self, *args: Any, compute_dtype: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if compute_dtype is not None:
            if compute_dtype != "bfloat16":
                raise ValueError(f"compute_dtype must be None or 'bfloat16', got {compute_dtype!r}")
            self.compute_dtype = "bfloat16"

    def extra_repr(self) -> str:
        own = "" if self.compute_dtype is None else f", compute_dtype={self.compute_dtype}"
        return str(super().extra_repr()) + own  # type: ignore[misc]

    def _quickly(self, x: Any, hx: Any, weights: list[Any], form: str) -> tuple[Tensor, ...] | None:
        """y and the last states of what most calls are: plain tensors of the CPU in eager PyTorch. None where anything
        else has come, which _look then tells apart."""
        if not _routes.is_eager():
            return None
        compute = self._compute(getattr(weights[0], "dtype", None))
        state = parts(hx, self._cell == "lstm")
        if state is None or not (compute and self._cell) or _cores.on_gpu(weights[0]):
            return None
        core = _cores.cpu_core(*self._fields(form, 0.0, compute))  # type: ignore[attr-defined]
        packed = None if self._frozen is None else self._packed(compute, weights)
        return _autograd.quickly(core, _NOTHING, x, state, weights, packed)

    def _look(
        self, x: Tensor, state: tuple[Tensor, ...], weights: list[Any], form: str, dropout: float = 0.0
    ) -> tuple[Network, Tensor, tuple[Tensor, ...], _routes.Autocast | None] | str:
        """The network and what it gets, of the dtype of its parameters under autocast; or why torch must do it."""
        if weights[0] is None:
            return "a parameter is missing"
        if not self._cell:
            return "its nonlinearity is unknown"
        cast = _routes.autocast(x, weights, self._lowers)
        if isinstance(cast, str):
            return cast
        net = self._network(weights[0].dtype, form, dropout, cast)
        reason = _routes.unusable(net, x, state, weights)
        if reason is not None:
            return reason
        if cast is not None:
            x, state = cast.enter(x), tuple(map(cast.enter, state))
        return net, x, state, cast

    def _network(
        self, dtype: Any, form: str = "sequences", dropout: float = 0.0, cast: _routes.Autocast | None = None
    ) -> Network:
        compute = "bfloat16" if cast is not None else self._compute(dtype)
        return Network(*self._fields(form, dropout, compute))  # type: ignore[attr-defined]

    def _compute(self, dtype: Any) -> str:
        """What a module with parameters of this dtype computes in; "" is nothing that there are kernels for."""
        if self.compute_dtype is None:
            return _routes.DTYPES.get(dtype, "")
        if self.compute_dtype != "bfloat16":
            raise ValueError(f"compute_dtype must be None or 'bfloat16', got {self.compute_dtype!r}")
        if dtype is torch.float64:
            raise ValueError("compute_dtype='bfloat16' needs parameters of float32, got torch.float64")
        return "bfloat16" if dtype is torch.float32 else ""


def parts(hx: Any, pair: bool) -> tuple[Any, ...] | None:
    """The tensors of a state; None where it is anything else."""
    if hx is None:
        return ()
    if not pair:
        return (hx,) if isinstance(hx, torch.Tensor) else None
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        return None
    return tuple(hx) if isinstance(hx[0], torch.Tensor) and isinstance(hx[1], torch.Tensor) else None
