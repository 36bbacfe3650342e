"""The folder of a training run: its files, when it may be used, whether a checkpoint in it is the right one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointError, remove_stale

__all__ = [
    "BEST", "LAST", "METRICS", "PLOT", "FolderError", "check", "check_kind", "check_same", "checkpoint_in", "forget",
    "replacing", "tidy", "weights_in",
]  # fmt: skip

LAST, BEST, METRICS, PLOT = "last.safetensors", "best.safetensors", "metrics.csv", "loss.png"


class FolderError(ValueError):
    """The folder cannot be used in the way that was asked for."""


def check(out: str | Path | None, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless told what to do with it. Changes nothing."""
    if out is None:
        if resume or overwrite:
            raise FolderError(f"{'resume' if resume else 'overwrite'} needs out, the folder of the run")
        return
    out = Path(out)
    if resume and overwrite:
        raise FolderError("resume and overwrite exclude each other: one goes on with a run, the other begins anew")
    if out.exists() and not out.is_dir():
        raise FolderError(f"out must be a folder, got {out}, which is a file")
    if resume:
        if not (out / LAST).exists():
            raise FolderError(f"there is nothing to resume in {out}: it holds no {LAST}")
    elif not overwrite and out.exists() and any(out.iterdir()):
        raise FolderError(f"{out} is not empty: resume the run in it, overwrite it, or name another folder")


def tidy(out: Path) -> None:
    """Remove what a killed process left half written; nothing else."""
    for name in (LAST, BEST, METRICS, PLOT):
        remove_stale(out / name)


def forget(out: Path) -> None:
    """Remove what an earlier run left, but for its LAST and METRICS, which the new run's replace."""
    for name in (BEST, PLOT):
        (out / name).unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Where to write what takes the place of the file `path` when it is there whole; a pipe or a device is written to
    itself."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e
    finally:
        temporary.unlink(missing_ok=True)


def checkpoint_in(path: str | Path) -> Path:
    """The checkpoint itself, or in a folder of a run its best one, else its last."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"{path} holds no checkpoint: neither {BEST} nor {LAST}")


def check_kind(path: Path, header: Mapping[str, Any], expected: str) -> None:
    kind = header.get("task", header).get("kind", "something else")
    if kind != expected:
        raise CheckpointError(f"{path} must be a checkpoint of a {expected}, got one of {kind}")


def weights_in(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the model among a checkpoint's arrays, by the model's own names."""
    prefix = "model."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def check_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """A checkpoint of another model, or of a run on other data, is refused by naming the first thing that differs."""
    for name, value in here.items():
        if name not in there:
            raise CheckpointError(f"{path} is of another kind of model: it does not say its {name}")
        if there[name] == value:
            continue
        if isinstance(value, Mapping) and isinstance(there[name], Mapping):
            check_same(path, there[name], value)
        raise CheckpointError(f"{path} is of a run with another {name}: {_short(there[name])}, not {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
