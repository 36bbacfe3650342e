"""The oracle is right: against finite differences, against known answers, and against torch 2.13 in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tolerances
from cases import CELLS, Case, as_tuple, assert_close, assert_same, build, cases, oracle, plain, run_reference
from differences import check_gradients
from peer_torch import KINDS, run_torch, without_given_state
from rnnfast import reference as ref

CHECKED = [
    Case("", 5, 4, 3, 2),
    Case("", 4, 3, 2, 3, layers=2, bidirectional=True, lengths="random", reset=True, seed=1),
    Case("", 6, 3, 1, 2, layers=2, lengths="random", reset=True, dropout=0.4, seed=2),
    Case("", 3, 5, 4, 1, bidirectional=True, bias=False, lengths="random", reset=True, seed=3),
    Case("", 4, 3, 3, 2, layers=2, bidirectional=True, tokens=True, lengths="random", reset=True, seed=4),
    Case("", 1, 1, 1, 1, reset=True, seed=5),
]


def variables(problem):
    """The arrays that a gradient is taken by, as the loss reads them."""
    arrays = dict(problem.params)
    if problem.state is not None:
        arrays |= {f"{name}0": s for name, s in zip(("h", "c"), problem.state, strict=False)}
    return arrays if problem.case.tokens else arrays | {"x": problem.x}


def loss_of(problem, y, state) -> float:
    states = as_tuple(state)
    total = np.where(problem.valid, y * problem.dy, 0).sum()
    return float(total + sum((s * d).sum() for s, d in zip(states, problem.dstate, strict=True)))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", CHECKED, ids=range(len(CHECKED)))
def test_gradients_against_finite_differences(cell, case):
    problem = build(dataclasses.replace(case, cell=cell))
    grads = {name[1:]: value for name, value in oracle(problem).items() if name.startswith("d")}
    loss = lambda: loss_of(problem, *run_reference(problem)[:2])  # noqa: E731
    check_gradients(loss, variables(problem), grads, tolerances.FD_STEP[cell], most=1000)


# --- What lengths and resets mean ---------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_lengths_mean_each_row_alone(cell):
    problem = build(Case(cell, 7, 6, 3, 4, layers=2, bidirectional=True, lengths="random", reset=True, seed=8))
    y, state, _ = run_reference(problem)
    for b, n in enumerate(problem.lengths):
        if n == 0:
            assert not y[:, b].any()
            for last, first in zip(state if cell == "lstm" else (state,), problem.state, strict=True):
                assert np.array_equal(last[:, b], first[:, b])
            continue
        row = slice(b, b + 1)
        start = plain(tuple(s[:, row] for s in problem.state))
        alone, end, _ = ref.forward(
            cell,
            problem.params,
            problem.x[:n, row],
            start,
            num_layers=2,
            bidirectional=True,
            reset=problem.reset[:n, row],
        )
        assert np.abs(y[:n, row] - alone).max() < 1e-14
        assert not y[n:, b].any()
        for whole, part in zip(*((s if cell == "lstm" else (s,)) for s in (state, end)), strict=True):
            assert np.abs(whole[:, row] - part).max() < 1e-14


@pytest.mark.parametrize("cell", CELLS)
def test_a_reset_of_all_rows_is_two_separate_sequences(cell):
    problem = build(Case(cell, 7, 3, 2, 4, bidirectional=True))
    problem.reset = np.zeros((7, 3), bool)
    problem.reset[3] = True
    y, state, _ = run_reference(problem)
    h0 = np.array(problem.state)  # (states, 2, B, H)
    first, second = h0.copy(), h0.copy()
    first[:, 1], second[:, 0] = 0, 0  # the reverse direction enters at the end, the forward one at the beginning
    options = {"bidirectional": True}
    y1, end1, _ = ref.forward(cell, problem.params, problem.x[:3], plain(tuple(first)), **options)
    y2, end2, _ = ref.forward(cell, problem.params, problem.x[3:], plain(tuple(second)), **options)
    assert np.abs(y - np.concatenate([y1, y2])).max() < 1e-14
    end, end1, end2 = (np.array(s if cell == "lstm" else (s,)) for s in (state, end1, end2))
    assert np.abs(end[:, 0] - end2[:, 0]).max() < 1e-14
    assert np.abs(end[:, 1] - end1[:, 1]).max() < 1e-14


@pytest.mark.parametrize("cell", CELLS)
def test_reset_at_zero_ignores_the_state_forward_only(cell):
    problem = build(Case(cell, 3, 2, 2, 3, bidirectional=True))
    problem.reset = np.zeros((3, 2), bool)
    problem.reset[0, 0] = True
    got = oracle(problem)
    assert not got["dh0"][0, 0].any(), "row 0 forward ignores its state"
    assert got["dh0"][0, 1].any() and got["dh0"][1].all()
    problem.state = tuple(np.where(np.indices(s.shape)[0] + np.indices(s.shape)[1] == 0, 0, s) for s in problem.state)
    assert_same({"y": oracle(problem)["y"]}, {"y": got["y"]})


def test_padding_and_other_garbage_change_nothing():
    problem = build(Case("lstm", 5, 4, 3, 2, layers=2, bidirectional=True, lengths="random", reset=True))
    expected = oracle(problem)
    problem.x = np.where(problem.valid, problem.x, 7.0)
    problem.dy = np.where(problem.valid, problem.dy, -3.0)
    problem.reset = problem.reset ^ ~problem.valid[..., 0]
    assert_same(oracle(problem), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_integers_are_one_hot_rows(cell):
    problem = build(Case(cell, 4, 3, 5, 2, tokens=True))
    expected = oracle(problem)
    problem.x = ref.one_hot(problem.x, 5)
    got = oracle(problem)
    assert got.pop("dx").shape == (4, 3, 5)
    assert_same(got, expected)


def test_an_empty_batch():
    got = oracle(build(Case("gru", 3, 0, 2, 4, layers=2, bidirectional=True)))
    assert got["y"].shape == (3, 0, 8) and got["h"].shape == (4, 0, 4) and got["dx"].shape == (3, 0, 2)
    assert not any(grad.any() for name, grad in got.items() if name.startswith("dweight"))


def test_every_cell_says_what_it_is():
    for name, cell in ref.REGISTRY.items():
        assert (cell.blocks, cell.states) == {"rnn_tanh": (1, 1), "rnn_relu": (1, 1), "lstm": (4, 2), "gru": (3, 1)}[
            name
        ]


# --- Random numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that the authors of Philox publish with their code
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(word) for word in ref.philox4x32(counter, key)) == expected


def test_dropout_masks_depend_on_the_position_alone():
    whole = ref.dropout_mask(0.3, 2**40 + 7, 2**32 - 2, 3, (6, 5, 9))
    assert np.array_equal(whole[2:], ref.dropout_mask(0.3, 2**40 + 7, 2**32, 3, (4, 5, 9)))
    assert np.array_equal(whole[:, :2, :3], ref.dropout_mask(0.3, 2**40 + 7, 2**32 - 2, 3, (6, 2, 3)))
    assert set(np.unique(whole)) == {0.0, 1 / (1 - 0.3)}
    for other in ((2**41 + 7, 2**32 - 2, 3), (2**40 + 7, 2**33 - 2, 3), (2**40 + 7, 2**32 - 2, 2)):
        assert not np.array_equal(whole, ref.dropout_mask(0.3, *other, (6, 5, 9)))


def test_dropout_keeps_the_share_it_should():
    for p in (0.0, 0.1, 0.5, 0.9, 1.0):
        mask = ref.dropout_mask(p, 1, 0, 0, (50, 40, 64))
        assert abs((mask > 0).mean() - (1 - p)) < 4 * (0.25 / mask.size) ** 0.5
        assert np.isfinite(mask).all()


# --- Sampling -----------------------------------------------------------------------------------------------


def test_sampling_probabilities():
    logits = np.log([0.1, 0.4, 0.4, 0.1])
    probabilities = ref.sampling_probabilities
    assert np.allclose(probabilities(logits), [0.1, 0.4, 0.4, 0.1])
    assert np.array_equal(probabilities(logits, 0), [0, 1, 0, 0])
    assert np.allclose(probabilities(logits, 0.5), np.array([1, 16, 16, 1]) / 34)
    assert np.allclose(probabilities(logits, top_k=3), np.array([1, 4, 4, 0]) / 9)
    assert np.allclose(probabilities(logits, top_k=99), [0.1, 0.4, 0.4, 0.1])
    assert np.allclose(probabilities(logits, top_p=0.75), [0, 0.5, 0.5, 0])
    assert np.allclose(probabilities(logits, top_p=1e-9), [0, 1, 0, 0])
    assert np.allclose(probabilities(logits, top_k=2, top_p=0.45), [0, 1, 0, 0])
    assert np.isfinite(probabilities(np.array([0.0, 1e4]), 1e-3)).all()


def test_sampled_frequencies():
    probs = np.array([0.2, 0.0, 0.5, 0.3])
    drawn = [ref.sample_token(probs, ref.sampling_uniform(5, 2, position)) for position in range(4000)]
    assert np.abs(np.bincount(drawn, minlength=4) / 4000 - probs).max() < 0.03
    assert 1 not in drawn
    assert [ref.sample_token(probs, u) for u in (1e-12, 0.2 - 1e-9, 0.2 + 1e-9, 0.7 + 1e-9, 1 - 1e-12)] == [
        0,
        0,
        2,
        3,
        3,
    ]


# --- Against torch ------------------------------------------------------------------------------------------


def torch_rows(torch, problem):
    """What lengths and resets mean, said with torch: each row alone, cut into the pieces between its resets."""
    case, t64 = problem.case, torch.float64
    options = {"nonlinearity": case.cell[4:]} if case.cell.startswith("rnn_") else {}
    params = {k: torch.tensor(v, dtype=t64, requires_grad=True) for k, v in problem.params.items()}
    state = tuple(torch.tensor(s, dtype=t64, requires_grad=True) for s in problem.state)
    x0 = torch.tensor(np.where(problem.valid, problem.x, 0), dtype=t64, requires_grad=True)

    def piece(layer, d, x, start):  # one direction over one piece (t, 1, I), x in the order of time
        suffix = f"_l{layer}" + ("_reverse" if d else "")
        module = getattr(torch.nn, KINDS[case.cell])(x.shape[-1], case.H, bias=case.bias, dtype=t64, **options)
        values = {k[: -len(suffix)] + "_l0": v for k, v in params.items() if k.endswith(suffix)}
        y, end = torch.func.functional_call(module, values, (x.flip(0) if d else x, plain(start)))
        return y.flip(0) if d else y, end if case.cell == "lstm" else (end,)

    ends = [[None] * case.B for _ in range(case.layers * case.directions)]
    below = x0
    for layer in range(case.layers):
        rows = []
        for b, n in enumerate(problem.lengths):
            halves = []
            for d in range(case.directions):
                index = layer * case.directions + d
                current = tuple(s[index, b].reshape(1, 1, case.H) for s in state)
                cuts = [t for t in range(n) if problem.reset[t, b]]
                edges = sorted({0, *cuts, int(n)})
                pieces = [(lo, hi) for lo, hi in zip(edges, edges[1:], strict=False)]
                outs = []
                for k, (lo, hi) in enumerate(reversed(pieces) if d else pieces):
                    if k or (d == 0 and 0 in cuts):
                        current = tuple(torch.zeros_like(s) for s in current)
                    out, current = piece(layer, d, below[lo:hi, b : b + 1], current)
                    outs.append(out)
                outs = outs[::-1] if d else outs
                halves.append(torch.cat([*outs, torch.zeros(case.T - n, 1, case.H, dtype=t64)]))
                ends[index][b] = current
            rows.append(torch.cat(halves, dim=-1))
        below = torch.cat(rows, dim=1)
        if problem.masks and layer < case.layers - 1:
            below = below * torch.tensor(problem.masks[layer])
    last = [torch.stack([torch.cat([e[i] for e in row], 1)[0] for row in ends]) for i in range(len(state))]
    loss = (below * torch.tensor(np.where(problem.valid, problem.dy, 0))).sum()
    loss = loss + sum((s * torch.tensor(d)).sum() for s, d in zip(last, problem.dstate, strict=True))
    loss.backward()
    names = ("h", "c")[: len(state)]
    grad = lambda tensor: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad  # noqa: E731
    out = {"y": below, **dict(zip(names, last, strict=True)), "dx": grad(x0)}
    out |= {f"d{name}0": grad(s) for name, s in zip(names, state, strict=True)}
    out |= {f"d{name}": grad(value) for name, value in params.items()}
    return {name: tensor.detach().numpy() for name, tensor in out.items()}


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=12)
@given(data=st.data())
def test_against_torch_rows_lengths_resets(torch, cell, data):
    case = data.draw(cases(cell, 20_000, tokens=False, state=True, lengths="random", reset=True))
    problem = build(case)
    assert_close(oracle(problem), torch_rows(torch, problem), tolerances.TORCH64, str(case))


def test_against_torch_with_dropout_masks(torch):
    problem = build(Case("lstm", 5, 3, 4, 3, layers=3, bidirectional=True, lengths="full", reset=True, dropout=0.4))
    assert_close(oracle(problem), torch_rows(torch, problem), tolerances.TORCH64)


@pytest.mark.parametrize("cell", CELLS)
@given(data=st.data())
def test_against_torch_whole_modules(torch, cell, data):
    lengths = data.draw(st.sampled_from((None, "full", "positive")))
    problem = build(data.draw(cases(cell, 500_000, lengths=lengths, reset=False)))
    expected = without_given_state(problem, run_torch(torch, problem))
    assert_close(without_given_state(problem, oracle(problem)), expected, tolerances.TORCH64, str(problem.case))


# --- Loss, optimisers, clipping against torch ---------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, 2, -100, "all"])
def test_cross_entropy_against_torch(torch, reduction, weighted, ignored):
    rng = np.random.default_rng(3)
    logits, targets = 10 * rng.standard_normal((6, 4, 5)), rng.integers(0, 5, (6, 4))
    weights = rng.uniform(0.1, 2, 5) if weighted else None
    if ignored == "all":
        targets[...] = ignored = -100
    elif ignored == -100:
        targets[::2] = -100
    t = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        t.reshape(-1, 5),
        torch.tensor(targets).reshape(-1),
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=-1 if ignored is None else ignored,
        reduction=reduction,
    )
    loss.sum().backward()
    got, dlogits = ref.softmax_cross_entropy(
        logits, targets, weights=weights, ignore_index=ignored, reduction=reduction
    )
    assert np.allclose(np.ravel(got), np.ravel(loss.detach().numpy()), rtol=1e-13, atol=1e-13, equal_nan=True)
    assert np.abs(dlogits - t.grad.numpy()).max() < 1e-14


OPTIMISERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMISERS)
def test_optimisers_against_torch(torch, name, options):
    rng = np.random.default_rng(4)
    param = rng.standard_normal((3, 4))
    theirs = torch.nn.Parameter(torch.tensor(param))
    optimiser = getattr(torch.optim, name)([theirs], **options)
    state: dict = {}
    for step in range(1, 6):
        grad = rng.standard_normal((3, 4)) * 10.0**-step
        theirs.grad = torch.tensor(grad)
        optimiser.step()
        param = ref.OPTIMISERS[name](param, grad, state, step, **({"lr": 0.1} | options if name == "SGD" else options))
        assert np.abs(param - theirs.detach().numpy()).max() < 1e-14
    for key, value in state.items():
        assert np.abs(value - optimiser.state[theirs][key].numpy()).max() < 1e-14


@pytest.mark.parametrize("max_norm", [0.5, 100.0, float("inf")])
def test_clipping_against_torch(torch, max_norm):
    rng = np.random.default_rng(5)
    grads = [rng.standard_normal(shape) for shape in ((3, 4), (5,))]
    for clip in ("norm", "value"):
        params = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.tensor(grad)
        if clip == "norm":
            norm, clipped = ref.clip_grad_norm(grads, max_norm)
            assert abs(float(torch.nn.utils.clip_grad_norm_(params, max_norm)) - norm) < 1e-13
        else:
            clipped = ref.clip_grad_value(grads, max_norm)
            torch.nn.utils.clip_grad_value_(params, max_norm)
        for param, expected in zip(params, clipped, strict=True):
            assert np.abs(param.grad.numpy() - expected).max() < 1e-15
