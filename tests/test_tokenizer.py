"""Tokenizers: text to ids and back, what is unknown, the dict in a checkpoint; and the split by position."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnfast import lm
from rnnfast.lm import ByteTokenizer, CharTokenizer, WordTokenizer

TEXT = "MENENIUS:\nWhat work's, my countrymen, in hand? (well-known)\n\n\tWhere go you -- with bats  and clubs?\n"
ANY = st.text(st.characters(), max_size=60)  # lone surrogates among them
SPACED = st.text(st.sampled_from("ab_1'’.,;!?([{}])-\" \n\t\u00a0é<>unk漢🙂"), max_size=60)


def tokenizers(text):
    return [CharTokenizer.from_text(text), ByteTokenizer.from_text(text), WordTokenizer.from_text(text)]


@pytest.mark.parametrize("text", [TEXT, "a", "\n", " ", "é漢🙂", "  two  spaces  ", "<unk> <join>"])
def test_text_comes_back(text):
    for tokenizer in tokenizers(text):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert ids.min() >= 0
        assert ids.max() < tokenizer.vocab_size
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids.tolist()) == text
        assert "".join(tokenizer.decode_stream(iter(ids))) == text
        assert tokenizer.decode(tokenizer.encode("")) == ""
        assert len(tokenizer.encode("")) == 0


@given(ANY)
def test_any_text_comes_back_from_characters(text):
    tokenizer = CharTokenizer.from_text(text + "x")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "".join(tokenizer.decode_stream(tokenizer.encode(text))) == text


@given(st.one_of(ANY, SPACED))
def test_any_text_comes_back_from_words(text):
    tokenizer = WordTokenizer.from_text(text + " x")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.binary(max_size=60))
def test_any_bytes_come_back(data):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(data)
    assert ids.tolist() == list(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")
    assert "".join(tokenizer.decode_stream(ids)) == data.decode("utf-8", "replace")
    read = data.decode("utf-8", "surrogateescape")
    assert tokenizer.encode(read).tolist() == list(data)


def test_bytes_are_utf8_and_half_a_character_waits():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("é").tolist() == [0xC3, 0xA9]
    assert tokenizer.vocab_size == 256
    assert list(tokenizer.decode_stream([0x61, 0xC3, 0xA9, 0x62])) == ["a", "", "é", "b"]
    assert list(tokenizer.decode_stream([0x61, 0xC3])) == ["a", "", "\ufffd"]
    assert tokenizer.decode([0x61, 0xC3]) == "a\ufffd"


def test_characters_are_in_the_order_of_their_code_points():
    tokenizer = CharTokenizer.from_text("hello, wörld")
    assert "".join(tokenizer.symbols) == " ,dehlorwö"
    assert tokenizer.encode("eh").tolist() == [3, 4]


def test_unknown_characters_are_named():
    tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(ValueError) as error:
        tokenizer.encode("abécéz")
    assert str(error.value) == (
        "text must hold only the 3 characters of this vocabulary; "
        "not among them: 'é' (U+00E9), 'z' (U+007A), first at position 2"
    )
    with pytest.raises(ValueError, match="and 18 more, first at position 0"):
        tokenizer.encode("".join(chr(c) for c in range(0x1000, 0x101A)))


def test_words_and_marks_are_the_tokens_and_usual_spaces_are_none():
    tokenizer = WordTokenizer.from_text(TEXT)
    words = [tokenizer.words[i] for i in tokenizer.encode("What work's, my countrymen?\n(well)\n")]
    assert words == ["What", "work's", ",", "my", "countrymen", "?", "\n", "(", "well", ")", "\n"]
    words = [tokenizer.words[i] for i in tokenizer.encode("my my  my,my - my\n my")]
    assert words == ["my", "my", " ", " ", "my", ",", "<join>", "my", " ", "-", " ", "my", "\n", " ", "my"]


def test_rare_words_are_unknown():
    text = "to be or not to be , that @ @ is\tit\n"
    tokenizer = WordTokenizer.from_text(text, min_count=2)
    assert tokenizer.words == ["<unk>", "<join>", " ", "\n", "@", "be", "to", "\t"]
    assert tokenizer.min_count == 2
    assert tokenizer.decode(tokenizer.encode(text)) == "to be <unk> <unk> to be <unk> <unk> @ @ <unk>\t<unk>\n"
    assert tokenizer.decode(tokenizer.encode("to\u2003be,or")) == "to<unk>be<unk><unk>"
    assert tokenizer.decode(tokenizer.encode("to <unk> be")) == "to <unk> be"


def test_words_are_ordered_by_frequency_then_alphabet():
    assert WordTokenizer.from_text("b a c a d d").words[4:] == ["a", "d", "b", "c"]


def test_sampled_words_are_spaced():
    tokenizer = WordTokenizer.from_text("a b , . ( )\n", min_count=1)
    ids = [
        tokenizer.words.index(w) for w in ("a", "b", ",", "a", "(", "b", ")", ".", "\n", "a", "<join>", "b", "<unk>")
    ]
    assert tokenizer.decode(ids) == "a b, a (b).\nab <unk>"
    assert list(tokenizer.decode_stream(ids))[:4] == ["a", " b", ",", " a"]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_tokenizer_comes_back_from_its_dict(index):
    odd = TEXT + "\ud800\udc00"  # two lone surrogates, which JSON would join in one string
    tokenizer = [CharTokenizer.from_text(odd), ByteTokenizer(), WordTokenizer.from_text(odd)][index]
    again = lm.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert type(again) is type(tokenizer)
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
    assert again != tokenizers("other")[(index + 1) % 3]
    assert f"vocab_size={tokenizer.vocab_size}" in repr(tokenizer)


CHAR, BYTE, WORD = tokenizers("abc")
ERRORS = [
    (lambda: CharTokenizer.from_text(""), "text must hold at least one character, got ''"),
    (lambda: WordTokenizer.from_text(""), "text must hold at least one character, got ''"),
    (lambda: CharTokenizer.from_text(b"abc"), "text must be a str, got bytes"),
    (lambda: WordTokenizer.from_text(None), "text must be a str, got NoneType"),
    (lambda: WordTokenizer.from_text("a", min_count=0), "min_count must be an integer of at least 1, got 0"),
    (lambda: WordTokenizer.from_text("a", min_count=1.5), "min_count must be an integer of at least 1, got 1.5"),
    (lambda: WordTokenizer.from_text("a", min_count=True), "min_count must be an integer of at least 1, got True"),
    (lambda: BYTE.encode(3), "text must be a str or bytes, got int"),
    (lambda: BYTE.encode("a\ud800"), r"text must be encodable as UTF-8, got '\\ud800' at position 1"),
    (lambda: CHAR.encode(["a"]), "text must be a str, got list"),
    (lambda: CHAR.decode([0, 3]), r"ids must be in 0 \.\. 2, got 3"),
    (lambda: CHAR.decode([-1]), r"ids must be in 0 \.\. 2, got -1"),
    (lambda: CHAR.decode([[0]]), r"ids must be a 1-D array of integers, got int64 of shape \(1, 1\)"),
    (lambda: WORD.decode([0.5]), "ids must be a 1-D array of integers, got float64"),
    (lambda: BYTE.decode(np.array([256])), r"ids must be in 0 \.\. 255, got 256"),
    (lambda: list(CHAR.decode_stream([3])), r"ids must be in 0 \.\. 2, got 3"),
    (lambda: list(WORD.decode_stream(["a"])), "ids must be integers, got 'a'"),
    (lambda: list(BYTE.decode_stream([256])), r"ids must be in 0 \.\. 255, got 256"),
    (lambda: CharTokenizer([]), "symbols must be one or more single characters"),
    (lambda: CharTokenizer(["a", "bc"]), "symbols must be one or more single characters"),
    (lambda: CharTokenizer(["a", "b", "a"]), "symbols must differ from one another, got 'a' twice"),
    (lambda: WordTokenizer(["a"]), "words must be non-empty strings, the first of them"),
    (
        lambda: WordTokenizer(["<unk>", "<join>", " ", "\n", "a", "a"]),
        "words must differ from one another, got 'a' twice",
    ),
    (
        lambda: lm.from_dict({"type": "chars"}),
        "the tokenizer's type must be 'char', 'byte', 'word' or 'space', got 'chars'",
    ),
    (lambda: lm.from_dict([]), "type must be .* got None"),
    (lambda: lm.from_dict({"type": "char"}), r"a char tokenizer must have the entry 'symbols', got \['type'\]"),
    (
        lambda: lm.from_dict({"type": "word", "words": []}),
        "a word tokenizer must have the entry 'min_count'|words must",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


# --- split ---


@given(st.integers(4, 500), st.floats(0.01, 0.99))
def test_split_is_by_position(count, fraction):
    ids = np.arange(count, dtype=np.int32)
    try:
        train, val = lm.split(ids, fraction)
    except ValueError as error:
        assert re.search(r"leaves [01] for the (train|validation) part", str(error))
        assert min(count * fraction, count * (1 - fraction)) <= 2
        return
    np.testing.assert_array_equal(np.concatenate([train, val]), ids)
    assert min(len(train), len(val)) >= 2
    assert abs(len(val) - count * fraction) <= 1
    assert train.base is ids


def test_split_of_shakespeare_is_that_of_nanogpt():
    train, val = lm.split(np.zeros(1115394, np.int32), 0.1)
    assert (len(train), len(val)) == (1003854, 111540)
    assert [len(part) for part in lm.split(np.zeros(1000, int), 0.1)] == [900, 100]
    assert [len(part) for part in lm.split(np.zeros(1000, int), 0)] == [1000, 0]


@pytest.mark.parametrize(
    ("ids", "fraction", "message"),
    [
        (np.arange(100), 1.0, "val_frac must be a number of at least 0 and less than 1, got 1.0"),
        (np.arange(100), -0.1, "val_frac must be .* got -0.1"),
        (np.arange(100), float("nan"), "val_frac must be .* got nan"),
        (np.arange(100), "0.1", "val_frac must be .* got '0.1'"),
        (np.arange(100), True, "val_frac must be .* got True"),
        (np.arange(0), 0.1, "the text must hold at least 2 tokens, got 0: give a longer text"),
        (np.arange(1), 0, "the text must hold at least 2 tokens, got 1: give a longer text"),
        (np.arange(3), 0.5, "at least 4 tokens to be split .* got 3: give a longer text, or set val_frac to 0"),
        (np.arange(10), 0.1, "leaves 1 for the validation part, .* set a larger val_frac"),
        (np.arange(10), 0.95, "leaves 0 for the train part, .* set a smaller val_frac"),
        (np.zeros((5, 2), int), 0.1, r"ids must be a 1-D array of integers, got int64 of shape \(5, 2\)"),
        (np.zeros(50), 0.1, "ids must be a 1-D array of integers, got float64"),
    ],
)
def test_split_errors(ids, fraction, message):
    with pytest.raises(ValueError, match=message):
        lm.split(ids, fraction)
