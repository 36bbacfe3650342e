"""Seq2Seq and Decoder: outputs against the oracle, gradients by finite differences, and what is promised of them."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

import rnnfast
from cases import as_tuple, same_bits
from differences import check_gradients
from rnnfast import optim
from rnnfast import reference as ref
from rnnfast.seq2seq import Attention, Decoder, Encoder, Seq2Seq
from rnnfast.seq2seq.base import side_by_side

KINDS = (None, "dot", "general", "additive")
CELLS = {"rnn": "rnn_tanh", "lstm": "lstm", "gru": "gru"}
SOURCES = [[1, 4, 0, 3, 2], [2], [3, 3, 1]]
TARGETS = [[0, 2], [1, 1, 3, 0], [3]]


def small(**options):
    return Seq2Seq(5, 4, 6, **{"dtype": "float64", "seed": 3, **options})


def vector_model(**options):
    return Decoder(4, 6, vector_size=3, **{"dtype": "float64", "seed": 3, **options})


# --- Against the oracle -----------------------------------------------------------------------------------------------


def layer(model, prefix, x, state, cell):
    """A recurrent stack of the model on one sequence (T, I), by the oracle: outputs (T, D*H) and the state."""
    params = {k[len(prefix) :]: v for k, v in model.params.items() if k.startswith(prefix)}
    layers = max(int(name.split("_l")[1].split("_")[0]) for name in params) + 1
    both = any(name.endswith("_reverse") for name in params)
    out = ref.forward(cell, params, x[:, None], state, num_layers=layers, bidirectional=both)
    return out[0][:, 0], out[1]


def expected_log_probabilities(model, source, target):
    """Of each token of one target and its end, step by step in NumPy."""
    c, p, cell = model.config, model.params, CELLS[model.config["cell"]]
    states = 2 if cell == "lstm" else 1
    table = p.get("encoder.embedding.weight", p.get("decoder.embedding.weight"))
    x = np.eye(5)[source] if table is None else table[source]
    memory, state = layer(model, "encoder.rnn.", x, None, cell)
    state = as_tuple(state)
    if c["bidirectional"]:  # (L * 2, 1, H): both directions of a layer side by side
        state = tuple(
            s.reshape(-1, 2, 1, s.shape[-1]).transpose(0, 2, 1, 3).reshape(-1, 1, 2 * s.shape[-1]) for s in state
        )
    if c["bridge"]:
        flat = np.tanh(
            p["decoder.bridge.weight"] @ np.concatenate([s.ravel() for s in state]) + p["decoder.bridge.bias"]
        )
        state = tuple(flat.reshape(states, c["num_layers"], 1, 6))
    table = p.get("decoder.embedding.weight")
    inputs = [4, *target]
    y = np.eye(5)[inputs] if table is None else table[inputs]
    h, _ = layer(model, "decoder.rnn.", y, state if states > 1 else state[0], cell)
    kind = c.get("attention")
    if kind is not None:
        keys = memory if kind == "dot" else memory @ p["decoder.attention.keys.weight"].T
        query = h if kind != "additive" else h @ p["decoder.attention.query.weight"].T
        v = p.get("decoder.attention.v")
        context, _ = ref.attention(query[:, None], keys[:, None], memory[:, None], None, v)
        h = np.tanh(np.concatenate([context[:, 0], h], axis=1) @ p["decoder.attention.joined.weight"].T)
    logits = h @ p["decoder.output.weight"].T + p["decoder.output.bias"]
    return -ref.softmax_cross_entropy(logits, np.array([*target, 4]), reduction="none")[0]


SHAPES = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "embedding": {"embedding_size": 3},
    "bridge": {"bridge": True, "encoder_size": 4, "encoder_layers": 2, "bidirectional": True, "embedding_size": 3},
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_oracle(shape, kind, cell):
    if kind == "dot" and shape == "bridge":
        kind = "general"  # dot needs outputs as wide as the decoder
    model = small(cell=cell, attention=kind, **SHAPES[shape])
    expected = [expected_log_probabilities(model, s, t) for s, t in zip(SOURCES, TARGETS, strict=True)]
    got = model.log_probabilities(SOURCES, TARGETS)
    assert np.abs(got - [e.sum() for e in expected]).max() < 1e-12
    loss, count = model.evaluate(SOURCES, TARGETS)
    assert count == 10 and abs(loss + sum(e.sum() for e in expected) / 10) < 1e-13
    logits, lengths = model(SOURCES, TARGETS)
    assert logits.shape == (5, 3, 5) and lengths.tolist() == [3, 5, 2]


def test_one_to_many_against_the_oracle():
    model = vector_model(num_layers=2)
    vectors = np.random.default_rng(0).standard_normal((3, 3))
    got = model.log_probabilities(vectors, TARGETS)
    for vector, target, value in zip(vectors, TARGETS, got, strict=True):
        p = model.params
        flat = np.tanh(p["bridge.weight"] @ vector + p["bridge.bias"])
        h, _ = layer(model, "rnn.", np.eye(5)[[4, *target]], tuple(flat.reshape(2, 2, 1, 6)), "lstm")
        logits = h @ p["output.weight"].T + p["output.bias"]
        expected = -ref.softmax_cross_entropy(logits, np.array([*target, 4]), reduction="sum")[0]
        assert abs(value - expected) < 1e-12


# --- Gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"cell": "lstm", "embedding_size": 3, "num_layers": 2},
        {"cell": "gru", "bidirectional": True},
        {"cell": "rnn", "bidirectional": True, "bridge": True, "encoder_layers": 2, "embedding_size": 3},
    ],
    ids=lambda o: o["cell"],
)
def test_gradients(options, kind):
    model = small(attention=kind, **options)

    def loss():
        grads = {name: grad.copy() for name, grad in model.grads.items()}
        value = model.loss_and_gradients(SOURCES, TARGETS, label_smoothing=0.1, training=False)
        for name, grad in grads.items():
            model.grads[name][...] = grad
        return value

    model.loss_and_gradients(SOURCES, TARGETS, label_smoothing=0.1, training=False)
    grads = {name: grad.copy() for name, grad in model.grads.items()}
    check_gradients(loss, model.params, grads, step=1e-3, most=6)


def test_gradients_of_shared_embeddings_and_of_vectors():
    shared = Seq2Seq(4, 4, 6, embedding_size=3, share_embeddings=True, attention="general", dtype="float64", seed=1)
    assert shared.encoder.embedding is shared.decoder.embedding
    assert "encoder.embedding.weight" not in shared.params
    vectors = np.random.default_rng(0).standard_normal((3, 3))
    for model, condition in ((shared, [[1, 2], [0], [3, 3]]), (vector_model(), vectors)):
        model.loss_and_gradients(condition, TARGETS, training=False)
        grads = {name: grad.copy() for name, grad in model.grads.items()}
        loss = lambda m=model, c=condition: m.evaluate(c, TARGETS)[0]  # noqa: E731
        check_gradients(loss, model.params, grads, step=1e-3, most=6)


def test_gradients_with_dropout_are_those_of_the_very_masks():
    model = small(attention="general", dropout=0.4, num_layers=2, embedding_size=3)

    def loss():
        model.rng.step = 11
        kept = {name: grad.copy() for name, grad in model.grads.items()}
        value = model.loss_and_gradients(SOURCES, TARGETS)
        for name, grad in kept.items():
            model.grads[name][...] = grad
        return value

    model.rng.step = 11
    first = model.loss_and_gradients(SOURCES, TARGETS)
    assert first == loss() and first != model.evaluate(SOURCES, TARGETS)[0]
    check_gradients(loss, model.params, {n: g.copy() for n, g in model.grads.items()}, step=1e-3, most=4)


# --- Batches, padding, threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neither_batch_nor_padding_changes_a_bit(kind, dtype):
    rng = np.random.default_rng(0)
    model = Seq2Seq(9, 8, 34, 2, attention=kind, bidirectional=True, embedding_size=7, dtype=dtype, seed=1)
    sources = [rng.integers(0, 9, n) for n in (3, 1, 7, 20, 5)]
    targets = [rng.integers(0, 8, n) for n in (2, 11, 1, 6, 4)]
    logits, lengths = model(sources, targets)
    for i in range(5):
        alone, _ = model(sources[i : i + 1], targets[i : i + 1])
        assert same_bits(alone[:, 0], logits[: lengths[i], i])
    for threads in (1, 3):
        with rnnfast.threads(threads):
            assert same_bits(model(sources, targets)[0], logits)
    assert same_bits(model.log_probabilities(sources, targets, batch_size=2), model.log_probabilities(sources, targets))


# --- Training ---------------------------------------------------------------------------------------------------------


def test_a_step_is_the_same_again_and_counts_its_labels():
    def run(scheduled):
        model = small(attention="general", dropout=0.3, embedding_size=3)
        optimizer = optim.Adam(lr=1e-2)
        out = [
            model.train_step(
                SOURCES, TARGETS, optimizer, clip_norm=1.0, scheduled_sampling=scheduled, label_smoothing=0.1
            )
            for _ in range(3)
        ]
        return out, model.state_dict()

    (first, weights), (again, same) = run(0.5), run(0.5)
    assert first == again and all(same_bits(weights[k], same[k]) for k in weights)
    assert first[0][1] == 10
    assert run(0.0)[0] != first


def test_scheduled_sampling_reads_what_the_model_says():
    model = small(seed=5)
    read = side_by_side([np.array(t, np.int32) for t in TARGETS], 4)
    begin, _ = model._begin(model._read(SOURCES), training=False, step=0, keep=False)
    mixed = model._mixed(read, begin, 1.0, 0)
    logits, _ = model(SOURCES, TARGETS)
    assert (mixed[0] == 4).all() and (mixed[1:] == logits[:-1, :, :4].argmax(axis=-1)).all()
    assert (model._mixed(read, begin, 0.0, 0) == read.inputs).all()
    some = model._mixed(read, begin, 0.5, 0)
    assert (some != mixed).any() and (some != read.inputs).any()


def test_a_step_that_fails_changes_nothing():
    model, optimizer = small(attention="additive", dropout=0.2), optim.Adam(lr=1e-2)
    model.train_step(SOURCES, TARGETS, optimizer)
    model.params["decoder.output.bias"][0] = np.nan
    before, step = model.state_dict(), model.rng.step
    with pytest.raises(FloatingPointError):
        model.train_step(SOURCES, TARGETS, optimizer)
    assert model.rng.step == step and all(same_bits(before[k], v) for k, v in model.state_dict().items())


def test_numbers_as_sources():
    rng = np.random.default_rng(0)
    model = Seq2Seq(3, 4, 8, attention="general", bidirectional=True, dtype="float64", seed=1)
    sources = [rng.standard_normal((n, 3)) for n in (4, 2, 6)]
    model.loss_and_gradients(sources, TARGETS, training=False)
    grads = {name: grad.copy() for name, grad in model.grads.items()}
    check_gradients(lambda: model.evaluate(sources, TARGETS)[0], model.params, grads, step=1e-3, most=4)


def test_copies_are_the_same_model():
    model = small(attention="additive", bridge=True, dropout=0.2, embedding_size=3)
    model.train_step(SOURCES, TARGETS, optim.Adam(lr=1e-2))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.rng.state_dict() == model.rng.state_dict()
        assert other.evaluate(SOURCES, TARGETS) == model.evaluate(SOURCES, TARGETS)
    fresh = Seq2Seq(**model.config)
    assert fresh.evaluate(SOURCES, TARGETS) != model.evaluate(SOURCES, TARGETS)
    fresh.load_state_dict(model.state_dict())
    assert fresh.evaluate(SOURCES, TARGETS) == model.evaluate(SOURCES, TARGETS)
    assert "attention='additive'" in repr(model)
    assert small(seed=None).config["seed"] != small(seed=None).config["seed"]


@pytest.mark.parametrize("kind", [*KINDS, "alone"])
def test_a_frozen_model_holds_its_parameters(kind):
    if kind == "alone":
        model, sources = vector_model(embedding_size=3), np.random.default_rng(0).standard_normal((3, 3))
    else:
        model, sources = small(attention=kind, bridge=True, embedding_size=3), SOURCES
    for array in model.params.values():
        array *= 2

    def results(of):
        found = of.generate(sources, beam_size=3, n_best=3, max_length=6)
        hypotheses = [[(h.tokens.tolist(), h.score) for h in row] for row in found]
        return hypotheses, of.evaluate(sources, TARGETS), of.log_probabilities(sources, TARGETS).tolist()

    expected = results(model)
    model.freeze()
    copied = pickle.loads(pickle.dumps(model))
    for param in model.params.values():
        param += 0.1
    for frozen in (model, copied):
        assert results(frozen) == expected
        with pytest.raises(RuntimeError, match="call unfreeze"):
            frozen.train_step(sources, TARGETS, optim.SGD(0.1))
    model.unfreeze()
    assert all(a != b for a, b in zip(results(model), expected, strict=True))
    model.train_step(sources, TARGETS, optim.SGD(0.1))


def test_configs_go_into_json():
    number, flag = np.uint8, np.bool_
    model = Seq2Seq(
        number(5), number(255), number(8), number(2), embedding_size=number(3), encoder_size=number(4),
        bidirectional=flag(True), bridge=flag(False), dropout=np.float32(0.5), dtype=np.float64, seed=np.uint32(3),
    )  # fmt: skip
    decoder = Decoder(number(4), number(8), vector_size=number(3), cell="gru", dtype=np.float32, seed=1)
    for made in (model, decoder, Attention("additive", number(6), number(5), attention_size=number(7))):
        config = json.loads(json.dumps(made.config))
        assert config == made.config == type(made)(**config).config


def test_whole_numbers_are_numbers():
    model = Seq2Seq(3, 4, 8, dtype="float64", seed=1)
    rows = np.arange(6).reshape(2, 3)
    assert model.evaluate([rows], [[1]]) == model.evaluate([rows.astype(float)], [[1]])


def test_what_parts_are_made_of():
    assert set(Encoder(4, 3, 1, embedding_size=2, seed=0).params) == {
        "embedding.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0"
    }  # fmt: skip
    names = set(small(attention="additive", bridge=True).params)
    assert {
        "encoder.rnn.weight_ih_l0",
        "decoder.rnn.weight_hh_l0",
        "decoder.attention.v",
        "decoder.bridge.bias",
    } <= names
