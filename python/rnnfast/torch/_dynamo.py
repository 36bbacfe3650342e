"""torch.compile refuses what derives from torch.nn's recurrent layers, unless torch._dynamo.config.allow_rnn is set.

It is set when torch._dynamo is imported, which torch.compile does and which takes seconds, so nobody else shall.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from typing import Any

__all__ = ["allow_compilation"]

_CONFIG = "torch._dynamo.config"


def allow_compilation() -> None:
    if _CONFIG in sys.modules:
        sys.modules[_CONFIG].allow_rnn = True  # type: ignore[attr-defined]
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


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
                module.allow_rnn = True

            loader.exec_module = exec_module
        return spec
