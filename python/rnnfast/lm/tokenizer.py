"""Tokenizers: text <-> int32 ids. Characters, bytes, words, or whatever spaces separate.

Each has `from_text(text)`, `encode(text)`, `decode(ids)`, `decode_stream(ids)` (text as the ids arrive),
`vocab_size`, and `to_dict()`, a dict that fits into JSON and from which `from_dict` makes the tokenizer again.
"""

from __future__ import annotations

import codecs
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ByteTokenizer", "CharTokenizer", "SpaceTokenizer", "Tokenizer", "WordTokenizer", "from_dict"]

Ids: TypeAlias = NDArray[np.int32]


class Tokenizer:
    """What the tokenizers share: checks, and the dict of `to_dict`."""

    type: ClassVar[str]

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError

    def encode(self, text: str) -> Ids:
        raise NotImplementedError

    def decode(self, ids: ArrayLike) -> str:
        """The text of a 1-D array (or list) of ids."""
        return "".join(self.decode_stream(_check_ids(ids, self.vocab_size).tolist()))

    def decode_stream(self, ids: Iterable[Any]) -> Iterator[str]:
        """Yields text as the ids arrive, one piece (perhaps an empty one) an id; joined, it is what decode gives."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.type, self.vocab_size))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


class CharTokenizer(Tokenizer):
    """One id a character (Unicode code point), in the order of their code points.

    Nothing is normalised; a character that the vocabulary lacks is an error that names it.
    """

    type = "char"

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = list(symbols)
        if not self.symbols or any(not isinstance(s, str) or len(s) != 1 for s in self.symbols):
            raise ValueError(f"symbols must be one or more single characters, got {_shorten(self.symbols)}")
        self._points = np.array([ord(symbol) for symbol in self.symbols], np.uint32)
        self._order = np.argsort(self._points, kind="stable").astype(np.int32)
        self._sorted = self._points[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            raise ValueError(f"symbols must differ from one another, got {chr(self._sorted[twice[0]])!r} twice")

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The vocabulary is every character of the text."""
        return cls(sorted(set(_check_text(text, empty="cannot make a vocabulary of an empty text"))))

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Ids:
        points = np.frombuffer(_check_text(text).encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
        at = np.minimum(np.searchsorted(self._sorted, points), len(self._sorted) - 1)
        unknown = self._sorted[at] != points
        if unknown.any():
            first = int(np.argmax(unknown))
            names = [f"{chr(p)!r} (U+{p:04X})" for p in dict.fromkeys(points[unknown].tolist())]
            raise ValueError(
                f"text must hold only the {self.vocab_size} characters of this vocabulary; not among them: "
                f"{_listing(names)}, first at position {first}"
            )
        return self._order[at]

    def decode(self, ids: ArrayLike) -> str:
        points = self._points[_check_ids(ids, self.vocab_size)]
        return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def decode_stream(self, ids: Iterable[Any]) -> Iterator[str]:
        for token in ids:
            yield self.symbols[_check_id(token, self.vocab_size)]

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "symbols": list(self.symbols)}


class ByteTokenizer(Tokenizer):
    """One id a byte, 0 to 255: any text as UTF-8, or any bytes. Nothing is unknown.

    `decode` puts U+FFFD where the bytes are not UTF-8 (a sample may end within a character); `decode_bytes` gives the
    bytes.
    """

    type = "byte"

    @classmethod
    def from_text(cls, text: str | bytes) -> ByteTokenizer:
        """There is nothing to learn from the text; it is only checked."""
        tokenizer = cls()
        tokenizer.encode(text)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str | bytes) -> Ids:
        # surrogateescape: bytes that were not UTF-8 when a file was read with the same handler come back as they were
        if not isinstance(text, str | bytes | bytearray | memoryview):
            raise TypeError(f"text must be a str or bytes, got {type(text).__name__}")
        data = _utf8(text) if isinstance(text, str) else bytes(text)
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """The bytes of a 1-D array (or list) of ids."""
        return _check_ids(ids, 256).astype(np.uint8).tobytes()

    def decode(self, ids: ArrayLike) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[Any]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in ids:
            yield decoder.decode(bytes([_check_id(token, 256)]))
        rest = decoder.decode(b"", True)
        if rest:
            yield rest

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type}


class WordTokenizer(Tokenizer):
    """One id a word or punctuation mark; words seen fewer than `min_count` times are `<unk>`.

    The text is split into words (runs of letters, digits and _, with apostrophes inside: "o'er"), single other marks,
    and single white-space characters. Usual spacing costs no token: `encode` leaves out a single space where `decode`
    would put one, that is between two tokens unless one of them is white space, the left one opens (`( [ {`), the
    right one closes (`. , ; : ! ? ) ] }`), or one of them is any other mark. Where the text differs, a `<join>` token
    (no space here) or white-space tokens say so. Newlines are always tokens. So decode(encode(text)) is the text
    itself, but for unknown words, which come back as `<unk>`.
    """

    type = "word"
    UNK = "<unk>"
    JOIN = "<join>"
    _SPECIAL: ClassVar[list[str]] = [UNK, JOIN, " ", "\n"]
    _PIECES = re.compile(r"<unk>|\w+(?:['\u2019]\w+)*|\s|[^\w\s]")

    def __init__(self, words: Iterable[str], *, min_count: int = 1) -> None:
        self.words = list(words)
        self.min_count = _check_min_count(min_count)
        if self.words[: len(self._SPECIAL)] != self._SPECIAL or not all(isinstance(w, str) and w for w in self.words):
            raise ValueError(
                f"words must be non-empty strings, the first of them {self._SPECIAL}, got {_shorten(self.words)}"
            )
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"words must differ from one another, got {twice!r} twice")
        self._kinds = [_spacing(word) for word in self.words]

    @classmethod
    def from_text(cls, text: str, *, min_count: int = 1) -> WordTokenizer:
        """The vocabulary: words and marks seen at least min_count times, most frequent first, and all white space."""
        _check_min_count(min_count)
        counts = Counter(cls._PIECES.findall(_check_text(text, empty="cannot make a vocabulary of an empty text")))
        words = [w for w, n in counts.items() if (n >= min_count or w.isspace()) and w not in cls._SPECIAL]
        return cls([*cls._SPECIAL, *sorted(words, key=lambda w: (-counts[w], w))], min_count=min_count)

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> Ids:
        lookup, kinds, unk, join, space = self._ids, self._kinds, 0, 1, 2
        ids: list[int] = []
        previous, spaced = -1, False  # the last id that is no single space; whether a single space came after it
        for piece in self._PIECES.findall(_check_text(text)):
            token = lookup.get(piece, unk)
            if token == space and not spaced and previous >= 0:
                spaced = True  # written, or left out, when the next token is known
                continue
            usual = previous >= 0 and token != space and _space_between(kinds[previous], kinds[token])
            if spaced and not usual:
                ids.append(space)
            elif usual and not spaced:
                ids.append(join)
            ids.append(token)
            previous, spaced = token, False
        if spaced:
            ids.append(space)
        return np.array(ids, np.int32)

    def decode_stream(self, ids: Iterable[Any]) -> Iterator[str]:
        previous = -1  # nothing, or a token that says how the next one is spaced: no space is added after it
        for value in ids:
            token = _check_id(value, self.vocab_size)
            if token == 1:
                previous = -1
                yield ""
                continue
            usual = previous >= 0 and _space_between(self._kinds[previous], self._kinds[token])
            yield " " + self.words[token] if usual else self.words[token]
            previous = token

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "words": list(self.words), "min_count": self.min_count}


class SpaceTokenizer(Tokenizer):
    """One id a symbol, where white space separates symbols ("K AE T"); the vocabulary is in their order as text.

    `decode` puts one space between symbols. A symbol that the vocabulary lacks is an error that names it.
    """

    type = "space"

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = list(symbols)
        if not self.symbols or any(not isinstance(s, str) or s.split() != [s] for s in self.symbols):
            raise ValueError(f"symbols must be non-empty strings without white space, got {_shorten(self.symbols)}")
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        if len(self._ids) != len(self.symbols):
            twice = next(symbol for symbol, count in Counter(self.symbols).items() if count > 1)
            raise ValueError(f"symbols must differ from one another, got {twice!r} twice")

    @classmethod
    def from_text(cls, text: str) -> SpaceTokenizer:
        """The vocabulary is every symbol of the text."""
        empty = "cannot make a vocabulary of an empty text"
        symbols = sorted(set(_check_text(text, empty=empty).split()))
        if not symbols:
            raise ValueError(f"text must hold at least one symbol, got white space alone ({empty})")
        return cls(symbols)

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Ids:
        symbols = _check_text(text).split()
        unknown = [s for s in dict.fromkeys(symbols) if s not in self._ids]
        if unknown:
            raise ValueError(
                f"text must hold only the {self.vocab_size} symbols of this vocabulary; not among them: "
                f"{_listing([repr(s) for s in unknown])}, first at position {symbols.index(unknown[0])}"
            )
        return np.array([self._ids[s] for s in symbols], np.int32)

    def decode_stream(self, ids: Iterable[Any]) -> Iterator[str]:
        before = ""
        for token in ids:
            yield before + self.symbols[_check_id(token, self.vocab_size)]
            before = " "

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "symbols": list(self.symbols)}


def from_dict(data: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `to_dict` described."""
    kind = data.get("type") if isinstance(data, dict) else None
    try:
        if kind == "char":
            return CharTokenizer(data["symbols"])
        if kind == "byte":
            return ByteTokenizer()
        if kind == "word":
            return WordTokenizer(data["words"], min_count=data["min_count"])
        if kind == "space":
            return SpaceTokenizer(data["symbols"])
    except KeyError as error:
        raise ValueError(f"a {kind} tokenizer must have the entry {error.args[0]!r}, got {sorted(data)}") from None
    raise ValueError(f"the tokenizer's type must be 'char', 'byte', 'word' or 'space', got {kind!r}")


_WORD, _OPEN, _CLOSE, _TIGHT = range(4)  # how a token is spaced: see WordTokenizer


def _spacing(word: str) -> int:
    if word in "([{":
        return _OPEN
    if word in ".,;:!?)]}":
        return _CLOSE
    return _WORD if word == WordTokenizer.UNK or word[0].isalnum() or word[0] == "_" else _TIGHT


def _space_between(left: int, right: int) -> bool:
    return left in (_WORD, _CLOSE) and right in (_WORD, _OPEN)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be encodable as UTF-8, got {text[error.start]!r} at position {error.start}"
        ) from None


def _check_text(text: Any, empty: str | None = None) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    if empty is not None and not text:
        raise ValueError(f"text must hold at least one character, got '' ({empty})")
    return text


def _check_ids(ids: ArrayLike, vocab_size: int) -> NDArray[Any]:
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"ids must be a 1-D array of integers, got {array.dtype} of shape {array.shape}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"ids must be in 0 .. {vocab_size - 1}, got {low if low < 0 else high}")
    return array


def _check_id(token: Any, vocab_size: int) -> int:
    try:
        value = operator.index(token)
    except TypeError:
        raise ValueError(f"ids must be integers, got {token!r}") from None
    if not 0 <= value < vocab_size:
        raise ValueError(f"ids must be in 0 .. {vocab_size - 1}, got {value}")
    return value


def _check_min_count(min_count: Any) -> int:
    if isinstance(min_count, bool) or not isinstance(min_count, int | np.integer) or min_count < 1:
        raise ValueError(f"min_count must be an integer of at least 1, got {min_count!r}")
    return int(min_count)


def _listing(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
