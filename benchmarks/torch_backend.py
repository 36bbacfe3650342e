"""rnnfast.torch beside torch.nn, all through torch: layers, packed sequences, cells, steps, reset masks, training.

    python benchmarks/torch_backend.py [--threads 1 2] [--filter WORDS] [--quick]

Answers are compared first, then both take turns in one process. Rows are written to
benchmarks/results/torch_backend.json as they are measured; a row that is there is measured again, all others stay.
`numpy` is the same call of the NumPy layers, which shows what PyTorch costs around the kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnfast
import rnnfast.torch
from rnnfast.bench import cases, report
from rnnfast.bench.measure import NOISY, Effort, compare, interleaved

OUT = Path(__file__).resolve().parent / "results" / "torch_backend.json"
EFFORT = Effort(repeats=9, least=3, block=0.02, limit=1.5, settle=0.01)
QUICK = Effort(repeats=5, least=3, block=0.005, limit=0.5, settle=0.005)
TOLERANCE = 5e-5
KINDS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
TINY = ((1, 1, 8, 8), (10, 4, 16, 16))  # T, B, I, H at which PyTorch's part shows


class Row(NamedTuple):
    group: str
    name: str
    runs: dict[str, Callable[[], Any]]  # "rnnfast", "torch"[, "numpy"]; what is timed
    answers: Callable[[Callable[[], Any]], dict[str, Any]] | None = None  # of a run


def modules(kind: str, *sizes: int, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(*sizes, **options)
    ours = getattr(rnnfast.torch, kind)(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return {"rnnfast": ours, "torch": theirs}


def inference(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def training(module: Any, call: Callable[[], Any], dy: Any, *inputs: Any) -> Callable[[], Any]:
    """Forward and backward, gradients set to None before."""

    def run() -> Any:
        module.zero_grad(set_to_none=True)
        for x in inputs:
            x.grad = None
        made = call()
        torch.autograd.backward(first(made), dy)
        return first(made), *(x.grad for x in inputs), *(p.grad for p in module.parameters())

    return run


def first(made: Any) -> Any:
    y = made[0] if isinstance(made, tuple) else made
    return y.data if hasattr(y, "batch_sizes") else y


def arrays(made: Any) -> dict[str, Any]:
    leaves = made if isinstance(made, tuple) else (made,)
    flat = [t for leaf in leaves for t in (leaf if isinstance(leaf, tuple) else (leaf,))]
    flat = [t.data if hasattr(t, "batch_sizes") else t for t in flat]
    return {str(i): t.detach().numpy().copy() for i, t in enumerate(flat)}


def layers(quick: bool) -> Iterator[Row]:
    """The grid of `rnnfast bench`; ragged batches are padded tensors, which torch has to pack."""
    for case in cases.all_cases(quick):
        if isinstance(case, cases.Layer) and case.mode != "step" and case.dtype == "float32":
            yield layer(case)


def layer(case: cases.Layer) -> Row:
    both = modules(KINDS[case.cell], case.I, case.H, case.layers, bidirectional=case.bidirectional)
    data, lengths = cases.arrays(case), cases.lengths(case)
    dy, cut = torch.tensor(data["dy"]), None if lengths is None else torch.tensor(lengths)
    runs = {}
    for name, module in both.items():
        x = torch.tensor(data["x"])

        def call(module: Any = module, x: Any = x, packs: bool = name == "torch") -> Any:
            if cut is None or not packs:
                return module(x) if cut is None else module(x, lengths=cut)
            y, state = module(pack_padded_sequence(x, cut, enforce_sorted=False))
            return pad_packed_sequence(y, total_length=case.T)[0], state

        runs[name] = inference(call) if case.mode == "forward" else training(module, call, dy, x.requires_grad_())
    own = numpy_layer(both["rnnfast"], case.cell)
    x, slope = data["x"], data["dy"]

    def numpy_training() -> None:
        _, _, cache = own.forward(x, lengths=lengths)
        own.backward(slope, None, cache, want_dstate0=False, accumulate=False)

    runs["numpy"] = (lambda: own(x, lengths=lengths)) if case.mode == "forward" else numpy_training
    return Row("ragged" if case.ragged else "layers", case.name, runs, lambda run: arrays(run()))


def numpy_layer(module: Any, cell: str) -> Any:
    kind: Any = {"rnn": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}[cell]
    made = kind(module.input_size, module.hidden_size, module.num_layers, bidirectional=module.bidirectional, seed=1)
    made.load_state_dict({name: value.numpy() for name, value in module.state_dict().items()})
    return made


def overhead(quick: bool) -> Iterator[Row]:
    for T, B, I, H in TINY:
        for cell in cases.CELLS:
            for mode in cases.MODES:
                yield layer(cases.Layer(cell, mode, T, B, I, H))._replace(group="overhead")


def packed(quick: bool) -> Iterator[Row]:
    for case in cases.all_cases(quick):
        if not isinstance(case, cases.Layer) or not case.ragged or case.mode == "step":
            continue
        both = modules(KINDS[case.cell], case.I, case.H)
        data, lengths = cases.arrays(case), torch.tensor(cases.lengths(case))
        given = pack_padded_sequence(torch.tensor(data["x"]), lengths, enforce_sorted=False)
        dy = torch.randn(len(given.data), case.H)
        runs = {}
        for name, module in both.items():
            x = given.data.clone()

            def call(module: Any = module, x: Any = x, given: Any = given) -> Any:
                return module(given._replace(data=x))

            runs[name] = inference(call) if case.mode == "forward" else training(module, call, dy, x.requires_grad_())
        yield Row("packed", case.name, runs, lambda run: arrays(run()))


def cells(quick: bool) -> Iterator[Row]:
    for kind in ("LSTMCell", "GRUCell", "RNNCell"):
        for B, H in ((32, 256), (1, 16), (32, 16)):
            both = modules(kind, H, H)
            for mode in cases.MODES:
                dy, runs = torch.randn(B, H), {}
                for name, module in both.items():
                    torch.manual_seed(1)
                    x, h = torch.randn(B, H), torch.randn(B, H)
                    state = (h, h.clone()) if kind == "LSTMCell" else h

                    def call(module: Any = module, x: Any = x, state: Any = state) -> Any:
                        return module(x, state)

                    inputs = (x, *(state if isinstance(state, tuple) else (state,)))
                    if mode == "forward":
                        runs[name] = inference(call)
                    else:
                        runs[name] = training(module, call, dy, *(i.requires_grad_() for i in inputs))
                yield Row("cells", f"{kind}/{mode}/B{B}-H{H}", runs, lambda run: arrays(run()))


def steps(quick: bool) -> Iterator[Row]:
    """One step of one sequence under no_grad, the state carried; ours is frozen. By nn.LSTM and by nn.LSTMCell."""
    for kind in ("LSTM", "GRU", "RNN"):
        for H in (64, 512):
            both = modules(kind, H, H)
            rnnfast.torch.freeze(both["rnnfast"])
            runs = {}
            for name, module in both.items():
                x, h = torch.randn(1, 1, H, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 1, H)
                state = [(h, h) if kind == "LSTM" else h]

                def call(module: Any = module, x: Any = x, state: Any = state) -> Any:
                    with torch.no_grad():
                        y, state[0] = module(x, state[0])
                    return y

                runs[name] = call
            by_cell = getattr(nn, kind + "Cell")(H, H)
            by_cell.load_state_dict({k.removesuffix("_l0"): v for k, v in both["torch"].state_dict().items()})
            cell_x, zeros = x[0], torch.zeros(1, H)
            cell_state: list[Any] = [(zeros, zeros) if kind == "LSTM" else zeros]

            def call_cell(module: Any = by_cell, x: Any = cell_x, state: Any = cell_state) -> Any:
                with torch.no_grad():
                    made = state[0] = module(x, state[0])
                return (made[0] if isinstance(made, tuple) else made)[None]

            runs["torch cell"] = call_cell
            yield Row("steps", f"{kind}/H{H}", runs, lambda run: arrays(run()))


def resets(quick: bool) -> Iterator[Row]:
    """Forward and backward over a rollout: reset masks beside a loop over its steps, by nn.GRU and by nn.GRUCell."""
    for T, B, I, H in ((64, 32, 16, 64), (128, 16, 64, 128)):
        for kind in ("GRU", "LSTM"):
            both, by_cell = modules(kind, I, H), getattr(nn, kind + "Cell")(I, H)
            by_cell.load_state_dict({k.removesuffix("_l0"): v for k, v in both["torch"].state_dict().items()})
            torch.manual_seed(1)
            data, reset, dy = torch.randn(T, B, I), torch.rand(T, B) < 0.05, torch.randn(T, B, H)
            keep = ~reset[:, None, :, None]

            def loop(module: Any, x: Any, masks: Any, H: int = H, B: int = B, pair: bool = kind == "LSTM") -> Any:
                zeros = torch.zeros(*masks.shape[1:-2], B, H)
                state: Any = (zeros, zeros) if pair else zeros
                outputs = []
                for x_t, mask in zip(x, masks, strict=True):
                    state = tuple(s * mask for s in state) if pair else state * mask
                    made = module(x_t[None] if masks.ndim == 4 else x_t, state)
                    state = made[1] if masks.ndim == 4 else made
                    outputs.append(made[0] if masks.ndim == 4 or pair else made)
                return torch.cat(outputs) if masks.ndim == 4 else torch.stack(outputs)

            xs = [data.clone().requires_grad_() for _ in range(3)]
            ours, theirs = both.values()
            runs = {
                "rnnfast": training(ours, lambda m=ours, x=xs[0], r=reset: m(x, reset=r), dy, xs[0]),
                "torch": training(theirs, lambda m=theirs, x=xs[1], k=keep: loop(m, x, k), dy, xs[1]),
                "torch cell": training(by_cell, lambda m=by_cell, x=xs[2], k=keep[:, 0]: loop(m, x, k), dy, xs[2]),
            }
            yield Row("resets", f"{kind}/T{T}-B{B}-I{I}-H{H}", runs, lambda run: arrays(run()))


def train(quick: bool) -> Iterator[Row]:
    """A training step of the examples' models: embedding or packed sequences, loss, backward, Adam."""
    models = {"character model, LSTM 2 x 128, B 32, T 50": character_step, "tagger, GRU, packed": tagger_step}
    for name, step in models.items():
        yield Row("training", name, {"rnnfast": step(True), "torch": step(False)})


def character_step(fast: bool) -> Callable[[], Any]:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Embedding(65, 128), nn.LSTM(128, 128, 2), nn.Linear(128, 65)])
    tokens = torch.randint(65, (51, 32))
    embedding, rnn, output = rnnfast.torch.accelerate(model) if fast else model
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def step() -> None:
        logits = output(rnn(embedding(tokens[:-1]))[0])
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten()).backward()
        optimizer.step()

    return step


def tagger_step(fast: bool) -> Callable[[], Any]:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.GRU(32, 128, bidirectional=True), nn.Linear(256, 10)])
    rnn, output = rnnfast.torch.accelerate(model) if fast else model
    packed = pack_padded_sequence(torch.randn(60, 32, 32), torch.randint(1, 61, (32,)), enforce_sorted=False)
    target, optimizer = torch.randint(10, (len(packed.data),)), torch.optim.Adam(model.parameters(), 2e-3)

    def step() -> None:
        logits = output(rnn(packed)[0].data)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, target).backward()
        optimizer.step()

    return step


def measure(row: Row, threads: int, effort: Effort) -> dict[str, Any]:
    if row.answers is not None:
        expected = row.answers(row.runs["rnnfast"])
        for name in row.runs:
            if name.startswith("torch"):
                compare(expected, row.answers(row.runs[name]), TOLERANCE)
    timings = interleaved(row.runs, effort)
    seconds = {name: timing.to_dict() for name, timing in timings.items()}
    ours = seconds["rnnfast"]["median"]
    made = {"group": row.group, "name": row.name, "threads": threads, "seconds": seconds}
    made["ratio"] = round(seconds["torch"]["median"] / ours, 4)
    if "torch cell" in seconds:
        made["ratio to cell"] = round(seconds["torch cell"]["median"] / ours, 4)
    if "numpy" in seconds:
        made["overhead"] = ours - seconds["numpy"]["median"]
    made["noisy"] = any(timing.spread > NOISY for timing in timings.values())
    return made


GROUPS = {
    "overhead": overhead, "layers": layers, "packed": packed, "cells": cells, "steps": steps, "resets": resets,
    "training": train,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--filter", help="only rows whose name contains one of these words, which commas part")
    parser.add_argument("--quick", action="store_true", help="short, for a look")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    words = args.filter.split(",") if args.filter else [""]
    document = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {"rows": []}
    rows = {(row["name"], row["group"], row["threads"]): row for row in document["rows"]}
    here = {**report.about(None), "torch": torch.__version__}
    for key in ("rnnfast", "isa", "cpu", "cores", "python", "torch"):
        if rows and document["info"].get(key) != here[key]:
            parser.error(
                f"{args.out} is of another machine or version ({key} {document['info'].get(key)!r}): remove it"
            )
    for threads in args.threads:
        torch.set_num_threads(threads)
        for group in args.groups:
            with rnnfast.threads(threads):
                for row in GROUPS[group](args.quick):
                    if not any(word in row.name for word in words):
                        continue
                    made = measure(row, threads, QUICK if args.quick else EFFORT)
                    rows[made["name"], made["group"], threads] = made
                    ours = made["seconds"]["rnnfast"]["median"]
                    mark = " ~" if made["noisy"] else ""
                    figures = f"{report.duration(ours)}, {report.times(made['ratio'])}{mark}"
                    print(f"{threads} {made['group']} {made['name']}: {figures}", flush=True)
                    document = {
                        "kind": "rnnfast torch backend",
                        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                        "info": here,
                        "rows": list(rows.values()),
                    }
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
