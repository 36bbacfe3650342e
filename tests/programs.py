"""Programs that tests run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys


def in_python(code: str, *args: str, **env: object) -> str:
    """Standard output of a program, which must end well; a child of it that hangs is ended by its alarm."""
    environ = os.environ | {k: str(v) for k, v in env.items()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code, *args],
        env=environ, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
