"""Training a language model on a text, and getting it back from a checkpoint."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _run_folder, checkpoint, tbptt
from .._options import make_trainer
from .._progress import Progress
from ..train import Result, Trainer
from .data import split
from .model import LanguageModel, evaluate_text
from .options import FitOptions
from .text import read_text
from .tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer, from_dict

__all__ = ["LanguageModelTask", "evaluate_part", "fit", "load", "run"]

Arrays = dict[str, NDArray[Any]]


def fit(
    text: str | Path,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> LanguageModel:
    """Train a language model on `text` (a Path is read) and return it, its tokenizer in `model.tokenizer`.

    `options` are those of FitOptions: hidden_size, num_layers, cell, batch_size, seq_length, learning_rate, max_epochs,
    max_time, … With `out`, a folder, the run writes last.safetensors, best.safetensors, metrics.csv and, with the
    `plot` extra, loss.png there; `resume=True` goes on with the run in it, on the same text, to the bit as if it had
    never stopped. The model that is returned has the weights of the best validation loss (with val_frac 0, the last
    ones). Ctrl-C ends the training and returns the model so far.
    """
    if not isinstance(text, str | Path):
        raise TypeError(f"text must be a str, or a Path to a file, got {type(text).__name__}")
    chosen = FitOptions.choose(options, out=out, resume=resume, overwrite=overwrite)
    if isinstance(text, Path):
        text = read_text(text, level=chosen.level)
    progress = Progress(quiet=quiet, every=chosen.print_every)
    return run(text, chosen, out=out, resume=resume, progress=progress)[0]


def run(
    text: str,
    options: FitOptions,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    started: float | None = None,
    source: str | None = None,
) -> tuple[LanguageModel, Result]:
    """`fit` with options from `FitOptions.choose`. `started` (time.monotonic()) is when the time that max_time allows
    began, `source` where the text is from: kept in the checkpoint for whoever resumes the run."""
    if started is None:
        started = time.monotonic()
    tokenizer = _same_text(Path(str(out), _run_folder.LAST), text) if resume else make_tokenizer(text, options)
    train, val = split(tokenizer.encode(text), options.val_frac)
    tbptt.batches(train, options.batch_size, options.seq_length)  # raises here, before anything is made, if too short
    if options.sample_prime is not None:
        tokenizer.encode(options.sample_prime)  # an unknown symbol shows now, not at the first evaluation
    model = make_model(tokenizer, options)
    options.seed = model.config["seed"]
    task = LanguageModelTask(model, train, val, options, text_hash=_hash(text))
    trainer = make_trainer(
        task,
        options,
        saved={**options.to_dict(), "source": source},
        out=out,
        progress=progress,
        keep_best=len(val) > 0,
        started=started,
    )
    if resume:
        trainer.resume()
    _announce(trainer, model, text, resume)
    result = trainer.run()
    if trainer.best_weights is not None:
        model.load_state_dict(trainer.best_weights)
    return model, result


def _announce(trainer: Trainer, model: LanguageModel, text: str, resume: bool) -> None:
    size = f"{len(text):,} characters, {model.vocab_size} different tokens; {model.num_parameters:,} parameters"
    going = f"; going on at step {trainer.step}" if resume else ""
    where = "" if trainer.out is None else f"; the run is in {trainer.out}"
    trainer.progress.message(f"{size}{going}{where}")


def load(path: str | Path, *, device: str | None = None) -> LanguageModel:
    """The language model in a checkpoint (of a folder: in its best checkpoint, else its last), with its tokenizer; on
    the CPU, wherever it was trained, or on `device`."""
    path = _run_folder.checkpoint_in(path)
    arrays, meta = checkpoint.load(path)
    _run_folder.check_kind(path, meta, FitOptions.KIND)
    try:
        model = LanguageModel(**{**meta["task"]["config"], "device": device})
        model.load_state_dict(_run_folder.weights_in(arrays))
        model.tokenizer = from_dict(meta["task"]["tokenizer"])
    except (KeyError, TypeError, ValueError) as e:
        raise checkpoint.CheckpointError(f"{path}: the language model in it cannot be made: {e}") from e
    return model


def evaluate_part(
    model: LanguageModel,
    path: str | Path,
    text: str,
    *,
    part: str = "all",
    reset_every: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """The loss of the model in checkpoint `path` on a text, each token once: the state carried from its first token to
    its last, or zero every `reset_every` tokens. `part` "train" or "val" is that part of the text it was trained on."""
    if model.tokenizer is None:
        raise ValueError("the model must have a tokenizer to read text, got None")
    if part != "all":
        path = _run_folder.checkpoint_in(path)
        _same_text(path, text)
        rows = checkpoint.read_header(path)["task"]["rows"]
        ids = split(model.tokenizer.encode(text), rows["val_frac"])[part == "val"]
    else:
        ids = model.tokenizer.encode(text)
    if reset_every is None:
        loss = evaluate_text(model, ids, batch_size=batch_size or 1, warmup=256)
    else:
        loss = evaluate_text(model, ids, batch_size=batch_size or 64, seq_length=reset_every, carry=False)
    return {
        "nats": float(loss),
        "bits": float(loss) / math.log(2),
        "perplexity": math.exp(min(float(loss), 700.0)),
        "tokens": len(ids) - 1,
        "part": part,
        "reset_every": reset_every,
    }


class LanguageModelTask:
    """What the trainer needs to know about a language model and its text: truncated BPTT over rows of the text, the
    state carried from chunk to chunk and begun anew with each epoch."""

    def __init__(
        self, model: LanguageModel, train: NDArray[Any], val: NDArray[Any], options: FitOptions, *, text_hash: str
    ) -> None:
        self.module, self.train, self.val, self.options, self.text_hash = model, train, val, options, text_hash
        self.unit = {"char": "chars", "byte": "bytes", "word": "words"}[options.level]
        self.steps_per_epoch = len(tbptt.batches(train, options.batch_size, options.seq_length))
        self.state: Any = None

    def train_batches(self, epoch: int, start: int) -> Iterator[NDArray[Any]]:
        if start == 0:
            self.state = None
        return iter(tbptt.batches(self.train, self.options.batch_size, self.options.seq_length, start=start))

    def train_step(self, batch: NDArray[Any], optimizer: Any, **clip: float) -> tuple[float, int]:
        loss, self.state = self.module.train_step(batch, self.state, optimizer, **clip)
        return float(loss), (batch.shape[0] - 1) * batch.shape[1]

    def evaluate(self) -> dict[str, float] | None:
        if not len(self.val):
            return None
        # Rows side by side are many times faster than one long row; warmed up, they lose next to no context.
        rows = max(1, min(self.options.batch_size, len(self.val) // 1000))
        return {"loss": float(evaluate_text(self.module, self.val, batch_size=rows, warmup=64))}

    def sample(self, step: int) -> str | None:
        if not self.options.sample_length:
            return None
        seed = (self.options.seed or 0) + step
        prime = self.options.sample_prime
        return self.module.sample_text(
            default_prime(self.module) if prime is None else prime,
            self.options.sample_length,
            temperature=self.options.sample_temperature,
            seed=seed % 2**64,
        )

    def describe(self) -> dict[str, Any]:
        o = self.options
        return {
            "kind": FitOptions.KIND,
            "config": self.module.config,
            "tokenizer": None if self.module.tokenizer is None else self.module.tokenizer.to_dict(),
            "text": {"sha256": self.text_hash, "tokens": len(self.train) + len(self.val)},
            "rows": {"batch_size": o.batch_size, "seq_length": o.seq_length, "val_frac": o.val_frac},
        }

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        parts = self.state if isinstance(self.state, tuple) else () if self.state is None else (self.state,)
        arrays = {f"state.{i}": np.asarray(part) for i, part in enumerate(parts)}
        return arrays, {"state": len(parts), "rng": self.module.rng.state_dict()}

    def load_state_dict(self, arrays: Arrays, meta: dict[str, Any]) -> None:
        parts = tuple(arrays[f"state.{i}"] for i in range(meta["state"]))
        self.state = None if not parts else parts[0] if len(parts) == 1 else parts
        self.module.rng.load_state_dict(meta["rng"])


def default_prime(model: LanguageModel) -> str:
    """What a sample begins from where nothing is given: a new line, or the vocabulary's first symbol."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("the model must have a tokenizer to write text, got None")
    symbols = getattr(tokenizer, "symbols", None)
    return "\n" if symbols is None or "\n" in symbols else str(symbols[0])


def make_tokenizer(text: str, options: FitOptions) -> Tokenizer:
    if options.level == "word":
        return WordTokenizer.from_text(text, min_count=options.min_count)
    return ByteTokenizer.from_text(text) if options.level == "byte" else CharTokenizer.from_text(text)


def make_model(tokenizer: Tokenizer, o: FitOptions) -> LanguageModel:
    model = LanguageModel(
        tokenizer.vocab_size,
        o.hidden_size,
        o.num_layers,
        cell=o.cell,
        embedding_size=o.embedding_size,
        dropout=o.dropout,
        tie_weights=o.tie_weights,
        seed=o.seed,
        dtype=o.dtype,
        compute_dtype=o.compute_dtype,
        device=o.device,
        nonlinearity=o.nonlinearity,
    )
    model.tokenizer = tokenizer
    return model


def _same_text(path: Path, text: str) -> Tokenizer:
    """The tokenizer of the run that `path` is of, if it was on this text."""
    meta = checkpoint.read_header(path)
    _run_folder.check_kind(path, meta, FitOptions.KIND)
    try:
        there, tokenizer = meta["task"]["text"], from_dict(meta["task"]["tokenizer"])
    except (KeyError, ValueError) as e:
        raise checkpoint.CheckpointError(f"{path} does not say what text it is of: {e}") from e
    if there["sha256"] != _hash(text):
        raise checkpoint.CheckpointError(
            f"text must be the one that the run in {path.parent} is trained on ({there['tokens']} tokens, sha256 "
            f"{there['sha256'][:12]}…), got one of {len(text)} characters, sha256 {_hash(text)[:12]}…"
        )
    return tokenizer


def _hash(text: str) -> str:
    # The text may hold lone surrogates: bytes that are not UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
