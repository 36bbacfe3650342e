"""Files of sequences and their labels: .npz, .csv, and .ts as the UCR and UEA archives have it.

    .npz  arrays X and y, and lengths where sequences differ: X (N, T, C), or tokens (N, T), as for fit; or all
          sequences one after the other, X (T_1 + … + T_N, C) or tokens (T_1 + … + T_N,), and then y has a label for
          each sequence, or for each row
    .csv  a row for each step, with a header: `sequence`, any name, the same in all rows of a sequence, which follow one
          another; `label` (not needed to predict); all other columns are numbers, the channels; a single one called
          `token` holds tokens
    .ts   a line for each sequence: its channels separated by ":", a channel's values by ",", the label last

A label is one for the sequence, or one for each step where steps are labelled.
"""

from __future__ import annotations

import csv
import itertools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["FORMATS", "Loaded", "read"]

FORMATS = (".npz", ".csv", ".ts")


class Loaded(NamedTuple):
    """X, y and lengths as fit takes them (y None where there are no labels), and a name for each sequence."""

    X: Any
    y: Any
    lengths: Any
    names: list[str]


def read(path: str | Path, *, steps: bool = False, numbers: bool = False, channels_first: bool = False) -> Loaded:
    """The sequences in a file. `steps`: there is a label for each step; `numbers`: labels are numbers, not names.

    Sequences come time first from .csv and .ts; with channels_first they are turned, as the arrays of an .npz file are
    taken then. Raises ValueError naming the line, or OSError.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: the name must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.suffix == ".npz":
        return _read_npz(path)
    try:
        with open(path, encoding="utf-8", newline="") as f:
            loaded = _read_csv(f, path, steps) if path.suffix == ".csv" else _read_ts(f, path, steps)
    except UnicodeDecodeError as e:
        raise ValueError(f"{path} must be UTF-8 text, got byte {e.object[e.start]:#04x}") from e
    y = loaded.y
    if numbers and y is not None:
        y = [_as_number(label, path, name) for label, name in zip(y, loaded.names, strict=True)]
    turned = [x.T for x in loaded.X] if channels_first and loaded.X[0].ndim == 2 else loaded.X
    return loaded._replace(X=turned, y=y)


def _as_number(label: Any, path: Path, name: str) -> Any:
    try:
        return np.array(label, np.float64)
    except ValueError as e:
        raise ValueError(f"{path}: the label of sequence {name} must be a number, got {label!r}") from e


# ---- .npz ----


def _read_npz(path: Path) -> Loaded:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise ValueError(f"{path} must be an .npz file of numbers and strings: {e}") from e
    if "X" not in found or not found.keys() <= {"X", "y", "lengths"}:
        raise ValueError(f"{path} must hold arrays X, y and, if need be, lengths, got {', '.join(found) or 'none'}")
    X, y, lengths = found["X"], found.get("y"), found.get("lengths")
    if lengths is not None and (X.ndim == 1 or (X.ndim == 2 and X.dtype.kind == "f")):  # one after the other
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any() or lengths.sum() != len(X):
            raise ValueError(f"{path}: lengths must be integers whose sum is the {len(X)} rows of X")
        ends = np.cumsum(lengths)[:-1]
        if y is not None and len(y) == len(X) != len(lengths):
            y = np.split(y, ends)
        X, lengths = np.split(X, ends), None
    return Loaded(X, y, lengths, [str(i) for i in range(len(X))])


# ---- .csv ----


def _read_csv(lines: Iterable[str], path: Path, steps: bool) -> Loaded:
    rows = csv.reader(lines)
    header = [name.strip() for name in next(rows, [])]
    channels = [i for i, name in enumerate(header) if name not in ("sequence", "label")]
    if "sequence" not in header or not channels:
        raise ValueError(f"{path}, line 1: the header must have sequence, label and channels, got {','.join(header)!r}")
    where, label = header.index("sequence"), header.index("label") if "label" in header else None
    tokens = [header[i] for i in channels] == ["token"]
    x: list[Any] = []
    y: list[Any] = []
    names: list[str] = []
    seen: set[str] = set()
    for name, group in itertools.groupby(_numbered(rows, len(header), path), key=lambda row: row[1][where]):
        part = list(group)
        if name in seen:
            raise ValueError(f"{path}, line {part[0][0]}: the rows of sequence {name} must follow one another")
        seen.add(name)
        values = [
            [_number(row[i], tokens, f"{path}, line {line}, column {header[i]}") for i in channels]
            for line, row in part
        ]
        x.append(np.array(values, np.int64)[:, 0] if tokens else np.array(values))
        names.append(name)
        if label is not None:
            labels = [row[label] for _, row in part]
            for (line, _), other in zip(part, labels, strict=True):
                if not steps and other != labels[0]:
                    raise ValueError(
                        f"{path}, line {line}: label must be {labels[0]!r} as in the rows of sequence {name} before, "
                        f"got {other!r}"
                    )
            y.append(np.array(labels) if steps else labels[0])
    if not x:
        raise ValueError(f"{path} must hold at least one sequence, got none")
    return Loaded(x, y if label is not None else None, None, names)


def _numbered(rows: Iterator[list[str]], width: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != width:
            raise ValueError(f"{path}, line {line}: must have {width} columns as the header, got {len(row)}")
        yield line, row


def _number(text: str, token: bool, where: str) -> float | int:
    try:
        return int(text) if token else float(text)
    except ValueError:
        kind = "an integer" if token else "a number"
        raise ValueError(f"{where}: must be {kind}, got {text.strip()!r}") from None


# ---- .ts ----


def _read_ts(lines: Iterable[str], path: Path, steps: bool) -> Loaded:
    if steps:
        raise ValueError(f"{path}: .ts files have one label a sequence, and no labels of steps")
    labelled, in_data = True, False
    x: list[Any] = []
    y: list[str] = []
    for number, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("@"):
            word, *rest = text[1:].lower().split()
            in_data |= word == "data"
            if word in ("classlabel", "targetlabel"):
                labelled = rest[:1] == ["true"]
            if word == "timestamps" and rest[:1] == ["true"]:
                raise ValueError(f"{path}, line {number}: series with time stamps are not supported")
            continue
        if not in_data:
            raise ValueError(f"{path}, line {number}: must begin with @ or #, or come after @data")
        *channels, last = text.split(":")
        parts = channels if labelled else [*channels, last]
        if not parts:
            raise ValueError(f"{path}, line {number}: must hold channels and a label, separated by ':'")
        where = f"{path}, line {number}"
        values = [[_number(v, False, f"{where}, channel {i}") for v in p.split(",")] for i, p in enumerate(parts)]
        if len({len(v) for v in values}) > 1 or (x and len(values) != x[0].shape[1]):
            got = ", ".join(str(len(v)) for v in values)
            wanted = f"{x[0].shape[1]} channels" if x else "channels"
            raise ValueError(f"{where}: must have {wanted} of one length, got {len(values)} of lengths {got}")
        x.append(np.array(values).T)
        y.append(last.strip())
    if not x:
        raise ValueError(f"{path} must hold at least one sequence, got none")
    return Loaded(x, y if labelled else None, None, [str(i) for i in range(len(x))])
