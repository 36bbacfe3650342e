"""Greedy and beam search: against brute force and a loop in NumPy; what may not change a bit of a result."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import rnnfast
from cases import same_bits
from rnnfast._check import MOST
from rnnfast.seq2seq import Decoder, Seq2Seq
from rnnfast.seq2seq.base import side_by_side

KINDS = (None, "dot", "general", "additive")


def model_of(kind=None, *, target_size=3, hidden_size=8, dtype="float64", scale=3.0, **options):
    """Weights large enough that probabilities differ."""
    options = {"cell": "gru", "bidirectional": True, "seed": 2, **options}
    model = Seq2Seq(5, target_size, hidden_size, attention=kind, dtype=dtype, **options)
    for name, array in model.params.items():
        array *= 1.5 if "encoder" in name else scale
    return model


def sources(n=6, seed=0, longest=9):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 5, rng.integers(1, longest + 1)) for _ in range(n)]


def everything(vocabulary, shortest, longest):
    for n in range(shortest, longest + 1):
        yield from (list(t) for t in itertools.product(range(vocabulary), repeat=n))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("shortest", [0, 2])
def test_a_beam_for_all_hypotheses_is_brute_force(kind, penalty, shortest):
    model = model_of(kind)
    all_targets = list(everything(3, shortest, 3))
    for source in sources(4):
        scores = model.log_probabilities([source] * len(all_targets), all_targets)
        ranks = scores / np.array([((5 + len(t) + 1) / 6) ** penalty for t in all_targets])
        best = sorted(range(len(all_targets)), key=lambda i: -ranks[i])[:5]
        (found,) = model.generate(
            [source], beam_size=40, n_best=5, min_length=shortest, max_length=3, length_penalty=penalty
        )
        assert [h.tokens.tolist() for h in found] == [all_targets[i] for i in best]
        assert np.abs(np.array([h.score for h in found]) - scores[best]).max() < 1e-12
        assert np.abs(np.array([h.penalized for h in found]) - ranks[best]).max() < 1e-12


def slow_search(model, source, beam_size, n_best, min_length, max_length, penalty):
    """The search's rule, word for word, with whole passes over whole prefixes."""
    end, live, done = model.decoder.end, [([], 0.0)], []
    for i in range(max_length + 1):
        candidates = []
        for row, (tokens, score) in enumerate(live):
            logits = model([source], [tokens])[0][-1, 0].astype(np.float64)
            log_p = logits - logits.max()
            log_p -= np.log(np.exp(log_p).sum())
            for token in range(end + 1):
                if (token == end and i < min_length) or (token != end and i == max_length):
                    continue
                candidates.append((score + log_p[token], row, token))
        candidates.sort(key=lambda c: (-c[0], c[1], c[2]))
        candidates, before, live = candidates[: 2 * beam_size], live, []
        for rank, (score, row, token) in enumerate(candidates):
            tokens = before[row][0]
            if token == end:
                done += [(tokens, score)] if rank < beam_size else []
            elif len(live) < beam_size:
                live.append(([*tokens, token], score))
        if not live or len(done) >= beam_size:
            break
    done.sort(key=lambda d: -d[1] / ((6 + len(d[0])) / 6) ** penalty)
    return done[:n_best]


@pytest.mark.isa
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_against_a_loop_in_numpy(kind, beam_size, penalty):
    model = model_of(kind, target_size=6, embedding_size=4, scale=2.0, num_layers=2, cell="lstm")
    options = {"beam_size": beam_size, "n_best": min(2, beam_size), "min_length": 1, "max_length": 7}
    for source, found in zip(sources(), model.generate(sources(), length_penalty=penalty, **options), strict=True):
        expected = slow_search(model, source, penalty=penalty, **options)
        assert [h.tokens.tolist() for h in found] == [tokens for tokens, _ in expected]
        assert np.abs(np.array([h.score for h in found]) - [score for _, score in expected]).max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_width_one_is_greedy(kind):
    model = model_of(kind, target_size=6)
    for source, (found,) in zip(sources(), model.generate(sources(), max_length=12), strict=True):
        tokens = []
        while len(tokens) < 12:
            token = int(model([source], [tokens])[0][-1, 0].argmax())
            if token == model.decoder.end:
                break
            tokens.append(token)
        assert found.tokens.tolist() == tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_are_sums_of_log_probabilities(kind, dtype):
    model = model_of(kind, target_size=7, dtype=dtype)
    limit = 1e-4 if dtype == "float32" else 1e-12
    for source, found in zip(sources(), model.generate(sources(), beam_size=4, n_best=4, max_length=9), strict=True):
        assert 1 <= len(found) <= 4
        tokens = [h.tokens for h in found]
        scores = [h.score for h in found]
        assert np.abs(model.log_probabilities([source] * len(found), tokens) - scores).max() < limit
        assert scores == sorted(scores, reverse=True) and [h.penalized for h in found] == scores
        assert len({t.tobytes() for t in tokens}) == len(tokens)


def same(a, b):
    return (
        len(a) == len(b)
        and all(
            same_bits(x.tokens, y.tokens) and x.score == y.score and x.penalized == y.penalized
            for x, y in zip(a, b, strict=True)
        )
        and all(x.attention is y.attention or same_bits(x.attention, y.attention) for x, y in zip(a, b, strict=True))
    )


@pytest.mark.isa
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neither_batch_nor_padding_nor_threads_change_a_bit(kind, dtype):
    model = Seq2Seq(5, 11, 34, 2, attention=kind, embedding_size=5, dtype=dtype, bidirectional=True, seed=4)
    options = {"beam_size": 3, "n_best": 3, "max_length": 15, "attention": kind is not None}
    texts = sources(11, longest=30)
    together = model.generate(texts, **options)
    for source, expected in zip(texts, together, strict=True):
        assert same(model.generate([source], **options)[0], expected)
    order = np.random.default_rng(1).permutation(11)
    for batch_size in (1, 4, 64):
        shuffled = model.generate([texts[i] for i in order], batch_size=batch_size, **options)
        assert all(same(found, together[i]) for found, i in zip(shuffled, order, strict=True))
    for threads in (1, 2, 3):
        with rnnfast.threads(threads):
            assert all(same(a, b) for a, b in zip(model.generate(texts, **options), together, strict=True))


@pytest.mark.isa
@pytest.mark.parametrize("kind", KINDS)
def test_sources_of_several_blocks_and_layers_of_many_panels(kind):
    """A block has 256 rows; threads share a layer's panels where each gets some, else rows."""
    model = model_of(kind, target_size=140, hidden_size=132, dtype="float32", scale=1.0)
    texts, options = sources(70, longest=4), {"beam_size": 5, "n_best": 2, "max_length": 4, "batch_size": 70}
    together = model.generate(texts, attention=kind is not None, **options)
    for i in (0, 50, 51, 69):  # 51 sources are a block
        assert same(model.generate([texts[i]], attention=kind is not None, **options)[0], together[i])
    for threads in (1, 2, 3):
        with rnnfast.threads(threads):
            found = model.generate(texts, attention=kind is not None, **options)
            assert all(same(a, b) for a, b in zip(found, together, strict=True))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_attention_weights_are_those_of_the_pass_over_the_found_tokens(kind):
    model = model_of(kind, target_size=6)
    for source, found in zip(
        sources(), model.generate(sources(), beam_size=3, n_best=2, max_length=8, attention=True), strict=True
    ):
        for h in found:
            assert h.attention.shape == (len(h.tokens) + 1, len(source))
            read = side_by_side([h.tokens], model.decoder.end)
            begin, _ = model._begin(model._read([source]), training=False, step=0, keep=False)
            states, _ = model.decoder._reader(read.inputs, begin.state, read.lengths)
            _, weights = model.decoder.attention(states, begin.memory, begin.lengths)
            assert same_bits(np.ascontiguousarray(weights[:, 0]), h.attention)


def test_lengths_are_kept():
    model = model_of("general", target_size=4)
    for low, high in ((0, 0), (3, 3), (2, 5), (0, 20)):
        for found in model.generate(sources(), beam_size=3, n_best=3, min_length=low, max_length=high):
            assert all(low <= len(h.tokens) <= high for h in found) and found


def test_memory_is_that_of_the_steps_taken_not_of_the_longest_allowed():
    model = model_of("general", target_size=4)
    model.params["decoder.output.bias"][-1] += 3
    options = {"beam_size": 3, "n_best": 3, "attention": True}
    expected = model.generate(sources(), max_length=100, **options)
    assert max(len(h.tokens) for found in expected for h in found) < 100
    found = model.generate(sources(), max_length=MOST, **options)
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_a_search_without_memory_is_an_error_and_the_model_goes_on():
    resource, statm = pytest.importorskip("resource"), Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("memory is limited by what Linux says is used")
    model = model_of("general")
    options = {"beam_size": 8, "attention": True}
    expected = model.generate(sources(), **options)
    limits, used = resource.getrlimit(resource.RLIMIT_AS), int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, limits[1]))
    try:
        with pytest.raises(MemoryError):  # 256 KB a step, and no end
            model.generate([np.zeros(4000, int)], min_length=MOST, max_length=MOST, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert all(same(a, b) for a, b in zip(model.generate(sources(), **options), expected, strict=True))


def test_states_and_vectors_begin_a_sequence():
    rng = np.random.default_rng(0)
    decoder = Decoder(5, 6, vector_size=3, dtype="float64", seed=1)
    vectors = rng.standard_normal((4, 3))
    found = decoder.generate(vectors, beam_size=3, max_length=6)
    scores = decoder.log_probabilities(vectors, [h.tokens for (h,) in found])
    assert np.abs(scores - [h.score for (h,) in found]).max() < 1e-12
    plain = Decoder(5, 6, 2, cell="gru", dtype="float64", seed=1)
    state = rng.standard_normal((2, 4, 6))
    found = plain.generate(state, beam_size=3, max_length=6)
    assert (
        np.abs(plain.log_probabilities(state, [h.tokens for (h,) in found]) - [h.score for (h,) in found]).max() < 1e-12
    )
    assert same(plain.generate(state[:, 2:3], beam_size=3, max_length=6)[0], found[2])


@pytest.mark.isa
def test_bfloat16_searches_too():
    model = Seq2Seq(5, 6, 32, attention="general", compute_dtype="bfloat16", seed=1)
    found = model.generate(sources(), beam_size=3, max_length=9)
    scores = model.log_probabilities(sources(), [h.tokens for (h,) in found])
    assert np.abs(scores - [h.score for (h,) in found]).max() < 1e-3
    assert all(
        same(a, model.generate([s], beam_size=3, max_length=9)[0]) for s, a in zip(sources(), found, strict=True)
    )


def test_logits_that_are_no_numbers_are_an_error():
    model = model_of("general")
    model.params["decoder.output.bias"][1] = np.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        model.generate(sources())
    assert model.generate([]) == []
