"""What is measured in a process of its own, the memory of a training step; and the size of a wheel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["measurements", "peak_bytes"]

STEPS = 3  # the first alone would miss what is kept from one to the next
SHAPE = (100, 32, 512, 512)  # T, B, I, H

# Both print the bytes that training steps add to the process's peak.
MEMORY = {
    "rnnfast": """
import numpy as np, rnnfast
from rnnfast.bench.process import peak_bytes
T, B, I, H = {shape}
rng = np.random.default_rng(1)
x, dy = (rng.standard_normal((T, B, width), dtype=np.float32) for width in (I, H))
layer = rnnfast.{layer}
before = peak_bytes()
for _ in range({steps}):
    layer.zero_grad()
    y, state, cache = layer.forward(x)
    layer.backward(dy, None, cache)
print(peak_bytes() - before)
""",
    "torch": """
import torch
from rnnfast.bench.process import peak_bytes
T, B, I, H = {shape}
layer = torch.nn.{layer}
x, dy = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
before = peak_bytes()
for _ in range({steps}):
    layer.zero_grad(set_to_none=True)
    x.grad = None
    layer(x)[0].backward(dy)
print(peak_bytes() - before)
""",
}


def measurements(wheel: Path | None) -> dict[str, Callable[[Mapping[str, str | None]], Any]]:
    """What each measures, from the peers that are there: memory, bytes that LSTM training steps add; wheel, bytes."""

    def memory(peers: Mapping[str, str | None]) -> dict[str, float]:
        return {
            name: _printed(code.format(shape=SHAPE, steps=STEPS, layer="LSTM(I, H)"))
            for name, code in MEMORY.items()
            if name == "rnnfast" or peers.get(name)
        }

    found: dict[str, Callable[[Mapping[str, str | None]], Any]] = {"memory": memory}
    if wheel is not None:
        size = wheel.stat().st_size
        found["wheel"] = lambda peers: size
    return found


def _printed(code: str) -> float:
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    return float(result.stdout.split()[-1])


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: Linux counts the parent's memory at the time of the fork in it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
