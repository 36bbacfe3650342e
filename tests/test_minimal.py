"""The test that a wheel runs: every cell against the reference, a language model that learns, and what `info` says.

It needs what the package needs and nothing else: python test_minimal.py, or pytest. It is quick enough for an emulated
processor (CI runs it on a Nehalem and on a Haswell).
"""

import math
import pickle
import sys
import time
from pathlib import Path

import numpy as np

import rnnfast
from rnnfast import reference

CELLS = {
    "rnn_tanh": lambda *args, **kwargs: rnnfast.RNN(*args, nonlinearity="tanh", **kwargs),
    "rnn_relu": lambda *args, **kwargs: rnnfast.RNN(*args, nonlinearity="relu", **kwargs),
    "lstm": rnnfast.LSTM,
    "gru": rnnfast.GRU,
}
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}  # of the largest value; tests/test_layers.py measures more sharply
TEXT = "the quick brown fox jumps over the lazy dog. " * 20


def close(name: str, got: np.ndarray, want: np.ndarray, dtype: str) -> None:
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    error = float(np.max(np.abs(got - want), initial=0)) / max(1.0, float(np.max(np.abs(want), initial=0)))
    assert error <= TOLERANCE[dtype], f"{name} ({dtype}): error {error:.2e}"


def states(state) -> tuple:
    return state if isinstance(state, tuple) else (state,)


def check_layer(cell: str, dtype: str, *, layers: int, bidirectional: bool, ragged: bool) -> None:
    """One forward and backward pass against the reference, at odd sizes."""
    time_steps, batch, width, hidden = 6, 5, 7, 19
    rng = np.random.default_rng(1)
    layer = CELLS[cell](width, hidden, layers, bidirectional=bidirectional, dtype=dtype, seed=3)
    x = rng.standard_normal((time_steps, batch, width)).astype(dtype)
    lengths = np.array([6, 0, 3, 6, 1]) if ragged else None
    reset = rng.random((time_steps, batch)) < 0.2 if ragged else None
    y, state, cache = layer.forward(x, lengths=lengths, reset=reset)
    dy = rng.standard_normal(y.shape).astype(dtype)
    layer.zero_grad()
    dx, dstate0 = layer.backward(dy, None, cache)

    want_y, want_state, trace = reference.forward(
        cell, layer.params, x, num_layers=layers, bidirectional=bidirectional, lengths=lengths, reset=reset
    )
    want_dx, want_dstate0, want_grads = reference.backward(dy, None, trace)
    close(f"{cell} y", y, want_y, dtype)
    close(f"{cell} dx", dx, want_dx, dtype)
    for index, (got, want) in enumerate(zip(states(state), states(want_state), strict=True)):
        close(f"{cell} state {index}", got, want, dtype)
    for index, (got, want) in enumerate(zip(states(dstate0), states(want_dstate0), strict=True)):
        close(f"{cell} dstate {index}", got, want, dtype)
    assert layer.grads.keys() == want_grads.keys()
    for name, got in layer.grads.items():
        close(f"{cell} gradient of {name}", got, want_grads[name], dtype)
    # Inference gives the same bits as training.
    assert np.array_equal(layer(x, lengths=lengths, reset=reset)[0], y), f"{cell}: inference differs from training"


def test_layers_against_the_reference():
    for cell in CELLS:
        for dtype in TOLERANCE:
            check_layer(cell, dtype, layers=1, bidirectional=False, ragged=False)
            check_layer(cell, dtype, layers=2, bidirectional=True, ragged=True)


def test_tokens_are_one_hot_rows():
    tokens = np.array([[1, 4, 0], [2, 2, 6]])
    for cell, make in CELLS.items():
        layer = make(7, 9, seed=5)
        one_hot = np.eye(7, dtype=np.float32)[tokens]
        assert np.allclose(layer(tokens)[0], layer(one_hot)[0], atol=1e-6), cell


def test_stream_goes_on_where_the_last_step_ended():
    for cell, make in CELLS.items():
        layer = make(5, 17, seed=7)
        x = np.random.default_rng(2).standard_normal((4, 1, 5)).astype(np.float32)
        whole, _ = layer(x)
        stream = layer.stream()
        steps = [np.array(stream.step(step)) for step in x]
        assert np.array_equal(np.stack(steps).reshape(whole.shape), whole), cell


def test_threads_do_not_change_a_bit():
    x = np.random.default_rng(3).standard_normal((5, 9, 8)).astype(np.float32)
    layer = rnnfast.LSTM(8, 33, seed=9)
    results = []
    for count in (1, 2):
        with rnnfast.threads(count):
            results.append(layer(x)[0])
    assert np.array_equal(*results)


def train(steps: int):
    """A small language model on one sentence: the losses, and the model."""
    tokenizer = rnnfast.lm.CharTokenizer.from_text(TEXT)
    ids = tokenizer.encode(TEXT)
    model = rnnfast.lm.LanguageModel(tokenizer.vocab_size, 32, 1, cell="lstm", seed=11)
    optimizer = rnnfast.optim.Adam(lr=1e-2)
    tokens = ids[: 4 * (len(ids) // 4)].reshape(4, -1).T
    state, losses = None, []
    for step in range(steps):
        start = 16 * step % (len(tokens) - 17)
        loss, state = model.train_step(tokens[start : start + 17], state, optimizer, clip_norm=5.0)
        losses.append(loss)
    return losses, model, tokenizer


def test_a_language_model_learns():
    losses, model, tokenizer = train(60)
    assert all(math.isfinite(loss) for loss in losses)
    assert abs(losses[0] - math.log(tokenizer.vocab_size)) < 0.5, losses[0]
    assert losses[-1] < 0.7 * losses[0], f"{losses[0]:.3f} to {losses[-1]:.3f}"
    assert losses == train(60)[0], "the same seed gave other losses"
    prompt = tokenizer.encode("the ")
    ids = np.asarray(model.sample(prompt, 30, temperature=0.8, seed=1)).ravel()
    assert len(ids) == 30 and 0 <= ids.min() and ids.max() < tokenizer.vocab_size
    assert np.array_equal(ids, np.asarray(model.sample(prompt, 30, temperature=0.8, seed=1)).ravel())
    copy = pickle.loads(pickle.dumps(model))
    assert all(np.array_equal(copy.params[name], value) for name, value in model.params.items())


def test_mistakes_are_named():
    layer = rnnfast.GRU(4, 6)
    try:
        layer(np.zeros((3, 2, 5), np.float32))
    except ValueError as error:
        assert "4" in str(error) and "5" in str(error), error
    else:
        raise AssertionError("a wrong width was accepted")


def test_info():
    info = rnnfast.info()
    assert info["rnnfast"] == rnnfast.__version__
    assert isinstance(rnnfast.isa(), str) and rnnfast.isa()
    assert rnnfast.get_num_threads() >= 1


if __name__ == "__main__":
    for test in [value for name, value in dict(globals()).items() if name.startswith("test_")]:
        began = time.perf_counter()
        test()
        print(f"{test.__name__}: {time.perf_counter() - began:.2f} s", flush=True)
    print(f"rnnfast {rnnfast.__version__} ({rnnfast.isa()}) from {Path(rnnfast.__file__).parent}: ok", file=sys.stderr)
