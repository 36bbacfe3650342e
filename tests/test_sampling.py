"""Sampling: the tokens are the oracle's, for any prime, temperature, top-k, top-p, seed and number of samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import rnnfast
from rnnfast import lm
from rnnfast import reference as ref
from rnnfast.lm.sampling import Sampler

V, H = 13, 9
CELLS = [("rnn", "tanh"), ("rnn", "relu"), ("lstm", "tanh"), ("gru", "tanh")]
INPUTS = {"one-hot": {}, "embedding": {"embedding_size": 4}, "tied": {"embedding_size": H, "tie_weights": True}}
RULES = [
    {},
    {"temperature": 0},
    {"temperature": 0.5},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 4},
    {"top_k": 1000},
    {"top_p": 0.6},
    {"top_p": 1.0},
    {"top_p": 1e-9},
    {"temperature": 1.3, "top_k": 6, "top_p": 0.8},
]


def make(cell="lstm", nonlinearity="tanh", scale=3.0, **kwargs):
    """A model that is not sure of anything, and whose likeliest tokens differ from step to step."""
    model = lm.LanguageModel(
        V, H, **({"cell": cell, "nonlinearity": nonlinearity, "dtype": "float64", "seed": 2} | kwargs)
    )
    for name, param in model.params.items():
        if name.startswith(("output", "embedding")):
            param *= scale
    return model


def logits_after(model, ids):
    """(V) logits of the token after ids, by the oracle."""
    c, p = model.config, model.params
    rnn = {name[4:]: value for name, value in p.items() if name.startswith("rnn.")}
    y = np.zeros((1, 1, H))
    if len(ids):
        x = np.asarray(ids)[:, None]
        x = x if model.embedding is None else p["embedding.weight"][x]
        cell = f"rnn_{c['nonlinearity']}" if c["cell"] == "rnn" else c["cell"]
        y, _, _ = ref.forward(cell, rnn, x, num_layers=c["num_layers"])
    return y[-1, 0] @ p["embedding.weight" if c["tie_weights"] else "output.weight"].T + p["output.bias"]


def draw(model, prompt, length, seed, sample=0, start=0, **rule):
    ids = list(prompt)
    for position in range(start, start + length):
        probs = ref.sampling_probabilities(logits_after(model, ids), **rule)
        ids.append(ref.sample_token(probs, ref.sampling_uniform(seed, sample, position)))
    return ids[len(prompt) :]


PROMPT = [3, 1, 4, 1, 5]


@pytest.mark.isa
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("inputs", INPUTS)
def test_samples_are_those_of_the_oracle(inputs, rule):
    model = make(**INPUTS[inputs])
    ids = model.sample(PROMPT, 25, seed=11, num_samples=3, **rule)
    assert ids.shape == (3, 25)
    assert ids.dtype == np.int64
    for sample in range(3):
        assert ids[sample].tolist() == draw(model, PROMPT, 25, 11, sample, **rule)


@pytest.mark.isa
@pytest.mark.parametrize(("cell", "nonlinearity"), CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_every_cell_is_sampled(cell, nonlinearity, layers):
    model = make(cell, nonlinearity, num_layers=layers)
    assert model.sample(PROMPT, 30, seed=5).tolist() == draw(model, PROMPT, 30, 5)


@pytest.mark.isa
@pytest.mark.parametrize("length", [0, 1, 2, 7, 300])
def test_the_prime_may_have_any_length(length):
    model = make()
    prompt = np.random.default_rng(0).integers(0, V, length)
    expected = draw(model, prompt, 5, 3)
    assert model.sample(prompt, 5, seed=3).tolist() == expected
    assert model.sample(prompt.tolist(), 5, seed=3).tolist() == expected


def test_one_sample_is_flat_and_several_are_rows():
    model = make()
    one = model.sample(PROMPT, 12, seed=1)
    assert one.shape == (12,)
    for count in (2, 7, 33):
        many = model.sample(PROMPT, 12, seed=1, num_samples=count)
        assert many.shape == (count, 12)
        np.testing.assert_array_equal(many[0], one)  # a sample does not depend on how many there are
        assert len({tuple(row) for row in many}) > 1
    assert model.sample(PROMPT, 0).shape == (0,)
    assert model.sample(PROMPT, 0, num_samples=3).shape == (3, 0)


def test_a_seed_gives_the_same_tokens_and_none_a_fresh_draw():
    model = make()
    a, b = (model.sample(PROMPT, 40, seed=9) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert (model.sample(PROMPT, 40, seed=10) != a).any()
    assert (model.sample(PROMPT, 40) != model.sample(PROMPT, 40)).any()
    assert model.sample(PROMPT, 40, seed=2**64 - 1).tolist() == draw(model, PROMPT, 40, 2**64 - 1)


@pytest.mark.parametrize("count", [1, 3])
def test_generate_streams_what_sample_returns(count):
    model = make()
    rule = {"seed": 4, "temperature": 0.8, "top_k": 9, "top_p": 0.95, "num_samples": count}
    ids = model.sample(PROMPT, 20, **rule)
    stream = list(model.generate(PROMPT, 20, **rule))
    assert all(isinstance(token, int) for token in stream) == (count == 1)
    np.testing.assert_array_equal(np.stack(stream, axis=-1), ids)
    endless = model.generate(PROMPT, **rule)
    np.testing.assert_array_equal(np.stack(list(itertools.islice(endless, 20)), axis=-1), ids)
    assert list(model.generate(PROMPT, 0)) == []


def test_generate_uses_the_weights_as_they_were_when_it_was_called():
    model = make()
    ids = model.sample(PROMPT, 10, seed=4)
    stream = model.generate(PROMPT, 10, seed=4)
    for param in model.params.values():
        param[...] = 0
    assert list(stream) == ids.tolist()


def test_temperature_zero_is_the_argmax_and_seed_does_not_matter():
    model = make()
    ids = model.sample(PROMPT, 30, temperature=0, seed=1)
    np.testing.assert_array_equal(ids, model.sample(PROMPT, 30, temperature=0, seed=2))
    np.testing.assert_array_equal(ids, model.sample(PROMPT, 30, top_k=1, seed=3))
    logits, _ = model(np.concatenate([PROMPT, ids])[:-1, None])
    np.testing.assert_array_equal(logits[len(PROMPT) - 1 :, 0].argmax(-1), ids)


def test_top_k_and_top_p_keep_the_likeliest():
    model = make(scale=0.5)
    logits = logits_after(model, PROMPT)
    order = np.argsort(-logits, kind="stable")
    probs = np.exp(logits[order]) / np.exp(logits).sum()
    for k in (2, 5):
        drawn = model.sample(PROMPT, 1, top_k=k, seed=0, num_samples=400)[:, 0]
        assert set(drawn) == set(order[:k])
    nucleus = int(np.searchsorted(np.cumsum(probs), 0.5)) + 1
    drawn = model.sample(PROMPT, 1, top_p=0.5, seed=0, num_samples=400)[:, 0]
    assert set(drawn) == set(order[:nucleus])


def test_frequencies_are_the_probabilities():
    model, count = make(), 20000
    drawn = model.sample(PROMPT, 1, seed=6, temperature=1.5, num_samples=count)[:, 0]
    probs = ref.sampling_probabilities(logits_after(model, PROMPT), temperature=1.5)
    expected = probs * count
    chi2 = ((np.bincount(drawn, minlength=V) - expected) ** 2 / expected).sum()
    assert chi2 < 33  # 12 degrees of freedom: once in a thousand


@pytest.mark.isa
def test_the_same_tokens_for_any_number_of_threads():
    model = lm.LanguageModel(65, 128, embedding_size=32, seed=3)
    drawn = []
    for threads in (1, 2, 3):
        with rnnfast.threads(threads):
            drawn.append(model.sample([1, 2, 3], 60, seed=8, num_samples=5))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])


def test_more_threads_than_a_step_is_dealt_to():
    """A step with a barrier takes no more threads than run at once; the output layer alone would take all of them."""
    model = lm.LanguageModel(12_000, 512, 1, embedding_size=32, seed=3)
    drawn = []
    for threads in (1, 24):
        with rnnfast.threads(threads):
            drawn.append(model.sample([1, 2, 3], 4, seed=8))
    np.testing.assert_array_equal(drawn[0], drawn[1])


@pytest.mark.isa
def test_sampling_computes_what_the_model_computes_to_the_bit():
    """In float32 the likeliest tokens of the whole sequence at once are those that were sampled one by one."""
    for extra in ({}, {"embedding_size": 16}):
        model = lm.LanguageModel(65, 48, seed=3, **extra)
        ids = model.sample([1, 2, 3], 50, temperature=0)
        sequence = np.concatenate([[1, 2, 3], ids])
        logits, state = model(sequence[:, None])
        np.testing.assert_array_equal(logits[2:-1, 0].argmax(-1), ids)
        sampler = Sampler(model, 1)
        sampler.prime([1, 2, 3])
        sampler.sample(50, temperature=0)
        np.testing.assert_array_equal(sampler.state, state)


def test_sampling_leaves_the_model_alone():
    model = make(dropout=0.5, embedding_size=4)
    before = model.state_dict()
    assert model.sample(PROMPT, 20, seed=1).tolist() == draw(model, PROMPT, 20, 1)  # nothing is dropped
    assert model.rng.step == 0
    for name, param in model.params.items():
        np.testing.assert_array_equal(param, before[name])


# --- Text ---


@pytest.mark.parametrize("kind", [lm.CharTokenizer, lm.ByteTokenizer, lm.WordTokenizer])
def test_sample_text_is_the_prime_and_what_follows(kind):
    text = "In sooth, I know not why I am so sad: it wearies me\n"
    tokenizer = kind.from_text(text)
    model = lm.LanguageModel(tokenizer.vocab_size, 16, seed=1)
    model.tokenizer = tokenizer
    got = model.sample_text("In sooth", 30, seed=3, temperature=0.7)
    prompt = tokenizer.encode("In sooth")
    ids = model.sample(prompt, 30, seed=3, temperature=0.7)
    assert got == tokenizer.decode(np.concatenate([prompt, ids]))
    assert got.startswith("In sooth")
    assert (
        "".join(tokenizer.decode_stream(itertools.chain(prompt, model.generate(prompt, 30, seed=3, temperature=0.7))))
        == got
    )
    several = model.sample_text("In sooth", 30, seed=3, temperature=0.7, num_samples=3)
    assert len(several) == 3
    assert several[0] == got
    assert isinstance(model.sample_text("", 5, seed=1), str)


# --- Errors ---

ERRORS = [
    ({"length": -1}, "length must be an integer of at least 0, got -1"),
    ({"length": 2.5}, "length must be an integer of at least 0, got 2.5"),
    ({"prompt_ids": [0, V]}, r"prompt_ids must hold tokens in 0 \.\. 12, got 13"),
    ({"prompt_ids": [-1]}, r"prompt_ids must hold tokens in 0 \.\. 12, got -1"),
    ({"prompt_ids": [0.5]}, "prompt_ids must be integers, got dtype float64"),
    ({"prompt_ids": [[1, 2]]}, r"prompt_ids must have shape \(length,\), got \(1, 2\)"),
    ({"prompt_ids": "text"}, "prompt_ids must be .* got dtype <U4"),
    ({"temperature": -0.1}, "temperature must be .* got -0.1"),
    ({"temperature": float("nan")}, "temperature must be .* got nan"),
    ({"temperature": float("inf")}, "temperature must be .* got inf"),
    ({"temperature": "hot"}, "temperature must be .* got 'hot'"),
    ({"top_k": 0}, "top_k must be an integer of at least 1, got 0"),
    ({"top_k": 1.5}, "top_k must be an integer of at least 1, got 1.5"),
    ({"top_p": 0.0}, r"top_p must be a number in \(0, 1\], got 0.0"),
    ({"top_p": 1.1}, r"top_p must be a number in \(0, 1\], got 1.1"),
    ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ({"seed": 2**64}, "seed must be an integer from 0 to 18446744073709551615, got 18446744073709551616"),
    ({"seed": 1.0}, "seed must be an integer"),
    ({"num_samples": 0}, "num_samples must be an integer of at least 1, got 0"),
    ({"num_samples": True}, "num_samples must be an integer of at least 1, got True"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_bad_arguments_are_named(change, message):
    model, arguments = make(), {"prompt_ids": PROMPT, "length": 5} | change
    for call in (model.sample, model.generate):  # generate too says so at once, not at the first token
        with pytest.raises((ValueError, TypeError), match=message):
            call(**arguments)


def test_logits_that_are_no_numbers_are_an_error():
    model = make()
    model.params["output.bias"][3] = np.nan
    with pytest.raises(FloatingPointError, match="logits of sample 0 at position 0 are not finite"):
        model.sample(PROMPT, 5)


def test_text_needs_a_tokenizer_that_knows_the_prime():
    model = make()
    with pytest.raises(ValueError, match="sample_text needs a tokenizer: set model.tokenizer, got None"):
        model.sample_text("a", 5)
    model.tokenizer = lm.CharTokenizer.from_text("abcdefghijklm")
    with pytest.raises(ValueError, match=r"not among them: 'z' \(U\+007A\), first at position 1"):
        model.sample_text("az", 5)
