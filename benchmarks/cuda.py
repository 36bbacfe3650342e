"""Recurrent layers on a GPU beside torch's cuDNN: the same numbers, compared and then timed in one process.

    python benchmarks/cuda.py --out benchmarks/results/cuda_h100.json

A row of the JSON is one layer and size: the largest difference of outputs and gradients from torch (relative to the
largest value), and the median milliseconds of forward and of forward and backward together, of torch in float32, of
torch with TF32 products, and of each of our recurrences that the layer fits.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch

    import rnnfast
    from rnnfast import cuda
except ImportError as error:
    raise SystemExit(f"benchmarks/cuda.py needs rnnfast, and torch with CUDA: {error}") from error

KINDS = {"lstm": (rnnfast.LSTM, torch.nn.LSTM), "gru": (rnnfast.GRU, torch.nn.GRU), "rnn": (rnnfast.RNN, torch.nn.RNN)}
SIZES = [  # T, B, I, H
    (100, 1, 64, 64),
    (100, 64, 64, 64),
    (100, 1, 128, 128),
    (100, 64, 128, 128),
    (100, 1, 256, 256),
    (100, 64, 256, 256),
    (100, 1, 512, 512),
    (100, 16, 512, 512),
    (100, 64, 512, 512),
    (100, 256, 512, 512),
    (100, 1, 1024, 1024),
    (100, 64, 1024, 1024),
    (50, 64, 2048, 2048),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    result |= {"cudnn": torch.backends.cudnn.version(), "cuda": torch.version.cuda, "info": rnnfast.info(), "rows": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for cell in options.cells:
        for size in SIZES:
            result["rows"].append(measure(cell, size, options.repeats))
            print(line(result["rows"][-1]), flush=True)
            options.out.write_text(json.dumps(result, indent=1, default=str) + "\n")


def measure(cell: str, size: tuple[int, int, int, int], repeats: int) -> dict[str, Any]:
    T, B, I, H = size
    ours, theirs = KINDS[cell]
    torch.manual_seed(0)
    peer = theirs(I, H).cuda()
    layer = ours(I, H, device="cuda")
    layer.load_state_dict({name: value.detach().cpu().numpy() for name, value in peer.named_parameters()})
    x, dy = torch.randn(T, B, I, device="cuda"), torch.randn(T, B, H, device="cuda")
    row: dict[str, Any] = {"cell": cell, "T": T, "B": B, "I": I, "H": H, "ms": {}}

    def torch_step(backward: bool) -> Any:
        leaf = x.detach().requires_grad_()
        y, _ = peer(leaf)
        if backward:
            peer.zero_grad(set_to_none=False)
            y.backward(dy)
        return y, leaf.grad

    def own_step(backward: bool) -> Any:
        y, _, cache = layer.forward(x)
        dx = None
        if backward:
            layer.zero_grad()
            dx, _ = layer.backward(dy, None, cache)
        return y, dx

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    expected = [v.detach() for v in torch_step(True)] + [p.grad.clone() for p in peer.parameters()]
    fits = {"automatic"} | {k for k in ("small", "persistent", "step") if fitting(layer, H, B, k)}
    row["plan"] = [p["recurrence"] for p in cuda._cuda.plan(layer._cell, H, B)]
    for kind in sorted(fits):
        with cuda.recurrence(kind):
            got = [*own_step(True), *(torch.from_dlpack(g) for g in layer.grads.values())]
            worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True))
            row.setdefault("difference", {})[kind] = worst
            row["ms"][kind] = times(own_step, repeats)
    row["ms"]["cudnn"] = times(torch_step, repeats)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    row["ms"]["cudnn_tf32"] = times(torch_step, repeats)
    return row


def fitting(layer: Any, hidden: int, batch: int, kind: str) -> bool:
    return all(plan["recurrence"] == kind for plan in cuda._cuda.plan(layer._cell, hidden, batch, kind))


def times(step: Any, repeats: int) -> list[float]:
    """Median milliseconds of forward, and of forward and backward; by events on the stream."""
    medians = []
    for backward in (False, True):
        taken = []
        for i in range(repeats + 3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step(backward)
            end.record()
            end.synchronize()
            if i >= 3:
                taken.append(begin.elapsed_time(end))
        medians.append(round(statistics.median(taken), 4))
    return medians


def line(row: dict[str, Any]) -> str:
    parts = [f"{name} {fwd:.3f}/{both:.3f}" for name, (fwd, both) in row["ms"].items()]
    size = " ".join(f"{n}{row[n]}" for n in "TBIH")
    worst = max(row["difference"].values())
    return f"{row['cell']} {size} plan {'/'.join(row['plan'])} diff {worst:.1e} | " + "  ".join(parts)


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
