"""A device without memory: whatever allocation fails within a backward pass, the gradients are as before."""

from __future__ import annotations

import numpy as np
import pytest

import rnnfast
from emulated import needs_device
from rnnfast import cuda

pytestmark = [
    needs_device,
    pytest.mark.skipif(cuda.available() and not cuda._cuda.emulated, reason="a real device has memory"),
]


def without_memory(call, unchanged):
    """call() with ever more allocations until it succeeds; before that, no array of unchanged() may have changed."""
    before, allocations = [array.numpy() for array in unchanged()], 0
    while True:
        cuda._cuda.emulate_memory(allocations)
        try:
            result = call()
        except RuntimeError as error:
            assert "out of memory" in str(error)
        else:
            return result, allocations
        finally:
            cuda._cuda.emulate_memory(-1)
        assert all(np.array_equal(a, b) for a, b in zip(before, unchanged(), strict=True)), allocations
        allocations += 1


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("kind", ["automatic", "persistent", "step"])
@pytest.mark.parametrize("cell", [rnnfast.LSTM, rnnfast.GRU])
def test_without_memory_gradients_are_as_before(compute_dtype, tokens, kind, cell):
    options = {"bidirectional": True, "dropout": 0.3, "device": "cuda", "compute_dtype": compute_dtype}
    layer = cell(3, 5, 2, seed=4, **options)
    x = np.ones((4, 2), int) if tokens else np.random.default_rng(0).standard_normal((4, 2, 3), np.float32)
    with cuda.recurrence(kind):
        y, _, cache = layer.forward(x, lengths=[4, 2])
        dy = np.ones_like(y)

        def back():
            return layer.backward(dy, None, cache, keep_cache=True)

        back()
        once = {name: grad.numpy() for name, grad in layer.grads.items()}
        dx, _ = back()
        twice = {name: grad.numpy() for name, grad in layer.grads.items()}
        for name, grad in layer.grads.items():
            grad[...] = once[name]
        (again, _), allocations = without_memory(back, layer.grads.values)
    assert allocations > 20
    assert dx is again is None or np.array_equal(dx, again)
    assert all(np.array_equal(grad, twice[name]) for name, grad in layer.grads.items())


def test_without_memory_gradients_of_dense_layers_are_as_before():
    linear = rnnfast.Linear(3, 4, device="cuda", seed=0)
    embedding = rnnfast.Embedding(4, 3, device="cuda", seed=1)
    x, cache = embedding.forward([1, 3])
    y, linear_cache = linear.forward(x)
    dx, allocations = without_memory(lambda: linear.backward(y, linear_cache), linear.grads.values)
    assert allocations >= 2
    without_memory(lambda: embedding.backward(dx, cache), embedding.grads.values)
    assert all(grad.numpy().any() for grad in (*linear.grads.values(), *embedding.grads.values()))
