"""Training a Seq2Seq on pairs of texts, and getting it back from a checkpoint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _run_folder, checkpoint
from .._options import make_trainer
from .._progress import Progress
from ..batches import Bucketed
from ..lm.tokenizer import from_dict
from ..train import Result
from .data import Pair, as_reference, encode, make_tokenizers, read_pairs, split_pairs
from .evaluate import score
from .model import Seq2Seq
from .options import Seq2SeqOptions

__all__ = ["Seq2SeqTask", "evaluate_pairs", "fit", "load", "run"]

Arrays = dict[str, NDArray[Any]]
Pairs = Path | Iterable[Sequence[str]]
_SCORED = 2000  # pairs of the validation part that are translated at an evaluation


def fit(
    pairs: Pairs,
    *,
    val: Pairs | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Seq2Seq:
    """Train a Seq2Seq on pairs of texts (source, target), or a Path to a file of them, and return it with tokenizers.

    `options` are those of Seq2SeqOptions: level, target_level, hidden_size, attention, learning_rate, max_epochs,
    max_time, … `val` are pairs to validate on, else `val_frac` of the sources are held out. With `out`, a folder, the
    run writes last.safetensors, best.safetensors, metrics.csv and, with the `plot` extra, loss.png there;
    `resume=True` goes on with the run in it, on the same pairs, to the bit as if it had never stopped. The returned
    model has the weights of the best validation loss (without a validation part, the last ones). Ctrl-C ends the
    training and returns the model so far.
    """
    chosen = Seq2SeqOptions.choose(options, out=out, resume=resume, overwrite=overwrite)
    progress = Progress(quiet=quiet, every=chosen.print_every)
    held_out = None if val is None else read_pairs(val, "val")
    return run(read_pairs(pairs), chosen, val=held_out, out=out, resume=resume, progress=progress)[0]


def run(
    pairs: Sequence[Pair],
    options: Seq2SeqOptions,
    *,
    val: Sequence[Pair] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    started: float | None = None,
    source: Mapping[str, Any] | None = None,
) -> tuple[Seq2Seq, Result]:
    """`fit` with pairs from `read_pairs` and options from `Seq2SeqOptions.choose`. `started` (time.monotonic()) is when
    the time that max_time allows began, `source` where the pairs are from: kept in the checkpoint for whoever resumes
    the run."""
    started = time.monotonic() if started is None else started
    train, held_out = split_pairs(pairs, options.val_frac) if val is None else (list(pairs), list(val))
    tokenizers = make_tokenizers(
        [*train, *held_out],
        options.level,
        options.target_level or options.level,
        min_count=options.min_count,
        share=options.share_vocabulary,
    )
    model = make_model(tokenizers, options)
    options.seed = model.config["seed"]
    task = Seq2SeqTask(model, train, held_out, options)
    trainer = make_trainer(
        task,
        options,
        saved={**options.to_dict(), "source": source},
        out=out,
        progress=progress,
        keep_best=bool(held_out),
        started=started,
    )
    if resume:
        if trainer.out is not None:
            _check_pairs(trainer.out / _run_folder.LAST, task)
        trainer.resume()
    going = f"; going on at step {trainer.step}" if resume else ""
    where = "" if trainer.out is None else f"; the run is in {trainer.out}"
    trainer.progress.message(
        f"{len(train):,} pairs to train on, {len(held_out):,} to validate on; {model.source_size} source and "
        f"{model.decoder.vocab_size} target symbols; {model.num_parameters:,} parameters{going}{where}"
    )
    result = trainer.run()
    if trainer.best_weights is not None:
        model.load_state_dict(trainer.best_weights)
    return model, result


def _check_pairs(path: Path, task: Seq2SeqTask) -> None:
    """Before the model is compared, which is another one where pairs have other symbols."""
    here = task.describe()["pairs"]
    there = checkpoint.read_header(path)["task"].get("pairs", here)
    if there != here:
        counts = [f"{p['train']:,} to train on and {p['validation']:,} to validate on" for p in (there, here)]
        raise checkpoint.CheckpointError(
            f"{path} is of a run on other pairs: {counts[0]}, not these {counts[1]}; it goes on with the same pairs, "
            "and with the same val (--val) if it had one"
        )


def load(path: str | Path) -> Seq2Seq:
    """The model in a checkpoint (of a folder: in its best checkpoint, else its last), with its tokenizers."""
    path = _run_folder.checkpoint_in(path)
    arrays, meta = checkpoint.load(path)
    _run_folder.check_kind(path, meta, Seq2SeqOptions.KIND)
    try:
        model = Seq2Seq(**meta["task"]["config"])
        model.load_state_dict(_run_folder.weights_in(arrays))
        source, target = (from_dict(t) for t in meta["task"]["tokenizers"])
        model.tokenizers = source, target
    except (KeyError, TypeError, ValueError) as e:
        raise checkpoint.CheckpointError(f"{path}: the {Seq2SeqOptions.KIND} in it cannot be made: {e}") from e
    return model


def evaluate_pairs(model: Seq2Seq, pairs: Pairs, **search: Any) -> dict[str, Any]:
    """The loss of pairs as `fit` takes them, and how good the best hypothesis of each source is: see `evaluate.score`.
    Any target that the pairs have for a source counts as right. `search` are keywords of `generate`."""
    pairs = read_pairs(pairs)
    if model.tokenizers is None:
        raise ValueError("the model must have tokenizers to read pairs, got None")
    sources = encode([(p.source, p.where) for p in pairs], model.tokenizers[0])
    targets = encode([(p.target, p.where) for p in pairs], model.tokenizers[1])
    loss, _ = model.evaluate(sources, targets)
    references: dict[str, list[Any]] = {}
    tokens: dict[str, Any] = {}
    for pair, s, t in zip(pairs, sources, targets, strict=True):
        references.setdefault(pair.source, []).append(as_reference(t, model.tokenizers[1]))
        tokens[pair.source] = s
    found = model.generate(list(tokens.values()), **search)
    return {"loss": loss, "pairs": len(pairs), **score([h[0].tokens for h in found], list(references.values()))}


class Seq2SeqTask:
    """What the trainer needs to know about a Seq2Seq and its pairs: batches of about one length, in an order that the
    epoch and the seed give."""

    unit = "tokens"

    def __init__(self, model: Seq2Seq, train: Sequence[Pair], val: Sequence[Pair], options: Seq2SeqOptions) -> None:
        if model.tokenizers is None:
            raise ValueError("the model must have tokenizers to read pairs, got None")
        self.module, self.val_pairs, self.options = model, list(val), options
        self.sources, self.targets = self._encode(train)
        self.val_sources, self.val_targets = self._encode(val)
        lengths = [(len(s), len(t)) for s, t in zip(self.sources, self.targets, strict=True)]
        self.batches = Bucketed(np.array(lengths), options.batch_size, seed=options.seed)
        self.steps_per_epoch = len(self.batches)
        self.longest = max(len(t) for t in [*self.targets, *self.val_targets])
        self.hash = hashlib.sha256("\n".join(f"{p.source}\t{p.target}" for p in [*train, *val]).encode()).hexdigest()
        self.step = 0  # of this run and those that it resumes

    def _encode(self, pairs: Sequence[Pair]) -> tuple[list[Any], list[Any]]:
        assert self.module.tokenizers is not None
        source, target = self.module.tokenizers
        return encode([(p.source, p.where) for p in pairs], source), encode(
            [(p.target, p.where) for p in pairs], target
        )

    def train_batches(self, epoch: int, start: int) -> Iterator[Any]:
        for batch in self.batches.epoch(epoch, start):
            yield [self.sources[i] for i in batch], [self.targets[i] for i in batch]

    def train_step(self, batch: Any, optimizer: Any, **clip: float) -> tuple[float, int]:
        o = self.options
        risen = min(1.0, self.step / o.scheduled_sampling_steps) if o.scheduled_sampling_steps else 1.0
        sources, targets = batch
        result = self.module.train_step(
            sources,
            targets,
            optimizer,
            label_smoothing=o.label_smoothing,
            scheduled_sampling=risen * o.scheduled_sampling,
            clip_norm=clip.get("clip_norm"),
            clip_value=clip.get("clip_value"),
        )
        self.step += 1
        return result

    def evaluate(self) -> dict[str, float] | None:
        """The loss of the validation part, and of some of it how much a greedy search has right."""
        if not self.val_pairs:
            return None
        loss, _ = self.module.evaluate(self.val_sources, self.val_targets)
        found = self._translate(_SCORED)
        assert self.module.tokenizers is not None
        wanted = [as_reference(t, self.module.tokenizers[1]) for t in self.val_targets[: len(found)]]
        right = sum(np.array_equal(f, t) for f, t in zip(found, wanted, strict=True))
        return {"loss": loss, "right": right / len(found)}

    def _translate(self, count: int) -> list[Any]:
        found = self.module.generate(self.val_sources[:count], max_length=2 * self.longest + 2, batch_size=256)
        return [hypotheses[0].tokens for hypotheses in found]

    def sample(self, step: int) -> str | None:
        count = min(self.options.samples, len(self.val_pairs))
        if not count or self.module.tokenizers is None:
            return None
        said = [self.module.tokenizers[1].decode(tokens) for tokens in self._translate(count)]
        lines = zip(self.val_pairs, said, strict=False)
        return "\n".join(f"{p.source} -> {s}" + ("" if s == p.target else f" (not {p.target})") for p, s in lines)

    def describe(self) -> dict[str, Any]:
        assert self.module.tokenizers is not None
        return {
            "kind": Seq2SeqOptions.KIND,
            "config": self.module.config,
            "tokenizers": [t.to_dict() for t in self.module.tokenizers],
            "pairs": {"sha256": self.hash, "train": len(self.targets), "validation": len(self.val_targets)},
            "batch_size": self.options.batch_size,
        }

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        return {}, {"rng": self.module.rng.state_dict(), "step": self.step}

    def load_state_dict(self, arrays: Arrays, meta: dict[str, Any]) -> None:
        self.module.rng.load_state_dict(meta["rng"])
        self.step = meta["step"]


def make_model(tokenizers: tuple[Any, Any], o: Seq2SeqOptions) -> Seq2Seq:
    source, target = tokenizers
    model = Seq2Seq(
        source.vocab_size,
        target.vocab_size,
        o.hidden_size,
        o.num_layers,
        cell=o.cell,
        nonlinearity=o.nonlinearity,
        embedding_size=o.embedding_size,
        bidirectional=o.bidirectional,
        encoder_size=o.encoder_size,
        encoder_layers=o.encoder_layers,
        attention=o.attention,
        attention_size=o.attention_size,
        bridge=o.bridge,
        share_embeddings=o.share_vocabulary and o.embedding_size is not None,
        dropout=o.dropout,
        dtype=o.dtype,
        compute_dtype=o.compute_dtype,
        seed=o.seed,
    )
    model.tokenizers = source, target
    return model
