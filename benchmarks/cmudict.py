"""How well a Seq2Seq learns to pronounce English words from the CMU Pronouncing Dictionary.

    python benchmarks/cmudict.py --data cmudict.dict --recipe attention --seed 1 --out attention-1.json
    python benchmarks/cmudict.py --summary attention-*.json plain-*.json --out benchmarks/results/cmudict.json

The first trains one model and reads the test part once; the second takes the median over the seeds of each recipe.

Stress marks are removed, comments dropped, pronunciations that are then the same counted once. Words are split by a
hash of the word, 85 % to train on, 5 % to validate on, 10 % to test, so that all pronunciations of a word are on one
side. The model is trained on all pronunciations of the training words; a word is right where the best hypothesis of a
beam search is one of its pronunciations. WER is the part of the words that are wrong, with Wilson's 95 % interval;
PER the edit distances to the nearest pronunciation over the phones of these. The model is the one with the best loss
on the validation part. Published for this dictionary without stress, on other splits: LSTM 2 x 512 31.1, attention LSTM
2 x 256 about 31, Transformer 30.2 (README of g2p-seq2seq).
"""

import hashlib
import re
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import recipes

# Options of rnnfast.seq2seq.fit. max_time is that of training; a whole run, data and evaluations too, is below an hour.
_COMMON = {
    "level": "char",
    "target_level": "space",
    "optimizer": "adamw",
    "schedule": "cosine",
    "grad_clip": 1.0,
    "warmup": 200,
    "eval_every": 1000,
    "max_epochs": None,
    "samples": 3,
}
RECIPES = {
    "attention": {
        **_COMMON,
        "hidden_size": 512,
        "num_layers": 1,
        "bidirectional": True,
        "attention": "general",
        "embedding_size": 64,
        "dropout": 0.4,
        "label_smoothing": 0.1,
        "batch_size": 128,
        "learning_rate": 2e-3,
        "min_learning_rate": 2e-5,
        "weight_decay": 0.02,
        "max_time": 2700.0,
    },
    "plain": {
        **_COMMON,
        "hidden_size": 512,
        "num_layers": 1,
        "bidirectional": True,
        "attention": None,
        "embedding_size": 64,
        "dropout": 0.3,
        "label_smoothing": 0.1,
        "batch_size": 128,
        "learning_rate": 2e-3,
        "min_learning_rate": 2e-5,
        "weight_decay": 0.02,
        "max_time": 2700.0,
    },
}
BEAM = {"beam_size": 5, "max_length": 60}
SHARES = (0.85, 0.90)  # of the hash's range: train below the first, validate below the second, test above


def read_dictionary(path):
    """{word: its pronunciations without stress, each once, in their order}"""
    words = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        entry, *phones = line.partition("#")[0].split()
        if not phones:
            sys.exit(f"cmudict.py: {path}, line {number}: must be a word and its phones, got {line!r}")
        word = re.sub(r"\(\d+\)$", "", entry)
        said = " ".join(phone.rstrip("012") for phone in phones)
        if said not in words.setdefault(word, []):
            words[word].append(said)
    return words


def split(words):
    """(train, validation, test): pairs of a word and a pronunciation."""
    parts = ([], [], [])
    for word, pronunciations in words.items():
        at = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") / 2**64
        part = sum(at >= share for share in SHARES)
        parts[part].extend((word, said) for said in pronunciations)
    return parts


def train(args):
    import rnnfast
    from rnnfast._progress import Progress
    from rnnfast.batches import padding
    from rnnfast.seq2seq.data import read_pairs
    from rnnfast.seq2seq.fit import run
    from rnnfast.seq2seq.options import Seq2SeqOptions

    started = time.monotonic()
    if args.threads:
        rnnfast.set_num_threads(args.threads)
    changed = recipes.changes(args)
    given = {**RECIPES[args.recipe], **changed, "seed": args.seed}
    options = Seq2SeqOptions.choose(given, out=None, resume=False, overwrite=False)
    words = read_dictionary(args.data)
    parts = [read_pairs(part) for part in split(words)]
    progress = Progress(quiet=args.quiet)
    model, result = run(parts[0], options, val=parts[1], progress=progress, started=started)
    trained = time.monotonic() - started
    lengths = [(len(p.source), len(p.target.split())) for p in parts[0]]
    batches = rnnfast.batches.Bucketed(lengths, options.batch_size, seed=options.seed)
    scores = {name: scores_of(model, part) for name, part in zip(("validation", "test"), parts[1:], strict=True)}
    for name, score in scores["test"].items():
        low, high = (100 * x for x in score["interval"])
        print(
            f"test, {name}: WER {100 * score['sequence_error']:.2f} % (95 %: {low:.2f} to {high:.2f}), "
            f"PER {100 * score['token_error']:.2f} %"
        )
    return {
        "kind": "cmudict run",
        "recipe": args.recipe,
        "changed": changed,
        "seed": args.seed,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "info": rnnfast.info(),
        "data": {
            "sha256": hashlib.sha256(Path(args.data).read_bytes()).hexdigest(),
            "words": len(words),
            "pairs": [len(part) for part in parts],
            "padding": padding(lengths, batches.epoch(0)),
        },
        "options": options.to_dict(),
        "parameters": model.num_parameters,
        "beam_size": BEAM["beam_size"],
        "steps": result.step,
        "stopped": result.stopped,
        "best_loss": result.best_loss,
        "best_step": result.best_step,
        "training_seconds": round(trained, 3),
        "seconds": round(time.monotonic() - started, 3),
        **scores,
        "evaluations": [
            {k: row[k] for k in ("seconds", "step", "epoch", "train_loss", "val_loss", "items_per_second")}
            for row in result.rows
            if row["val_loss"] is not None
        ],
    }


def scores_of(model, pairs):
    """By a greedy search and by a beam."""
    from rnnfast.seq2seq import evaluate_pairs

    scores = {}
    for size in (1, BEAM["beam_size"]):
        before = time.monotonic()
        score = evaluate_pairs(model, pairs, **{**BEAM, "beam_size": size})
        scores[f"beam {size}"] = {**score, "seconds": round(time.monotonic() - before, 3)}
    return scores


def middle(scores):
    """The medians, and the interval that belongs to the median error."""
    from rnnfast.seq2seq.evaluate import wilson

    found = {k: median(score[k] for score in scores) for k in ("sequence_error", "token_error", "loss")}
    count = scores[0]["sources"]
    return {**found, "sources": count, "interval": wilson(round(found["sequence_error"] * count), count)}


def summarize(runs):
    """The median over the seeds of each recipe."""
    made = {}
    for name, group in recipes.by_recipe(runs, RECIPES, lambda r: {"data": r["data"]}):
        made[name] = {
            "options": recipes.without_seed(group[0]["options"]),
            "parameters": group[0]["parameters"],
            "seeds": [r["seed"] for r in group],
            "median": {
                part: {beam: middle([r[part][beam] for r in group]) for beam in group[0][part]}
                for part in ("validation", "test")
            },
            "seconds": median(r["seconds"] for r in group),
            "runs": group,
        }
    same = {k: runs[0][k] for k in ("info", "data")}
    return {"kind": "cmudict", "date": max(r["date"] for r in runs), **same, "recipes": made}


def parse():
    parser = recipes.parser(__doc__, RECIPES)
    parser.add_argument("--data", type=Path, metavar="FILE", help="cmudict.dict of the CMU Pronouncing Dictionary")
    return recipes.check(parser, parser.parse_args(), "cmudict.dict of github.com/cmusphinx/cmudict")


if __name__ == "__main__":
    recipes.main(parse(), train, summarize)
