"""Make sure that libgomp.so.1, the OpenMP runtime, can be found before the extension is loaded.

The extension asks for it by its plain name, so it shares the one that torch or the system brings: two OpenMP runtimes in
one process fight for the cores. A wheel also holds a copy, loaded only where neither has one (slim containers).
"""

import ctypes
import sys
from pathlib import Path

LIBGOMP = "libgomp.so.1"
COPY = Path(__file__).parent / "_libs" / LIBGOMP


def ensure_libgomp() -> str:
    """Say which libgomp the extension will get: "system", "copy" or "none" (then it was built without, or will say so)."""
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
