"""What the process around the kernels may do: fork, threads, another floating-point mode, little memory.

How fast all this is stands in benchmarks/robustness.py. Most tests run in a process of their own.
"""

from __future__ import annotations

import platform
import sys
import threading
import time

import numpy as np
import pytest

import rnnfast
from cases import same_bits
from programs import in_python

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux alone offers")


# --- Forked children --------------------------------------------------------------------------------------------------

# In the parent, threads of ours, of torch's, or both; then 200 children, whose results are those of one thread.
FORKS = """
import hashlib, os, signal, sys, threading
if "torch" in sys.argv[1]:
    import torch
import numpy as np, rnnfast
layers = [rnnfast.LSTM(33, 64, 2, seed=1), rnnfast.GRU(33, 64, bidirectional=True, seed=2), rnnfast.RNN(33, 65, seed=3)]
x = np.random.default_rng(0).standard_normal((50, 17, 33)).astype(np.float32)

def digest():
    out = hashlib.sha256()
    for layer in layers:
        layer.zero_grad()
        y, _, cache = layer.forward(x)
        dx, _ = layer.backward(y, None, cache)
        for array in (y, dx, *layer.grads.values()):
            out.update(array.tobytes())
    return out.digest()

with rnnfast.threads(1):
    expected = digest()
if "torch" in sys.argv[1]:
    torch.set_num_threads(2)
    module = torch.nn.Linear(512, 512)
    module(torch.ones(512, 512)).sum().backward()
if "ours" in sys.argv[1]:
    with rnnfast.threads(2):
        assert digest() == expected
stop = threading.Event()
if "busy" in sys.argv[1]:  # and other threads are inside kernels at the time of the fork
    def work():
        layer = rnnfast.LSTM(33, 64, seed=4)
        with rnnfast.threads(2):
            while not stop.is_set():
                y, _, cache = layer.forward(x)
                layer.backward(y, None, cache)
    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
children = []
with rnnfast.threads(2):
    for _ in range(200):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if digest() == expected else 3)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    assert ends == [0] * 200, ends
    assert digest() == expected  # the parent goes on
"""


@pytest.mark.parametrize("who", ["ours", "ours, busy"])
def test_forked_children_compute_the_same_bits(who):
    in_python(FORKS, who)


@pytest.mark.parametrize("who", ["torch", "torch and ours"])
def test_forked_children_compute_the_same_bits_beside_torch(torch, who):
    in_python(FORKS, who)


def test_a_forked_child_has_one_thread():
    code = """
import os, numpy as np, rnnfast
child = os.fork()
if child == 0:
    os._exit(rnnfast.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert in_python(code) == "1\n"


# --- The floating-point mode ------------------------------------------------------------------------------------------

# The control register's bits without those that only record what has happened: MXCSR on x86-64, FPCR on aarch64, as
# the C library's fegetenv saves them.
CONTROL = """
import ctypes, ctypes.util, platform
libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
def environment():
    words = (ctypes.c_uint32 * 64)()
    assert libm.fegetenv(words) == 0
    return words
x86 = platform.machine() == "x86_64"
word = 7 if x86 else 0
def control():
    return environment()[word] & ~0x3F if x86 else environment()[word]
def set_bits(bits):
    words = environment()
    words[word] |= bits
    assert libm.fesetenv(words) == 0
"""
HAS_CONTROL = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="layout of fenv_t is not known"
)


@HAS_CONTROL
@pytest.mark.isa
@pytest.mark.parametrize("flushed", ["0", "1"])
def test_import_and_every_call_leave_the_floating_point_mode(flushed):
    """Also where the caller has set another one."""
    code = (
        CONTROL
        + """
import sys, numpy as np
if sys.argv[1] == "1":
    set_bits(0x8040 if x86 else 1 << 24)
before = control()
assert (np.full(64, 1e-40, np.float32) * np.float32(1.5) == 0).all() == (sys.argv[1] == "1")
import rnnfast
assert control() == before, "import"
tiny = np.full((20, 9, 8), 1e-39, np.float32)
ids = np.arange(21 * 9).reshape(21, 9) % 8
layer, linear, table = rnnfast.GRU(8, 33, 2, dropout=0.5, seed=0), rnnfast.Linear(8, 8, seed=0), rnnfast.Embedding(8, 8)
model = rnnfast.lm.LanguageModel(8, 33, seed=0)
optimizer, stream = rnnfast.optim.Adam(1e-3), layer.stream()
made = {}
def call(name, f):
    made[name] = f()
    assert control() == before, name
for threads in (1, 2):
    with rnnfast.threads(threads):
        call("inference", lambda: layer(tiny))
        call("forward", lambda: layer.forward(tiny))
        call("backward", lambda: layer.backward(made["forward"][0], None, made["forward"][2]))
        call("freeze", layer.freeze)
        call("unfreeze", layer.unfreeze)
        call("step", lambda: stream.step(tiny[0, 0]))
        call("linear", lambda: linear.forward(tiny))
        call("linear backward", lambda: linear.backward(tiny, made["linear"][1]))
        call("embedding", lambda: table.forward(ids))
        call("embedding backward", lambda: table.backward(np.ones((21, 9, 8), np.float32), made["embedding"][1]))
        call("loss", lambda: rnnfast.ops.softmax_cross_entropy(tiny, ids[:20]))
        call("fused loss", lambda: rnnfast.ops.linear_cross_entropy(tiny, linear.params["weight"], None, ids[:20]))
        call("clip", lambda: rnnfast.optim.clip_grad_norm(layer, 1e-3))
        call("clip values", lambda: rnnfast.optim.clip_grad_value(layer, 1e-3))
        call("optimizer", lambda: optimizer.step(layer))
        call("train step", lambda: model.train_step(ids, None, rnnfast.optim.SGD(1e-3), clip_norm=1.0))
        call("evaluate", lambda: model.evaluate(ids))
        call("sample", lambda: model.sample([1], 20, seed=1))
        try:
            layer(tiny[..., :7])
        except ValueError:
            call("an error", lambda: None)
"""
    )
    in_python(code, flushed)


@LINUX
def test_threads_that_are_shared_with_torch_keep_their_mode(torch):
    """torch's operations on the same OpenMP threads still see denormals."""
    code = """
import numpy as np, torch, rnnfast
torch.set_num_threads(2)
layer = rnnfast.LSTM(64, 64, seed=1)
for _ in range(3):
    with rnnfast.threads(2):
        y, _, cache = layer.forward(np.ones((50, 64, 64), np.float32))
        layer.backward(y, None, cache)
    assert bool((torch.full((1 << 20,), 1e-40) * 1.5 != 0).all())
"""
    in_python(code)


@HAS_CONTROL
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_handler_during_a_call_has_the_callers_mode(threads, compute_dtype):
    """And may call the library, which in bfloat16 may have registers of its own."""
    code = """
import signal, sys, numpy as np, rnnfast
rnnfast.set_num_threads(int(sys.argv[1]))
layer, other = (
    kind(*sizes, seed=1, compute_dtype=sys.argv[2]) for kind, *sizes in ((rnnfast.LSTM, 64, 256), (rnnfast.GRU, 8, 16))
)
x, small = np.ones((1000, 16, 64), np.float32), np.ones((5, 2, 8), np.float32)
expected, of_other = layer(x)[0], other(small)[0]
denormals = []
def handler(number, frame):
    assert np.array_equal(other(small)[0], of_other)
    denormals.append(float(np.float64(1e-310) * 0.5))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
while len(denormals) < 10:
    assert np.array_equal(layer(x)[0], expected)
signal.setitimer(signal.ITIMER_REAL, 0)
assert set(denormals) == {5e-311}, denormals
"""
    in_python(code, str(threads), compute_dtype)


# --- Threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("steps", ["20", "20000"])
def test_the_interpreter_ends_while_a_daemon_thread_is_in_a_call(threads, steps):
    code = """
import sys, threading, time, numpy as np, rnnfast
rnnfast.set_num_threads(int(sys.argv[1]))
layer, x = rnnfast.LSTM(64, 128, seed=1), np.ones((int(sys.argv[2]), 16, 64), np.float32)
def work():
    while True:
        y, _, cache = layer.forward(x)
        layer.backward(y, None, cache)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""
    in_python(code, threads, steps)


def test_integers_that_another_thread_changes_during_a_call_are_read_once():
    """The numbers are any; that they are out of range is said or not seen, and never an address."""
    code = """
import threading, numpy as np, rnnfast
rnnfast.set_num_threads(1)
layer, table, stream = rnnfast.LSTM(1000, 16, seed=0), rnnfast.Embedding(1000, 16), rnnfast.GRU(1000, 16).stream(64)
tokens, lengths, few = np.zeros((10000, 16), np.int32), np.full(16, 10000, np.int32), np.zeros(64, np.int32)
weight = np.ones((1000, 16), np.float32)
stop = threading.Event()
def change():
    while not stop.is_set():
        for array, usual in ((tokens, 0), (lengths, 10000), (few, 0)):
            array[-1] = 2**31 - 1
            array[-1] = usual
thread = threading.Thread(target=change)
thread.start()
calls = [
    lambda: layer.forward(tokens),
    lambda: layer.forward(np.zeros((10000, 16), np.int32), lengths=lengths),
    lambda: table.backward(np.ones((10000, 16, 16), np.float32), table.forward(tokens)[1]),
    lambda: rnnfast.ops.linear_cross_entropy(np.ones((64, 16), np.float32), weight, None, few),
    lambda: stream.step(few),
]
done = 0
for turn in range(40):
    for call in calls:
        try:
            call()
            done += 1
        except ValueError as e:
            assert "must be in" in str(e) or "must hold tokens in" in str(e), e
stop.set()
thread.join()
assert done
"""
    in_python(code)


def test_sixteen_python_threads_share_a_layer():
    """Inference, each with an input and a number of threads of its own; the bits are those of a call alone."""
    layer = rnnfast.LSTM(16, 64, 2, bidirectional=True, seed=1)
    inputs = [np.random.default_rng(k).standard_normal((20 + k, 1 + 3 * k, 16)).astype(np.float32) for k in range(16)]
    expected = [layer(x) for x in inputs]
    wrong, start = [], threading.Barrier(16)

    def work(k):
        start.wait()
        for turn in range(12):
            with rnnfast.threads(1 + (k + turn) % 3):
                y, state = layer(inputs[k])
            if not all(same_bits(a, b) for a, b in zip((y, *state), (expected[k][0], *expected[k][1]), strict=True)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_python_goes_on_during_a_call():
    """The lock of the interpreter is not held: another thread's loop moves on by more than what surrounds the call."""
    layer, x = rnnfast.LSTM(64, 256, seed=1), np.ones((1000, 16, 64), np.float32)
    turns, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            turns[0] += 1
            time.sleep(0)  # lets the lock go

    with rnnfast.threads(1):
        layer(x[:1])
        thread = threading.Thread(target=count)
        thread.start()
        before = turns[0]
        layer(x)
        during = turns[0] - before
        stop.set()
        thread.join()
    assert during > 100


@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": 1}, {"OMP_THREAD_LIMIT": 2}, {"OMP_DYNAMIC": "true"}], ids=str)
def test_a_team_smaller_than_asked(limit):
    """With barriers (few sequences) and without; 3 asked for, as many as there are."""
    code = """
import signal, numpy as np, rnnfast
signal.alarm(120)
for batch in (1, 2, 33):
    layer = rnnfast.GRU(64, 129, 2, seed=1)
    x = np.random.default_rng(0).standard_normal((30, batch, 64)).astype(np.float32)
    results = []
    for threads in (1, 3, 7):
        with rnnfast.threads(threads):
            layer.zero_grad()
            y, h, cache = layer.forward(x)
            dx, _ = layer.backward(y, h, cache)
            results.append(b"".join(a.tobytes() for a in (y, h, dx, *layer.grads.values())))
    assert results[0] == results[1] == results[2], batch
"""
    in_python(code, **limit)


# --- Memory -----------------------------------------------------------------------------------------------------------


@LINUX
def test_a_failed_allocation_is_a_memory_error():
    """Whichever allocation it is: the address space is limited a little further each time. Afterwards all is well."""
    code = """
import re, resource, numpy as np, rnnfast
from rnnfast import _core
rnnfast.set_num_threads(2)
layer, head = rnnfast.LSTM(64, 256, 2, seed=1), rnnfast.Linear(256, 500, seed=2)
x, target = np.ones((100, 32, 64), np.float32), np.zeros((100, 32), int)
optimizer = rnnfast.optim.Adam(1e-3)

def step():
    layer.zero_grad()
    head.zero_grad()
    y, _, cache = layer.forward(x)
    weight, bias = head.params["weight"], head.params["bias"]
    grads = {"dweight": head.grads["weight"], "dbias": head.grads["bias"]}
    _, dy = rnnfast.ops.linear_cross_entropy(y, weight, bias, target, **grads)
    layer.backward(dy, None, cache)
    return b"".join(grad.tobytes() for grad in layer.grads.values())

expected = step()  # OpenMP has its threads now
failed = done = 0
for megabytes in range(0, 120, 3):
    _core.pool_clear()
    with open("/proc/self/status") as f:
        used = int(re.search(r"VmSize:\\s+(\\d+)", f.read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
    try:
        got = step()
    except MemoryError:
        failed += 1
    else:
        done += 1
        assert got == expected
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert step() == expected
try:
    layer(np.broadcast_to(x[:1, :1], (10**6, 10**6, 64)))
except (MemoryError, ValueError):
    failed += 1
print(failed, done)
"""
    failed, done = map(int, in_python(code).split())
    assert failed > 5 and done > 1


def test_a_pass_that_uses_the_cache_up_leaves_it_to_one_that_still_reads_it():
    layer = rnnfast.LSTM(32, 128, seed=0)
    x = np.random.default_rng(0).standard_normal((100, 8, 32)).astype(np.float32)
    y, _, cache = layer.forward(x)
    expected, _ = layer.backward(y, None, cache)
    for _ in range(10):
        _, _, cache = layer.forward(x)
        found = {}

        def run(keep, cache=cache, found=found):
            try:
                found[keep] = layer.backward(y, None, cache, keep_cache=keep)[0]
            except ValueError:  # it came too late
                found[keep] = None

        threads = [threading.Thread(target=run, args=(keep,)) for keep in (True, False)]
        for thread in threads:
            thread.start()
            time.sleep(0.0005)
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(found[False], expected)
        assert found[True] is None or np.array_equal(found[True], expected)
