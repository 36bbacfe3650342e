"""Pairs of texts: reading them, splitting them, turning them into tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..lm.text import read_text
from ..lm.tokenizer import CharTokenizer, SpaceTokenizer, Tokenizer, WordTokenizer

__all__ = ["LEVELS", "Pair", "as_reference", "encode", "make_tokenizers", "read_lines", "read_pairs", "split_pairs"]

Tokens = list[NDArray[np.int32]]
LEVELS = ("char", "word", "space")
_HINT = "convert it"


class Pair(NamedTuple):
    """A source and its target, and where they are from ("words.tsv, line 3")."""

    source: str
    target: str
    where: str


def read_pairs(pairs: Path | Iterable[Sequence[str]], name: str = "pairs") -> list[Pair]:
    """The pairs in a file (a Path; "-" is standard input), a line each, source and target with a tab between them; or
    given as pairs of str. The first that is no pair of two texts raises TypeError or ValueError, with its line, or with
    `name`, what the argument is called, and its index."""
    if isinstance(pairs, str) or not isinstance(pairs, Path | Iterable):
        raise TypeError(f"{name} must be a Path to a file or pairs of texts, got {_short(pairs)}")
    if isinstance(pairs, Path):
        read = [_pair_of(line, where) for line, where in read_lines(pairs)]
    else:
        read = [_checked(pair, f"{name}[{i}]") for i, pair in enumerate(pairs)]
    if not read:
        raise ValueError(f"{name} must hold at least one pair, got none")
    return read


def read_lines(path: str | Path) -> list[tuple[str, str]]:
    """(line, where it is from) of a text file; "-" is standard input."""
    name = "standard input" if str(path) == "-" else str(path)
    lines = read_text(path, hint=_HINT).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [(line, f"{name}, line {i}") for i, line in enumerate(lines, 1)]


def _pair_of(line: str, where: str) -> Pair:
    parts = line.split("\t")
    if len(parts) != 2:
        found = "no tab" if len(parts) == 1 else f"{len(parts) - 1} tabs"
        raise ValueError(f"{where}: must be a source, a tab and a target, got {found}: {_short(line)}")
    return _checked(parts, where)


def _checked(pair: Any, where: str) -> Pair:
    if isinstance(pair, Pair):
        where, pair = pair.where, pair[:2]
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise TypeError(f"{where} must be a pair (source, target), got {_short(pair)}")
    for name, text in zip(("source", "target"), pair, strict=True):
        if not isinstance(text, str):
            raise TypeError(f"{where}: the {name} must be a str, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"{where}: the {name} must not be empty, got {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise ValueError(
                f"{where}: the {name} must not hold a lone surrogate, got {text[e.start]!r} at position {e.start}"
            ) from e
    return Pair(pair[0], pair[1], where)


def split_pairs(pairs: Sequence[Pair], val_frac: float) -> tuple[list[Pair], list[Pair]]:
    """(train, validation), by a hash of the source: all pairs of a source are on one side, whatever their order."""
    sources = sorted({p.source for p in pairs}, key=_digest)
    count = round(len(sources) * val_frac)
    if val_frac > 0 and not 0 < count < len(sources):
        raise ValueError(
            f"val_frac {val_frac} of {len(sources)} different sources leaves {count} for the validation part and "
            f"{len(sources) - count} to train on: give more pairs, or set val_frac to 0"
        )
    held_out = set(sources[:count])
    return [p for p in pairs if p.source not in held_out], [p for p in pairs if p.source in held_out]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def make_tokenizers(
    pairs: Sequence[Pair], source_level: str, target_level: str, *, min_count: int = 1, share: bool = False
) -> tuple[Tokenizer, Tokenizer]:
    """Vocabularies of all sources and of all targets; with `share` one and the same, of both."""
    sources, targets = [p.source for p in pairs], [p.target for p in pairs]
    if share:
        both = _make(sources + targets, source_level, min_count)
        return both, both
    return _make(sources, source_level, min_count), _make(targets, target_level, min_count)


def _make(texts: list[str], level: str, min_count: int) -> Tokenizer:
    if level == "space":
        return SpaceTokenizer.from_text("\n".join(texts))
    if level == "word":
        return WordTokenizer.from_text("\n".join(texts), min_count=min_count)
    return CharTokenizer.from_text("".join(texts))


def encode(texts: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> Tokens:
    """The tokens of (text, where) pairs; an error (no text, or an unknown symbol) says where."""
    result = []
    for text, where in texts:
        try:
            tokens = tokenizer.encode(text)
        except TypeError as e:
            raise TypeError(f"{where}: {e}") from e
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from e
        if not len(tokens):
            raise ValueError(f"{where}: must hold at least one symbol, got {text!r}")
        result.append(tokens)
    return result


def as_reference(tokens: NDArray[np.int32], tokenizer: Tokenizer) -> NDArray[np.int32]:
    """A target to compare outputs with: what stands for a word that the vocabulary lacks is equal to none of theirs."""
    if not isinstance(tokenizer, WordTokenizer):
        return tokens
    return np.where(tokens == tokenizer.words.index(tokenizer.UNK), np.int32(-1), tokens)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
