"""Models of torch.nn that `accelerate` changes: references, copies, writes of weights, training, serving, processes."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


@pytest.fixture
def ours(torch):
    import rnnfast.torch

    torch.manual_seed(0)
    return rnnfast.torch


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_accelerate_and_restore_change_classes_alone(torch, ours):
    model = torch.nn.ModuleDict({name: getattr(torch.nn, name)(3, 4) for name in NAMES})
    model["inner"] = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GRU(3, 4, 2, batch_first=True))
    before = dict(model.named_parameters())
    rnn, calls = model["LSTM"], []
    rnn.register_forward_hook(lambda *_: calls.append(1))
    assert ours.accelerate(model) is model
    assert [type(model[name]) for name in NAMES] == [getattr(ours, name) for name in NAMES]
    assert type(model["inner"][1]) is ours.GRU and model["LSTM"] is rnn
    assert all(p is before[name] for name, p in model.named_parameters())
    model["LSTM"](torch.zeros(2, 1, 3))
    assert calls
    assert ours.restore(model) is model
    assert [type(model[name]) for name in NAMES] == [getattr(torch.nn, name) for name in NAMES]
    assert "_frozen" not in vars(rnn)
    with pytest.raises(TypeError, match="accelerate needs a torch.nn.Module, got int"):
        ours.accelerate(3)

    class Own(torch.nn.LSTM):
        pass

    with pytest.warns(RuntimeWarning, match="Own is a class of its own"):
        own = ours.accelerate(Own(3, 4))
    assert type(own) is Own


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(torch, ours, name):
    module = getattr(ours, name)(3, 4, compute_dtype="bfloat16")
    x = torch.randn(2, 3) if "Cell" in name else torch.randn(5, 2, 3)
    leaves = torch.utils._pytree.tree_leaves
    ours.freeze(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (
        copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)
    ):  # fmt: skip
        assert type(other) is type(module) and other.compute_dtype == "bfloat16" and other._frozen is None
        for a, b in zip(leaves(other(x)), leaves(module.requires_grad_(False)(x)), strict=True):
            assert torch.equal(a, b)
        module.requires_grad_(True)
    assert b"_modules" not in pickle.dumps(module).split(b"rnnfast.torch")[1][:20]


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_writes_of_weights_are_seen(torch, ours, name):
    module, theirs = getattr(ours, name)(3, 4), getattr(torch.nn, name)(3, 4)
    x = torch.randn(2, 3) if "Cell" in name else torch.randn(5, 2, 3)
    first = next(n for n, _ in module.named_parameters())

    def check():
        theirs.load_state_dict(module.state_dict())
        leaves = torch.utils._pytree.tree_leaves
        for a, b in zip(leaves(module(x)), leaves(theirs(x)), strict=True):
            torch.testing.assert_close(a, b)
        return leaves(module(x))[0].detach().clone()

    seen = [check()]
    parameter = getattr(module, first)
    parameter.data.mul_(2)  # in place
    seen.append(check())
    parameter.data = torch.randn_like(parameter)  # another place
    seen.append(check())
    parameter.data = torch.randn(parameter.shape[::-1]).t()  # other strides
    assert not parameter.is_contiguous()
    seen.append(check())
    parameter.detach().numpy()[...] = 0.25  # a NumPy view
    seen.append(check())
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    torch.utils._pytree.tree_leaves(module(x))[0].sum().backward()
    optimizer.step()
    seen.append(check())
    setattr(module, first, torch.nn.Parameter(torch.randn_like(parameter)))  # another parameter
    seen.append(check())
    assert len({s.numpy().tobytes() for s in seen}) == len(seen)
    if name == "GRUCell":  # nn.LSTM looks beyond such a weight's end
        getattr(module, first).data = torch.randn(5, 5)
        with pytest.raises(RuntimeError):
            module(x)


def test_freeze(torch, ours):
    model = ours.accelerate(torch.nn.Sequential(torch.nn.LSTM(3, 4, 2), torch.nn.Identity()))
    x, lstm = torch.randn(5, 2, 3), model[0]
    with torch.no_grad():
        expected = lstm(x)[0]
        assert ours.freeze(model) is model
        assert torch.equal(lstm(x)[0], expected)
        assert torch.equal(lstm(x[:1])[0], expected[:1])
        lstm.weight_hh_l0.mul_(2)
        assert torch.equal(lstm(x)[0], expected)  # the weights of then
        lstm.load_state_dict(lstm.state_dict())
        assert not torch.equal(lstm(x)[0], expected)  # packed again
        changed = lstm(x)[0]
    with pytest.raises(RuntimeError, match="this LSTM is frozen: call it under torch.no_grad"):
        lstm(x)
    ours.unfreeze(model)
    assert torch.equal(lstm(x)[0], changed) and lstm(x)[0].requires_grad
    ours.freeze(model).double()
    with torch.no_grad():
        torch.testing.assert_close(lstm(x.double())[0], changed.double(), rtol=1e-5, atol=1e-6)
    with pytest.warns(RuntimeWarning, match="proj_size"):
        ours.freeze(ours.LSTM(3, 4, proj_size=2))
    for name in ("LSTMCell", "GRUCell", "RNNCell"):
        cell, row = getattr(ours, name)(3, 4), x[0]
        with torch.no_grad():
            expected = torch.utils._pytree.tree_leaves(cell(row))
            found = torch.utils._pytree.tree_leaves(ours.freeze(cell)(row))
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


class Tagger:
    """A model of nn.GRU over packed sequences, and its data: says at each step whether the sum so far is positive."""

    def __init__(self, torch):
        torch.manual_seed(2)
        self.torch = torch
        self.rnn, self.out = torch.nn.GRU(4, 32, bidirectional=True), torch.nn.Linear(64, 1)
        self.model = torch.nn.ModuleList([self.rnn, self.out])
        self.optimizer = torch.optim.Adam(self.model.parameters(), 3e-3)
        self.data = torch.Generator().manual_seed(3)

    def step(self):
        torch, utils = self.torch, self.torch.nn.utils.rnn
        x = torch.randn(20, 16, 4, generator=self.data)
        lengths = torch.randint(1, 21, (16,), generator=self.data)
        packed = utils.pack_padded_sequence(x, lengths, enforce_sorted=False)
        target = utils.pack_padded_sequence((x.sum(2).cumsum(0) > 0).float(), lengths, enforce_sorted=False)
        y, _ = self.rnn(packed)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self.out(y.data)[:, 0], target.data)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def assert_same_curve(a, b, first):
    assert len(a) == len(b) == 200 and a[-1] < 0.8 * first
    np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_the_character_model_trains_to_the_same_losses(torch, cell):
    charlm = example("torch_charlm")
    options = [
        "--quiet",
        "--cell",
        cell,
        "--hidden",
        "48",
        "--batch",
        "16",
        "--steps-per-chunk",
        "20",
        "--threads",
        "1",
    ]
    curves = [charlm.main([*options, "--backend", backend])["losses"] for backend in ("rnnfast", "torch")]
    assert_same_curve(*curves, curves[0][0])


def test_a_model_of_packed_sequences_trains_to_the_same_losses(torch, ours):
    curves = []
    for change in (ours.accelerate, ours.restore):
        tagger = Tagger(torch)
        change(tagger.model)
        curves.append([tagger.step() for _ in range(200)])
    assert_same_curve(*curves, curves[0][0])


def test_two_processes_train_to_the_losses_of_one(torch, tmp_path):
    """torchrun, DistributedDataParallel, gloo on the loopback; its threads are gone before the interpreter ends."""
    options = [
        "--quiet",
        "--hidden",
        "32",
        "--batch",
        "8",
        "--steps-per-chunk",
        "16",
        "--steps",
        "60",
        "--threads",
        "1",
    ]
    script = tmp_path / "torch_charlm.py"
    script.write_text(
        f"""
import os, runpy
runpy.run_path({str(ROOT / "examples" / "torch_charlm.py")!r}, run_name="__main__")
threads = [open(f"/proc/self/task/{{id}}/comm").read() for id in os.listdir("/proc/self/task")]
assert not [name for name in threads if "gloo" in name], threads
""",
        encoding="utf-8",
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    loopback = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    found = []
    for name, launcher in (("two", launch), ("one", [])):
        out = tmp_path / f"{name}.json"
        done = subprocess.run(
            [sys.executable, *launcher, str(script), *options, "--out", str(out)],
            capture_output=True,
            text=True,
            check=False,
            env=loopback,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(out.read_text())["losses"])
    assert len(found[0]) == 60 and found[0][-1] < found[0][0]
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_the_policy_learns_alike_by_resets_and_step_by_step(torch):
    ppo = example("torch_ppo_recurrent")
    options = ["--quiet", "--iterations", "25", "--hidden", "32", "--batch", "16", "--steps", "40", "--threads", "1"]
    by_reset, by_loop = (ppo.main([*options, *loop])["rewards"] for loop in ([], ["--loop"]))
    np.testing.assert_allclose(by_reset[:3], by_loop[:3], rtol=1e-3)  # later a rounding may change an action
    assert by_reset[-1] > 2 * by_reset[0] and by_loop[-1] > 2 * by_loop[0]


WORKERS = """
import torch, rnnfast.torch

class Encoded(torch.utils.data.Dataset):
    def __init__(self):
        self.x, self.rnn = torch.randn(16, 9, 64), rnnfast.torch.LSTM(64, 64)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        with torch.no_grad():
            return self.rnn(self.x[i][:, None])[0][:, 0]

torch.set_num_threads(2)
data = Encoded()
data.rnn(torch.randn(50, 64, 64))[0].sum().backward()  # the parent's threads are there before the fork
expected = torch.stack([data[i] for i in range(16)])
loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork")
assert torch.equal(torch.cat(list(loader)), expected)
print("ok")
"""


def test_dataloader_with_two_forked_workers(torch):
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "ok", done.stderr


def test_eight_threads_of_inference_and_training(torch, ours):
    module, frozen = ours.LSTM(33, 64, 2), ours.freeze(ours.LSTM(33, 64, 2))
    inputs = [torch.randn(17, 3, 33) for _ in range(8)]

    def infer(x):
        with torch.no_grad():
            return [layer(x)[0] for layer in (module, frozen) for _ in range(20)]

    def gradients(x):
        return torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters()))

    with ThreadPoolExecutor(8) as pool:
        outputs, grads = list(pool.map(infer, inputs)), list(pool.map(gradients, inputs))
    for x, found, slopes in zip(inputs, outputs, grads, strict=True):
        with torch.no_grad():
            expected = module(x)[0], frozen(x)[0]
        assert all(torch.equal(a, expected[i >= 20]) for i, a in enumerate(found))
        assert all(torch.equal(a, b) for a, b in zip(slopes, gradients(x), strict=True))
