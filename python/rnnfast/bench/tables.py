"""Markdown tables of a document (report.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from .cases import CELLS, MODES
from .measure import NOISY
from .peers import OURS, OWN
from .report import best_ratio, duration, ratios, times

__all__ = [
    "everything", "layers_table", "limits_of", "limits_table", "markdown", "means_table", "models_table",
    "ragged_table", "streams_table",
]  # fmt: skip

Row = dict[str, Any]
Document = Mapping[str, Any]
JOBS = {
    "step": "training step, {layers} × {H}, V {V}, B {B}, T {T}",
    "sample": "sampling {T} tokens, {layers} × {H}, {B} streams",
}
PAIRS = [(mode, cell) for mode in MODES for cell in CELLS]
HEADS = [f"{cell.upper()} {mode.replace('+', ' + ')}" for mode, cell in PAIRS]


def everything(doc: Document) -> str:
    """All that was measured, one line a case and number of threads, and the machine's limits."""
    names = _columns(doc["rows"])
    head = ["case", "threads", "rnnfast", "min", "spread", "of the limit", *names]
    lines = []
    for r in doc["rows"]:
        ours = r["seconds"][OURS]
        cells = [r["case"] + _mark(r), str(r["threads"]), duration(ours["median"]), duration(ours["min"])]
        cells += [f"{ours['spread']:.0%}", _fraction(r), *(_peer(r, name) for name in names)]
        lines.append(cells)
    parts = [markdown(head, lines)]
    if any(r["kind"] == "layer" for r in doc["rows"]):
        parts.append(means_table(doc))
    parts += [
        limits_table(doc),
        *_notes(doc),
    ]
    return "\n\n".join(parts)


def layers_table(doc: Document) -> str:
    """The layers, compactly: one line a shape and number of threads, one column a cell and mode."""
    rows = [r for r in doc["rows"] if r["kind"] == "layer" and r["config"]["mode"] in MODES]
    how = "Time of rnnfast, how many times as long the best of the others takes for the same, and which part of the "
    how += "time the machine's limit is."
    return "\n\n".join([how, _by_shape(rows, _time_ratio_fraction), *_notes(doc)])


def means_table(doc: Document) -> str:
    """Geometric means over the float32 rows of all shapes and threads of each peer's ratio."""
    rows = [r for r in doc["rows"] if r["kind"] == "layer" and r["config"]["dtype"] == "float32"]
    lines = []
    for name in ("best of them", *_columns(rows)):
        cells = [name]
        for pair in PAIRS:
            of = [r for r in rows if (r["config"]["mode"], r["config"]["cell"]) == pair]
            values = [best_ratio(r) if name == "best of them" else ratios(r).get(name) for r in of]
            known = [value for value in values if value is not None]
            cells.append(times(geometric_mean(known)) if known else "")
        if any(cells[1:]):
            lines.append(cells)
    return markdown(["geometric mean against", *HEADS], lines)


def streams_table(doc: Document) -> str:
    """One step of one sequence, the weights packed beforehand."""
    rows = [r for r in doc["rows"] if r["config"].get("mode") == "step"]
    names = _columns(rows)
    lines = []
    for r in rows:
        cells = [f"{r['config']['cell'].upper()} {r['config']['H']}", str(r["threads"])]
        cells += [duration(r["seconds"][OURS]["median"]) + _mark(r), _fraction(r), *(_peer(r, name) for name in names)]
        lines.append(cells)
    return markdown(["I = H", "threads", "rnnfast", "of the limit", *names], lines)


def models_table(doc: Document) -> str:
    """The jobs of the language models, each peer in its own column."""
    rows = [r for r in doc["rows"] if r["kind"] == "model"]
    names = _columns(rows)
    lines = []
    for r in rows:
        job = JOBS[r["config"]["job"]].format_map(r["config"]).replace("1 streams", "one stream")
        mark = "" if r["config"]["dtype"] == "float32" else f": {r['config']['dtype']}"
        cells = [job + mark, str(r["threads"])]
        cells += [duration(r["seconds"][OURS]["median"]) + _mark(r), _fraction(r)]
        cells += ["" if "rest" not in r else f"{r['rest']:.0%}", *(_peer(r, name) for name in names)]
        lines.append(cells)
    how = (
        "A step is forward, loss, backward, clipping by norm and Adam. In brackets, how many times as long as rnnfast."
    )
    head = ["job", "threads", "rnnfast", "of the limit", "not the RNN", *names]
    return "\n\n".join([how, markdown(head, lines), *_notes(doc)])


def ragged_table(doc: Document) -> str:
    """What sequences of unequal length cost: their time, relative to that of the padded batch times the part of it that
    they fill (B >= 32), or times the longest one's part of T. Both took turns."""
    rows = [r for r in doc["rows"] if r["config"].get("ragged")]
    return _by_shape(rows, lambda r: f"{r['of_padded']:.2f}{_mark(r)}")


def limits_table(doc: Document) -> str:
    return limits_of(doc["limits"], [r["exchange"] for r in doc["rows"] if r["exchange"]])


def limits_of(limits: Mapping[str, Any], exchanges: Sequence[float]) -> str:
    """What the machine can do at best: peaks, bandwidths and all that were measured of the exchange between cores."""
    counts = list(limits["float32"])
    lines = []
    for name, peaks in (("float32 multiply-adds", limits["float32"]), ("bfloat16 dot products", limits["bfloat16"])):
        if peaks:
            lines.append([name, *(f"{peaks[n] / 1e9:.0f} Gflop/s" if n in peaks else "" for n in counts)])
    for size in limits["bandwidth"][counts[0]]:
        rates = [limits["bandwidth"][n].get(size) for n in counts]
        lines.append(
            [f"reading {_bytes(int(size))} a thread", *("" if r is None else f"{r / 1e9:.0f} GB/s" for r in rates)]
        )
    if exchanges:
        low, high = (f"{at(exchanges) * 1e9:.0f} ns" for at in (min, max))
        lines.append(
            ["exchange between two cores", *[""] * (len(counts) - 1), low if low == high else f"{low} to {high}"]
        )
    return markdown(["", *(f"{n} thread{'s' if str(n) != '1' else ''}" for n in counts)], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in (head, *lines)]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def _by_shape(rows: Sequence[Row], cell: Callable[[Row], str]) -> str:
    found = {(_shape(r), r["threads"], r["config"]["mode"], r["config"]["cell"]): r for r in rows}
    lines = []
    for shape, threads in dict.fromkeys((_shape(r), r["threads"]) for r in rows):
        of = [found.get((shape, threads, *pair)) for pair in PAIRS]
        lines.append([shape, str(threads), *("" if r is None else cell(r) for r in of)])
    return markdown(["T, B, I, H", "threads", *HEADS], lines)


def _notes(doc: Document) -> list[str]:
    about, peers = doc["info"], doc["peers"]
    there = "".join(f", {name} {version}" for name, version in peers.items() if version)
    cores = f"{about['cores']} core" + ("s" if about["cores"] != 1 else "")
    notes = [
        f"rnnfast {about['rnnfast']} ({about['isa']}){there}, Python {about['python']}; {about['cpu']}, {cores}; "
        f"{doc['date'][:10]}. Medians of up to {doc['effort']['repeats']} repeats that take turns in one process, "
        "after the answers were compared."
    ]
    if doc["wheel_bytes"] is not None:
        notes.append(f"The wheel has {doc['wheel_bytes'] / 1e6:.2f} MB.")
    missing = [name for name, version in peers.items() if not version]
    if missing:
        notes.append(f"Not installed here, so not compared: {', '.join(missing)}.")
    if doc["noisy"]:
        notes.append(
            f"~ The machine was noisy: between the fastest repeat and the end of the third quarter lies more than "
            f"{NOISY:.0%} of the median."
        )
    return notes


def _time_ratio_fraction(r: Row) -> str:
    best = best_ratio(r)
    parts = [duration(r["seconds"][OURS]["median"]), *([] if best is None else [times(best)]), _fraction(r)]
    return ", ".join(filter(None, parts)) + _mark(r)


def _peer(r: Row, name: str) -> str:
    timing = r["seconds"].get(name)
    return "" if timing is None else f"{duration(timing['median'])} ({times(ratios(r)[name])})"


def _fraction(r: Row) -> str:
    return f"{r['fraction']:.0%}" if "fraction" in r else ""


def _mark(r: Row) -> str:
    return " ~" if r["noisy"] else ""


def _shape(r: Row) -> str:
    c = r["config"]
    marks = [f"{c['layers']} layers"] * (c["layers"] > 1) + ["both directions"] * c["bidirectional"]
    marks += ["ragged"] * c["ragged"] + [c["dtype"]] * (c["dtype"] != "float32")
    return ", ".join(str(c[k]) for k in "TBIH") + (f": {', '.join(marks)}" if marks else "")


def _columns(rows: Iterable[Row]) -> list[str]:
    """The peers, in the order of their first row."""
    return list(dict.fromkeys(name for r in rows for name in r["seconds"] if name not in OWN))


def _bytes(n: int) -> str:
    return f"{n >> 20} MiB" if n >= 1 << 20 else f"{n >> 10} KiB"
