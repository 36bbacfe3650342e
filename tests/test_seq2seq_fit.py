"""Seq2Seq trained on pairs of texts: what it must learn, resuming to the bit, what a file of pairs may not hold."""

from __future__ import annotations

import random

import numpy as np
import pytest

import rnnfast
from cases import same_bits
from rnnfast import checkpoint, optim, seq2seq
from rnnfast.seq2seq.data import read_pairs, split_pairs
from rnnfast.seq2seq.evaluate import edit_distance, score, wilson
from rnnfast.seq2seq.options import Seq2SeqOptions

SMALL = {"hidden_size": 16, "batch_size": 8, "seed": 3, "quiet": True, "samples": 0}


def words(count, seed=0, letters="abcdefgh", shortest=1, longest=8):
    rng = random.Random(seed)
    drawn = {"".join(rng.choices(letters, k=rng.randint(shortest, longest))) for _ in range(3 * count)}
    return rng.sample(sorted(drawn), count)


def exact(model, pairs, **search):
    said = model.translate([source for source, _ in pairs], **search)
    return sum(s == target for s, (_, target) in zip(said, pairs, strict=True)) / len(pairs)


# --- What it must learn -----------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread():
    """Models this small are slower on several."""
    with rnnfast.threads(1):
        yield


@pytest.mark.parametrize(
    ("task", "attention"), [("copy", "general"), ("copy", "additive"), ("reverse", "general"), ("reverse", "dot")]
)
def test_copy_and_reverse_are_learnt(task, attention, one_thread):
    pairs = [(w, w if task == "copy" else w[::-1]) for w in words(2200)]
    options = {"hidden_size": 64, "batch_size": 32, "learning_rate": 1e-2, "max_epochs": 6, "seed": 1, "quiet": True}
    model = seq2seq.fit(pairs[:2000], val_frac=0.0, attention=attention, **options)
    assert exact(model, pairs[2000:]) >= 0.99
    assert exact(model, pairs[2000:], beam_size=3) >= 0.99


def sums(digits, count, seed=0):
    rng = random.Random(seed)
    drawn = {(rng.randrange(10**digits), rng.randrange(10**digits)) for _ in range(4 * count)}
    return [(f"{a}+{b}", str(a + b)) for a, b in rng.sample(sorted(drawn), count)]


def test_sums_of_two_digits_are_learnt(one_thread):
    pairs = sums(2, 9300)
    options = {"hidden_size": 64, "learning_rate": 1e-2, "max_epochs": 14, "seed": 1, "quiet": True}
    model = seq2seq.fit(pairs[:8800], val_frac=0.0, **options)
    assert exact(model, pairs[8800:]) >= 0.99


@pytest.mark.slow
def test_sums_of_three_digits_are_learnt(one_thread):
    pairs = sums(3, 52_000)
    options = {"hidden_size": 128, "batch_size": 128, "learning_rate": 5e-3, "max_epochs": 26, "seed": 1, "quiet": True}
    model = seq2seq.fit(pairs[:50_000], val_frac=0.0, attention="general", **options)
    assert exact(model, pairs[50_000:]) >= 0.99


def test_a_decoder_alone_spells_numbers(one_thread):
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    rng = np.random.default_rng(0)
    numbers = rng.permutation(1000)
    vectors = np.concatenate([np.eye(10)[numbers // 10**k % 10] for k in (2, 1, 0)], axis=1)
    texts = [" ".join(names[int(d)] for d in f"{n:03d}") for n in numbers]
    letters = sorted(set("".join(texts)))
    targets = [[letters.index(c) for c in text] for text in texts]
    decoder = seq2seq.Decoder(len(letters), 64, vector_size=30, seed=1)
    optimizer = optim.Adam(lr=1e-2)
    for _ in range(25):
        for batch in np.split(rng.permutation(800), 25):
            decoder.train_step(vectors[batch], [targets[i] for i in batch], optimizer, clip_norm=1.0)
    found = decoder.generate(vectors[800:], max_length=30)
    said = ["".join(letters[i] for i in h.tokens) for (h,) in found]
    assert np.mean([s == t for s, t in zip(said, texts[800:], strict=True)]) >= 0.99


# --- Runs -------------------------------------------------------------------------------------------------------------


PAIRS = [(w, w[::-1].upper()) for w in words(60)]


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path):
    options = {**SMALL, "dropout": 0.2, "scheduled_sampling": 0.5, "scheduled_sampling_steps": 10, "eval_every": 5}
    whole = seq2seq.fit(PAIRS, out=tmp_path / "whole", max_steps=18, **options)
    seq2seq.fit(PAIRS, out=tmp_path / "parts", max_steps=7, schedule="constant", **options)
    ends = {"max_steps": 18, "schedule": "constant"}
    seq2seq.fit(PAIRS, out=tmp_path / "parts", resume=True, **ends, **options)
    again = seq2seq.fit(PAIRS, out=tmp_path / "again", **ends, **options)
    (arrays, meta), (same, same_meta) = (checkpoint.load(tmp_path / d / "last.safetensors") for d in ("parts", "again"))
    learnt = arrays.keys() - {"trainer.rows"}  # which has times
    assert arrays.keys() == same.keys() and all(same_bits(arrays[k], same[k]) for k in learnt)
    assert meta["task_state"] == same_meta["task_state"] == {**same_meta["task_state"], "step": 18}
    loaded = seq2seq.load(tmp_path / "again")
    sources = [s for s, _ in PAIRS]
    assert loaded.translate(sources, max_length=9) == again.translate(sources, max_length=9)
    assert whole.translate(["abc"], max_length=9) and loaded.config == again.config
    with pytest.raises(checkpoint.CheckpointError, match="other pairs: 54 to train on and 6 .*--val"):
        seq2seq.fit(PAIRS[1:], out=tmp_path / "again", resume=True, max_steps=20)
    with pytest.raises(ValueError, match="hidden_size must be 16"):
        seq2seq.fit(PAIRS, out=tmp_path / "again", resume=True, hidden_size=18)
    with pytest.raises(checkpoint.CheckpointError, match="language model"):
        rnnfast.lm.load(tmp_path / "again")


def test_options_may_be_numbers_of_numpy(tmp_path):
    numbers = {"hidden_size": np.int64(8), "dropout": np.float32(0.1), "scheduled_sampling": np.float32(0.5)}
    model = seq2seq.fit(PAIRS, out=tmp_path / "run", max_steps=2, **{**SMALL, **numbers})
    assert seq2seq.load(tmp_path / "run").config == model.config


def test_levels_and_shared_vocabularies():
    pairs = [("the cat", "D AH K AE T"), ("the hat", "D AH HH AE T")] * 4
    model = seq2seq.fit(pairs, level="word", target_level="space", val_frac=0.0, max_steps=2, **SMALL)
    assert [t.type for t in model.tokenizers] == ["word", "space"]
    assert set(model.translate(["the cat"], max_length=3)[0].split()) <= {"D", "AH", "K", "AE", "T", "HH"}
    options = {**SMALL, "share_vocabulary": True, "embedding_size": 8, "val_frac": 0.0, "max_steps": 2}
    shared = seq2seq.fit(pairs, **options)
    assert shared.tokenizers[0] is shared.tokenizers[1] and shared.encoder.embedding is shared.decoder.embedding


def test_every_option_is_checked_and_the_frozen_ones_exist():
    options = Seq2SeqOptions().validate().to_dict()
    assert set(Seq2SeqOptions.FROZEN) <= set(options)
    for name in options:
        with pytest.raises(ValueError, match=name):
            Seq2SeqOptions.from_dict({name: object()}).validate()
    with pytest.raises(ValueError, match="no such option"):
        seq2seq.fit(PAIRS, colour="red")


# --- Data -------------------------------------------------------------------------------------------------------------


def test_batches_of_ragged_pairs_have_little_padding():
    from rnnfast.batches import Bucketed, padding

    rng = np.random.default_rng(0)
    sources = np.clip(rng.poisson(7.5, 20000), 1, 28)
    lengths = np.stack([sources, np.maximum(1, sources + rng.integers(-3, 2, 20000))], axis=1)
    assert padding(lengths, list(Bucketed(lengths, 64, seed=1).epoch(0))) <= 0.1


def test_a_split_keeps_all_pairs_of_a_source_together_and_does_not_depend_on_order():
    pairs = read_pairs([(f"s{i // 2}", f"t{i}") for i in range(200)])
    train, val = split_pairs(pairs, 0.1)
    assert len(val) == 20 and not {p.source for p in train} & {p.source for p in val}
    _, other = split_pairs(pairs[::-1], 0.1)
    assert sorted(other) == sorted(val)
    assert split_pairs(pairs, 0.0) == (pairs, [])


def test_errors_are_counted_against_the_nearest_reference():
    for a, b, d in (("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)):
        assert edit_distance(a, b) == edit_distance(b, a) == d
    a = np.array
    result = score([a([1, 2]), a([3])], [[a([1, 1, 1]), a([1, 2])], [a([3, 4]), a([5, 6, 7])]])
    assert result["correct"] == 1 and result["sequence_error"] == 0.5 and result["token_error"] == 1 / 4
    low, high = wilson(10, 100)
    assert abs(low - 0.0552) < 1e-4 and abs(high - 0.1744) < 1e-4  # Wilson's interval of 10 %
    assert wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == 1 and wilson(0, 0) == (0.0, 1.0)


def test_a_word_that_the_vocabulary_lacks_is_never_right():
    pairs = [(f"s{i}", f"x w{i}") for i in range(12)]
    known = {"level": "word", "min_count": 2, "val_frac": 0.0, "hidden_size": 8, "max_steps": 60, "learning_rate": 0.05}
    model = seq2seq.fit(pairs, quiet=True, seed=1, **known)
    assert model.translate(["s1"]) == ["x <unk>"]
    result = seq2seq.evaluate_pairs(model, [("s1", "x novel")])
    assert (result["correct"], result["token_error"]) == (0, 0.5)
    assert seq2seq.evaluate_pairs(model, [("s1", "x <unk>")])["correct"] == 0


def test_evaluate_pairs_takes_any_target_of_a_source():
    model = seq2seq.fit(PAIRS, val_frac=0.0, max_steps=2, **SMALL)
    said = model.translate(["abc"], max_length=5)[0]
    if not said:
        said = "A"
    pairs = [("abc", "HHHHHHH"), ("abc", said), ("h", "ABCDEFG")]
    result = seq2seq.evaluate_pairs(model, pairs, max_length=5)
    assert result == seq2seq.evaluate_pairs(model, read_pairs(pairs), max_length=5)
    assert result["sources"] == 2 and result["pairs"] == 3 and result["correct"] <= 1
    assert result["loss"] > 0 and 0 <= result["interval"][0] <= result["sequence_error"] <= result["interval"][1] <= 1
