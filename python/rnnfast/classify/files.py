"""Files of sequences and their labels: .npz, .csv, and .ts as the UCR and UEA archives have it.

    .npz  arrays X and y, and lengths where sequences differ: X (N, T, C), or tokens (N, T), as for fit; or all
          sequences one after the other, X (T_1 + … + T_N, C) or tokens (T_1 + … + T_N,), and then y has a label for
          each sequence, or for each row
    .csv  a row for each step, with a header: `sequence`, any name, the same in all rows of a sequence, which follow one
          another; `label` (not needed to predict); all other columns are numbers, the channels; a single one called
          `token` holds tokens
    .ts   a line for each sequence: its channels separated by ":", a channel's values by ",", the label last, one of
          those that @classLabel lists

A label is one for the sequence, or one for each step where steps are labelled. None may be missing, nor a number.
"""

from __future__ import annotations

import csv
import itertools
import lzma
import math
import zipfile
import zlib
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


def read(
    path: str | Path, *, steps: bool = False, numbers: bool = False, channels_first: bool = False, labels: bool = True
) -> Loaded:
    """The sequences in a file. `steps`: there is a label for each step; `numbers`: labels are numbers, not names;
    `labels`: whether they are looked at.

    Sequences come time first from .csv and .ts; with channels_first they are turned, as the arrays of an .npz file are
    taken then. Raises ValueError naming the line, or OSError.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: the name must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.suffix == ".npz":
        return _read_npz(path, steps, numbers, labels)
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            of_lines = _read_csv if path.suffix == ".csv" else _read_ts
            loaded = of_lines(f, path, steps, numbers, labels)
    except UnicodeDecodeError as e:
        raise ValueError(f"{path} must be UTF-8 text, got byte {e.object[e.start]:#04x}") from e
    turned = [x.T for x in loaded.X] if channels_first and loaded.X[0].ndim == 2 else loaded.X
    return loaded._replace(X=turned)


# ---- .npz ----


def _read_npz(path: Path, steps: bool, numbers: bool, labels: bool) -> Loaded:
    try:
        arrays = np.load(path, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise ValueError("it is an .npy file")
        with arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as e:
        raise ValueError(f"{path} must be an .npz file of numbers and strings: {e}") from e
    if "X" not in found or not found.keys() <= {"X", "y", "lengths"}:
        raise ValueError(f"{path} must hold arrays X, y and, if need be, lengths, got {', '.join(found) or 'none'}")
    if not labels:
        found.pop("y", None)
    for name, what, kinds in (
        ("X", "numbers", "fiu"),
        ("y", "numbers" if numbers else "labels, integers or strings", "fiu" if numbers else "fiubU"),
        ("lengths", "integers", "iu"),
    ):
        array = found.get(name)
        if array is not None and (array.dtype.kind not in kinds or not array.ndim):
            raise ValueError(f"{path}: {name} must be {what}, got {array.dtype} of shape {array.shape}")
    X, y, lengths = found["X"], found.get("y"), found.get("lengths")
    if lengths is not None and (X.ndim == 1 or (X.ndim == 2 and X.dtype.kind == "f")):  # one after the other
        if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != len(X):
            raise ValueError(f"{path}: lengths must be integers whose sum is the {len(X)} rows of X")
        ends = np.cumsum(lengths)[:-1]
        if steps and y is not None and len(y) == len(X):
            y = np.split(y, ends)
        X, lengths = np.split(X, ends), None
    return Loaded(X, y, lengths, [str(i) for i in range(len(X))])


# ---- .csv ----


def _read_csv(lines: Iterable[str], path: Path, steps: bool, numbers: bool, labels: bool) -> Loaded:
    rows = _csv_rows(lines, path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    channels = [i for i, name in enumerate(header) if name not in ("sequence", "label")]
    if "sequence" not in header or not channels:
        raise ValueError(f"{path}, line 1: the header must have sequence, label and channels, got {','.join(header)!r}")
    twice = next((name for name in ("sequence", "label", "token") if header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}, line 1: the header must have one column called {twice}, got {header.count(twice)}")
    where, label = header.index("sequence"), header.index("label") if labels and "label" in header else None
    tokens = [header[i] for i in channels] == ["token"]
    x: list[Any] = []
    y: list[Any] = []
    names: list[str] = []
    seen: set[str] = set()
    for name, group in itertools.groupby(_of_width(rows, len(header), path), key=lambda row: row[1][where]):
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
            given = [row[label] for _, row in part]
            for (line, _), other in zip(part, given, strict=True):
                if not other.strip():
                    raise ValueError(f"{path}, line {line}: label must be given, got {other!r}")
                if not steps and other != given[0]:
                    raise ValueError(
                        f"{path}, line {line}: label must be {given[0]!r} as in the rows of sequence {name} before, "
                        f"got {other!r}"
                    )
            named = zip(part, given, strict=True)
            read = [_number(g, False, f"{path}, line {i}, column label") for (i, _), g in named] if numbers else given
            y.append(np.array(read) if steps else read[0])
    if not x:
        raise ValueError(f"{path} must hold at least one sequence, got none")
    return Loaded(x, y if label is not None else None, None, names)


def _csv_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(lines, strict=True)
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as e:
        raise ValueError(f"{path}, line {rows.line_num}: must be CSV: {e}") from e


def _of_width(rows: Iterator[tuple[int, list[str]]], width: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if not row:
            continue
        if len(row) != width:
            raise ValueError(f"{path}, line {line}: must have {width} columns as the header, got {len(row)}")
        yield line, row


def _number(text: str, token: bool, where: str) -> float | int:
    try:
        number = int(text) if token else float(text)
    except ValueError:
        number = math.nan
    if not -(2**63) <= number < 2**63 if token else not math.isfinite(number):
        raise ValueError(f"{where}: must be {'an integer' if token else 'a number'}, got {text.strip()!r}")
    return number


# ---- .ts ----


def _read_ts(lines: Iterable[str], path: Path, steps: bool, numbers: bool, labels: bool) -> Loaded:
    if steps and labels:
        raise ValueError(f"{path}: .ts files have one label a sequence, and no labels of steps")
    labelled, in_data, classes = True, False, set[str]()
    x: list[Any] = []
    y: list[Any] = []
    for number, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("@"):
            word, *rest = text[1:].split() or [""]
            word, true = word.lower(), [r.lower() for r in rest[:1]] == ["true"]
            in_data |= word == "data"
            if word in ("classlabel", "targetlabel"):
                labelled, classes = true, set(rest[1:]) if word == "classlabel" else set()
            if word == "timestamps" and true:
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
        label = last.strip()
        if labelled and labels and (not label or (classes and label not in classes)):
            which = f"one of those of @classLabel, {', '.join(sorted(classes))}" if classes else "given"
            raise ValueError(f"{where}: the label must be {which}, got {label!r}")
        x.append(np.array(values).T)
        y.append(_number(label, False, f"{where}, label") if numbers and labelled and labels else label)
    if not x:
        raise ValueError(f"{path} must hold at least one sequence, got none")
    return Loaded(x, y if labelled and labels else None, None, [str(i) for i in range(len(x))])
