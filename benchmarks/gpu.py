"""Recurrent layers on a GPU beside torch's cuDNN: the same numbers, compared and then timed in one process.

    python benchmarks/gpu.py --out benchmarks/results/cuda_h100.json

A row of the JSON is one layer and size: the largest difference of outputs and gradients from torch (relative to the
largest value), and the median milliseconds of forward and of forward and backward together, of torch in float32, of
torch with TF32 products, of each of our recurrences that the layer fits, and of rnnfast.torch's module. Names with
`bf16` are our layers that compute in bfloat16, compared with torch in float32, and torch's with all of it in bfloat16.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch

    import rnnfast
    import rnnfast.torch
    from rnnfast import cuda
except ImportError as error:
    raise SystemExit(f"benchmarks/gpu.py needs rnnfast, and torch with CUDA: {error}") from error

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
    state = {name: value.detach().cpu().numpy() for name, value in peer.named_parameters()}
    x, dy = torch.randn(T, B, I, device="cuda"), torch.randn(T, B, H, device="cuda")
    row: dict[str, Any] = {"cell": cell, "T": T, "B": B, "I": I, "H": H, "ms": {}}

    given = {dtype: (x.to(dtype), dy.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}

    def module_step(module: Any, backward: bool) -> Any:
        inputs, dy = given[next(module.parameters()).dtype]
        leaf = inputs.detach().requires_grad_()
        y, _ = module(leaf)
        if backward:
            module.zero_grad(set_to_none=True)
            y.backward(dy)
        return y, leaf.grad

    def results(module: Any) -> list[Any]:
        return [v.detach() for v in module_step(module, True)] + [p.grad.clone() for p in module.parameters()]

    def compare(name: str, got: list[Any]) -> None:
        worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True))
        row.setdefault("difference", {})[name] = worst

    torch_step = functools.partial(module_step, peer)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    expected = results(peer)
    for name, compute_dtype in (("", "float32"), ("bf16_", "bfloat16")):
        layer = ours(I, H, device="cuda", compute_dtype=compute_dtype)
        layer.load_state_dict(state)
        row[name + "plan"] = plans(layer, B, "automatic")
        for kind in ("automatic", "persistent", "small", "step"):
            if kind != "automatic" and plans(layer, B, kind) != [kind, kind]:
                continue
            with cuda.recurrence(kind):
                compare(name + kind, [*own_step(layer, x, dy), *map(torch.from_dlpack, layer.grads.values())])
                row["ms"][name + kind] = times(functools.partial(own_step, layer, x, dy), repeats)
        module = getattr(rnnfast.torch, theirs.__name__)(
            I, H, device="cuda", compute_dtype=compute_dtype if name else None
        )
        module.load_state_dict(peer.state_dict())
        compare(name + "module", results(module))
        row["ms"][name + "module"] = times(functools.partial(module_step, module), repeats)
    row["ms"]["cudnn"] = times(torch_step, repeats)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    row["ms"]["cudnn_tf32"] = times(torch_step, repeats)
    peer.to(torch.bfloat16)
    row["ms"]["cudnn_bf16"] = times(torch_step, repeats)
    return row


def own_step(layer: Any, x: Any, dy: Any, backward: bool = True) -> Any:
    y, _, cache = layer.forward(x)
    dx = None
    if backward:
        dx, _ = layer.backward(dy, None, cache, accumulate=False)
    return y, dx


def plans(layer: Any, batch: int, kind: str) -> list[str]:
    bf16 = layer.compute_dtype == "bfloat16"
    return [p["recurrence"] for p in cuda._cuda.plan(layer._cell, layer.hidden_size, batch, kind, bf16=bf16)]


def times(step: Any, repeats: int) -> list[float]:
    """Median milliseconds of forward, and of forward and backward; by events on the stream."""
    medians = []
    for backward in (False, True):
        taken = []
        for i in range(repeats + 3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step(backward=backward)
            end.record()
            end.synchronize()
            if i >= 3:
                taken.append(begin.elapsed_time(end))
        medians.append(round(statistics.median(taken), 4))
    return medians


def line(row: dict[str, Any]) -> str:
    parts = [f"{name} {fwd:.3f}/{both:.3f}" for name, (fwd, both) in row["ms"].items()]
    size = " ".join(f"{n}{row[n]}" for n in "TBIH")
    worst = max(error for kind, error in row["difference"].items() if not kind.startswith("bf16"))
    return f"{row['cell']} {size} plan {'/'.join(row['plan'])} diff {worst:.1e} | " + "  ".join(parts)


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
