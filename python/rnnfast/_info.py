"""What rnnfast runs on."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from . import _core, cuda
from ._threads import get_num_threads
from ._version import __version__

__all__ = ["info", "isa"]


def isa() -> str:
    """The instruction set in use; the environment variable RNNFAST_ISA forces another one of info()["isas"]."""
    return _core.isa()


def info() -> dict[str, Any]:
    """Versions, processor, instruction sets (best first), threads and OpenMP, as plain values."""
    return {
        "rnnfast": __version__,
        "isa": _core.isa(),
        "isas": _core.isas(),
        "threads": get_num_threads(),
        "openmp": _core.openmp,
        "cuda": cuda.describe(),
        "cpu": _processor(),
        "compiler": _core.compiler,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()
