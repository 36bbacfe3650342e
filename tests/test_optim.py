"""Optimisers and clipping against the oracle and torch, several arrays and steps, both dtypes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import rnnfast
import tolerances
from cases import assert_same, difference, same_bits
from rnnfast import optim
from rnnfast import reference as ref

pytestmark = pytest.mark.isa
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
KINDS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
]
EACH = pytest.mark.parametrize(("kind", "options"), KINDS)


def modules(dtype):
    """Arrays of 1, a few, an odd number and many elements."""
    return [
        rnnfast.LSTM(17, 33, 2, dtype=dtype, seed=1),
        rnnfast.Linear(1, 1, dtype=dtype, seed=2),
        rnnfast.Embedding(129, 7, dtype=dtype, seed=3),
    ]


def set_gradients(parts, step):
    rng = np.random.default_rng([7, step])
    for module in parts:
        for grad in module.grads.values():
            grad[...] = (rng.standard_normal(grad.shape) * 10.0 ** rng.integers(-3, 2)).astype(np.float32)


def named(parts, kind="params"):
    return {f"{i}.{name}": a for i, m in enumerate(parts) for name, a in getattr(m, kind).items()}


def copies(arrays):
    return {name: a.copy() for name, a in arrays.items()}


@DTYPES
@EACH
def test_steps_against_the_oracle(dtype, kind, options):
    """One step at a time, from the kernels' own state, so that errors cannot add up or cancel."""
    parts, optimiser = modules(dtype), getattr(optim, kind)(**options)
    for step in range(1, 5):
        set_gradients(parts, step)
        before, grads = copies(named(parts)), named(parts, "grads")
        kept = {k: v.astype(np.float64) for k, v in optimiser.state_dict()["arrays"].items()}
        given = copies(grads)
        optimiser.step(*parts)
        assert_same(grads, given)
        now = optimiser.state_dict()["arrays"]
        for name, param in named(parts).items():
            state = {k.rpartition(".")[2]: v for k, v in kept.items() if k.rpartition(".")[0] == name}
            grad = grads[name].astype(np.float64)
            expected = ref.OPTIMISERS[kind](before[name].astype(np.float64), grad, state, step, **options)
            moved = np.abs(expected - before[name]).max()
            limit = tolerances.OPTIM[dtype] * (np.abs(before[name]) + moved)
            assert (np.abs(param - expected) <= limit).all(), f"{name}, step {step}"
            assert moved > 0 and param.dtype == dtype
            for key, value in state.items():
                got = now[f"{name}.{key}"]
                size = np.abs(grad).max() ** (2 if "sq" in key else 1) + np.abs(value).max()
                assert (np.abs(got - value) <= tolerances.OPTIM[dtype] * size).all(), f"{name}.{key}, step {step}"
    assert optimiser.state_dict()["step"] == 4


@EACH
def test_steps_against_torch(torch, kind, options):
    parts, optimiser = modules("float64"), getattr(optim, kind)(**options)
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in named(parts).items()}
    their_optimiser = getattr(torch.optim, kind)(theirs.values(), **options)
    for step in range(1, 8):
        set_gradients(parts, step)
        for name, grad in named(parts, "grads").items():
            theirs[name].grad = torch.tensor(grad)
        optimiser.step(*parts)
        their_optimiser.step()
    for name, param in named(parts).items():
        assert difference(param, theirs[name].detach().numpy()) <= 1e-12
    for key, value in optimiser.state_dict()["arrays"].items():
        name, _, kept = key.rpartition(".")
        their_value = their_optimiser.state[theirs[name]][kept].numpy()
        assert difference(value, their_value) <= 1e-12 * max(1, np.abs(their_value).max())


@DTYPES
@EACH
def test_the_same_bits_for_any_number_of_threads(dtype, kind, options):
    results = []
    for threads in (1, 2, 3, 4):
        with rnnfast.threads(threads):
            parts, optimiser = modules(dtype), getattr(optim, kind)(**options)
            for step in (1, 2):
                set_gradients(parts, step)
                optim.clip_grad_norm(parts, 5.0)
                optimiser.step(*parts)
            results.append(copies(named(parts)))
    for other in results[1:]:
        assert_same(other, results[0])


@EACH
def test_saved_and_loaded_goes_on_with_the_same_bits(kind, options):
    parts, optimiser = modules("float32"), getattr(optim, kind)(**options)
    for step in (1, 2):
        set_gradients(parts, step)
        optimiser.step(*parts)
    saved, weights = optimiser.state_dict(), copies(named(parts))
    json.dumps({k: v for k, v in saved.items() if k != "arrays"})
    assert saved["type"] == kind and saved["step"] == 2
    suffixes = {name.rpartition(".")[2] for name in saved["arrays"]}
    assert suffixes <= {"exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg"}
    kept = copies(saved["arrays"])
    set_gradients(parts, 3)
    optimiser.step(*parts)
    assert_same(saved["arrays"], kept)  # copies, which a step does not touch
    expected = copies(named(parts))

    for name, value in named(parts).items():
        value[...] = weights[name]
    other = getattr(optim, kind)(**({"lr": 77.0} if kind != "SGD" else options))
    restored = json.loads(json.dumps({k: v for k, v in saved.items() if k != "arrays"})) | {"arrays": saved["arrays"]}
    if other.state_dict()["hyper"].keys() == restored["hyper"].keys():
        other.load_state_dict(restored)
    set_gradients(parts, 3)
    other.step(*parts)
    assert_same(named(parts), expected)
    assert other.lr == optimiser.lr


@pytest.mark.parametrize(("error", "steps"), [(KeyboardInterrupt, 1), (MemoryError, 0)])
def test_an_interrupted_step_is_whole_or_not_at_all(monkeypatch, error, steps):
    """A Ctrl-C is raised behind the kernels, when all arrays are updated; they fail before they change any."""
    real = optim._core.optimiser_step

    def interrupted(*args):
        if steps:
            real(*args)
        raise error

    layers = [rnnfast.Linear(7, 5, seed=1) for _ in range(2)]
    for layer in layers:
        layer.grads["weight"][...] = 0.5
    adams = [optim.Adam(0.1), optim.Adam(0.1)]
    with monkeypatch.context() as patch:
        patch.setattr(optim._core, "optimiser_step", interrupted)
        with pytest.raises(error):
            adams[0].step(layers[0])
    for _ in range(steps):
        adams[1].step(layers[1])
    for _ in range(2):
        assert_same(*(layer.params for layer in layers))
        assert_same(*(adam.state_dict()["arrays"] for adam in adams))
        assert [adam.state_dict()["step"] for adam in adams] == [steps] * 2
        steps += 1
        for adam, layer in zip(adams, layers, strict=True):
            adam.step(layer)


def test_lr_may_be_set_at_any_time():
    parts, optimiser = modules("float64"), optim.SGD(lr=0.1)
    set_gradients(parts, 1)
    optimiser.lr = 0.0
    before = copies(named(parts))
    optimiser.step(*parts)
    assert_same(named(parts), before)
    optimiser.lr = 0.5
    assert optimiser.lr == 0.5 and optimiser.state_dict()["hyper"]["lr"] == 0.5
    optimiser.step(*parts)
    grads = named(parts, "grads")
    assert all(
        difference(p, before[k] - 0.5 * grads[k]) < 1e-13 * (1 + np.abs(grads[k]).max())
        for k, p in named(parts).items()
    )


def test_sgd_shapes_of_a_tied_array():
    """An array that is a parameter of two modules is updated once."""
    a, b = rnnfast.Linear(3, 3, bias=False, seed=1), rnnfast.Linear(3, 3, bias=False, seed=2)
    b.params["weight"], b.grads["weight"] = a.params["weight"], a.grads["weight"]
    before = a.params["weight"].copy()
    a.grads["weight"][...] = 1
    optim.SGD(lr=0.5).step(a, b)
    assert difference(a.params["weight"], before - 0.5) < 1e-6


# --- Clipping ---------------------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6, math.inf])
def test_clip_grad_norm(dtype, max_norm):
    parts = modules(dtype)
    set_gradients(parts, 1)
    before = copies(named(parts, "grads"))
    norm, expected = ref.clip_grad_norm(list(before.values()), max_norm)
    got = optim.clip_grad_norm(parts, max_norm)
    assert isinstance(got, float) and abs(got - norm) <= 1e-12 * norm
    for (name, grad), value in zip(named(parts, "grads").items(), expected, strict=True):
        assert (np.abs(grad - value) <= tolerances.CLIP[dtype] * np.abs(value)).all()
        if norm <= max_norm:
            assert same_bits(grad, before[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_norm_that_is_not_finite_changes_nothing(bad):
    parts = modules("float32")
    set_gradients(parts, 1)
    parts[2].grads["weight"][5, 3] = bad
    before = copies(named(parts, "grads"))
    for max_norm in (1.0, math.inf):
        with pytest.raises(FloatingPointError, match="norm"):
            optim.clip_grad_norm(parts, max_norm)
        assert_same(named(parts, "grads"), before)


def test_the_norm_of_huge_float32_gradients_does_not_overflow():
    parts = modules("float32")
    for grad in named(parts, "grads").values():
        grad[...] = 1e30
    count = sum(g.size for g in named(parts, "grads").values())
    assert abs(optim.clip_grad_norm(parts, 1.0) / (1e30 * count**0.5) - 1) < 1e-6
    assert all(np.isfinite(g).all() for g in named(parts, "grads").values())


@DTYPES
def test_clip_grad_value(dtype):
    parts = modules(dtype)
    set_gradients(parts, 1)
    parts[0].grads["bias_ih_l0"][:3] = np.nan, np.inf, -np.inf
    before = copies(named(parts, "grads"))
    optim.clip_grad_value(parts, 0.25)
    assert_same(
        named(parts, "grads"),
        {k: np.clip(v, np.dtype(dtype).type(-0.25), np.dtype(dtype).type(0.25)) for k, v in before.items()},
    )


def test_torch_clips_alike(torch):
    parts = modules("float64")
    set_gradients(parts, 1)
    theirs = []
    for grad in named(parts, "grads").values():
        theirs.append(torch.nn.Parameter(torch.zeros(grad.shape, dtype=torch.float64)))
        theirs[-1].grad = torch.tensor(grad)
    norm = float(torch.nn.utils.clip_grad_norm_(theirs, 3.0))
    assert abs(optim.clip_grad_norm(parts, 3.0) - norm) < 1e-12 * norm
    for grad, their in zip(named(parts, "grads").values(), theirs, strict=True):
        assert difference(grad, their.grad.numpy()) < 1e-14
