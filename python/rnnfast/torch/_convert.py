"""accelerate and restore: a model's recurrent modules become rnnfast's and torch.nn's again, in place. freeze and
unfreeze: packed weights for serving."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch
from torch import nn

from ._cells import Cell, GRUCell, LSTMCell, RNNCell
from ._modules import GRU, LSTM, RNN, Layer

__all__ = ["accelerate", "freeze", "restore", "unfreeze"]

Model = TypeVar("Model")
_OURS = {theirs: ours for ours in (RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell) for theirs in ours.__bases__[1:]}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def accelerate(model: Model) -> Model:
    """Lets every nn.RNN, nn.LSTM, nn.GRU and cell in `model` run on rnnfast's kernels, in place, and returns `model`.

    Parameters, buffers, hooks, the state dict and all references stay as they are: only the modules' class changes, to
    the one of the same name in rnnfast.torch. A class of your own that derives from one of torch's is left alone, with
    a warning; derive it from rnnfast.torch's. `restore` undoes it.

    Raises:
        TypeError: `model` is no torch.nn.Module.
    """
    for module in _modules(model, "accelerate"):
        if not _change(module, _OURS) and isinstance(module, tuple(_OURS)) and not isinstance(module, (Layer, Cell)):
            warnings.warn(
                f"{type(module).__name__} is a class of its own, so accelerate leaves it as it is; "
                f"derive it from rnnfast.torch's class",
                RuntimeWarning,
                stacklevel=2,
            )
    return model


def restore(model: Model) -> Model:
    """Makes every module of rnnfast.torch in `model` torch.nn's again, in place, and returns `model`."""
    for module in _modules(model, "restore"):
        if isinstance(module, (Layer, Cell)) and _change(module, _THEIRS):
            for name in ("_frozen", "compute_dtype"):
                module.__dict__.pop(name, None)
    return model


def freeze(model: Model) -> Model:
    """Packs the weights of every module of rnnfast.torch in `model`, for serving, and returns `model`.

    Until `unfreeze` calls use the weights of this moment: later changes are not seen, but for `load_state_dict` and
    `.to`, after which the next call packs again. A call that would record gradients of the weights raises RuntimeError,
    so call under torch.no_grad() or torch.inference_mode(). Calls for gradients of the inputs alone, under autocast,
    with other parameters by torch.func.functional_call, compiled graphs and torch.func take the weights as they are.
    Copies and pickles are not frozen. On a GPU the kernels take weights as torch has them: there a frozen module has
    copies of the weights, and is no faster.
    """
    for module in _modules(model, "freeze"):
        if isinstance(module, (Layer, Cell)):
            module._freeze()
    return model


def unfreeze(model: Model) -> Model:
    """Calls take the weights as they are again; returns `model`."""
    for module in _modules(model, "unfreeze"):
        if isinstance(module, (Layer, Cell)):
            module._unfreeze()
    return model


def _modules(model: Any, name: str) -> list[Any]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} needs a torch.nn.Module, got {type(model).__name__}")
    return list(model.modules())


def _change(module: Any, classes: dict[Any, Any]) -> bool:
    kind = type(module)
    if kind in classes:
        module.__class__ = classes[kind]
        return True
    if torch.nn.utils.parametrize.is_parametrized(module) and kind.__bases__[0] in classes:
        # A parametrized module has a class with the parametrized names as properties, which its copies share.
        own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, (classes[kind.__bases__[0]],), own)
        return True
    return False
