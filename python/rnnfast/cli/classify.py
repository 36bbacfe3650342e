"""`rnnfast classify train | predict | eval`: a label for each sequence or for each of its steps, or numbers."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from .classify_flags import CLASSIFY_FLAGS
from .common import (
    UsageError,
    add_run_flags,
    in_command,
    options_as_flags,
    read_config,
    report,
    set_threads,
    write_config,
    write_text,
)
from .lm_flags import add_train_flags, option_names

__all__ = ["add_commands"]

_TASKS = {
    "classify": "a label for each sequence",
    "label": "a label for each step",
    "regress": "a number for each sequence",
    "regress-steps": "a number for each step",
}
_FILE = "sequences: .npz, .csv or .ts (python -c 'help(\"rnnfast.classify.files\")' says what is in them)"


def add_commands(commands: Any) -> None:
    classify = commands.add_parser("classify", help="sequences to labels or numbers: train, predict, evaluate")
    sub = classify.add_subparsers(title="commands", dest="classify_command", required=True, metavar="COMMAND")

    train = sub.add_parser("train", help="train on a file", description="Train a recurrent classifier on sequences.")
    train.add_argument("data", metavar="FILE", help=_FILE)
    tasks = "; ".join(f"{name}: {what}" for name, what in _TASKS.items())
    train.add_argument("--task", choices=_TASKS, help=f"{tasks} (default: classify)")
    train.add_argument("--validation", metavar="FILE", help="sequences to validate on (default: a part of FILE)")
    add_train_flags(train, CLASSIFY_FLAGS)
    add_run_flags(train)
    train.set_defaults(run=_train)

    predict = sub.add_parser("predict", help="labels as CSV", description="Write the labels of sequences as CSV.")
    predict.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a training run")
    predict.add_argument("data", metavar="FILE", help=f"{_FILE}; labels in it are not looked at")
    predict.add_argument("--proba", action="store_true", help="with the probability of each class")
    predict.add_argument("--output", metavar="CSV", help="default: standard output")
    add_run_flags(predict)
    predict.set_defaults(run=_predict)

    evaluate = sub.add_parser("eval", help="how many labels are right", description="Compare labels with true ones.")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the folder of a training run")
    evaluate.add_argument("data", metavar="FILE", help=_FILE)
    add = evaluate.add_argument
    add("--confusion-matrix", metavar="FILE", help="write it as .csv, or with matplotlib as .png (default: print it)")
    add("--json", action="store_true", help="as JSON")
    add_run_flags(evaluate)
    evaluate.set_defaults(run=_eval)


# ---- train ----


def _train(args: argparse.Namespace) -> int:
    from .._run_folder import LAST, check

    names, flags = option_names(CLASSIFY_FLAGS)
    given = {} if args.config is None else read_config(args.config, names)
    given |= {name: value for name, value in vars(args).items() if name in flags}
    if args.resume and args.out is None:
        raise UsageError("argument --resume: needs --out, the folder of the run", "classify train")
    out = str(args.out) if args.out is not None else f"rnnfast-{Path(args.data).stem}"
    with options_as_flags(flags, "classify train"):
        check(out, resume=args.resume, overwrite=args.overwrite)
        task: str = args.task or "classify"
        if args.resume:
            task, saved = _saved(Path(out, LAST), args.task)
            given = {**saved, **given}
        estimator = _make(task, given, verbose=not args.quiet)
        estimator._check(args.validation is not None)
        if args.save_config is not None:
            options = estimator._from_jsonable(estimator._jsonable())
            write_config(args.save_config, {name: value for name, value in options.items() if name in flags})
        set_threads(args.threads)
        loaded = _read(args.data, estimator)
        val = None if args.validation is None else _read(args.validation, estimator)
        with _one_line_warnings():
            estimator.fit(
                loaded.X,
                _labels(loaded, args.data),
                lengths=loaded.lengths,
                validation=None if val is None else (val.X, _labels(val, args.validation), val.lengths),
                out=out,
                resume=args.resume,
                overwrite=args.overwrite,
            )
    validation = "" if args.validation is None else f" --validation {in_command(args.validation)}"
    return report(
        estimator.result_,
        args.quiet,
        resume=f"rnnfast classify train {in_command(args.data)}{validation} --out {in_command(out)} --resume",
        use=f"to use it:\n  rnnfast classify predict {in_command(out)} FILE",
        loss="",
    )


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    def show(message: Any, *args: Any, **kwargs: Any) -> None:
        print(f"rnnfast classify: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _saved(path: Path, task: str | None) -> tuple[str, dict[str, Any]]:
    """(the task of the run that is resumed, its options)"""
    from ..checkpoint import read_header
    from ..classify.base import Estimator
    from ..classify.estimators import estimator_in

    header = read_header(path)
    options = header.get("options", {})
    kinds = {"sequence classifier": "classify", "sequence labeler": "label"}
    there = kinds.get(estimator_in(path, header).KIND, "regress-steps" if options.get("per_step") else "regress")
    if task not in (None, there):
        raise UsageError(
            f"argument --task: must be {there} as in the run that is resumed, got {task}", "classify train"
        )
    return there, Estimator._from_jsonable(options)


def _make(task: str, given: dict[str, Any], *, verbose: bool) -> Any:
    from .. import classify

    cls: Any = {"classify": classify.SequenceClassifier, "label": classify.SequenceLabeler}.get(
        task, classify.SequenceRegressor
    )
    if task == "regress-steps":
        given = {**given, "per_step": True}
    known = {f.name for f in fields(cls)}
    for name in given:
        if name not in known:
            flag = option_names(CLASSIFY_FLAGS)[1].get(name, name)
            raise UsageError(f"argument {flag}: must be left out with --task {task}", "classify train")
    return cls(**{**given, "verbose": verbose})


# ---- predict ----


def _predict(args: argparse.Namespace) -> int:
    from ..classify import load

    set_threads(args.threads)
    model = load(args.checkpoint)
    if args.proba and not model.has_classes:
        raise UsageError("argument --proba: needs a model of labels, got one of numbers", "classify predict")
    loaded = _read(args.data, model, labels=False)
    steps = model.of_steps
    columns: list[Any] = [model.predict(loaded.X, lengths=loaded.lengths)]
    head = ["label"] if model.has_classes else _value_names(model)
    if args.proba:
        columns.append(model.predict_proba(loaded.X, lengths=loaded.lengths))
        head += [f"p({c})" for c in model.classes_.tolist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sequence", *(["step"] if steps else []), *head])
    for i, name in enumerate(loaded.names):
        rows = [np.atleast_1d(c[i]).reshape(len(columns[0][i]) if steps else 1, -1) for c in columns]
        for step, cells in enumerate(zip(*rows, strict=True)):
            values = [value for cell in cells for value in cell.tolist()]
            writer.writerow([name, *([step] if steps else []), *values])
    if args.output is None:
        sys.stdout.write(text.getvalue())
        sys.stdout.flush()
    else:
        write_text(args.output, text.getvalue())
    return 0


def _value_names(model: Any) -> list[str]:
    return ["value"] if model.n_outputs_ == 1 else [f"value_{i}" for i in range(model.n_outputs_)]


# ---- eval ----


def _eval(args: argparse.Namespace) -> int:
    from .._pictures import check_picture
    from ..classify import load
    from ..classify.confusion import confusion_matrix, plot_matrix, write_matrix

    file = args.confusion_matrix
    if file is not None and Path(file).suffix not in (".csv", ".png"):
        raise UsageError(f"argument --confusion-matrix: must end in .csv or .png, got {file}", "classify eval")
    if file is not None and file.endswith(".png"):
        check_picture(file)
    set_threads(args.threads)
    model = load(args.checkpoint)
    if file is not None and not model.has_classes:
        raise UsageError("argument --confusion-matrix: needs a model of labels, got one of numbers", "classify eval")
    loaded = _read(args.data, model)
    y = _labels(loaded, args.data)
    if not model.has_classes:
        value = model.score(loaded.X, y, lengths=loaded.lengths)
        print(json.dumps({"R2": value, "sequences": len(loaded.names)}) if args.json else f"R2 {value:.4f}")
        return 0
    matrix = confusion_matrix(model, loaded.X, y, lengths=loaded.lengths)
    names = [str(c) for c in model.classes_.tolist()]
    right, count = int(np.trace(matrix)), int(matrix.sum())
    if args.json:
        result = {"accuracy": right / count, "count": count, "classes": model.classes_.tolist()}
        print(json.dumps({**result, "confusion_matrix": matrix.tolist()}))
    else:
        what = "steps" if model.of_steps else "sequences"
        print(f"accuracy {right / count:.4f}: {right:,} of {count:,} {what}")
        if file is None:
            print(f"\n{write_matrix(matrix, names, padded=True)}", end="")
    if file is not None and file.endswith(".csv"):
        write_text(file, write_matrix(matrix, names))
    elif file is not None:
        plot_matrix(file, matrix, names)
    return 0


# ---- shared ----


def _read(path: str, model: Any, *, labels: bool = True) -> Any:
    from ..classify.files import read

    return read(
        path,
        steps=model.of_steps,
        numbers=not model.has_classes,
        channels_first=bool(model.channels_first),
        labels=labels,
    )


def _labels(loaded: Any, path: str) -> Any:
    if loaded.y is None:
        raise ValueError(f"{path} must hold labels, got none")
    return loaded.y
