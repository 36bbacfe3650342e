"""The language model: its loss and gradients are the oracle's, training works, evaluation counts each token once."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import assert_close
from rnnfast import lm, ops
from rnnfast import reference as ref

V, H, T, B = 11, 7, 6, 3
KINDS = [("rnn", "tanh"), ("rnn", "relu"), ("lstm", "tanh"), ("gru", "tanh")]
SHAPES = {
    "one-hot": {},
    "embedding": {"embedding_size": 5},
    "tied": {"embedding_size": H, "tie_weights": True},
    "dropout": {"embedding_size": 5, "dropout": 0.4, "num_layers": 3},
    "one-hot dropout": {"dropout": 0.3},
    "tied dropout": {"embedding_size": H, "tie_weights": True, "dropout": 0.4, "num_layers": 1},
}


def make(**kwargs):
    return lm.LanguageModel(V, H, **({"dtype": "float64", "seed": 5} | kwargs))


def some_tokens(steps=T + 1, batch=B, seed=0):
    return np.random.default_rng(seed).integers(0, V, (steps, batch))


def part(params, prefix):
    return {name[len(prefix) :]: value for name, value in params.items() if name.startswith(prefix)}


def oracle(model, tokens, state=None, reset=None, training=True):
    """(mean loss, last state, gradients of all parameters) of a LanguageModel, in NumPy."""
    c, params = model.config, model.params
    p = c["dropout"] if training else 0.0
    x, targets = tokens[:-1], tokens[1:]
    masks = [np.ones(()), np.ones(())]
    layer_masks = None
    if p:
        seed, step, shape = model.rng.seed, model.rng.step, x.shape
        width = c["embedding_size"] or 1
        masks = [
            ref.dropout_mask(p, seed, step, 0x8000 + i, (*shape, n)) for i, n in enumerate((width, c["hidden_size"]))
        ]
        layer_masks = ref.layer_dropout_masks(p, seed, step, c["num_layers"], 1, (*shape, c["hidden_size"]))
    embedded = x if model.embedding is None else params["embedding.weight"][x] * masks[0]
    cell = f"rnn_{c['nonlinearity']}" if c["cell"] == "rnn" else c["cell"]
    y, last, cache = ref.forward(
        cell,
        part(params, "rnn."),
        embedded,
        state,
        num_layers=c["num_layers"],
        reset=reset,
        dropout_masks=layer_masks,
    )
    y = y * masks[1]
    weight = params["embedding.weight" if c["tie_weights"] else "output.weight"]
    loss, dlogits = ref.softmax_cross_entropy(y @ weight.T + params["output.bias"], targets)
    dx, _, rnn = ref.backward(dlogits @ weight * masks[1], None, cache)
    grads = {f"rnn.{name}": grad for name, grad in rnn.items()}
    grads["output.bias"] = dlogits.sum((0, 1))
    dweight = np.einsum("tbv,tbh->vh", dlogits, y)
    if model.embedding is not None:
        grads["embedding.weight"] = np.zeros_like(params["embedding.weight"])
        np.add.at(grads["embedding.weight"], x, dx * masks[0])
    name = "embedding.weight" if c["tie_weights"] else "output.weight"
    grads[name] = grads.get(name, 0) + dweight
    return loss, last, grads


def check_state(got, expected):
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for a, b in pairs:
        assert_close({"state": a}, {"state": b}, tolerances.ORACLE64)


class Recorder:
    """An optimiser that only remembers the gradients."""

    def step(self, model):
        self.grads = {name: grad.copy() for name, grad in model.grads.items()}


# --- The oracle ---


@pytest.mark.isa
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("cell", "nonlinearity"), KINDS)
def test_train_step_is_the_oracle(cell, nonlinearity, shape):
    model, recorder, state, expected_state = (
        make(cell=cell, nonlinearity=nonlinearity, **SHAPES[shape]),
        Recorder(),
        None,
        None,
    )
    reset = np.random.default_rng(1).random((T, B)) < 0.2
    for chunk in range(3):
        tokens = some_tokens(seed=chunk)
        expected_loss, expected_state, grads = oracle(model, tokens, expected_state, reset)
        loss, state = model.train_step(tokens, state, recorder, reset=reset)
        assert isinstance(loss, float)
        assert abs(loss - expected_loss) <= tolerances.ORACLE64
        check_state(state, expected_state)
        assert_close(recorder.grads, grads, tolerances.ORACLE64)
        assert model.rng.step == (chunk + 1) * T


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluate_is_the_oracle_without_dropout(shape):
    model, tokens = make(**SHAPES[shape]), some_tokens()
    before = pickle.dumps(model)
    expected_loss, expected_state, _ = oracle(model, tokens, training=False)
    loss, state = model.evaluate(tokens)
    assert abs(loss - expected_loss) <= tolerances.ORACLE64
    check_state(state, expected_state)
    assert pickle.dumps(model) == before
    logits, state2 = model(tokens[:-1])
    assert abs(ops.softmax_cross_entropy(logits, tokens[1:])[0] - expected_loss) <= tolerances.ORACLE64
    np.testing.assert_array_equal(state2, state)


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_through_the_logits(shape):
    model, tokens = make(**SHAPES[shape]), some_tokens()
    expected_loss, _, grads = oracle(model, tokens)
    logits, _, cache = model.forward(tokens[:-1])
    loss, dlogits = ops.softmax_cross_entropy(logits, tokens[1:])
    assert abs(loss - expected_loss) <= tolerances.ORACLE64
    dx, _ = model.backward(dlogits, None, cache)
    assert dx is None
    assert_close(model.grads, grads, tolerances.ORACLE64)
    model.forward(tokens[:-1], training=False)
    assert model.rng.step == T


def test_a_generator_of_the_callers_keys_dropout():
    model, tokens = make(**SHAPES["dropout"]), some_tokens()
    rng = rnnfast.random.CounterRng(99, 7)
    a = model.forward(tokens, rng=rng)[0]
    assert (rng.step, model.rng.step) == (7 + T + 1, 0)
    b = model.forward(tokens, rng=rnnfast.random.CounterRng(99, 7))[0]
    np.testing.assert_array_equal(a, b)
    assert (model.forward(tokens)[0] != a).any()


# --- Training ---


@pytest.mark.parametrize(
    ("cell", "nonlinearity", "shape"),
    [*(("lstm", "tanh", shape) for shape in SHAPES), *((*kind, "embedding") for kind in KINDS if kind[0] != "lstm")],
)
def test_it_learns_a_small_text(cell, nonlinearity, shape):
    text = "the quick brown fox jumps over the lazy dog; " * 40
    tokenizer = lm.CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    extra = SHAPES[shape] | {"dropout": 0.1 if "dropout" in shape else 0.0}
    if "embedding_size" in extra:
        extra["embedding_size"] = 32
    model = lm.LanguageModel(tokenizer.vocab_size, 32, cell=cell, nonlinearity=nonlinearity, seed=1, **extra)
    adam, first = rnnfast.optim.Adam(0.01), None
    for _ in range(8):
        state = None
        for tokens in rnnfast.tbptt.batches(ids, 4, 30):
            loss, state = model.train_step(tokens, state, adam, clip_norm=5.0)
            first = loss if first is None else first
    assert first > 2.5
    assert lm.evaluate_text(model, ids) < 0.5 * first


def test_the_same_seed_is_the_same_training():
    losses = []
    for seed in (1, 1, 2):
        model, adam, state = make(seed=seed, dropout=0.3), rnnfast.optim.Adam(0.01), None
        for chunk in range(4):
            loss, state = model.train_step(some_tokens(seed=chunk), state, adam)
        losses.append(loss)
    assert losses[0] == losses[1] != losses[2]


def test_clipping_is_by_value_then_by_norm():
    model, recorder, tokens = make(), Recorder(), some_tokens()
    _, _, grads = oracle(model, tokens)
    clipped = ref.clip_grad_norm(ref.clip_grad_value(list(grads.values()), 0.01), 0.05)[1]
    model.train_step(tokens, None, recorder, clip_value=0.01, clip_norm=0.05)
    assert_close(recorder.grads, dict(zip(grads, clipped, strict=True)), tolerances.ORACLE64)


class Overflowing(lm.LanguageModel):
    """A model whose gradients are not finite, once told so."""

    overflows = False

    def backward_features(self, dy, dstate, cache):
        result = super().backward_features(dy, dstate, cache)
        if self.overflows:
            self.grads["output.bias"][0] = np.inf
        return result


@pytest.mark.parametrize("where", ["loss", "gradient", "optimiser"])
def test_a_step_that_fails_changes_nothing(where):
    kind = Overflowing if where == "gradient" else lm.LanguageModel
    model, adam = kind(V, H, seed=5, dropout=0.3), rnnfast.optim.Adam(0.01)
    model.train_step(some_tokens(), None, adam)
    model.overflows = True
    state = tuple(np.full((2, B, H), np.nan if where == "loss" else 0.1) for _ in "hc")
    if where == "optimiser":
        adam.load_state_dict(adam.state_dict() | {"arrays": {}})  # not those of the model
    before, adam_before = model.state_dict(), pickle.dumps(adam.state_dict())
    with pytest.raises((FloatingPointError, ValueError)):
        model.train_step(some_tokens(), state, adam, clip_norm=1.0)
    assert_close(model.state_dict(), before, 0.0)
    assert model.rng.step == T
    assert pickle.dumps(adam.state_dict()) == adam_before


# --- The model as a module ---


def test_parameters_have_prefixed_torch_names_and_are_the_layers_own():
    model = make(embedding_size=5)
    names = [f"rnn.{n}_l{i}" for i in (0, 1) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    assert list(model.params) == list(model.grads) == ["embedding.weight", *names, "output.weight", "output.bias"]
    assert model.params["rnn.weight_hh_l1"] is model.rnn.params["weight_hh_l1"]
    assert model.grads["output.bias"] is model.output.grads["bias"]
    assert model.params["embedding.weight"].shape == (V, 5)
    assert model.params["rnn.weight_ih_l0"].shape == (4 * H, 5)
    assert make().params["rnn.weight_ih_l0"].shape == (4 * H, V)
    assert model.num_parameters == sum(p.size for p in model.params.values())


def test_tied_weights_are_one_array():
    model = make(**SHAPES["tied"])
    assert model.embedding.params["weight"] is model.output.params["weight"] is model.params["embedding.weight"]
    assert model.embedding.grads["weight"] is model.output.grads["weight"] is model.grads["embedding.weight"]
    assert "output.weight" not in model.params
    assert np.abs(model.params["embedding.weight"]).max() <= 1 / np.sqrt(H)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), lm.LanguageModel(**model.config)):
        assert other.embedding.params["weight"] is other.output.params["weight"] is other.params["embedding.weight"]


@pytest.mark.parametrize("shape", SHAPES)
def test_copies_continue_as_the_original(shape, tmp_path):
    model, adam = make(**SHAPES[shape]), rnnfast.optim.Adam(0.01)
    model.tokenizer = lm.CharTokenizer.from_text("abcdefghijk")
    _, state = model.train_step(some_tokens(), None, adam)
    model.save(tmp_path / "model.safetensors")
    loaded = lm.LanguageModel(**json.loads(json.dumps(model.config)))
    loaded.load(tmp_path / "model.safetensors")
    loaded.rng.load_state_dict(json.loads(json.dumps(model.rng.state_dict())))
    from_dict = lm.LanguageModel(**(model.config | {"seed": 77}))
    from_dict.load_state_dict(model.state_dict())
    from_dict.rng = rnnfast.random.CounterRng(model.rng.seed, model.rng.step)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, from_dict]
    assert copies[0].tokenizer == copies[1].tokenizer == model.tokenizer
    optimizers = [copy.deepcopy(adam) for _ in copies]
    expected = model.train_step(some_tokens(seed=1), state, adam)[0]
    for other, optimizer in zip(copies, optimizers, strict=True):
        assert other.train_step(some_tokens(seed=1), state, optimizer)[0] == expected
        assert_close(other.state_dict(), model.state_dict(), 0.0)


def test_another_models_parameters_are_refused():
    model, before = make(), make().state_dict()
    with pytest.raises(ValueError, match="missing: none; unexpected: embedding.weight"):
        model.load_state_dict(make(embedding_size=V).state_dict())
    with pytest.raises(ValueError, match=r"state\['rnn.weight_ih_l0'\] must have shape"):
        model.load_state_dict(lm.LanguageModel(V, H + 1, seed=1).state_dict())
    assert_close(model.state_dict(), before, 0.0)


def test_config_is_the_constructors_arguments_and_records_the_seed():
    model = lm.LanguageModel(np.int64(V), H, 1, cell="gru", seed=None)
    config = json.loads(json.dumps(model.config))
    assert config["vocab_size"] == V
    assert config["dtype"] == "float32"
    assert isinstance(config["seed"], int)
    assert model.rng.seed == config["seed"] == lm.LanguageModel(**config).rng.seed
    assert_close(lm.LanguageModel(**config).state_dict(), model.state_dict(), 0.0)
    assert lm.LanguageModel(V, H, seed=None).config["seed"] != config["seed"]
    assert f"LanguageModel(vocab_size={V}, hidden_size={H}, num_layers=1, cell='gru'" in repr(model)


@pytest.mark.parametrize("shape", ["one-hot", "embedding", "tied"])
def test_a_frozen_model_holds_its_parameters(shape):
    model, tokens = make(**SHAPES[shape]), some_tokens()
    logits, loss = model(tokens)[0], model.evaluate(tokens)[0]
    model.freeze()
    copied = pickle.loads(pickle.dumps(model))
    for param in model.params.values():
        param += 0.1
    for frozen in (model, copied):
        np.testing.assert_array_equal(frozen(tokens)[0], logits)
        assert frozen.evaluate(tokens)[0] == loss
        with pytest.raises(RuntimeError, match="call unfreeze"):
            frozen.train_step(tokens, None, rnnfast.optim.SGD(0.1))
    model.unfreeze()
    assert model.evaluate(tokens)[0] != loss
    model.train_step(tokens, None, rnnfast.optim.SGD(0.1))


# --- evaluate_text ---


def losses_of(model, ids, starts):
    """Loss of each of ids[1:] with the state reset to zero before the inputs at `starts`."""
    reset = np.isin(np.arange(len(ids) - 1), starts)[:, None]
    logits, _ = model(ids[:-1, None], reset=reset)
    return ops.softmax_cross_entropy(logits, ids[1:, None], reduction="none")[0][:, 0]


@given(count=st.integers(2, 60), batch=st.integers(1, 9), length=st.integers(1, 20), embedding=st.booleans())
def test_each_token_counts_once(count, batch, length, embedding):
    model = make(cell="gru", **({"embedding_size": 4} if embedding else {}))
    ids = np.random.default_rng(count).integers(0, V, count)
    whole = losses_of(model, ids, []).mean()
    assert abs(lm.evaluate_text(model, ids, seq_length=length) - whole) < 1e-12

    rows = np.array_split(np.arange(count - 1), min(batch, count - 1))  # the longer rows first
    expected = losses_of(model, ids, [row[0] for row in rows]).mean()
    assert abs(lm.evaluate_text(model, ids, batch_size=batch, seq_length=length) - expected) < 1e-12

    expected = losses_of(model, ids, np.arange(0, count, length)).mean()
    got = lm.evaluate_text(model, ids, batch_size=batch, seq_length=length, carry=False)
    assert abs(got - expected) < 1e-12


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_warmup_gives_rows_the_state_of_the_tokens_before_them(cell):
    model, ids = make(cell=cell), np.random.default_rng(0).integers(0, V, 62)
    rows = np.array_split(np.arange(61), 4)
    losses = []
    for row in rows:
        before = min(9, row[0])
        part = ids[row[0] - before : row[-1] + 2]
        losses.append(losses_of(model, part, [])[before:])
    got = lm.evaluate_text(model, ids, batch_size=4, seq_length=6, warmup=9)
    assert abs(got - np.concatenate(losses).mean()) < 1e-12
    whole = lm.evaluate_text(model, ids)
    assert abs(lm.evaluate_text(model, ids, batch_size=2, warmup=10**6) - whole) < 1e-9  # all that is before row 2


def test_evaluation_is_the_same_with_dropout():
    model, plain = make(**SHAPES["dropout"]), make(**(SHAPES["dropout"] | {"dropout": 0.0}))
    ids = some_tokens(40, 1)[:, 0]
    assert lm.evaluate_text(model, ids) == lm.evaluate_text(plain, ids)
    assert model.rng.step == 0


# --- Errors ---

CONSTRUCTOR_ERRORS = [
    ({"vocab_size": 0}, "vocab_size must be an integer of at least 1, got 0"),
    ({"vocab_size": 2.5}, "vocab_size must be an integer of at least 1, got 2.5"),
    ({"hidden_size": -1}, "hidden_size must be an integer of at least 1, got -1"),
    ({"hidden_size": True}, "hidden_size must be an integer of at least 1, got True"),
    ({"num_layers": 0}, "num_layers must be an integer from 1 to 1000, got 0"),
    ({"embedding_size": 0}, "embedding_size must be an integer of at least 1, got 0"),
    ({"cell": "LSTM"}, "cell must be 'rnn', 'lstm' or 'gru', got 'LSTM'"),
    ({"cell": "rnn", "nonlinearity": "gelu"}, "nonlinearity must be 'tanh' or 'relu', got 'gelu'"),
    ({"cell": "lstm", "nonlinearity": "gelu"}, "nonlinearity must be 'tanh' or 'relu', got 'gelu'"),
    ({"dropout": 1.0}, r"dropout must be .* got 1\.0"),
    ({"dropout": -0.1}, r"dropout must be .* got -0\.1"),
    ({"dropout": 1.0, "num_layers": 1}, r"dropout must be .* got 1\.0"),
    ({"dropout": "half"}, "dropout must be a number .* got 'half'"),
    ({"tie_weights": True}, "tie_weights needs embedding_size == hidden_size, got None and hidden_size 7"),
    ({"tie_weights": True, "embedding_size": 6}, "tie_weights needs embedding_size == hidden_size, got 6 and"),
    ({"dtype": "float16"}, "dtype must be 'float32' or 'float64', got 'float16'"),
    ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ({"seed": 0.5}, "seed must be an integer"),
]


@pytest.mark.parametrize(("change", "message"), CONSTRUCTOR_ERRORS)
def test_bad_constructor_arguments_are_named(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        lm.LanguageModel(**({"vocab_size": V, "hidden_size": H} | change))


SGD = rnnfast.optim.SGD(0.1)
TOKENS = some_tokens()
CALL_ERRORS = [
    (
        lambda m: m.train_step(TOKENS[:1], None, SGD),
        r"tokens must have shape \(T\+1, B\) with T at least 1, got \(1, 3\)",
    ),
    (lambda m: m.train_step(TOKENS[:, 0], None, SGD), r"tokens must have shape \(T, B\), got \(7,\)"),
    (lambda m: m.train_step(TOKENS.astype(float), None, SGD), "tokens must be integers, got dtype float64"),
    (lambda m: m.train_step(TOKENS > 3, None, SGD), "tokens must be .* got dtype bool"),
    (lambda m: m.train_step(TOKENS + V, None, SGD), r"tokens must hold tokens in 0 \.\. 10, got 21"),
    (lambda m: m.train_step(TOKENS - 1, None, SGD), r"tokens must hold tokens in 0 \.\. 10, got -1"),
    (lambda m: m.train_step("text", None, SGD), "tokens must be .* got dtype <U4"),
    (lambda m: m.train_step(TOKENS, np.zeros((2, B, H)), SGD), r"state must be a pair \(h, c\)"),
    (
        lambda m: m.train_step(TOKENS, (np.zeros((2, 2, H)),) * 2, SGD),
        r"state\[0\] must have shape \(2, 3, 7\), got \(2, 2",
    ),
    (lambda m: m.train_step(TOKENS, None, SGD, reset=np.zeros((T, B))), "reset must be bool, got dtype float64"),
    (
        lambda m: m.train_step(TOKENS, None, SGD, reset=np.zeros((2, B), bool)),
        r"reset must have shape \(6, 3\), got \(2, 3",
    ),
    (lambda m: m.train_step(TOKENS, None, SGD, clip_norm=0), "max_norm must be"),
    (lambda m: m.train_step(TOKENS, None, SGD, clip_value=math.nan), "clip_value must be"),
    (lambda m: m.evaluate(TOKENS[:1]), r"with T at least 1, got \(1, 3\)"),
    (lambda m: m.evaluate(TOKENS + V), r"tokens must hold tokens in 0 \.\. 10, got 21"),
    (lambda m: m(TOKENS[None]), r"tokens must have shape \(T, B\), got \(1, 7, 3\)"),
    (lambda m: m.forward(TOKENS, rng=3), "rng must be a rnnfast.random.CounterRng or None, got 3"),
    (lambda m: lm.evaluate_text(m, [1]), "ids must hold at least 2 tokens, got 1"),
    (lambda m: lm.evaluate_text(m, []), "ids must hold at least 2 tokens, got 0"),
    (lambda m: lm.evaluate_text(m, TOKENS), r"ids must have shape \(length,\), got \(7, 3\)"),
    (lambda m: lm.evaluate_text(m, [1, V]), r"ids must hold tokens in 0 \.\. 10, got 11"),
    (lambda m: lm.evaluate_text(m, [1, 2], batch_size=0), "batch_size must be an integer of at least 1, got 0"),
    (lambda m: lm.evaluate_text(m, [1, 2], seq_length=0), "seq_length must be an integer of at least 1, got 0"),
    (lambda m: lm.evaluate_text(m, [1, 2], warmup=-1), "warmup must be an integer of at least 0, got -1"),
]


@pytest.mark.parametrize(("call", "message"), CALL_ERRORS)
def test_bad_arguments_are_named_and_change_nothing(call, message):
    model = make(dropout=0.2)
    before = model.state_dict()
    with pytest.raises((ValueError, TypeError), match=message):
        call(model)
    assert_close(model.state_dict(), before, 0.0)
    assert model.rng.step == 0
