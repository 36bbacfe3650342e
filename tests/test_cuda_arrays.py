"""Layers on a device as Python sees them: arrays in and out, shapes, errors, and the language model that trains
there."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rnnfast
from emulated import needs_device
from rnnfast import cuda, lm
from rnnfast._cuda_dense import tokens_on_device


def dense(*x):
    """A dense layer, or what it makes of x."""
    layer = rnnfast.Linear(3, 4, device="cuda", seed=0)
    return layer(*x) if x else layer


def layers(**options):
    """The same layer on the CPU and on the device."""
    return rnnfast.GRU(3, 5, 2, seed=4, **options), rnnfast.GRU(3, 5, 2, seed=4, device="cuda", **options)


@needs_device
def test_arrays_of_the_device_stay_there():
    host, layer = layers()
    x = np.random.default_rng(0).standard_normal((4, 2, 3), np.float32)
    y, h, cache = layer.forward(cuda.to_device(x))
    dx, dh = layer.backward(cuda.to_device(np.ones((4, 2, 5))), None, cache)
    assert all(isinstance(a, cuda.DeviceArray) for a in (y, h, dx, dh))
    expected, h_expected, host_cache = host.forward(x)
    dx_expected, dh_expected = host.backward(np.ones((4, 2, 5), np.float32), None, host_cache)
    for got, want in ((y, expected), (h, h_expected), (dx, dx_expected), (dh, dh_expected)):
        assert np.allclose(got, want, atol=1e-5)
    for name, grad in layer.grads.items():
        assert np.allclose(grad, host.grads[name], atol=1e-5), name


@needs_device
@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes_as_on_the_cpu(batch_first):
    host, layer = layers(batch_first=batch_first, bidirectional=True)
    rng = np.random.default_rng(1)
    for x in (
        rng.standard_normal((4, 2, 3)),
        rng.standard_normal((4, 3)),
        rng.integers(0, 3, (4, 2)),
        np.array([0, 2]),
    ):
        y, state = layer(x)
        y_host, state_host = host(x)
        assert y.shape == y_host.shape and state.shape == state_host.shape
        assert np.allclose(y, y_host, atol=1e-5) and np.allclose(state, state_host, atol=1e-5)
        y, state, cache = layer.forward(x)
        dx, dstate = layer.backward(np.ones_like(y), np.ones_like(state), cache)
        assert (dx is None) == (x.dtype.kind == "i") and dstate.shape == state.shape
        assert dx is None or dx.shape == x.shape


@needs_device
def test_an_empty_batch_and_rows_of_no_length():
    _, layer = layers()
    y, h, cache = layer.forward(np.zeros((3, 0, 3), np.float32))
    dx, _ = layer.backward(y, h, cache)
    assert y.shape == (3, 0, 5) and dx.shape == (3, 0, 3)
    assert not any(grad.numpy().any() for grad in layer.grads.values())
    state = np.ones((2, 2, 5), np.float32)
    y, h, _ = layer.forward(np.full((3, 2, 3), np.nan, np.float32), state, lengths=[0, 0])
    assert not y.any() and np.array_equal(h, state)


def in_threads(call, count=4):
    """call(i) in as many threads at once."""
    start = threading.Barrier(count)

    def run(i):
        start.wait()
        return call(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@needs_device
def test_a_layer_a_thread():
    x, dy = np.random.default_rng(0).standard_normal((2, 6, 3, 33), np.float32)

    def train(i):
        layer = rnnfast.LSTM(33, 33, seed=i, device="cuda")
        for _ in range(4):
            y, _, cache = layer.forward(x, lengths=[6, 2, 4])
            dx, _ = layer.backward(dy, None, cache)
        return [y, dx, *(grad.numpy() for grad in layer.grads.values())]

    for i, got in enumerate(in_threads(train)):
        assert all(np.array_equal(a, b) for a, b in zip(got, train(i), strict=True)), i


@needs_device
@pytest.mark.parametrize("keep", [False, True])
def test_one_cache_and_many_threads(keep):
    _, layer = layers()
    y, _, cache = layer.forward(np.ones((4, 2, 3), np.float32))
    dy = np.ones_like(y)

    def back(_):
        try:
            layer.backward(dy, None, cache, keep_cache=keep)
        except ValueError as e:
            return str(e)

    errors = [e for e in in_threads(back) if e is not None]
    assert len(errors) == (0 if keep else 3) and all("cache" in e for e in errors)


@needs_device
def test_device_arrays_are_exchanged_and_set():
    array = cuda.to_device(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert np.array_equal(array, [[0, 1, 2], [3, 4, 5]]) and array.reshape(3, -1).shape == (3, 2)
    other = array.copy()
    other[...] = 7
    array.fill(0)
    assert not array.numpy().any() and (other.numpy() == 7).all()
    assert np.array_equal(pickle.loads(pickle.dumps(other)), other)
    if cuda._cuda.emulated:  # its memory is the host's
        seen = np.from_dlpack(other)
        assert np.array_equal(seen, other) and seen.ctypes.data == other.address
    with pytest.raises(TypeError, match="set as a whole"):
        array[0] = 1
    with pytest.raises(ValueError, match="shape must have 6 elements"):
        array.reshape(4, 2)


@needs_device
def test_copies_and_files(tmp_path):
    _, layer = layers()
    x = np.ones((2, 1, 3), np.float32)
    y, _ = layer(x)
    layer.save(tmp_path / "layer.safetensors")
    other = rnnfast.GRU(3, 5, 2, seed=9, device="cuda")
    other.load(tmp_path / "layer.safetensors")
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(twin(x)[0], y)
    layer.freeze()
    layer.params["weight_hh_l0"].fill(0)
    assert np.array_equal(layer(x)[0], y)
    layer.unfreeze()
    assert not np.array_equal(layer(x)[0], y)


ERRORS = {
    "x of another width": (lambda g: g(np.zeros((2, 1, 4))), r"x must have shape \(T, B, 3\) .* got \(2, 1, 4\)"),
    "no step": (lambda g: g(np.zeros((0, 1, 3))), "at least one time step"),
    "tokens too large": (lambda g: g(np.array([[3]])), "x must hold tokens in 0 .. 2, got 3"),
    "state of another shape": (
        lambda g: g(np.zeros((2, 1, 3)), np.zeros((1, 1, 5))),
        r"state must have shape \(2, 1, 5\)",
    ),
    "lengths too long": (lambda g: g(np.zeros((2, 1, 3)), lengths=[3]), "lengths must be in 0 .. 2, got 3"),
    "reset of integers": (lambda g: g(np.zeros((2, 1, 3)), reset=np.zeros((2, 1), int)), "reset must be bool"),
    "stream": (lambda g: g.stream(), "stream needs a layer on the CPU"),
    "dtype": (lambda g: rnnfast.LSTM(3, 4, dtype="float64", device="cuda"), "computes in float32"),
    "recompute": (lambda g: rnnfast.LSTM(3, 4, recompute=True, device="cuda"), "without recompute"),
    "device": (lambda g: rnnfast.LSTM(3, 4, device="gpu"), "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
    "no such device": (lambda g: rnnfast.LSTM(3, 4, device="cuda:99"), "device must be below cuda:"),
    "state of integers": (
        lambda g: g(np.zeros((2, 1, 3)), np.zeros((2, 1, 5), int)),
        "state must be floating point, got dtype int64",
    ),
    "no step of tokens": (
        lambda g: g(tokens_on_device(np.zeros((0, 1), int))),
        r"x must have at least one time step, got shape \(0, 1\)",
    ),
    "dense x of integers": (lambda g: dense(np.zeros((2, 3), int)), "x must be floating point, got dtype int64"),
    "rows of a dense layer": (
        lambda g: dense()(np.zeros((2, 3), np.float32), where=np.ones(2, bool)),
        "where must be None on a device",
    ),
    "rows of a dense layer in training": (
        lambda g: dense().forward(np.zeros((2, 3), np.float32), where=np.ones(2, bool)),
        "where must be None on a device",
    ),
    "recurrence": (lambda g: cuda.recurrence("fast").__enter__(), "kind must be .* got 'fast'"),
}


@needs_device
@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, message = ERRORS[name]
    with pytest.raises((ValueError, TypeError), match=message):
        call(layers()[1])


@needs_device
def test_a_replaced_parameter_or_gradient_is_named():
    linear = dense()
    y, cache = linear.forward(np.ones((2, 3), np.float32))
    linear.grads["bias"] = np.zeros(4, np.float32)
    with pytest.raises(TypeError, match="gradient of bias must be a float32 rnnfast.cuda.DeviceArray, got ndarray"):
        linear.backward(y, cache)
    with pytest.raises(TypeError, match="gradient of parameter 0.bias must be a DeviceArray .* got ndarray"):
        rnnfast.optim.SGD(0.1).step(linear)
    linear.params["weight"] = cuda.to_device(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"weight must have shape \(None, 3\), got \(4, 2\)"):
        linear(np.ones((2, 3), np.float32))
    embedding = rnnfast.Embedding(4, 3, device="cuda")
    embedding.params["weight"] = np.zeros((4, 3), np.float32)
    with pytest.raises(TypeError, match="weight must be a float32 rnnfast.cuda.DeviceArray, got ndarray"):
        embedding([1])


@needs_device
def test_another_current_device_is_named(monkeypatch):
    _, layer = layers()
    linear, x = dense(), cuda.to_device(np.ones((2, 1, 3)))
    y, _, cache = layer.forward(x)
    monkeypatch.setattr(cuda._cuda, "current_device", lambda: 1)
    calls = {
        "the layer": (lambda: layer(x), lambda: layer.backward(y, None, cache)),
        "x": (lambda: linear(x),),
        "an array that is read": (x.numpy,),
        "what an optimiser changes": (lambda: rnnfast.optim.SGD(0.1).step(linear),),
    }
    for name, all_of_it in calls.items():
        for call in all_of_it:
            with pytest.raises(ValueError, match=f"^{name} must be on the current device, cuda:1 .* got cuda:0"):
                call()
    assert x.reshape(6).device == 0


@needs_device
def test_dropout_of_everything():
    drop = rnnfast.Dropout(1.0, seed=1)
    y, cache = drop.forward(cuda.to_device(np.full((3, 2, 4), np.inf)))
    assert not y.numpy().any() and not drop.backward(y, cache).numpy().any()


@needs_device
def test_what_an_exchange_asks_for():
    array = cuda.to_device(np.arange(6))
    with pytest.raises(BufferError, match=r"dl_device must be \(., 0\), where the array is, got \(2, 7\)"):
        array.__dlpack__(dl_device=(2, 7))
    if cuda._cuda.emulated:
        copy = np.from_dlpack(array, copy=True) if np.lib.NumpyVersion(np.__version__) >= "2.1.0" else None
        assert copy is None or (copy.ctypes.data != array.address and np.array_equal(copy, array))


@needs_device
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embedding_size": 7, "dropout": 0.3},
        {"cell": "gru", "embedding_size": 9, "tie_weights": True},
        {"cell": "rnn", "num_layers": 1},
    ],
    ids=str,
)
def test_the_language_model_has_the_losses_that_it_has_on_the_cpu(options):
    tokens = np.random.default_rng(0).integers(0, 11, (81, 4))
    losses, samples = [], []
    for device in (None, "cuda"):
        model = lm.LanguageModel(11, 9, seed=3, device=device, **options)
        optimizer, state = rnnfast.optim.Adam(1e-2), None
        own = []
        for step in range(20):
            chunk = tokens[4 * step : 4 * step + 5]
            loss, state = model.train_step(chunk, state, optimizer, clip_norm=1.0, clip_value=0.5)
            own.append(loss)
        own += [model.evaluate(tokens[:9])[0], lm.evaluate_text(model, tokens[:, 0], batch_size=3, warmup=2)]
        losses.append(own)
        samples.append(model.sample([1, 2], 20, seed=5))
    assert np.abs(np.subtract(*losses)).max() < 1e-5
    assert np.array_equal(*samples)


@needs_device
@pytest.mark.parametrize("optimizer", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_optimisers_as_on_the_cpu(optimizer):
    options = {"SGD": {"momentum": 0.9, "nesterov": True}, "RMSprop": {"momentum": 0.5}}.get(optimizer, {})
    results = []
    for device in (None, "cuda"):
        layer = rnnfast.Linear(5, 3, device=device, seed=1)
        opt = getattr(rnnfast.optim, optimizer)(lr=0.1, weight_decay=0.01, **options)
        for step in range(4):
            for index, grad in enumerate(layer.grads.values()):
                grad[...] = np.random.default_rng([step, index]).standard_normal(grad.shape).astype(np.float32)
            rnnfast.optim.clip_grad_norm(layer, 0.7)
            opt.step(layer, grad_scale=0.5)
            if step == 1:  # a checkpoint in between
                state, opt = opt.state_dict(), getattr(rnnfast.optim, optimizer)(lr=0.1, weight_decay=0.01, **options)
                opt.load_state_dict(state)
        results.append(layer.state_dict())
    for name, value in results[0].items():
        assert np.allclose(results[1][name], value, atol=1e-6), name


@needs_device
def test_a_run_of_training_is_loaded_on_the_cpu(tmp_path):
    text = "the quick brown fox jumps over the lazy dog. " * 20
    options = {"hidden_size": 9, "batch_size": 3, "seq_length": 10, "max_steps": 4, "seed": 1, "sample_length": 5}
    model = lm.fit(text, out=tmp_path / "run", device="cuda", **options)
    loaded = lm.load(tmp_path / "run")
    assert model.device == "cuda:0" and loaded.device is None
    for name, value in loaded.params.items():
        assert np.array_equal(value, model.params[name]), name


def test_without_the_module_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(cuda, "_cuda", None)
    monkeypatch.setattr(cuda, "_missing", "this build of rnnfast has no GPU kernels")
    assert not cuda.available() and rnnfast.info()["cuda"] == {"available": False, "problem": cuda.problem()}
    for make in (lambda: rnnfast.LSTM(3, 4, device="cuda"), lambda: lm.LanguageModel(5, 4, device="cuda")):
        with pytest.raises(RuntimeError, match="device='cuda' cannot be used: this build .* has no GPU kernels"):
            make()


def test_the_cpu_extension_has_no_word_of_cuda():
    with open(rnnfast._core.__file__, "rb") as f:
        content = f.read()
    assert b"cudaMalloc" not in content and b"cublas" not in content
