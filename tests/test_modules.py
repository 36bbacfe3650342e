"""What every layer is: parameters by name, copies, files, pickle, repr, seeds, threads, memory."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import rnnfast
from cases import assert_same, same_bits

MAKE = {
    "rnn": lambda seed=3, **kw: rnnfast.RNN(5, 7, 2, nonlinearity="relu", bidirectional=True, seed=seed, **kw),
    "lstm": lambda seed=3, **kw: rnnfast.LSTM(5, 7, 2, dropout=0.5, batch_first=True, seed=seed, **kw),
    "gru": lambda seed=3, **kw: rnnfast.GRU(5, 7, bias=False, seed=seed, **kw),
    "linear": lambda seed=3, **kw: rnnfast.Linear(5, 7, seed=seed, **kw),
    "embedding": lambda seed=3, **kw: rnnfast.Embedding(5, 7, seed=seed, **kw),
}
LAYERS = ("rnn", "lstm", "gru")
EACH = pytest.mark.parametrize("kind", MAKE)


def some_input(kind):
    if kind == "embedding":
        return np.array([[0, 4, 1], [2, 2, 3]])
    return np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)


def outputs(module, kind):
    y = module(some_input(kind))
    return y[0] if kind in LAYERS else y


@EACH
def test_parameters_and_gradients(kind):
    module = MAKE[kind]()
    assert module.params.keys() == module.grads.keys() and module.params
    for name, param in module.params.items():
        assert param.dtype == np.float32 and param.flags.c_contiguous and param.flags.writeable
        assert module.grads[name].shape == param.shape and not module.grads[name].any()
    assert module.num_parameters == sum(p.size for p in module.params.values())


@EACH
def test_writing_to_a_parameter_takes_effect_at_once(kind):
    module = MAKE[kind]()
    before = outputs(module, kind)
    next(iter(module.params.values()))[...] *= 2
    assert not same_bits(outputs(module, kind), before)


@EACH
def test_a_seed_draws_the_weights(kind):
    assert_same(MAKE[kind]().params, MAKE[kind]().params)
    other = MAKE[kind](seed=4)
    assert not any(same_bits(a, b) for a, b in zip(other.params.values(), MAKE[kind]().params.values(), strict=True))
    fresh = MAKE[kind](seed=None)
    assert isinstance(fresh.seed, int) and MAKE[kind](seed=None).seed != fresh.seed
    assert_same(MAKE[kind](seed=fresh.seed).params, fresh.params)
    assert_same(
        {k: v.astype(np.float32) for k, v in MAKE[kind](dtype="float64").params.items()}, MAKE[kind]().params
    )  # the same weights in either dtype


@EACH
def test_state_dict_is_a_copy_and_loads(kind):
    module, other = MAKE[kind](), MAKE[kind](seed=9)
    state = module.state_dict()
    assert_same(state, module.params)
    assert not any(np.shares_memory(state[k], module.params[k]) for k in state)
    arrays = {k: id(v) for k, v in other.params.items()}
    other.load_state_dict(state)
    assert_same(other.params, module.params)
    assert arrays == {k: id(v) for k, v in other.params.items()}, "the arrays stay the same objects"
    assert same_bits(outputs(other, kind), outputs(module, kind))


@EACH
def test_load_state_dict_strict_or_not(kind):
    module = MAKE[kind]()
    state = {k: v * 2 for k, v in module.state_dict().items()}
    first = next(iter(state))
    before = module.state_dict()
    for wrong in ({k: v for k, v in state.items() if k != first}, state | {"extra": np.zeros(3)}):
        with pytest.raises(ValueError, match=first if first not in wrong else "extra"):
            module.load_state_dict(wrong)
        assert_same(module.params, before)
        module.load_state_dict(wrong, strict=False)
        changed = {k for k in state if not same_bits(module.params[k], before[k])}
        assert changed == set(wrong) - {"extra"}
        module.load_state_dict(before)
    with pytest.raises(ValueError, match=first):
        module.load_state_dict(state | {first: np.zeros((2, 2, 2), np.float32)}, strict=False)
    with pytest.raises(TypeError, match=first):
        module.load_state_dict(state | {first: np.zeros(state[first].shape, int)})
    assert_same(module.params, before)


@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_files_load(kind, dtype, tmp_path):
    module, other = MAKE[kind](dtype=dtype), MAKE[kind](seed=9, dtype=dtype)
    path = tmp_path / "weights.safetensors"
    module.save(path)
    assert os.listdir(tmp_path) == ["weights.safetensors"]
    other.load(path)
    assert_same(other.params, module.params)
    wrong = rnnfast.RNN(2, 3, seed=0)
    before = wrong.state_dict()
    with pytest.raises(ValueError):
        wrong.load(path)
    assert_same(wrong.params, before)


@EACH
@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_independent_and_complete(kind, how):
    module = MAKE[kind]()
    for k, array in enumerate([*module.params.values(), *module.grads.values()]):
        array[...] = np.random.default_rng(k).standard_normal(array.shape)
    if kind in LAYERS:
        module.rng.step = 5
    twin = how(module)
    assert type(twin) is type(module) and repr(twin) == repr(module)
    assert_same(twin.params, module.params)
    assert_same(twin.grads, module.grads)
    assert same_bits(outputs(twin, kind), outputs(module, kind))
    if kind in LAYERS:
        assert twin.rng.state_dict() == module.rng.state_dict() and twin.rng is not module.rng
        assert same_bits(twin.forward(some_input(kind))[0], module.forward(some_input(kind))[0])
    before = outputs(module, kind)
    for array in twin.params.values():
        array[...] = 0
    assert same_bits(outputs(module, kind), before)
    for array in twin.grads.values():
        array[...] = 7
    assert not any((g == 7).all() for g in module.grads.values())


@EACH
def test_a_copy_trains_its_own_arrays(kind):
    """The kernels of a copy write to the copy's gradients."""
    module = MAKE[kind]()
    twin = pickle.loads(pickle.dumps(module))
    x = some_input(kind)
    y, *_, cache = twin.forward(x)
    dy = np.ones(y.shape, np.float32)
    if kind in LAYERS:
        twin.backward(dy, None, cache)
    else:
        twin.backward(dy, cache)
    assert any(g.any() for g in twin.grads.values()) and not any(g.any() for g in module.grads.values())


@EACH
def test_frozen_modules_refuse_to_train(kind):
    module = MAKE[kind]()
    expected = outputs(module, kind)
    module.freeze()
    for array in module.params.values():
        array *= 2
    assert same_bits(outputs(module, kind), expected)
    with pytest.raises(RuntimeError, match="unfreeze"):
        module.forward(some_input(kind))
    module.unfreeze()
    assert not same_bits(outputs(module, kind), expected)


@EACH
def test_repr_can_be_read_back(kind):
    module = MAKE[kind]()
    text = repr(module)
    assert type(module).__name__ in text and "seed=3" in text and "7" in text
    again = eval(text, {type(module).__name__: type(module)})
    assert_same(again.params, module.params)


def test_attributes_of_a_layer():
    layer = rnnfast.LSTM(
        5, 7, 2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, dtype="float64", seed=1
    )
    expected = {
        "input_size": 5,
        "hidden_size": 7,
        "num_layers": 2,
        "bias": False,
        "batch_first": True,
        "dropout": 0.25,
        "bidirectional": True,
        "seed": 1,
    }
    assert {name: getattr(layer, name) for name in expected} == expected
    assert layer.dtype == np.float64


# --- Threads, processes, signals --------------------------------------------------------------------------------------


def test_number_of_threads():
    rnnfast.set_num_threads(None)
    before = rnnfast.get_num_threads()
    assert before >= 1
    with rnnfast.threads(3):
        assert rnnfast.get_num_threads() == 3
        with rnnfast.threads(1):
            assert rnnfast.get_num_threads() == 1
        assert rnnfast.get_num_threads() == 3
    rnnfast.set_num_threads(2)
    assert rnnfast.get_num_threads() == 2
    rnnfast.set_num_threads(None)
    assert rnnfast.get_num_threads() == before


def in_python(code: str, **env) -> subprocess.CompletedProcess:
    environ = os.environ | {k: str(v) for k, v in env.items()}
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("variable", ["RNNFAST_NUM_THREADS", "OMP_NUM_THREADS"])
def test_number_of_threads_from_the_environment(variable):
    done = in_python("import rnnfast; print(rnnfast.get_num_threads())", **{variable: 1})
    assert done.stdout.strip() == "1", done.stderr


def test_an_unknown_isa_is_refused_by_name():
    done = in_python("import rnnfast; print(rnnfast.isa())", RNNFAST_ISA="quantum")
    assert done.returncode != 0 or "quantum" not in done.stdout
    assert "quantum" in done.stderr and "RNNFAST_ISA" in done.stderr


def test_nothing_leaks_from_call_to_call():
    """Caches that are dropped, used or kept give their memory back."""
    code = """
import gc, resource, numpy as np, rnnfast
layer = rnnfast.LSTM(32, 64, 2, seed=1)
x = np.ones((40, 16, 32), np.float32)
def work(n):
    for k in range(n):
        y, _, cache = layer.forward(x)
        if k % 3:
            layer.backward(y, None, cache, keep_cache=k % 3 == 1)
        layer(x[: 1 + k % 40])
work(40)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work(150)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = in_python(code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4096, f"{done.stdout.strip()} KiB more after 150 calls"


def test_nbytes_of_a_cache():
    layer = rnnfast.GRU(5, 7, seed=1)
    x = np.ones((4, 3, 5), np.float32)
    sizes = []
    for steps in (4, 40):
        y, _, cache = layer.forward(np.resize(x, (steps, 3, 5)))
        sizes.append(cache.nbytes)
        assert cache.nbytes >= y.nbytes
        layer.backward(y, None, cache)
        assert cache.nbytes == 0
    assert sizes[1] > 4 * sizes[0] - 100_000 and sizes[1] > sizes[0]


def test_no_rows_give_no_gradient():
    layer = rnnfast.Linear(300, 400, seed=0)
    for rows in (300, 0):  # the first leaves its scratch to the second
        y, cache = layer.forward(np.ones((rows, 300), np.float32))
        layer.zero_grad()
        layer.backward(np.ones_like(y), cache)
    assert not layer.grads["weight"].any()
    assert not layer.grads["bias"].any()


@pytest.mark.parametrize("make", [lambda: rnnfast.Linear(6, 40, seed=1), lambda: rnnfast.Embedding(40, 6, seed=1)])
def test_arrays_that_were_put_in_place_of_others_must_fit(make):
    layer = make()
    x = np.ones((3, 6), np.float32) if isinstance(layer, rnnfast.Linear) else np.array([3, 39])
    y, cache = layer.forward(x)
    names = list(layer.params)
    for arrays, call in ((layer.grads, lambda: layer.backward(y, cache)), (layer.params, lambda: layer(x))):
        for name in names:
            good = arrays[name]
            wrong = [good[:2].copy(), good.astype(np.float64), np.repeat(good, 2, axis=0)[::2], good.tolist()]
            for other in wrong:
                arrays[name] = other
                with pytest.raises((TypeError, ValueError), match=f"{name} must"):
                    call()
            arrays[name] = good.copy()
            call()  # one that fits serves
