"""What comes out: one JSON document. tables.py makes markdown of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from .._info import info
from .cases import Case, Layer, from_config, lengths
from .limits import Machine, flops, limit, weight_bytes
from .measure import NOISY, Effort, Timing
from .peers import OURS, OWN, PADDED, PART

__all__ = [
    "FORMAT",
    "about",
    "best_ratio",
    "cores",
    "document",
    "duration",
    "line",
    "quieter",
    "ratios",
    "row",
    "times",
]

FORMAT = 3
Row = dict[str, Any]


def document(
    rows: Sequence[Row],
    peers: Mapping[str, str | None],
    effort: Effort,
    load: float | None,
    machine: Machine,
    wheel_bytes: int | None,
) -> dict[str, Any]:
    """`peers`: the version of each, None where it is not installed. `load`: of the machine, before the run.
    `wheel_bytes`: the size of a wheel of rnnfast, if one was given."""
    return {
        "kind": "rnnfast bench",
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "info": about(load),
        "peers": dict(peers),
        "effort": asdict(effort),
        "limits": machine.to_dict(),
        "noisy": [f"{r['case']}, {r['threads']} threads" for r in rows if r["noisy"]],
        "rows": [{**r, **_against(r, machine)} for r in rows],
        "wheel_bytes": wheel_bytes,
    }


def about(load: float | None) -> dict[str, Any]:
    return {**info(), "cores": cores(), "load_before": load}


def row(
    case: Case,
    threads: int,
    differences: Mapping[str, float],
    timings: Mapping[str, Timing],
    exchange: float,
    peak: float,
) -> Row:
    """`differences`: of each peer's answers from ours, relative to the largest value. `exchange`, `peak`: limits.py."""
    made: Row = {
        "case": case.name,
        "kind": "layer" if isinstance(case, Layer) else "model",
        "config": asdict(case),
        "threads": threads,
        "differences": dict(differences),
        "seconds": {name: timing.to_dict() for name, timing in timings.items()},
        "noisy": any(timing.spread > NOISY for timing in timings.values()),
        "flops": flops(case),
        "weight_bytes": weight_bytes(case),
        "exchange": exchange,
        "peak": peak,
    }
    made["ratios"] = ratios(made)
    if PART in timings:
        made["rest"] = round(1 - timings[PART].median / timings[OURS].median, 4)  # what is not the RNN
    if PADDED in timings:
        made["of_padded"] = round(timings[OURS].median / timings[PADDED].median / _filled(case), 4)
    return made


def _filled(case: Case) -> float:
    """The part of a padded batch that takes time."""
    cut = lengths(case) if isinstance(case, Layer) else None
    assert cut is not None
    return float(cut.sum() / (case.T * case.B) if case.B >= 32 else cut.max() / case.T)


def _against(row: Row, machine: Machine) -> Row:
    """The limit in seconds, and which part of our time it is: 1 is as fast as the machine."""
    if row["threads"] not in machine.float32:  # of an earlier run with more threads
        return {}
    least = limit(from_config(row["config"]), row["threads"], machine, row["exchange"], row["peak"])
    return {"limit": least, "fraction": round(least / row["seconds"][OURS]["median"], 4)}


def ratios(row: Row) -> dict[str, float]:
    """How many times as long as ours each peer's median is."""
    seconds = row["seconds"]
    ours = seconds[OURS]["median"]
    return {name: round(timing["median"] / ours, 4) for name, timing in seconds.items() if name not in OWN}


def quieter(a: Row, b: Row) -> Row:
    """Of two measurements of a case the one whose repeats agree better; the second where they are alike."""
    worst = [max(timing["spread"] for timing in row["seconds"].values()) for row in (a, b)]
    return a if worst[0] < worst[1] else b


def best_ratio(row: Row) -> float | None:
    """The ratio to the best peer, which is the smallest; None without a peer."""
    return min(ratios(row).values(), default=None)


def line(row: Row, machine: Machine) -> str:
    """What the progress says."""
    parts = [f"{name} {duration(timing['median'])}" for name, timing in row["seconds"].items()]
    best, against = best_ratio(row), _against(row, machine)
    text = ", ".join(parts) + ("" if best is None else f": {times(best)}")
    text += f", {against['fraction']:.0%} of the limit" if against else ""
    return text + (" (noisy)" if row["noisy"] else "")


def duration(seconds: float) -> str:
    """0.00123 -> '1.23 ms'"""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.9995 or unit == "µs":
            value = seconds / size
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"
    raise AssertionError


def times(ratio: float) -> str:
    return f"{ratio:.{0 if ratio >= 99.5 else 1 if ratio >= 9.95 else 2}f} ×"


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
