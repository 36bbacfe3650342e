"""Make sure that libgomp.so.1, the OpenMP runtime, can be found before the extension is loaded.

The extension asks for it by its plain name, so it shares the one that torch or the system brings: two OpenMP runtimes
in one process fight for the cores. A wheel also holds a copy, loaded only where neither has one (slim containers).
"""

import ctypes
import sys
from pathlib import Path

LIBGOMP = "libgomp.so.1"
COPY = Path(__file__).parent / "_libs" / LIBGOMP


def ensure_libgomp() -> str:
    """Load libgomp and say where from: "system" (or a library loaded before), "copy", or "none"."""
    if not sys.platform.startswith("linux"):
        return "none"
    try:
        ctypes.CDLL(LIBGOMP)
        return "system"
    except OSError:
        if not COPY.is_file():
            return "none"
    ctypes.CDLL(str(COPY), mode=ctypes.RTLD_GLOBAL)
    return "copy"
