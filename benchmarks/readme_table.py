"""Writes the tables in README.md from benchmarks/results/*.json, so that no figure is copied by hand.

    python benchmarks/readme_table.py [--check]

A table stands between `<!-- bench:begin NAME -->` and `<!-- bench:end NAME -->`; FOLDER/NAME is that of the results
in benchmarks/results/FOLDER. One whose results are not there stays as it is. With --check nothing is written: exit code
1 if README.md differs from what would be.
"""

import argparse
import itertools
import json
import re
import sys
from pathlib import Path
from statistics import geometric_mean

from rnnfast.bench import report, tables

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- bench:begin (\S+) -->\n)(.*?)(<!-- bench:end (\S+) -->)", re.DOTALL)


def shakespeare(doc):
    lines = []
    for name, recipe in doc["recipes"].items():
        o, middle = recipe["options"], recipe["median"]
        model = f"{o['cell'].upper()} {o['num_layers']} × {o['hidden_size']}"
        cells = [f"{name}: {model}, {recipe['parameters'] / 1e6:.2f} M parameters"]
        cells += ["not reached" if t is None else clock(t) for t in middle["time_to"].values()]
        cells += [f"{middle['final'][k]:.3f}" for k in ("carried", "reset")]
        cells += [clock(middle["final"]["seconds"]), ", ".join(map(str, recipe["seeds"]))]
        lines.append(cells)
    any_recipe = next(iter(doc["recipes"].values()))
    head = ["recipe", *(f"to {target}" for target in any_recipe["median"]["time_to"])]
    head += ["final loss", f"state reset every {any_recipe['median']['final']['reset_every']:.0f}", "in all", "seeds"]
    about = (
        "Validation loss in nats a character (90/10 split by position, each character of the validation part once), "
        "and the wall clock from the start of the process to each loss and to the end, evaluations included. Medians "
        "over the seeds."
    )
    return "\n\n".join([about, tables.markdown(head, lines), where(doc["info"], doc["date"])])


CLASSIFY = {  # what is shown of a recipe, and what is published
    "mnist": ("MNIST digits row by row, 4,000 to train on", ""),
    "fashion": ("Fashion-MNIST row by row", ""),
    "mnist1d": ("MNIST-1D", "GRU 91 %, CNN 94 % (greydanus/mnist1d)"),
    "japanese_vowels": ("JapaneseVowels, ragged", ""),
    "moving_digits": ("two moving digits, a label for each frame", ""),
}


def classify(doc):
    about = (
        "Accuracy on the test part, which is read once; the recipes were chosen on a validation part. Medians over the "
        "seeds; times are of training on one thread of a machine that had other work too."
    )
    lines = []
    for name, recipe in doc["recipes"].items():
        o, middle = recipe["options"], recipe["median"]
        both = ", both directions" if o["bidirectional"] else ""
        model = f"{o['cell'].upper()} {o['num_layers']} × {o['hidden_size']}{both}"
        what, published = CLASSIFY[name]
        accuracies = [r["test_accuracy"] for r in recipe["runs"]]
        spread = f"{min(accuracies):.2%} to {max(accuracies):.2%}"
        augmented = f", training data changed by `{recipe['augment']}`" if recipe["augment"] else ""
        cells = [what + augmented, f"{model}, {recipe['parameters'] / 1e3:,.0f} k parameters"]
        cells += [f"{middle['test_accuracy']:.2%}", spread, published, clock(middle["training_seconds"])]
        lines.append([*cells, ", ".join(map(str, recipe["seeds"]))])
    head = ["data", "model", "median", "all", "published", "training", "seeds"]
    return "\n\n".join([about, tables.markdown(head, lines), where(doc["info"], doc["date"])])


def classify_speed(doc):
    s = doc["shape"]
    about = (
        f"A training step (forward, loss, backward, clipping, Adam) on {s['T']} rows of {s['C']} pixels, batch "
        f"{s['batch']}, mean over the steps, {s['classes']} classes; in brackets, how many times as long torch takes."
    )
    threads = sorted({r["threads"] for r in doc["rows"]})
    cells = {
        (r["model"], r["threads"]): f"{1000 * r['rnnfast']['median']:.2f} ms ({r['ratio']:.2f} ×)" for r in doc["rows"]
    }
    lines = [[m, *(cells.get((m, t), "") for t in threads)] for m in dict.fromkeys(r["model"] for r in doc["rows"])]
    head = ["model", *(f"{t} thread{'s' if t > 1 else ''}" for t in threads)]
    told = f"rnnfast {doc['info']['rnnfast']} ({doc['info']['isa']}), torch {doc['torch']}; {doc['info']['cpu']}; "
    return "\n\n".join([about, tables.markdown(head, lines), f"{told}{doc['date'][:10]}."])


def tbptt_memory(doc):
    s = doc["settings"]
    model = f"{s['cell'].upper()} {s['num_layers']} × {s['hidden_size']}, batch {s['batch_size']}"
    about = (
        f"Peak memory of the process, interpreter and libraries included: {model}, chunks of {s['seq_length']} steps."
    )
    lines = []
    for r in doc["runs"]:
        peak, start = (f"{r[k] / 2**20:,.0f} MiB" for k in ("peak_bytes", "start_bytes"))
        lines.append([f"{r['kind']} BPTT", f"{r['steps']:,}", peak, start])
    head = ["", "steps", "peak", "before the first step"]
    return "\n\n".join([about, tables.markdown(head, lines), where(doc["info"])])


ROBUSTNESS = {  # what is measured, and how it is written
    "interrupt": ("longest time from Ctrl-C to KeyboardInterrupt during a call of seconds", "{:.0f} ms", 1000),
    "gil": ("rate of a Python thread beside a kernel of one thread", "{:.0f} % of its rate alone", 100),
    "oversubscribed": ("twice as many threads as processors, the slowest of 12 cases", "{:.2f} × the time", 1),
    "alternating": ("forward and backward between torch operations, 2 threads each, the slowest of 12", "{:.2f} ×", 1),
    "denormals": ("training step with vanishing gradients, the slowest of three cells", "{:.2f} × a healthy one's", 1),
    "imports": ("`import rnnfast`, beyond `import numpy`", "{:.0f} ms", 1000),
}


def robustness(doc):
    lines = [[what, form.format(doc[k]["worst"] * scale)] for k, (what, form, scale) in ROBUSTNESS.items() if k in doc]
    any_of = next(iter(doc.values()))
    return "\n\n".join([tables.markdown(["", "measured"], lines), where(any_of["info"], any_of["date"])])


def memory(doc):
    steps, batch, width, hidden = doc["settings"]["shape"]
    about = (
        f"Forward and backward at T {steps}, B {batch}, I {width}, H {hidden}, float32: the largest resident memory "
        "above what there was before, and the time. With `copy=False`: torch, too, reads its arrays where they are."
    )
    lines = []
    for row in doc["rows"]:
        kinds = [k for k in ("rnnfast", "recompute", "torch") if k in row["bytes"]]
        cells = [f"{row['bytes'][k] / 2**20:.0f} MiB, {row['seconds'][k]['median'] * 1e3:.0f} ms" for k in kinds]
        lines.append([f"{row['cell'].upper()}, {row['layers']} layer{'s' * (row['layers'] > 1)}", *cells])
    head = ["", *("`recompute=True`" if k == "recompute" else k for k in kinds)]
    steps, most = doc["settings"]["steps"], max(g["growth"] for g in doc["growth"].values())
    grown = f"From step {steps // 10:,} to step {steps:,} of training, memory grew by {max(0, most) / 2**20:.1f} MiB."
    return "\n\n".join([about, tables.markdown(head, lines), grown, where(doc["info"], doc["date"])])


def cuda(doc):
    lines = [
        "| layer, T × B, I = H | rnnfast | took | cuDNN, float32 | cuDNN, TF32 | times as fast as float32 |",
        "|---|---|---|---|---|---|",
    ]
    for row in doc["rows"]:
        ms = row["ms"]
        own, single, tf32 = (f"{ms[name][1]:.2f} ({ms[name][0]:.2f})" for name in ("automatic", "cudnn", "cudnn_tf32"))
        took, ratio = " / ".join(dict.fromkeys(row["plan"])), ms["cudnn"][1] / ms["automatic"][1]
        size = f"{row['cell'].upper()} {row['T']} × {row['B']}, {row['H']}"
        lines.append(f"| {size} | {own} | {took} | {single} | {tf32} | {ratio:.1f} |")
    return "\n".join([*lines, "", f"{doc['device']}; torch {doc['torch']}, cuDNN {doc['cudnn']}."])


TORCH_GROUPS = {
    "layers": "layers, the cases of the tables below",
    "ragged": "those of unequal lengths: `lengths=`, torch packs and pads",
    "packed": "a PackedSequence",
    "cells": "cells",
    "steps": "one step of one sequence under no_grad, frozen",
    "resets": "a rollout with reset masks, torch step by step",
    "training": "a training step of a whole model",
}


TORCH_WAYS = {"ratio": "", "ratio to cell": "; torch by its cell"}


def torch_backend(doc):
    lines = []
    for group, what in TORCH_GROUPS.items():
        for mode in ("forward", "forward+backward", ""):
            of = [r for r in doc["rows"] if r["group"] == group and mode_of(r) == mode]
            ways = [(key, of_way) for key, of_way in TORCH_WAYS.items() if any(key in r for r in of)]
            for (key, of_way), threads in itertools.product(ways, sorted({r["threads"] for r in of})):
                ratios = {r["name"]: r[key] for r in of if r["threads"] == threads}
                worst = min(ratios, key=ratios.get)
                mean = f"{geometric_mean(ratios.values()):.2f} ×"
                cells = [what + of_way, mode.replace("+", " + "), str(threads), str(len(ratios)), mean]
                lines.append([*cells, f"{ratios[worst]:.2f} ×, {worst.replace('/' + mode, '') if mode else worst}"])
    head = ["", "", "threads", "rows", "geometric mean", "lowest"]
    costs = []
    for mode in ("forward", "forward+backward"):
        found = sorted(r["overhead"] for r in doc["rows"] if r["group"] == "overhead" and mode_of(r) == mode)
        if found:
            costs.append(f"{report.duration(found[len(found) // 2])} ({mode.replace('+', ' and ')})")
    about = "How many times as long torch.nn takes for the same, both through PyTorch."
    grid = [r["ratio"] for r in doc["rows"] if r["group"] in ("layers", "ragged")]
    if grid:
        about += f" Geometric mean of the first two groups, the grid of the tables below: {geometric_mean(grid):.2f} ×."
    if costs:
        about += f" Around the kernels PyTorch costs {', '.join(costs)}: by how much the medians of tiny layers are"
        about += " above those of the NumPy layers with the same weights and input; of all these, the median."
    versions = f"torch {doc['info']['torch']}, {where(doc['info'], doc['date'])}"
    return "\n\n".join([about, tables.markdown(head, lines), versions])


def cmudict(doc):
    lines = []
    for name, recipe in doc["recipes"].items():
        o, test = recipe["options"], recipe["median"]["test"]
        greedy, beam = test["beam 1"], next(v for k, v in test.items() if k != "beam 1")
        low, high = (100 * x for x in beam["interval"])
        model = f"{o['cell'].upper()}, encoder 2 × {o['hidden_size'] // 2}, decoder {o['hidden_size']}"
        attention = "no attention" if o["attention"] is None else f"{o['attention']} attention"
        cells = [f"{name}: {model}, {attention}, {recipe['parameters'] / 1e6:.1f} M parameters"]
        cells += [f"{100 * greedy['sequence_error']:.2f} %", f"{100 * beam['sequence_error']:.2f} %"]
        cells += [f"{low:.2f} to {high:.2f}", f"{100 * beam['token_error']:.2f} %", clock(recipe["seconds"])]
        lines.append([*cells, ", ".join(map(str, recipe["seeds"]))])
    data, run = doc["data"], next(iter(doc["recipes"].values()))["runs"][0]
    about = (
        f"CMUdict, {data['words']:,} words, without stress, split 85/5/10 by a hash of the word; chosen on the "
        "validation part, the test part read once. A word is right where the best hypothesis is one of its "
        "pronunciations. Medians over the seeds; WER and its 95 % interval, and PER, are of a beam of "
        f"{run['beam_size']}. Published for this dictionary without stress, on other splits: LSTM 2 × 512 31.1, "
        "attention LSTM 2 × 256 about 31, Transformer 30.2."
    )
    head = ["recipe", "WER, greedy", "WER", "95 %", "PER", "in all", "seeds"]
    return "\n\n".join([about, tables.markdown(head, lines), where(doc["info"], doc["date"])])


def sequences(doc):
    lines = []
    for name, of in doc["attention"].items():
        kind = "without attention" if name == "none" else f"{name} attention"
        for batches, step in of["steps"].items():
            cells = [f"training step, {doc['batch_size']} pairs, {batches}, {kind}", report.duration(step["rnnfast"])]
            lines.append([*cells, f"{step['torch'] / step['rnnfast']:.2f} ×", "", "", ""])
        for s in of["search"]:
            what = f"beam of {s['beam_size']}, {s['sources']} source{'s' * (s['sources'] > 1)}, {kind}"
            ratios = [f"{s[k] / s['rnnfast']:.2f} ×" for k in ("torch", "torch, a loop")]
            others = [report.duration(s[k]) if k in s else "" for k in ("rnnfast, frozen", "least")]
            lines.append([what, report.duration(s["rnnfast"]), *ratios, *others])
    head = ["", "rnnfast", "torch takes", "torch, a source at a time", "rnnfast, frozen", "at least"]
    return "\n\n".join([tables.markdown(head, lines), f"torch {doc['torch']}, {where(doc['info'], doc['date'])}"])


def mode_of(row):
    parts = row["name"].split("/")
    return parts[1] if len(parts) > 2 else ""


def clock(seconds):
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.1f} min"


def where(info, date=None):
    threads = f"{info['threads']} thread" + ("s" if info["threads"] != 1 else "")
    parts = [f"rnnfast {info['rnnfast']} ({info['isa']})", f"{info['cpu']}, {threads}", *([date[:10]] if date else [])]
    return "; ".join(parts) + "."


TABLES = {
    "means": ("bench.json", tables.means_table),
    "layers": ("bench.json", tables.layers_table),
    "ragged": ("bench.json", tables.ragged_table),
    "streams": ("bench.json", tables.streams_table),
    "models": ("bench.json", tables.models_table),
    "limits": ("bench.json", tables.limits_table),
    "shakespeare": ("shakespeare.json", shakespeare),
    "classify": ("classify.json", classify),
    "classify_speed": ("classify_speed.json", classify_speed),
    "tbptt_memory": ("tbptt_memory.json", tbptt_memory),
    "memory": ("memory.json", memory),
    "robustness": ("robustness.json", robustness),
    "cuda": ("cuda_h100.json", cuda),
    "torch_backend": ("torch_backend.json", torch_backend),
    "cmudict": ("cmudict.json", cmudict),
    "sequences": ("sequences.json", sequences),
}


def fill(text, results):
    """(text with its tables written anew, names of those whose results are not there)."""
    missing = []

    def replace(match):
        begin, name, old, end, closed = match.groups()
        folder, _, table = name.rpartition("/")
        if closed != name or table not in TABLES:
            raise ValueError(f"bench:begin {name} must be one of {', '.join(TABLES)} and end as such, got {closed}")
        path, render = results / folder / TABLES[table][0], TABLES[table][1]
        if not path.is_file():
            missing.append(name)
            return begin + old + end
        return begin + render(json.loads(path.read_text(encoding="utf-8"))) + "\n" + end

    filled = BLOCK.sub(replace, text)
    if text.count("<!-- bench:") != 2 * len(BLOCK.findall(text)):
        raise ValueError("each bench:begin must have its bench:end, on lines of their own")
    return filled, missing


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table is not up to date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args(argv)
    if not args.readme.is_file():
        print(f"{args.readme.name} is not there: nothing to do", file=sys.stderr)
        return 0
    text = args.readme.read_text(encoding="utf-8")
    try:
        filled, missing = fill(text, args.results)
    except ValueError as e:
        print(f"{args.readme.name}: {e}", file=sys.stderr)
        return 1
    if missing:
        print(f"no results yet for: {', '.join(missing)}", file=sys.stderr)
    if args.check:
        if filled != text:
            print(f"{args.readme.name} is not up to date: run python benchmarks/readme_table.py", file=sys.stderr)
        return int(filled != text)
    if filled != text:
        args.readme.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
