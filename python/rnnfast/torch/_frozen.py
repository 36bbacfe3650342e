"""Packed weights that a module keeps, between freeze and unfreeze."""

from __future__ import annotations

import operator
import warnings
from typing import Any, NamedTuple

import torch

from . import _cores, _routes

__all__ = ["Freezable"]


class _Pack(NamedTuple):
    """Packed weights, and what they are of."""

    version: object  # of the weights: see _Frozen
    made_for: tuple[str, Any]  # what a call computes in, and the device
    weights: Any
    sources: list[Any]


class _Frozen:
    """What freeze leaves in a module. `version` is another one after each write that the module knows of, so that what
    was packed before or during it is told apart, whichever thread wrote.

    A copy or pickle of it is None: copies of a module are not frozen."""

    def __init__(self) -> None:
        self.version = object()
        self.pack: _Pack | None = None

    def __reduce__(self) -> Any:
        return type(None), ()


class Freezable:
    """A module with `_network(dtype)` and `_current_weights()`."""

    _frozen: _Frozen | None = None

    def _freeze(self) -> None:
        frozen = self._frozen or _Frozen()
        version = frozen.version  # before the weights are read
        weights = self._current_weights()  # type: ignore[attr-defined]
        own = set(map(id, self._parameters.values()))  # type: ignore[attr-defined]
        if "parametrizations" not in self._modules and not own.issuperset(map(id, weights)):  # type: ignore[attr-defined]
            # Those that are there now are of the last call; nothing tells when the next ones differ.
            self._unfreeze()
            warnings.warn(
                f"this {type(self).__name__} is not frozen: a hook computes its weights anew at each call (torch.nn."
                "utils.parametrizations can be frozen)",
                RuntimeWarning,
                stacklevel=3,
            )
            return
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
        packed = _cores.core_of(net, weights[0]).pack(_cores.unwrapped(weights))
        if packed is None:
            raise ValueError(f"the parameters are not what {net} takes")
        frozen.pack = _Pack(version, (net.compute, weights[0].device), packed, self._sources())
        self._frozen = frozen

    def _unfreeze(self) -> None:
        self.__dict__.pop("_frozen", None)

    def _packed(self, compute: str, weights: list[Any]) -> Any:
        """The packed weights, where there are some and this call can have them."""
        frozen = self._frozen
        if frozen is None:
            return None
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            raise RuntimeError(
                f"this {type(self).__name__} is frozen: call it under torch.no_grad(), or rnnfast.torch.unfreeze it"
            )
        if torch.compiler.is_compiling():
            return None  # an operator has no room for them
        if frozen.pack is None or frozen.pack.version is not frozen.version:
            self._freeze()
        pack = None if self._frozen is None else self._frozen.pack
        # torch.func.functional_call puts others in the parameters' place.
        if pack is None or pack.made_for != (compute, weights[0].device):
            return None
        return pack.weights if all(map(operator.is_, pack.sources, self._sources())) else None

    def _sources(self) -> list[Any]:
        """The parameters themselves, also those that a parametrization computes weights from."""
        modules = self._modules  # type: ignore[attr-defined]
        own = list(self._parameters.values())  # type: ignore[attr-defined]
        return [*own, *modules["parametrizations"].parameters()] if "parametrizations" in modules else own

    def _stale(self) -> None:
        # Packed again by the next call: what computes weights may not be loaded yet.
        if self._frozen is not None:
            self._frozen.version = object()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        self._stale()
        return result

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]
        self._stale()
