"""Memory of a training step, beside torch's, and its growth over many steps.

    python benchmarks/memory.py --out benchmarks/results/memory.json

Each run is a process of its own, of which the median of five counts (torch's differ by a third). It makes the layers,
their gradients, the input and the gradient of the output, takes a step of a tiny layer to load what is loaded once, and
then measures: the largest resident set during forward and backward, above what there was before. `recompute` is the
option of that name. Times are measured in turns.
"""

import argparse
import ctypes
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import numpy as np

CELLS = ("rnn", "lstm", "gru")
KINDS = ("rnnfast", "recompute", "torch")
PROCESSES = 5  # of each measurement of memory


def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1]) * 1024


def peak_of(run):
    """Bytes of the largest resident set during run(), above that before."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is not there to be had
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def our_step(cell, shape, layers, recompute=False):
    import rnnfast

    steps, batch, width, hidden = shape
    rng = np.random.default_rng(0)
    make = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}[cell]
    layer = make(width, hidden, layers, recompute=recompute, seed=1)
    x, dy = (rng.standard_normal((steps, batch, n)).astype(np.float32) for n in (width, hidden))
    layer.zero_grad()

    def step():
        layer.zero_grad()
        y, _, cache = layer.forward(x, copy=False)  # torch holds on to its arrays, too
        return y, layer.backward(dy, None, cache)

    return step


def torch_step(cell, shape, layers):
    import torch

    steps, batch, width, hidden = shape
    rng = np.random.default_rng(0)
    layer = getattr(torch.nn, cell.upper())(width, hidden, layers)
    x, dy = (torch.from_numpy(rng.standard_normal((steps, batch, n)).astype(np.float32)) for n in (width, hidden))
    x.requires_grad_()
    for p in layer.parameters():
        p.grad = torch.full_like(p, 0)

    def step():
        layer.zero_grad(set_to_none=False)
        x.grad = None
        y, _ = layer(x)
        y.backward(dy)
        return y.detach(), x.grad

    return step


def make_step(kind, cell, shape, layers=1):
    return torch_step(cell, shape, layers) if kind == "torch" else our_step(cell, shape, layers, kind == "recompute")


def set_threads(threads):
    import rnnfast

    rnnfast.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def of_step(args):
    tiny = make_step(args.kind, args.cell, (2, 2, 8, 8))
    set_threads(args.threads)
    tiny()
    return peak_of(make_step(args.kind, args.cell, args.shape, args.layers))


def growth(args):
    """Resident bytes after some steps of training and after many more: layer, loss, clipping and optimiser."""
    import rnnfast

    rnnfast.set_num_threads(args.threads)
    model = rnnfast.lm.LanguageModel(65, 64, 2, cell=args.cell, dropout=0.1, seed=1)
    optimizer, rng, state = rnnfast.optim.Adam(1e-3), np.random.default_rng(0), None
    sizes = {}
    for step in range(1, args.steps + 1):
        tokens = rng.integers(0, 65, (2 + step % 20, 16))
        _, state = model.train_step(tokens, state, optimizer, clip_norm=1.0)
        if step in (args.steps // 10, args.steps):
            sizes[step] = status("VmRSS")
    return {"resident": sizes, "growth": sizes[args.steps] - sizes[args.steps // 10]}


def times(args):
    from rnnfast.bench.measure import Effort, interleaved

    runs = {kind: make_step(kind, args.cell, args.shape, args.layers) for kind in args.kinds}
    set_threads(args.threads)
    measured = interleaved(runs, Effort(repeats=9, least=5, block=0.1, limit=8.0))
    return {kind: timing.to_dict() for kind, timing in measured.items()}


def in_process(args, what, **options):
    """The result of `what` in a new process."""
    given = {"threads": args.threads, "shape": args.shape, "steps": args.steps, **options}
    command = [sys.executable, __file__, "--run", json.dumps({"what": what, **given})]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def installed(name):
    return subprocess.run([sys.executable, "-c", f"import {name}"], stderr=subprocess.DEVNULL).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=4, default=(100, 32, 512, 512), metavar=("T", "B", "I", "H"))
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10_000, help="of the search for growth")
    parser.add_argument("--out", type=Path, help="results as JSON go here")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        given = argparse.Namespace(**json.loads(args.run))
        print(json.dumps({"of_step": of_step, "growth": growth, "times": times}[given.what](given)))
        return
    import rnnfast

    kinds = [kind for kind in KINDS if kind != "torch" or installed("torch")]
    rows, growing = [], {}
    for cell in CELLS:
        for layers in args.layers:
            row = {"cell": cell, "layers": layers, "bytes": {}}
            for kind in kinds:
                runs = [in_process(args, "of_step", kind=kind, cell=cell, layers=layers) for _ in range(PROCESSES)]
                row["bytes"][kind] = median(runs)
            row["seconds"] = in_process(args, "times", kinds=kinds, cell=cell, layers=layers)
            rows.append(row)
            told = [f"{k} {row['bytes'][k] / 2**20:.0f} MiB {row['seconds'][k]['median'] * 1e3:.0f} ms" for k in kinds]
            print(f"{cell}, {layers} layers: {', '.join(told)}", file=sys.stderr)
        growing[cell] = in_process(args, "growth", cell=cell)
        print(f"{cell}: {growing[cell]['growth'] / 1024:.0f} KiB more after all steps", file=sys.stderr)
    settings = {"shape": args.shape, "threads": args.threads, "steps": args.steps}
    result = {"settings": settings, "rows": rows, "growth": growing, "info": rnnfast.info()}
    result["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
