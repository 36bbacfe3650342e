"""torch.compile refuses what derives from torch.nn's recurrent layers, unless torch._dynamo.config.allow_rnn is set.

It is set when torch._dynamo is imported, which torch.compile does and which takes seconds, so nobody else shall.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["allow_compilation", "constant_in_graphs"]

Function = TypeVar("Function", bound=Callable[..., Any])
_CONFIG = "torch._dynamo.config"


def constant_in_graphs(function: Function) -> Function:
    """Lets torch.compile call it, once, when it makes a graph: what torch.compiler.assume_constant_result does, which
    imports torch._dynamo."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def allow_compilation() -> None:
    if _CONFIG in sys.modules:
        _allow(sys.modules[_CONFIG])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _allow(config: Any) -> None:
    config.allow_rnn = True
    option: Any = getattr(config, "_config", {}).get("allow_rnn")
    if hasattr(option, "default"):  # what is set is set for this thread alone
        option.default = True


class _Finder(importlib.abc.MetaPathFinder):
    """Finds that module once, to set the flag when it has been executed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _allow(module)

            loader.exec_module = exec_module
        return spec
