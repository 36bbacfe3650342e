"""Fast in bad company: Ctrl-C, a busy Python thread, more threads than processors, torch beside us, denormals, imports.

    python benchmarks/robustness.py --out benchmarks/results/robustness.json [--only interrupt gil ...]

Each measurement says what it should be (`limit`) and what it is (`worst`), from runs that take turns in one process.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

import rnnfast
from rnnfast.bench.measure import Effort, interleaved

EFFORT = Effort(repeats=15, least=9, block=0.05, limit=15.0)
CELLS = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def step_of(layer, x):
    """Forward and backward."""
    y, _, cache = layer.forward(x)
    layer.backward(y, None, cache)


def interrupt():
    """Seconds from Ctrl-C to KeyboardInterrupt, during calls that take far longer."""
    layer, wide = rnnfast.LSTM(64, 256, 2, seed=1), rnnfast.LSTM(512, 32, seed=1)
    long, longer = normal(3000, 16, 64), normal(30000, 16, 64)
    y, _, cache = layer.forward(long)
    y_wide, _, cache_wide = wide.forward(normal(3000, 64, 512))
    weight = normal(20000, 256)
    target, grad = np.zeros(20000, np.int64), np.zeros_like(weight)
    calls = {
        "inference": lambda: layer(longer),
        "forward": lambda: layer.forward(long),
        "backward": lambda: layer.backward(y, None, cache, keep_cache=True),
        "backward, mostly gradients of weights": lambda: wide.backward(y_wide, None, cache_wide, keep_cache=True),
        "fused loss": lambda: rnnfast.ops.linear_cross_entropy(weight, weight, None, target, dweight=grad),
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin by ignoring it
    rows = []
    draw = random.Random(0)
    for name, call in calls.items():
        for threads in (1, 2):
            seconds = []
            for _ in range(10):
                seconds.append(interrupted(call, draw.uniform(0.02, 0.25), threads))
            rows.append({"call": name, "threads": threads, "median": statistics.median(seconds), "max": max(seconds)})
    return {"unit": "s", "limit": 0.1, "worst": max(r["max"] for r in rows), "rows": rows}


def interrupted(call, delay, threads):
    sent = [0.0]

    def send():
        sent[0] = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(delay, send)
    timer.start()
    try:
        with rnnfast.threads(threads):
            while True:
                call()
    except KeyboardInterrupt:
        return time.perf_counter() - sent[0]


def gil():
    """The rate of a Python thread's loop beside a kernel of one thread, as a part of its rate alone."""
    turns, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            for _ in range(1000):
                turns[0] += 1

    layer, x = rnnfast.LSTM(64, 256, seed=1), normal(1000, 16, 64)
    rates = {"alone": [], "beside a kernel": []}
    thread = threading.Thread(target=count)
    thread.start()
    try:
        with rnnfast.threads(1):
            for _ in range(11):
                for name, run in (("alone", lambda: time.sleep(0.2)), ("beside a kernel", lambda: layer(x))):
                    before, start = turns[0], time.perf_counter()
                    run()
                    rates[name].append((turns[0] - before) / (time.perf_counter() - start))
    finally:
        stop.set()
        thread.join()
    rows = {name: statistics.median(values) for name, values in rates.items()}
    return {"unit": "at least", "limit": 0.8, "worst": rows["beside a kernel"] / rows["alone"], "per second": rows}


def oversubscribed():
    """Time with twice as many threads as processors, as a multiple of that with as many."""
    processors = len(os.sched_getaffinity(0))
    rows = []
    for cell, shape in [
        (cell, shape)
        for cell in CELLS
        for shape in ((50, 64, 128, 256), (100, 1, 256, 256), (20, 3, 512, 512), (1000, 4, 64, 128))
    ]:
        steps, batch, width, hidden = shape
        layer, x = CELLS[cell](width, hidden, seed=1), normal(steps, batch, width)

        def run(threads, layer=layer, x=x):
            with rnnfast.threads(threads):
                step_of(layer, x)

        times = interleaved({"as many": lambda r=run: r(processors), "twice": lambda r=run: r(2 * processors)}, EFFORT)
        rows.append({"cell": cell, "shape": shape, **{name: t.to_dict() for name, t in times.items()}})
        rows[-1]["ratio"] = times["twice"].median / times["as many"].median
    return {"unit": "ratio", "limit": 1.5, "worst": max(r["ratio"] for r in rows), "rows": rows}


def imports():
    """Seconds that `import rnnfast` takes beyond `import numpy`, in processes of their own."""
    seconds = {"pass": [], "import numpy": [], "import rnnfast": []}
    for _ in range(15):
        for code, times in seconds.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - start)
    rows = {code: {"median": statistics.median(times), "min": min(times)} for code, times in seconds.items()}
    extra = rows["import rnnfast"]["median"] - rows["import numpy"]["median"]
    return {"unit": "s", "limit": 0.1, "worst": extra, "rows": rows}


def alternating():
    """Time of our forward and backward between torch operations, both on 2 threads, as a multiple of that between the
    same operations on one thread: caches are as cold, but no threads in the way. `alone` is with nothing in between."""
    import torch

    rows = []
    shapes = ((50, 64, 128, 256), (100, 32, 512, 512), (50, 50, 128, 128), (100, 1, 256, 256))
    for cell, shape in [(c, s) for c in CELLS for s in shapes]:
        steps, batch, width, hidden = shape
        layer, x = CELLS[cell](width, hidden, seed=1), normal(steps, batch, width)
        linear, features = torch.nn.Linear(hidden, 512), torch.from_numpy(normal(steps, batch, hidden))
        optimizer = torch.optim.Adam(linear.parameters())

        def theirs(threads, linear=linear, features=features, optimizer=optimizer):
            torch.set_num_threads(threads)
            optimizer.zero_grad()
            linear(features).relu().square().mean().backward()
            optimizer.step()

        between = {"alone": lambda: None, "torch on 1": lambda t=theirs: t(1), "torch on 2": lambda t=theirs: t(2)}
        seconds = {name: [] for name in between}
        with rnnfast.threads(2):
            for turn in range(12):
                for name, run in between.items():
                    for call in range(8):
                        run()
                        start = time.perf_counter()
                        step_of(layer, x)
                        if turn > 1 and call > 0:
                            seconds[name].append(time.perf_counter() - start)
        row = {name: statistics.median(times) for name, times in seconds.items()}
        rows.append({"cell": cell, "shape": shape, **row})
        rows[-1]["ratio"] = row["torch on 2"] / row["torch on 1"]
        rows[-1]["ratio to alone"] = row["torch on 2"] / row["alone"]
    return {"unit": "ratio", "limit": 1.1, "worst": max(r["ratio"] for r in rows), "rows": rows}


def denormals():
    """A training step (forward, loss, backward, clipping, Adam) where nearly all gradients are denormal or vanish, as a
    multiple of that of the same model with gradients as usual; torch's for comparison."""
    rows = []
    for cell in ("rnn", "lstm", "gru"):
        tokens = np.random.default_rng(0).integers(0, 65, (51, 50))
        runs = {}
        for scale in (1.0, 1e-19):
            model = rnnfast.lm.LanguageModel(65, 128, 2, cell=cell, seed=1)
            for value in model.params.values():
                value *= np.float32(scale)
            optimizer = rnnfast.optim.Adam(1e-30)  # the parameters stay where they are
            name = "healthy" if scale == 1 else "vanishing"
            runs[name] = lambda m=model, o=optimizer, t=tokens: m.train_step(t, None, o, clip_norm=1.0)
        with rnnfast.threads(2):
            times = interleaved(runs, EFFORT)
        rows.append({"cell": cell, **{name: t.to_dict() for name, t in times.items()}})
        rows[-1]["ratio"] = times["vanishing"].median / times["healthy"].median
        small = np.concatenate([grad.ravel() for grad in model.grads.values()])
        rows[-1]["gradients that are denormal or 0"] = float(np.mean(np.abs(small) < np.finfo(np.float32).tiny))
        rows[-1]["torch"] = denormals_in_torch(cell, tokens)
    return {
        "unit": "ratio",
        "limit": 1.05,
        "worst": max(r["ratio"] for r in rows),
        "rows": rows,
        "of a product in NumPy": denormal_penalty(),
    }


def denormal_penalty():
    """What denormals cost this processor where they are not flushed: time of a product of them, as a multiple."""
    half, out = np.full(4096, 0.5, np.float32), np.empty(4096, np.float32)
    values = {value: np.full(4096, value, np.float32) for value in (1.0, 1e-39)}
    runs = {value: lambda v=array: np.multiply(v, half, out=out) for value, array in values.items()}
    times = interleaved(runs, Effort(block=0.01))
    return times[1e-39].median / times[1.0].median


def denormals_in_torch(cell, tokens):
    """The same ratio for the same model in torch."""
    try:
        import torch
    except ImportError:
        return "not installed"
    torch.set_num_threads(2)
    x = torch.nn.functional.one_hot(torch.from_numpy(tokens[:-1]), 65).float()
    target = torch.from_numpy(tokens[1:]).reshape(-1)
    runs = {}
    for scale in (1.0, 1e-19):
        rnn, head = getattr(torch.nn, cell.upper())(65, 128, 2), torch.nn.Linear(128, 65)
        params = [*rnn.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(params, lr=1e-30)
        with torch.no_grad():
            for p in params:
                p *= scale

        def step(rnn=rnn, head=head, params=params, optimizer=optimizer):
            optimizer.zero_grad()
            logits = head(rnn(x)[0]).reshape(-1, 65)
            torch.nn.functional.cross_entropy(logits, target).backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()

        runs[scale] = step
    times = interleaved(runs, Effort(repeats=7, least=3, block=0.05, limit=8.0))
    return times[1e-19].median / times[1.0].median


MEASUREMENTS = {
    f.__name__: f for f in (imports, interrupt, gil, oversubscribed, alternating, denormals)
}  # imports first: nothing of ours is running yet


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--out", type=Path, help="results as JSON go here; those of other measurements stay in it")
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}
    for name in args.only:
        measured = {"what": " ".join(MEASUREMENTS[name].__doc__.split()), **MEASUREMENTS[name]()}
        measured["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        measured["info"] = rnnfast.info()
        result[name] = measured
        print(f"{name}: {measured['worst']:.3g} {measured['unit']}, limit {measured['limit']}", file=sys.stderr)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
