"""Checkpoints: named arrays and a JSON description in one safetensors file, written so that a crash never loses one.

The file is ordinary safetensors (any safetensors reader opens it):

    8 bytes   length of the header, little endian
    header    JSON: the table of arrays, and under "__metadata__" four strings:
                format  "rnnfast"
                version the format's version, "1"
                sha256  of the whole file, taken with these 64 digits written as zeros: it covers every bit
                json    the description: what the caller passed as `meta`
    arrays    raw, little endian, in the order of the table

`save` writes to a temporary file in the same folder, flushes it to the disk, renames it over the old file and flushes
the folder: at any moment the path holds the old file or the new one, whole. This module needs numpy and nothing else of
rnnfast, so that a damaged installation can still be asked what a file holds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMAT_VERSION", "CheckpointError", "load", "read_header", "remove_stale", "save"]

FORMAT_VERSION = 1
_NO_HASH = "0" * 64
_MAX_HEADER = 100_000_000  # safetensors' own limit
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items()}

Arrays = dict[str, NDArray[Any]]


class CheckpointError(ValueError):
    """A file that cannot be read as a checkpoint, or is not the one that was asked for."""


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    *,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Write `arrays` and the jsonable `meta` to `path`, atomically and durably. `ready` is called when all is written,
    before it takes the place of an old file."""
    target = Path(path)
    header, parts = _encode(arrays, meta)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _write_durably(temporary, [header, *parts])
        ready()
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except OSError as e:
        raise OSError(e.errno, f"cannot write the checkpoint: {os.strerror(e.errno or errno.EIO)}", str(target)) from e
    finally:
        if temporary.exists():  # renamed by now, unless something failed: a full disk, Ctrl-C
            temporary.unlink()


def load(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, Any]]:
    """Read a checkpoint: (arrays, meta). A file that is not whole, or not ours, raises CheckpointError."""
    content = Path(path).read_bytes()
    table, strings, start = _parse_header(path, content)
    _check_content(path, content, strings)
    arrays = {name: _array(path, name, entry, content, start) for name, entry in table.items()}
    return arrays, _parse_meta(path, strings)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Only the JSON description, without reading or checking the arrays: cheap for a big file."""
    with open(path, "rb") as f:
        content = f.read(8)
        if len(content) == 8:
            content += f.read(min(struct.unpack("<Q", content)[0], _MAX_HEADER))
    _, strings, _ = _parse_header(path, content)
    _check_version(path, strings, intact=True)
    return _parse_meta(path, strings)


def remove_stale(path: str | os.PathLike[str]) -> None:
    """Remove temporary files that a killed process left beside `path`. Only for a caller who owns the folder."""
    target = Path(path)
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


# ---- writing ----


def _encode(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> tuple[bytes, list[memoryview]]:
    table: dict[str, Any] = {}
    parts: list[memoryview] = []
    digest, offset = hashlib.sha256(), 0
    # Widest items first keeps every array aligned; then by name, so that the same state gives the same file.
    for name in sorted(arrays, key=lambda n: (-arrays[n].dtype.itemsize, n)):
        a = arrays[name]
        kind = _NAMES.get(a.dtype.newbyteorder("<"))
        if kind is None or name == "__metadata__":
            raise TypeError(f"array {name!r} of dtype {a.dtype} cannot be saved; dtypes: {', '.join(_DTYPES)}")
        part = np.ascontiguousarray(a, dtype=_DTYPES[kind]).reshape(-1).view(np.uint8).data
        table[name] = {"dtype": kind, "shape": list(a.shape), "data_offsets": [offset, offset + part.nbytes]}
        offset += part.nbytes
        parts.append(part)
    strings = {"format": "rnnfast", "version": str(FORMAT_VERSION), "sha256": _NO_HASH, "json": _dumps(meta)}
    header = _header({"__metadata__": strings, **table})
    digest.update(header)
    for part in parts:
        digest.update(part)
    strings["sha256"] = digest.hexdigest()
    return _header({"__metadata__": strings, **table}), parts


def _dumps(value: Any) -> str:
    # ASCII only and no NaN: any JSON reader must be able to read it, and one character is one byte.
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _header(table: Mapping[str, Any]) -> bytes:
    text = _dumps(table).encode("ascii")
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"the checkpoint's description must be at most {_MAX_HEADER} bytes, got {len(text)}")
    return struct.pack("<Q", len(text)) + text


def _write_durably(path: Path, blocks: list[Any]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    with open(fd, "wb") as f:
        for block in blocks:
            f.write(block)
        f.flush()
        os.fsync(f.fileno())


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":  # a folder cannot be opened there; the rename is in the file system's journal
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- reading ----


def _parse_header(path: Any, content: bytes) -> tuple[dict[str, Any], dict[str, str], int]:
    """(table of arrays, our four strings, where the arrays start)"""
    if not content:
        raise CheckpointError(f"{path} is empty, not a checkpoint")
    if len(content) < 8:
        raise CheckpointError(f"{path} is truncated: {len(content)} bytes are too few for a checkpoint")
    (length,) = struct.unpack_from("<Q", content)
    if not 2 <= length <= _MAX_HEADER or content[8:9] != b"{":
        raise CheckpointError(f"{path} is not a checkpoint (it does not begin like a safetensors file)")
    if len(content) < 8 + length:
        raise CheckpointError(f"{path} is truncated: its header has {length} bytes, {len(content) - 8} are there")
    try:
        table = json.loads(content[8 : 8 + length])
        strings = table.pop("__metadata__", None)
    except (ValueError, AttributeError) as e:
        raise CheckpointError(f"{path} is damaged: its header is not JSON") from e
    wanted = ("format", "version", "sha256", "json")
    if not isinstance(strings, dict) or any(not isinstance(strings.get(k), str) for k in wanted):
        raise CheckpointError(f"{path} is a safetensors file, but not one that rnnfast wrote (no rnnfast header)")
    if strings["format"] != "rnnfast":
        raise CheckpointError(f"{path} is not an rnnfast checkpoint: its format is {strings['format']!r}")
    return table, strings, 8 + length


def _check_content(path: Any, content: bytes, strings: dict[str, str]) -> None:
    (length,) = struct.unpack_from("<Q", content)
    header, said = content[: 8 + length], strings["sha256"].encode()
    digest = hashlib.sha256(header.replace(b'"sha256":"' + said + b'"', b'"sha256":"' + _NO_HASH.encode() + b'"', 1))
    digest.update(memoryview(content)[8 + length :])
    intact = digest.hexdigest() == strings["sha256"]
    _check_version(path, strings, intact)
    if not intact:
        raise CheckpointError(f"{path} is damaged: its content does not match its checksum (truncated or altered)")


def _check_version(path: Any, strings: dict[str, str], intact: bool) -> None:
    version = strings["version"]
    if version.isdecimal() and 1 <= int(version) <= FORMAT_VERSION:
        return
    if intact and version.isdecimal():
        raise CheckpointError(
            f"{path} has format version {version}, newer than this rnnfast reads (up to {FORMAT_VERSION}): "
            "upgrade rnnfast to open it"
        )
    raise CheckpointError(
        f"{path} is damaged, or of a newer format: version {version!r}, this rnnfast reads up to {FORMAT_VERSION}"
    )


def _array(path: Any, name: str, entry: dict[str, Any], content: bytes, start: int) -> NDArray[Any]:
    try:
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        first, last = entry["data_offsets"]
        flat = np.frombuffer(content, dtype, count=(last - first) // dtype.itemsize, offset=start + first)
        return flat.reshape(shape).copy()
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path}: array {name!r} cannot be read: {e}") from e


def _parse_meta(path: Any, strings: dict[str, str]) -> dict[str, Any]:
    try:
        meta = json.loads(strings["json"])
    except ValueError as e:
        raise CheckpointError(f"{path} is damaged: its description is not JSON") from e
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path} is damaged: its description is not a JSON object")
    return meta
