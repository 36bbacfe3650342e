"""The same numbers as torch 2.13: weights copied by name, both ways, whole networks, lengths by PackedSequence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnfast
import tolerances
from cases import CELLS, Case, as_tuple, assert_close, build, cases, difference, make_layer, run
from peer_torch import KINDS, run_torch, torch_module, without_given_state
from scales import assert_single


@pytest.mark.parametrize("cell", CELLS)
@given(data=st.data())
def test_float64_equals_torch(torch, cell, data):
    lengths = data.draw(st.sampled_from((None, "positive")))
    problem = build(data.draw(cases(cell, lengths=lengths, reset=False)))
    got, expected = run(problem), run_torch(torch, problem)
    assert_close(*(without_given_state(problem, r) for r in (got, expected)), tolerances.TORCH64, str(problem.case))


@pytest.mark.parametrize("cell", CELLS)
@given(data=st.data())
def test_float32_is_as_good_as_torch(torch, cell, data):
    lengths = data.draw(st.sampled_from((None, "positive")))
    problem = build(data.draw(cases(cell, lengths=lengths, reset=False, state=True)))
    assert_single(problem, run(problem, "float32"), lambda: run_torch(torch, problem, "float32"))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_torch_parameters_have_the_same_names_shapes_and_order(torch, cell, bias):
    problem = build(Case(cell, 2, 2, 3, 4, layers=2, bidirectional=True, bias=bias))
    module, layer = torch_module(torch, problem, "float32"), make_layer(problem, "float32")
    expected = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    assert [(name, p.shape) for name, p in layer.params.items()] == expected
    layer.load_state_dict({name: 0.5 * value.numpy() for name, value in module.state_dict().items()})
    for name, value in module.state_dict().items():
        assert difference(layer.params[name], 0.5 * value.numpy()) == 0
    module.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    for name, value in module.named_parameters():
        assert difference(layer.params[name], value.detach().numpy()) == 0


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_torch_shapes(torch, cell, batch_first):
    """Batched and unbatched, batch_first or not: the same shapes as torch gives, states never batch-first."""
    problem = build(Case(cell, 5, 3, 4, 6, layers=2, bidirectional=True))
    module = torch_module(torch, problem, "float32", batch_first=batch_first)
    layer = make_layer(problem, "float32", batch_first=batch_first)
    for x in (np.zeros((5, 3, 4), np.float32), np.zeros((5, 4), np.float32)):
        y, state = layer(x)
        their_y, their_state = module(torch.from_numpy(x))
        assert y.shape == tuple(their_y.shape)
        for s, t in zip(as_tuple(state), as_tuple(their_state), strict=True):
            assert s.shape == tuple(t.shape)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_begin_as_torch_begins(torch, cell):
    """U(-1/sqrt(H), 1/sqrt(H)) for every tensor, biases too."""
    problem = build(Case(cell, 1, 1, 64, 64, layers=2))
    kinds = {"RNN": rnnfast.RNN, "LSTM": rnnfast.LSTM, "GRU": rnnfast.GRU}
    ours = kinds[KINDS[cell]](64, 64, 2, seed=3).params
    for name, theirs in torch_module(torch, problem, "float32").named_parameters():
        theirs.data.uniform_(-1 / 8, 1 / 8)
        value = ours[name]
        assert abs(float(value.mean())) < 5 * (1 / 8) / (3 * value.size) ** 0.5
        assert abs(float(value.std()) - float(theirs.detach().std())) < 0.015
        assert np.abs(value).max() <= 1 / 8 and np.abs(value).max() > 0.9 / 8


def test_torch_linear_and_embedding(torch):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((7, 5, 33)), rng.standard_normal((7, 5, 17))
    ours, theirs = rnnfast.Linear(33, 17, dtype="float64", seed=0), torch.nn.Linear(33, 17, dtype=torch.float64)
    ours.load_state_dict({name: p.detach().numpy() for name, p in theirs.named_parameters()})
    t = torch.tensor(x, requires_grad=True)
    out = theirs(t)
    (out * torch.tensor(dy)).sum().backward()
    y, cache = ours.forward(x)
    dx = ours.backward(dy, cache)
    expected = {"y": out.detach().numpy(), "dx": t.grad.numpy()}
    expected |= {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    assert_close({"y": y, "dx": dx, **ours.grads}, expected, tolerances.OPS["float64"])

    tokens, dy = rng.integers(0, 9, (7, 5)), rng.standard_normal((7, 5, 6))
    ours, theirs = rnnfast.Embedding(9, 6, dtype="float64", seed=0), torch.nn.Embedding(9, 6, dtype=torch.float64)
    ours.load_state_dict({"weight": theirs.weight.detach().numpy()})
    out = theirs(torch.tensor(tokens))
    (out * torch.tensor(dy)).sum().backward()
    y, cache = ours.forward(tokens)
    assert ours.backward(dy, cache) is None
    expected = {"y": out.detach().numpy(), "weight": theirs.weight.grad.numpy()}
    assert_close({"y": y, **ours.grads}, expected, tolerances.OPS["float64"])
