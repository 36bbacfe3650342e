"""What comes out: one JSON document, and markdown tables made from it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from math import exp, log
from typing import Any

from .._info import info
from .cases import CELLS, Case, Layer
from .measure import NOISY, Effort, Timing
from .peers import OURS

__all__ = [
    "best_ratio",
    "charlm_table",
    "cores",
    "document",
    "duration",
    "layers_table",
    "markdown",
    "ratios",
    "row",
    "table",
]

Row = dict[str, Any]
Document = Mapping[str, Any]
MODES = ("forward", "forward+backward")
CHAR_JOBS = {
    "step": "training step (B {B}, T {T})",
    "sample": "sampling {T} characters, one stream",
}
COLUMNS = {"torch": "torch `nn.LSTM`", "torch LSTMCell": "torch `nn.LSTMCell`"}  # in the character model's table


# ---- the document ----


def document(
    rows: Sequence[Row], peers: Mapping[str, str | None], effort: Effort, load: float | None
) -> dict[str, Any]:
    """`peers`: the version of each, None where it is not installed. `load`: of the machine, before the run."""
    return {
        "kind": "rnnfast bench",
        "format": 1,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "info": {**info(), "cores": cores(), "load_before": load},
        "peers": dict(peers),
        "effort": asdict(effort),
        "noisy": [f"{r['case']}, {r['threads']} threads" for r in rows if r["noisy"]],
        "rows": list(rows),
    }


def row(case: Case, threads: int, differences: Mapping[str, float], timings: Mapping[str, Timing]) -> Row:
    """`differences`: of each peer's answers from ours, relative to the largest value."""
    made: Row = {
        "case": case.name,
        "kind": "layer" if isinstance(case, Layer) else "charlm",
        "config": asdict(case),
        "threads": threads,
        "differences": dict(differences),
        "seconds": {name: timing.to_dict() for name, timing in timings.items()},
        "noisy": any(timing.spread > NOISY for timing in timings.values()),
    }
    made["ratios"] = ratios(made)
    return made


def ratios(row: Row) -> dict[str, float]:
    """How many times as long as ours each peer's median is."""
    seconds = row["seconds"]
    ours = seconds[OURS]["median"]
    return {name: round(timing["median"] / ours, 4) for name, timing in seconds.items() if name != OURS}


def best_ratio(row: Row) -> float | None:
    """The ratio to the best peer, which is the smallest; None without a peer."""
    return min(ratios(row).values(), default=None)


# ---- tables ----


def table(doc: Document) -> str:
    """Everything that was measured, one line a case and number of threads."""
    names = _columns(doc["rows"])
    head = ["case", "threads", "rnnfast", "min"]
    for name in names:
        head += [name, "min", "times ours"]
    lines = []
    for r in doc["rows"]:
        cells = [r["case"], str(r["threads"])]
        for name in (OURS, *names):
            timing = r["seconds"].get(name)
            cells += ["", ""] if timing is None else [duration(timing["median"]), duration(timing["min"])]
            if name != OURS:
                cells.append("" if timing is None else _times(ratios(r)[name]))
        cells[0] += " ~" if r["noisy"] else ""
        lines.append(cells)
    return "\n\n".join([markdown(head, lines), *_means(doc), *_notes(doc)])


def layers_table(doc: Document) -> str:
    """The layers, compactly: one line a shape and number of threads, one column a cell and mode."""
    rows = [r for r in doc["rows"] if r["kind"] == "layer"]
    found = {(_shape(r), r["threads"], r["config"]["mode"], r["config"]["cell"]): r for r in rows}
    columns = [(mode, cell) for mode in MODES for cell in CELLS]
    head = ["T, B, I, H", "threads", *(f"{cell.upper()} {mode.replace('+', ' + ')}" for mode, cell in columns)]
    lines = []
    for shape, threads in dict.fromkeys((_shape(r), r["threads"]) for r in rows):
        cells = [shape, str(threads)]
        for column in columns:
            r = found.get((shape, threads, *column))
            cells.append("" if r is None else _time_and_ratio(r))
        lines.append(cells)
    how = "Time of rnnfast, and how many times as long torch takes for the same, float32." if _columns(rows) else ""
    return "\n\n".join([*filter(None, [how]), markdown(head, lines), *_means(doc), *_notes(doc)])


def charlm_table(doc: Document) -> str:
    """The jobs of the character model, each peer in its own column."""
    rows = [r for r in doc["rows"] if r["kind"] == "charlm"]
    names = _columns(rows)
    head = ["job", "threads", "rnnfast", *(COLUMNS.get(name, name) for name in names)]
    lines = []
    for r in rows:
        cells = [CHAR_JOBS[r["config"]["job"]].format_map(r["config"]), str(r["threads"])]
        cells.append(duration(r["seconds"][OURS]["median"]) + _mark(r))
        for name in names:
            timing = r["seconds"].get(name)
            cells.append("" if timing is None else f"{duration(timing['median'])} ({_times(ratios(r)[name])})")
        lines.append(cells)
    how = "A step is forward, loss, backward, clipping by norm and Adam, one-hot input"
    how += "; in brackets, how many times as long as rnnfast." if names else "."
    return "\n\n".join([how, markdown(head, lines), *_notes(doc)])


def _means(doc: Document) -> list[str]:
    """Geometric means over the shapes of the ratio to the best peer."""
    parts = []
    for mode in MODES:
        for cell in CELLS:
            of = [
                best_ratio(r)
                for r in doc["rows"]
                if r["kind"] == "layer" and (r["config"]["mode"], r["config"]["cell"]) == (mode, cell)
            ]
            known = [ratio for ratio in of if ratio is not None]
            if known:
                mean = exp(sum(map(log, known)) / len(known))
                parts.append(f"{cell.upper()} {mode.replace('+', ' + ')} {_times(mean)}")
    return ["Geometric mean of these ratios: " + ", ".join(parts) + "."] if parts else []


def _notes(doc: Document) -> list[str]:
    about, peers = doc["info"], doc["peers"]
    there = "".join(f", {name} {version}" for name, version in peers.items() if version)
    cores = f"{about['cores']} core" + ("s" if about["cores"] != 1 else "")
    notes = [
        f"rnnfast {about['rnnfast']} ({about['isa']}){there}, Python {about['python']}; {about['cpu']}, {cores}; "
        f"{doc['date'][:10]}. Medians of up to {doc['effort']['repeats']} repeats that take turns in one process, "
        "after the answers were compared."
    ]
    missing = [name for name, version in peers.items() if not version]
    if missing:
        notes.append(f"Not installed here, so not compared: {', '.join(missing)}.")
    if doc["noisy"]:
        notes.append(
            f"~ The machine was noisy: between the fastest repeat and the end of the third quarter lies more than "
            f"{NOISY:.0%} of the median."
        )
    return notes


def duration(seconds: float) -> str:
    """0.00123 -> '1.23 ms'"""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.9995 or unit == "µs":
            value = seconds / size
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"
    raise AssertionError


def _times(ratio: float) -> str:
    return f"{ratio:.{0 if ratio >= 99.5 else 1 if ratio >= 9.95 else 2}f} ×"


def _time_and_ratio(r: Row) -> str:
    best = best_ratio(r)
    return duration(r["seconds"][OURS]["median"]) + ("" if best is None else f", {_times(best)}") + _mark(r)


def _mark(r: Row) -> str:
    return " ~" if r["noisy"] else ""


def _shape(r: Row) -> str:
    return ", ".join(str(r["config"][k]) for k in "TBIH")


def _columns(rows: Iterable[Row]) -> list[str]:
    """The peers, in the order of their first row."""
    return list(dict.fromkeys(name for r in rows for name in r["seconds"] if name != OURS))


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in (head, *lines)]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
