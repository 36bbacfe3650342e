"""Ctrl-C during a call: it ends soon, and everything is as it was. Each test runs in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from programs import in_python


def interrupted(code: str, *args: str) -> float:
    """Runs a program that says "ready", gets Ctrl-C, and says the time at which it noticed; then it must end well.
    Seconds in between."""
    process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.7)
        sent = time.time()
        process.send_signal(signal.SIGINT)
        stopped = float(process.stdout.readline())
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdout.close()
    return stopped - sent


@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_stops_a_long_call_soon_and_changes_nothing(threads):
    code = """
import sys, time, numpy as np, rnnfast
rnnfast.set_num_threads(int(sys.argv[1]))
layer = rnnfast.LSTM(64, 256, 2, seed=1)
x = np.ones((20000, 16, 64), np.float32)
small = layer(x[:3])[0]
params = {name: value.copy() for name, value in layer.params.items()}
print("ready", flush=True)
end = time.time() + 30
try:
    while time.time() < end:
        layer(x)
except KeyboardInterrupt:
    print(time.time(), flush=True)
assert all(value.tobytes() == params[name].tobytes() for name, value in layer.params.items())
assert layer(x[:3])[0].tobytes() == small.tobytes()
y, _, cache = layer.forward(x[:3])
layer.backward(y, None, cache)
"""
    assert interrupted(code, threads) < 0.5, "such a call takes seconds"


def test_a_step_of_a_stream_that_is_interrupted_leaves_its_state():
    code = """
import signal, time, numpy as np, rnnfast
rnnfast.set_num_threads(1)
stream = rnnfast.LSTM(64, 256, 3, seed=1).stream(1024)
x = np.ones((1024, 64), np.float32)
stream.step(x)
before = stream.state
start = time.perf_counter()
stream.step(x)
took, after = time.perf_counter() - start, stream.state
signal.signal(signal.SIGALRM, signal.default_int_handler)
seen = set()
for part in np.linspace(0.05, 0.9, 12):
    stream.state = before
    signal.setitimer(signal.ITIMER_REAL, part * took)
    try:
        stream.step(x)
        time.sleep(took)
    except KeyboardInterrupt:
        now = stream.state
        seen.add([all(map(np.array_equal, now, state)) for state in (before, after)].index(True))
assert 0 in seen, "no step was interrupted"
"""
    in_python(code, RNNFAST_ISA="scalar")


@pytest.mark.parametrize("of", ["gradients", "cache"])
def test_ctrl_c_during_backward_leaves_everything_as_it_was(of):
    """Gradients are all added to or none; a cache that was to be kept is kept."""
    code = """
import sys, time, numpy as np, rnnfast
layer = rnnfast.LSTM(64, 256, 2, seed=1)
x = np.ones((1500, 16, 64), np.float32)
y, _, cache = layer.forward(x)
layer.backward(y, None, cache, keep_cache=True)
before = {name: grad.copy() for name, grad in layer.grads.items()}
print("ready", flush=True)
end = time.time() + 30
try:
    while time.time() < end:
        layer.zero_grad()
        layer.backward(y, None, cache, keep_cache=True)
        for name, grad in layer.grads.items():
            assert grad.tobytes() == before[name].tobytes(), name
except KeyboardInterrupt:
    print(time.time(), flush=True)
state = [grad.any() for grad in layer.grads.values()]
assert all(state) or not any(state), f"{sum(state)} of {len(state)} gradients were added to"
if sys.argv[1] == "gradients":
    y, _, cache = layer.forward(x)
layer.zero_grad()
layer.backward(y, None, cache)
assert all(grad.tobytes() == before[name].tobytes() for name, grad in layer.grads.items())
"""
    assert interrupted(code, of) < 0.5


def test_ctrl_c_while_a_model_samples_or_takes_its_loss():
    """The fused loss of a wide layer and the sampling loop are one call each, too."""
    code = """
import sys, time, numpy as np, rnnfast
model = rnnfast.lm.LanguageModel(65, 256, 2, seed=1)
few = model.sample([1, 2], 20, seed=3)
x, weight = np.ones((20000, 256), np.float32), np.ones((5000, 256), np.float32)
grad = np.zeros_like(weight)
calls = {
    "sample": lambda: model.sample([1, 2], 10**6, seed=3),
    "loss": lambda: rnnfast.ops.linear_cross_entropy(x, weight, None, np.zeros(20000, int), dweight=grad),
}
print("ready", flush=True)
end = time.time() + 30
try:
    while time.time() < end:
        grad[...] = 0
        calls[sys.argv[1]]()
except KeyboardInterrupt:
    print(time.time(), flush=True)
assert np.array_equal(model.sample([1, 2], 20, seed=3), few)
"""
    for call in ("sample", "loss"):
        assert interrupted(code, call) < 0.5, call
