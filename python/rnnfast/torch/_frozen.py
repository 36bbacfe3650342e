"""Packed weights that a module keeps, between freeze and unfreeze."""

from __future__ import annotations

from typing import Any

import torch

from . import _network, _routes

__all__ = ["Freezable"]


class Freezable:
    """A module with `_network(dtype)` and `_current_weights()`."""

    _frozen: Any = None  # (what it computes in, packed weights)

    def _freeze(self) -> None:
        weights = self._current_weights()  # type: ignore[attr-defined]
        net = self._network(weights[0].dtype)  # type: ignore[attr-defined]
        if getattr(self, "proj_size", False):
            reason: str | None = "proj_size has no kernels yet"
        elif weights[0].is_meta:
            reason = "its parameters are on the device meta"
        else:
            reason = _routes.unusable(net, weights[0], (), weights)
        if reason is not None:
            self._unfreeze()
            _routes.tell(self, reason)
            return
        sources = [_network.stored(w.detach()).contiguous() for w in weights]
        self._frozen = net.compute, _network.core_of(net).pack([w.data_ptr() for w in sources])

    def _unfreeze(self) -> None:
        self.__dict__.pop("_frozen", None)

    def _packed(self, compute: str, weights: list[Any]) -> Any:
        """The packed weights, where there are some and this call can have them."""
        if self._frozen is None:
            return None
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            raise RuntimeError(
                f"this {type(self).__name__} is frozen: call it under torch.no_grad(), or rnnfast.torch.unfreeze it"
            )
        return self._frozen[1] if self._frozen[0] == compute else None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        if self._frozen is not None:
            self._freeze()
        return result

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]
        if self._frozen is not None:
            self._freeze()
