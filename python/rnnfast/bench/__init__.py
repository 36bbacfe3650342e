"""`rnnfast bench`: rnnfast and torch side by side, in one run, on this machine.

cases.py says what is timed, peers.py who and how, measure.py times, report.py writes it down.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import threads as our_threads
from . import report
from .cases import Case, all_cases, select
from .measure import QUICK, AnswersDiffer, Effort, compare, interleaved
from .peers import find_peers, runners, tolerance

__all__ = ["main", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command: a table on standard output, progress on standard error. 1 if a peer's answers differ from ours."""
    parser = _parser()
    args = parser.parse_args(argv)
    cases = select(all_cases(args.quick), args.cases)
    if not cases:
        parser.error(f"argument --cases: no case has {args.cases!r} in its name (--list shows them)")
    if args.list:
        print("\n".join(case.name for case in cases))
        return 0
    with _output(args.out) as write:
        doc, failed = run(cases, args.threads or _default_threads(), QUICK if args.quick else Effort())
        write(doc)
    print(report.table(doc))
    return 1 if failed else 0


def run(cases: Sequence[Case], threads: Sequence[int], effort: Effort) -> tuple[dict[str, Any], list[str]]:
    """(document, cases whose answers differ: they have no row). A line for each case goes to standard error."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    peers = find_peers()
    versions = {name: None if peer is None else str(peer.__version__) for name, peer in peers.items()}
    for name, peer in peers.items():
        if peer is None:
            _say(f"{name} cannot be imported, so it is not compared (pip install 'rnnfast[bench]' brings it)")
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    total = len(cases) * len(threads)
    for n in threads:
        for case in cases:
            where = f"[{len(rows) + len(failed) + 1}/{total}] {case.name}, {n} thread{'s' if n > 1 else ''}"
            try:
                rows.append(_measure(case, n, peers, effort))
            except AnswersDiffer as e:
                failed.append(case.name)
                _say(f"{where}: NOT TIMED, the answers differ: {e}")
            else:
                _say(f"{where}: {_line(rows[-1])}")
    # A reader looks for a case first, then for a number of threads.
    rows.sort(key=lambda r: [case.name for case in cases].index(r["case"]))
    return report.document(rows, versions, effort, load), failed


def _measure(case: Case, threads: int, peers: dict[str, Any], effort: Effort) -> dict[str, Any]:
    with _threads(threads, peers.get("torch")):
        ours, *others = runners(case, peers)
        answers = ours.answers()
        differences = {}
        for other in others:
            try:
                differences[other.name] = compare(answers, other.answers(), tolerance(case))
            except AnswersDiffer as e:
                raise AnswersDiffer(f"{other.name}: {e}") from e
        timings = interleaved({runner.name: runner.run for runner in (ours, *others)}, effort)
    return report.row(case, threads, differences, timings)


@contextmanager
def _threads(n: int, torch: Any) -> Iterator[None]:
    before = None if torch is None else torch.get_num_threads()
    try:
        if torch is not None:
            torch.set_num_threads(n)
        with our_threads(n):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def _line(row: dict[str, Any]) -> str:
    parts = [f"{name} {report.duration(timing['median'])}" for name, timing in row["seconds"].items()]
    best = report.best_ratio(row)
    return ", ".join(parts) + ("" if best is None else f": {best:.2f} x") + (" (noisy)" if row["noisy"] else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnfast bench",
        description="Time rnnfast beside torch, where it is installed: same weights and inputs, same answers.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", help="write everything that was measured to FILE, as JSON")
    add("--quick", action="store_true", help="few cases, few repeats: half a minute, rough figures")
    add("--threads", type=_counts, metavar="N,M", help="numbers of threads (default: 1,2; 1 where there is one core)")
    add("--cases", metavar="WORDS", help="only cases with one of these words in their name: lstm/forward,charlm")
    add("--list", action="store_true", help="print the names of the cases and stop")
    return parser


def _counts(text: str) -> list[int]:
    counts = [int(part) if part.strip().isdigit() else 0 for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"must be numbers of at least 1 with commas between them, got {text!r}")
    return counts


def _default_threads() -> list[int]:
    return [1, 2] if report.cores() > 1 else [1]


@contextmanager
def _output(path: Path | None) -> Iterator[Callable[[dict[str, Any]], object]]:
    """A function that writes the document to `path`. A path that cannot be written shows now, not after minutes of
    measuring, and what was there stays until the new document is whole."""
    if path is None:
        yield lambda doc: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text("", encoding="utf-8")

    def write(doc: dict[str, Any]) -> None:
        part.write_text(json.dumps(doc, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)

    try:
        yield write
    finally:
        part.unlink(missing_ok=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
