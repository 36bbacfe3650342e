"""Layers that compute in bfloat16: what is rounded, and that nothing else is.

What the oracle is and how close it must be: bf16_cases.py.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rnnfast
from bf16_cases import assert_rounded_alike, floats, relu
from cases import PER_CELL, Case, build, oracle, run
from rnnfast import lm
from rnnfast import reference as ref

isa = pytest.mark.isa


@isa
def test_operands_are_rounded_to_nearest_even():
    x = floats()
    want = ref.round_bf16(x)
    layer = relu(1, 1)
    assert np.array_equal(layer(x[None, :, None])[0].ravel(), want), "x"
    layer.params["weight_hh_l0"].fill(1)
    y, _ = layer(np.zeros((1, len(x), 1), np.float32), x[None, :, None])
    assert np.array_equal(y.ravel(), want), "h"
    weights = relu(1, 300)
    weights.params["weight_ih_l0"][:, 0] = x[-300:]
    assert np.array_equal(weights(np.ones((1, 1, 1), np.float32))[0].ravel(), want[-300:]), "w"


@isa
def test_nan_stays_nan():
    nan = np.uint32([0x7F800001, 0x7FC00000, 0xFF80FFFF, 0x7FFFFFFF]).view(np.float32)
    y, _ = rnnfast.RNN(1, 3, compute_dtype="bfloat16")(nan[:, None, None])
    assert np.isnan(y[0]).all()
    for value in nan:
        assert np.isnan(rnnfast.RNN(1, 3, compute_dtype="bfloat16")(np.full((1, 1, 1), value))[0]).all()


SINGLE = Case("", 1, 33, 33, 65)
SEVERAL = [
    Case("", 5, 7, 16, 33),
    Case("", 6, 5, 17, 17, layers=2, bidirectional=True, lengths="random", reset=True),
    Case("", 5, 9, 7, 32, layers=2, tokens=True, bias=False),
    Case("", 4, 300, 3, 5, layers=2, dropout=0.4),
]


@isa
@PER_CELL
@pytest.mark.parametrize("size", [SINGLE, *SEVERAL], ids=range(5))
def test_against_the_oracle(cell, size):
    problem = build(Case(**{**vars(size), "cell": cell}))
    got, want = run(problem, "bfloat16"), oracle(problem, compute_dtype="bfloat16")
    assert_rounded_alike(got, want)


@PER_CELL
def test_operands_are_rounded_and_results_are_not(cell):
    problem = build(Case(cell, 5, 7, 16, 33))
    exact = oracle(problem)
    for name, value in run(problem, "bfloat16").items():
        assert np.mean(value[value != 0] != ref.round_bf16(value[value != 0])) > 0.7, name
        assert np.abs(value - exact[name]).max() > 1e-4, name


SCRIPT = """
import hashlib, sys
from cases import CELLS, Case, build, run
digest = hashlib.sha256()
for cell in CELLS:
    for case in (Case(cell, 12, 17, 19, 33, layers=2, lengths="random"), Case(cell, 9, 3, 7, 65, tokens=True)):
        for name, value in run(build(case), "bfloat16").items():
            digest.update(value.tobytes())
print(digest.hexdigest())
"""


def test_emulation_gives_the_bits_of_the_instruction():
    if "avx512_bf16" not in rnnfast.info()["isas"]:
        pytest.skip("needs a processor with the instruction")

    def digest(name):
        environment = os.environ | {"RNNFAST_ISA": name, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert digest("avx512_bf16") == digest("avx512")


def test_the_option_is_kept():
    layer = rnnfast.GRU(5, 7, compute_dtype="bfloat16", seed=3)
    assert layer.compute_dtype == "bfloat16" and "bfloat16" in repr(layer) and layer.dtype == np.float32
    x = np.ones((3, 2, 5), np.float32)
    y, _ = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.compute_dtype == "bfloat16" and np.array_equal(other(x)[0], y)
    plain = rnnfast.GRU(5, 7, seed=3)
    assert plain.compute_dtype == "float32" and not np.array_equal(plain(x)[0], y)


@pytest.mark.parametrize("dtype, wrong", [("float64", "bfloat16"), ("float32", "float16"), ("float32", "float64")])
def test_wrong_options(dtype, wrong):
    with pytest.raises(ValueError, match=f"compute_dtype must be .*{dtype}.*, got '{wrong}'"):
        rnnfast.LSTM(3, 4, dtype=dtype, compute_dtype=wrong)


@isa
@pytest.mark.parametrize("embedding_size", [None, 6])
def test_language_model(embedding_size):
    options = {"cell": "lstm", "embedding_size": embedding_size, "seed": 1}
    model = lm.LanguageModel(11, 33, compute_dtype="bfloat16", **options)
    full = lm.LanguageModel(11, 33, **options)
    tokens = np.random.default_rng(0).integers(0, 11, (9, 4))
    loss, _ = model.evaluate(tokens)
    want, _ = full.evaluate(tokens)
    assert loss != want and abs(loss - want) < 0.01
    optimizer = rnnfast.optim.Adam(lr=0.01)
    losses = [model.train_step(tokens, None, optimizer)[0] for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    ids = model.sample(tokens[:, 0], 12, temperature=0)
    for n in range(12):
        logits, _ = model(np.concatenate([tokens[:, 0], ids[:n]])[:, None])
        assert ids[n] == logits[-1, 0].argmax()
    assert np.array_equal(model.sample(tokens[:, 0], 12, temperature=0, num_samples=3)[2], ids)
