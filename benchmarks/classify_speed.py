"""A training step of the row classifiers, beside the same models in PyTorch: forward, loss, backward, clipping, Adam.

    python benchmarks/classify_speed.py --out benchmarks/results/classify_speed.json

Both start from the same weights and the losses of their first steps are compared; then blocks of steps take turns in
one process, on the same threads. torch's step is its fastest: a fused Adam, gradients set to None.
"""

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch import nn

import rnnfast
from rnnfast.bench.measure import Effort, interleaved
from rnnfast.classify import SequenceModel
from rnnfast.classify.task import cross_entropy
from rnnfast.optim import Adam
from rnnfast.train import update

T, C, K, BATCH = 28, 28, 10, 32  # rows of pictures, ten classes
RATE, CLIP = 2e-3, 1.0
MODELS = {
    "LSTM 128": {"cell": "lstm", "hidden_size": 128},
    "GRU 128": {"cell": "gru", "hidden_size": 128},
    "LSTM 128, both directions": {"cell": "lstm", "hidden_size": 128, "bidirectional": True},
    "GRU 128, both directions": {"cell": "gru", "hidden_size": 128, "bidirectional": True},
}


class TorchModel(nn.Module):
    def __init__(self, ours):
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[ours.config["cell"]]
        layers, both = ours.config["num_layers"], ours.config["bidirectional"]
        self.rnn = kind(C, ours.config["hidden_size"], layers, bidirectional=both)
        self.output = nn.Linear(ours.output.in_features, K)
        self.load_state_dict({name: torch.tensor(p) for name, p in ours.params.items()})

    def forward(self, x):
        return self.output(self.rnn(x)[0].mean(dim=0))


def our_step(model, x, y):
    optimizer, loss = Adam(RATE), cross_entropy(None)
    lengths = np.full(BATCH, T)

    def gradients():
        outputs, cache = model.forward(x, lengths=lengths)
        total, doutputs = loss(outputs, y, lengths)
        model.backward(doutputs * (1 / BATCH), cache)
        return total / BATCH

    return lambda: update(model, optimizer, gradients, clip_norm=CLIP)


def torch_step(model, x, y):
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
    x, y = torch.tensor(x), torch.tensor(y)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return step


def measure(name, threads, effort):
    rng = np.random.default_rng(0)
    x, y = rng.random((T, BATCH, C), np.float32), rng.integers(0, K, BATCH)
    rnnfast.set_num_threads(threads)
    torch.set_num_threads(threads)
    ours = SequenceModel(C, K, pooling="mean", seed=1, **MODELS[name])
    steps = {"torch": torch_step(TorchModel(ours), x, y), "rnnfast": our_step(ours, x, y)}
    first = {peer: [step() for _ in range(3)] for peer, step in steps.items()}
    np.testing.assert_allclose(first["rnnfast"], first["torch"], rtol=1e-4)
    timings = interleaved(steps, effort)
    ratio = timings["torch"].median / timings["rnnfast"].median
    return {"model": name, "threads": threads, "ratio": ratio, **{k: t.to_dict() for k, t in timings.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each model and number of threads")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    effort = Effort(repeats=25, block=0.1, limit=args.seconds)
    rows = []
    for name in MODELS:
        for threads in args.threads:
            rows.append(measure(name, threads, effort))
            print(f"{name}, {threads} threads: {rows[-1]['ratio']:.2f} x")
    about = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "torch": torch.__version__}
    shape = {"T": T, "C": C, "classes": K, "batch": BATCH}
    document = {"kind": "classify speed", **about, "info": rnnfast.info(), "shape": shape, "rows": rows}
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
