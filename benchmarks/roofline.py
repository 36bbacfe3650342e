"""Draws how near the layers come to what the machine can do, from the results of `rnnfast bench --out`.

    python benchmarks/roofline.py [--results benchmarks/results/bench.json] [--out benchmarks/results/roofline.svg]

A point is a case: its floating-point operations for each byte of weights that it reads, and its rate. Under the sloping
lines the weights come from a buffer of that size as fast as the machine reads it; under the level ones the machine
multiplies as fast as it can. Needs matplotlib (the `plot` extra).
"""

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
BUFFERS = {"32 KiB": 2**15, "512 KiB": 2**19, "8 MiB": 2**23, "256 MiB": 2**28}  # of a thread
COLORS = {"rnn": "tab:green", "lstm": "tab:blue", "gru": "tab:orange"}
MARKS = {1: "o", 2: "^"}


def points(doc):
    """(cell, mode, threads, flops a byte, flops a second) of each float32 layer."""
    for row in doc["rows"]:
        config = row["config"]
        if row["kind"] == "layer" and config["dtype"] == "float32" and row["threads"] in MARKS:
            rate = row["flops"] / row["seconds"]["rnnfast"]["median"]
            yield config["cell"], config["mode"], row["threads"], row["flops"] / row["weight_bytes"], rate


def draw(doc, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rnnfast"  # the same results make the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    limits, left, right = doc["limits"], 0.3, 1000.0
    for threads, style in ((1, "-"), (2, "--")):
        peak = limits["float32"].get(str(threads))
        if peak is None:
            continue
        plural = "s" if threads > 1 else ""
        axes.plot([left, right], [peak / 1e9] * 2, "k" + style, lw=1, label=f"multiply-adds, {threads} thread{plural}")
        for name, size in BUFFERS.items():
            rate = limits["bandwidth"][str(threads)][str(size)]
            knee = peak / rate
            axes.plot([left, knee], [left * rate / 1e9, peak / 1e9], color="gray", ls=style, lw=0.7)
            if threads == 1:
                axes.annotate(name, (left * 1.05, left * 1.1 * rate / 1e9), fontsize=7, color="gray")
    for cell, mode, threads, intensity, rate in points(doc):
        face = "none" if mode == "forward+backward" else COLORS[cell]
        axes.plot(intensity, rate / 1e9, MARKS[threads], color=COLORS[cell], mfc=face, ms=5, lw=0)
    for cell, color in COLORS.items():
        axes.plot([], [], "s", color=color, label=cell.upper())
    for threads, mark in MARKS.items():
        axes.plot([], [], mark, color="k", mfc="none", label=f"{threads} thread{'s' if threads > 1 else ''}")
    axes.plot([], [], " ", label="filled: forward; open: forward + backward")
    axes.set(xscale="log", yscale="log", xlim=(left, right), xlabel="flop a byte of weights", ylabel="Gflop/s")
    axes.set_title(f"{doc['info']['cpu']}, {doc['info']['isa']}, float32", fontsize=10)
    axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS / "bench.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "roofline.svg")
    args = parser.parse_args(argv)
    draw(json.loads(args.results.read_text(encoding="utf-8")), args.out)


if __name__ == "__main__":
    main()
