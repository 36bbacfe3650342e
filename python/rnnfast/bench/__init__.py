"""`rnnfast bench`: rnnfast and what one would use instead, side by side, in one run, on this machine.

cases.py says what is timed, peers.py (and peer_*.py) who and how, limits.py what the machine could do at best,
measure.py times, report.py writes it down, tables.py for readers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from .. import threads as our_threads
from . import report, tables
from .cases import Case, all_cases, select
from .limits import Machine, exchange, peak
from .measure import QUICK, AnswersDiffer, Effort, compare, interleaved
from .peers import OWN, find_peers, runners, tolerance

__all__ = ["main", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command: tables on standard output, progress on standard error. 1 if a peer's answers differ from ours."""
    parser = _parser()
    args = parser.parse_args(argv)
    cases = select(all_cases(args.quick), args.cases)
    if not cases:
        parser.error(f"argument --cases: no case has {args.cases!r} in its name (--list shows them)")
    if args.list:
        print("\n".join(case.name for case in cases))
        return 0
    threads = args.threads or _default_threads()
    if args.limits:
        between = [exchange(max(threads)) for _ in range(20)]
        print(tables.limits_of(_machine(threads).to_dict(), list(filter(None, between))))
        return 0
    if (args.resume or args.again) and args.out is None:
        parser.error(f"argument {'--resume' if args.resume else '--again'}: needs --out, the file to go on with")
    before = _read(args.out) if args.resume or args.again else {}
    with _output(args.out) as write:
        doc, failed = run(cases, threads, QUICK if args.quick else Effort(), before, write, args.again, args.wheel)
    print(tables.everything(doc))
    return 1 if failed else 0


def run(
    cases: Sequence[Case],
    threads: Sequence[int],
    effort: Effort,
    before: dict[str, Any],
    write: Callable[[dict[str, Any]], object],
    again: bool = False,
    wheel: Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """(document, cases whose answers differ: they have no row). A line for each case goes to standard error.

    `before`: a document whose rows are not measured again, or nothing; with `again` the noisy ones are, and what was
    less noisy stays. `write` gets the document after every row.
    """
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    machine = _machine(threads)
    if "limits" in before:
        machine = machine.best_of(Machine.from_dict(before["limits"]))
    rows = {(r["case"], r["threads"]): r for r in before.get("rows", [])}
    peers: dict[str, str | None] = before.get("peers", {})
    wheel_bytes = before.get("wheel_bytes") if wheel is None else wheel.stat().st_size
    failed: list[str] = []
    order = [case.name for case in all_cases()] + [case.name for case in cases]

    def document() -> dict[str, Any]:
        # A reader looks for a case first, then for a number of threads.
        ordered = sorted(rows.values(), key=lambda r: (order.index(r["case"]), r["threads"]))
        return report.document(ordered, peers, effort, load, machine, wheel_bytes)

    for n in threads:
        left = [case for case in cases if (case.name, n) not in rows or (again and rows[case.name, n]["noisy"])]
        for i, (kind, value) in enumerate(_apart(left, n, effort) if left else ()):
            where = f"[{n} thread{'s' if n > 1 else ''}, {i}/{len(left)}]"
            if kind == "peers":
                peers = value
                for name in [name for name, version in peers.items() if version is None]:
                    _say(f"{name} cannot be imported, so it is not compared (pip install 'rnnfast[bench]' brings it)")
            elif kind == "row":
                at = (value["case"], n)
                rows[at] = report.quieter(rows[at], value) if at in rows else value
                _say(f"{where} {value['case']}: {report.line(value, machine)}")
                write(document())
            else:
                failed.append(value)
                _say(f"{where} {value}")
    doc = document()
    write(doc)
    return doc, failed


Found = Iterator[tuple[str, Any]]


def _measure_all(cases: Sequence[Case], threads: int, effort: Effort) -> Found:
    """("peers", versions), then for each case ("row", row), or ("failed", message) where the answers differ."""
    peers = find_peers()
    yield "peers", peers
    for case in cases:
        try:
            yield "row", _measure(case, threads, peers, effort)
        except AnswersDiffer as e:
            yield "failed", f"{case.name}: NOT TIMED, the answers differ: {e}"


def _measure(case: Case, threads: int, peers: dict[str, str | None], effort: Effort) -> dict[str, Any]:
    with our_threads(threads):
        ours, *others = runners(case, peers, threads)
        answers = ours.answers()
        differences = {}
        for other in [other for other in others if other.name not in OWN]:
            try:
                differences[other.name] = compare(answers, other.answers(), tolerance(case))
            except AnswersDiffer as e:
                raise AnswersDiffer(f"{other.name}: {e}") from e
        before, peaks = exchange(threads), list[float]()
        timings = interleaved(
            {runner.name: runner.run for runner in (ours, *others)}, effort, lambda: peaks.append(peak(case, threads))
        )
    return report.row(case, threads, differences, timings, min(before, exchange(threads)), median(peaks))


def _apart(cases: Sequence[Case], threads: int, effort: Effort) -> Found:
    """_measure_all in a process of its own, which may run on `threads` processors: some libraries make a thread for
    each, once, and have no other setting."""
    context = multiprocessing.get_context("spawn")
    results, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, cases, threads, effort), daemon=True)
    child.start()
    sender.close()
    try:
        while (found := results.recv()) is not None:
            yield found
    except EOFError:
        child.join()
        raise RuntimeError(f"the process that measured ended with exit code {child.exitcode}") from None
    finally:
        child.terminate()
        child.join()


def _child(sender: Any, cases: Sequence[Case], threads: int, effort: Effort) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        for found in _measure_all(cases, threads, effort):
            sender.send(found)
        sender.send(None)
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # Ctrl-C reaches the parent too, and it says so


def _machine(threads: Sequence[int]) -> Machine:
    _say("measuring what the machine can do")
    return Machine.measure(max(threads))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rnnfast bench",
        description="Time rnnfast beside torch, onnxruntime and JAX, where they are installed: same weights and "
        "inputs, same answers; and beside the least time that this machine could take.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", help="write everything that was measured to FILE, as JSON, row by row")
    add("--resume", action="store_true", help="go on with FILE: what it has is not measured again")
    add("--again", action="store_true", help="the same, but its noisy rows are measured again")
    add("--quick", action="store_true", help="few cases, few repeats: a minute, rough figures")
    add("--threads", type=_counts, metavar="N,M", help="numbers of threads (default: 1,2; 1 where there is one core)")
    add("--cases", metavar="WORDS", help="only cases with one of these words in their name: lstm/forward,charlm")
    add("--wheel", type=Path, metavar="FILE", help="a wheel of rnnfast, to write down its size")
    add("--limits", action="store_true", help="only measure and print what the machine can do at best")
    add("--list", action="store_true", help="print the names of the cases and stop")
    return parser


def _counts(text: str) -> list[int]:
    counts = [int(part) if part.strip().isdigit() else 0 for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"must be numbers of at least 1 with commas between them, got {text!r}")
    if max(counts) > report.cores():
        raise argparse.ArgumentTypeError(f"must be at most {report.cores()}, the cores that there are, got {text!r}")
    return counts


def _default_threads() -> list[int]:
    return [1, 2] if report.cores() > 1 else [1]


def _read(path: Path) -> dict[str, Any]:
    """An earlier document of this machine and version; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        doc = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} must be what an earlier run wrote, to go on with it: {e}") from e
    if not isinstance(doc, dict) or not isinstance(doc.get("info"), dict):
        raise ValueError(f"{path} must be what an earlier run wrote, to go on with it")
    here = report.about(None)
    for key in ("rnnfast", "isa", "cpu", "cores", "python"):
        if doc.get("format") != report.FORMAT or doc["info"][key] != here[key]:
            raise ValueError(
                f"{path} must be of this machine and version to go on with it: without --resume it starts anew"
            )
    return doc


@contextmanager
def _output(path: Path | None) -> Iterator[Callable[[dict[str, Any]], object]]:
    """A function that writes the document to `path`. A path that cannot be written shows now, not after minutes of
    measuring, and what was there stays until a new document is whole."""
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
