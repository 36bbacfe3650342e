"""Bad input to rnnfast.seq2seq: one clear error that says where; nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rnnfast import optim, seq2seq
from rnnfast.dense import Embedding
from rnnfast.seq2seq.data import Pair, make_tokenizers, read_pairs
from rnnfast.seq2seq.options import Seq2SeqOptions

SMALL = {"hidden_size": 16, "batch_size": 8, "seed": 3, "quiet": True, "samples": 0}
PAIRS = [("abc", "CBA"), ("ab", "BA")]


def fit_file(tmp_path, text, **options):
    path = Path(tmp_path, "pairs.tsv")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return seq2seq.fit(path, out=tmp_path / "run", max_steps=1, **{**SMALL, "val_frac": 0.0, **options})


FILES = {
    "a missing tab": ("a\tb\nab\n", ["pairs.tsv, line 2", "no tab", "'ab'"]),
    "two tabs": ("a\tb\tc\n", ["line 1", "2 tabs"]),
    "an empty source": ("a\tb\n\tb\n", ["line 2", "source must not be empty"]),
    "an empty target": ("a\tb\nb\t\n", ["line 2", "target must not be empty"]),
    "a target of spaces": ("a\tb\nb\t  \n", ["line 2", "target must not be empty"]),
    "an empty line": ("a\tb\n\na\tb\n", ["line 2", "no tab"]),
    "an empty file": ("", ["at least one pair"]),
    "no text": (b"a\tb\nb\t\xff\n", ["pairs.tsv", "UTF-8", "0xff", "position 6"]),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files(tmp_path, case):
    text, said = FILES[case]
    with pytest.raises(ValueError) as raised:
        fit_file(tmp_path, text)
    assert all(part in str(raised.value) for part in said), str(raised.value)
    assert not (tmp_path / "run").exists()


def tiny(**options):
    return seq2seq.Seq2Seq(5, 4, 6, **{"seed": 1, **options})


def decoder(*args, **options):
    return seq2seq.Decoder(*(args or (4, 8)), **{"seed": 1, **options})


def trained():
    return seq2seq.fit(PAIRS, val_frac=0.0, max_steps=1, **SMALL)


def step(**options):
    return tiny().train_step([[1]], [[1]], optim.Adam(), **options)


TEXT = "ab\tc\nba\td\n"
CALLS = {
    "pairs of a str": (lambda p: seq2seq.fit("ab"), TypeError, ["pairs must be a Path", "'ab'"]),
    "no pairs at all": (lambda p: seq2seq.fit(None), TypeError, ["pairs must be a Path", "None"]),
    "no validation pairs": (lambda p: seq2seq.fit(PAIRS, val=[]), ValueError, ["val must hold", "none"]),
    "a validation pair of one": (lambda p: seq2seq.fit(PAIRS, val=[("a",)]), TypeError, ["val[0]", "('a',)"]),
    "a lone surrogate": (
        lambda p: seq2seq.fit([("a", "b"), ("a\udc80", "b")]), ValueError, ["pairs[1]", "source", "'\\udc80'"]
    ),
    "a Pair of numbers": (
        lambda p: seq2seq.fit([Pair(1, None, "x, line 2")]), TypeError, ["x, line 2", "source", "int"]
    ),
    "evaluating a pair of one": (
        lambda p: seq2seq.evaluate_pairs(trained(), [("a",)]), TypeError, ["pairs[0]", "pair"]
    ),
    "a pair of one": (lambda p: seq2seq.fit([("a", "b"), ("c",)]), TypeError, ["pairs[1]", "pair", "('c',)"]),
    "a pair of numbers": (lambda p: seq2seq.fit([(1, "b")]), TypeError, ["pairs[0]", "source", "int"]),
    "too few to split": (lambda p: fit_file(p, TEXT, val_frac=0.1), ValueError, ["val_frac 0.1", "2 different"]),
    "patience without validation": (lambda p: fit_file(p, TEXT, patience=2), ValueError, ["patience", "validation"]),
    "an unknown level": (lambda p: fit_file(p, TEXT, level="byte"), ValueError, ["level", "char", "'byte'"]),
    "an odd hidden size": (lambda p: fit_file(p, TEXT, hidden_size=7), ValueError, ["hidden_size must be even", "7"]),
    "an odd size of a model": (lambda p: seq2seq.Seq2Seq(5, 4, 7, bidirectional=True), ValueError, ["be even", "7"]),
    "dot that does not fit": (
        lambda p: fit_file(p, TEXT, attention="dot", encoder_size=3, bridge=True), ValueError, ["dot", "16", "6"]
    ),
    "dot in a model that it does not fit": (
        lambda p: tiny(attention="dot", encoder_size=5, bridge=True), ValueError, ["dot", "6", "5"]
    ),
    "states that do not fit": (lambda p: fit_file(p, TEXT, encoder_size=3), ValueError, ["encoder_size", "16", "3"]),
    "states of a model that do not fit": (lambda p: tiny(encoder_size=3), ValueError, ["bridge=True", "6", "3"]),
    "layers that do not fit": (lambda p: fit_file(p, TEXT, encoder_layers=2), ValueError, ["encoder_layers", "1", "2"]),
    "an unknown symbol": (
        lambda p: fit_file(p, TEXT).translate(["abz"]), ValueError, ["texts[0]", "'z'", "position 2"]
    ),
    "an unknown symbol in the second text": (
        lambda p: trained().translate(["ab", "xb"]), ValueError, ["texts[1]", "'x'", "position 0"]
    ),
    "a text that is none": (lambda p: trained().translate(["ab", 5]), TypeError, ["texts[1]", "int"]),
    "translations of n_best": (
        lambda p: trained().translate(["ab"], n_best=2), TypeError, ["n_best is of generate", "2"]
    ),
    "translate one text": (lambda p: fit_file(p, TEXT).translate("ab"), TypeError, ["texts must be a list", "'ab'"]),
    "translate without tokenizers": (lambda p: tiny().translate(["ab"]), ValueError, ["tokenizers"]),
    "an empty source of tokens": (lambda p: tiny().generate([[1], []]), ValueError, ["sources[1]", "at least one"]),
    "a source of strings": (lambda p: tiny().generate(["ab"]), TypeError, ["sources[0]"]),
    "a token too large": (lambda p: tiny().generate([[1, 5]]), ValueError, ["sources[0]", "0 .. 4", "5"]),
    "a negative target": (lambda p: tiny().evaluate([[1]], [[-1]]), ValueError, ["targets[0]", "0 .. 3", "-1"]),
    "the end as a target": (lambda p: tiny().evaluate([[1]], [[4]]), ValueError, ["targets[0]", "0 .. 3", "4"]),
    "fewer targets": (lambda p: tiny().evaluate([[1], [2]], [[1]]), ValueError, ["targets", "2", "1"]),
    "targets of two axes": (lambda p: tiny().evaluate([[1]], [[[1]]]), ValueError, ["targets[0]", "(n,)", "(1, 1)"]),
    "sources of one number": (lambda p: tiny().generate([1, 2]), TypeError, ["sources[0]"]),
    "numbers of another width": (
        lambda p: tiny().generate([np.zeros((3, 4))]), ValueError, ["sources[0]", "(n, 5)", "(3, 4)"]
    ),
    "numbers that are none": (lambda p: tiny().generate([np.full((3, 5), np.nan)]), ValueError, ["sources[0]", "nan"]),
    "whole numbers of another width": (
        lambda p: tiny().generate([np.zeros((3, 4), int)]), ValueError, ["sources[0]", "(n, 5)", "(3, 4)"]
    ),
    "numbers that float32 does not hold": (
        lambda p: tiny().generate([np.full((3, 5), 1e300)]), ValueError, ["sources[0]", "finite in float32", "1e+300"]
    ),
    "vectors that float32 does not hold": (
        lambda p: decoder(vector_size=1).generate(np.array([[1e300]])), ValueError, ["vectors", "float32", "1e+300"]
    ),
    "no state": (lambda p: decoder().generate(None), TypeError, ["state must be a pair (h, c)", "None"]),
    "no state to evaluate": (
        lambda p: decoder().evaluate(None, [[1]]), TypeError, ["state must be a pair (h, c)", "None"]
    ),
    "no state of a GRU": (lambda p: decoder(cell="gru").generate(None), TypeError, ["state must be one array", "None"]),
    "half a state": (
        lambda p: decoder().generate((np.zeros((1, 2, 8)), None)), TypeError, ["state must be a pair (h, c)", "None"]
    ),
    "no targets": (lambda p: tiny().log_probabilities([[1]], None), TypeError, ["targets must be a list", "NoneType"]),
    "vectors of another width": (
        lambda p: seq2seq.Decoder(4, 6, vector_size=3).generate(np.zeros((2, 4))), ValueError, ["(B, 3)", "(2, 4)"]
    ),
    "a wide n_best": (lambda p: tiny().generate([[1]], n_best=2), ValueError, ["n_best", "beam_size 1", "2"]),
    "lengths that cross": (
        lambda p: tiny().generate([[1]], min_length=3, max_length=2), ValueError, ["max_length", "3", "2"]
    ),
    "a beam too wide": (
        lambda p: tiny().generate([[1]], beam_size=2**62), ValueError, ["beam_size", "from 1 to 2147483647", str(2**62)]
    ),
    "a target too long": (
        lambda p: tiny().generate([[1]], max_length=2**31), ValueError, ["max_length", "2147483647", "2147483648"]
    ),
    "attention that is no bool": (
        lambda p: tiny().generate([[1]], attention="no"), TypeError, ["attention", "bool", "'no'"]
    ),
    "no attention to return": (lambda p: tiny().generate([[1]], attention=True), ValueError, ["attention", "True"]),
    "an unknown attention": (lambda p: tiny(attention="loud"), ValueError, ["attention", "'loud'", "additive"]),
    "a shared embedding of too few rows": (
        lambda p: decoder(2_000_000, 2, embedding=Embedding(4, 3000), vector_size=2),
        ValueError, ["embedding", "2000001 rows", "num_embeddings=4"]
    ),
    "a shared embedding of another width": (
        lambda p: seq2seq.Encoder(4, 8, embedding_size=7, embedding=Embedding(4, 3)),
        ValueError, ["embedding", "4 rows of 7", "embedding_dim=3"]
    ),
    "a shared embedding of another dtype": (
        lambda p: seq2seq.Encoder(4, 8, embedding=Embedding(4, 3, dtype="float64")), ValueError, ["float32", "float64"]
    ),
    "a shared embedding that is none": (
        lambda p: decoder(embedding=np.zeros((5, 3))), TypeError, ["embedding", "array"]
    ),
    "attention's size without attention": (
        lambda p: tiny(attention_size=7), ValueError, ["attention_size must be None", "7"]
    ),
    "a memory without attention": (lambda p: decoder(memory_size=7), ValueError, ["memory_size must be None", "7"]),
    "attention without a memory": (lambda p: decoder(attention="dot"), ValueError, ["memory_size", "'dot'", "None"]),
    "an unknown nonlinearity": (lambda p: tiny(nonlinearity="bogus"), ValueError, ["nonlinearity", "'bogus'"]),
    "a nonlinearity of another cell": (
        lambda p: tiny(nonlinearity="relu"), ValueError, ["nonlinearity", "lstm", "relu"]
    ),
    "no target symbols": (lambda p: seq2seq.Seq2Seq(5, 0, 8), ValueError, ["target_size", "0"]),
    "an encoder of no units": (lambda p: tiny(encoder_size=0, bridge=True), ValueError, ["encoder_size", "0"]),
    "an encoder of no layers": (lambda p: tiny(encoder_layers=0, bridge=True), ValueError, ["encoder_layers", "0"]),
    "a negative embedding": (lambda p: tiny(embedding_size=-3), ValueError, ["embedding_size", "-3"]),
    "no size": (lambda p: seq2seq.Seq2Seq(5, 4, None), TypeError, ["hidden_size", "None"]),
    "sharing unlike vocabularies": (
        lambda p: tiny(share_embeddings=True, embedding_size=3), ValueError, ["share_embeddings", "5", "4"]
    ),
    "smoothing of one": (lambda p: step(label_smoothing=1.0), ValueError, ["label_smoothing", "1.0"]),
    "a share above one": (lambda p: step(scheduled_sampling=2), ValueError, ["scheduled_sampling", "2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_bad_calls(tmp_path, case):
    call, error, said = CALLS[case]
    with pytest.raises(error) as raised:
        call(tmp_path)
    assert all(part in str(raised.value) for part in said), str(raised.value)


def test_an_unknown_symbol_of_the_validation_pairs_says_its_line(tmp_path):
    model = fit_file(tmp_path, TEXT)
    path = tmp_path / "val.tsv"
    path.write_text("ab\tc\nxb\td\n")
    with pytest.raises(ValueError, match=r"val.tsv, line 2: .*'x'"):
        seq2seq.evaluate_pairs(model, read_pairs(path))
    pairs = [Pair("a", "b", "here")]
    assert [t.vocab_size for t in make_tokenizers(pairs, "char", "space")] == [1, 1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention_size", {"attention": None, "attention_size": 7}),
        ("attention_size", {"attention_size": 7}),
        ("min_count", {"min_count": 5}),
        ("scheduled_sampling_steps", {"scheduled_sampling_steps": 10}),
        ("nonlinearity", {"nonlinearity": "relu"}),
    ],
)
def test_options_that_would_do_nothing(name, options):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        Seq2SeqOptions.from_dict(options).validate()
