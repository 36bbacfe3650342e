"""rnnfast.torch beyond torch.nn: lengths, resets, integers, bf16; dropout; and what it leaves to torch, saying so."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import rnnfast
from cases import Case, build, make_layer

KINDS = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU"}
OPTIONS = {
    "lengths": {"lengths": "random"},
    "reset": {"reset": True},
    "both": {"lengths": "random", "reset": True},
    "tokens": {"tokens": True},
    "tokens and all": {"tokens": True, "lengths": "random", "reset": True},
    "dense": {},
}


def module_of(torch, problem, dtype="float32", **options):
    import rnnfast.torch

    case = problem.case
    if case.cell.startswith("rnn_"):
        options["nonlinearity"] = case.cell.removeprefix("rnn_")
    module = getattr(rnnfast.torch, KINDS[case.cell])(
        case.I, case.H, case.layers, bidirectional=case.bidirectional, dtype=getattr(torch, dtype), **options
    )
    module.load_state_dict({name: torch.tensor(value) for name, value in problem.params.items()})
    return module


@pytest.mark.parametrize("compute", [None, "bfloat16"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cell", KINDS)
def test_has_the_bits_of_the_numpy_layer(torch, cell, options, batch_first, compute):
    """Outputs, states and all gradients, NaN in the padding."""
    problem = build(Case(cell, 9, 5, 7, 17, layers=2, bidirectional=True, **options))
    layer = make_layer(problem, compute or "float32", batch_first=batch_first)
    module = module_of(torch, problem, batch_first=batch_first, compute_dtype=compute)
    turn = (lambda a: np.ascontiguousarray(a.swapaxes(0, 1))) if batch_first else (lambda a: a)
    single = lambda a: a.astype(np.float32)  # noqa: E731
    x = turn(problem.x) if options.get("tokens") else turn(single(problem.x))
    dy, reset = turn(single(problem.dy)), None if problem.reset is None else turn(problem.reset)
    state = tuple(map(single, problem.state))
    plain = (lambda s: s) if len(state) > 1 else (lambda s: s[0])

    y, last, cache = layer.forward(x, plain(state), lengths=problem.lengths, reset=reset)
    dstate = tuple(map(single, problem.dstate))
    dx, dstate0 = layer.backward(dy, plain(dstate), cache)
    expected = [y, *(last if len(state) > 1 else (last,)), *(dstate0 if len(state) > 1 else (dstate0,))]
    expected += [*([] if dx is None else [dx]), *layer.grads.values()]

    tx = torch.tensor(x)
    starts = [torch.tensor(s, requires_grad=True) for s in state]
    if dx is not None:
        tx.requires_grad_()
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths)
    ty, tlast = module(tx, plain(starts), lengths=lengths, reset=None if reset is None else torch.tensor(reset))
    ends = list(tlast) if len(state) > 1 else [tlast]
    torch.autograd.backward([ty, *ends], [torch.tensor(dy), *map(torch.tensor, dstate)])
    got = [ty.detach(), *(e.detach() for e in ends), *(s.grad for s in starts)]
    got += [*([] if dx is None else [tx.grad]), *(p.grad for p in module.parameters())]
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)


@pytest.mark.parametrize("cell", KINDS)
def test_lengths_are_packed_sequences_without_packing(torch, cell):
    problem = build(Case(cell, 9, 5, 7, 17, layers=2, bidirectional=True, lengths="positive"))
    module, lengths = module_of(torch, problem, "float64"), torch.tensor(problem.lengths)
    x = torch.tensor(np.where(problem.valid, problem.x, 0))
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    packed, last = module(pack(x, lengths, enforce_sorted=False))
    y, same = module(x, lengths=lengths)
    assert torch.equal(pad(packed, total_length=9)[0], y)
    for a, b in zip(last, same, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_one_sequence_without_a_batch_takes_them_too(torch, kind):
    import rnnfast.torch

    module = getattr(rnnfast.torch, kind)(5, 4)
    x, reset = torch.randn(6, 5), torch.tensor([0, 0, 1, 0, 1, 0], dtype=torch.bool)
    y = module(x, lengths=[4], reset=reset)[0]
    assert torch.equal(y, module(x[:, None], lengths=[4], reset=reset[:, None])[0][:, 0])
    assert y[4:].abs().max() == 0
    tokens = torch.tensor([0, 4, 2])
    assert torch.equal(module(tokens)[0], module(torch.eye(5)[tokens])[0])


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_take_integers(torch, kind):
    import rnnfast.torch

    cell, tokens = getattr(rnnfast.torch, kind)(5, 4), torch.tensor([0, 4, 2])
    once, same = cell(tokens), cell(torch.eye(5)[tokens])
    for a, b in zip(once, same, strict=True):
        assert torch.equal(a, b)


ERRORS = [
    ({"lengths": [1, 2]}, ValueError, r"lengths must have shape \(3,\), got \(2,\)"),
    ({"lengths": [1, 2, 9]}, ValueError, "lengths must be in 0 .. 4, got 9"),
    ({"lengths": [1, -2, 3]}, ValueError, "lengths must be in 0 .. 4, got -2"),
    ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths must be integers, got dtype torch.float32"),
    ({"reset": [[True]]}, ValueError, r"reset must have shape \(4, 3\), got \(1, 1\)"),
    ({"reset": np.zeros((4, 3))}, TypeError, "reset must be bool, got dtype torch.float64"),
]


@pytest.mark.parametrize(("options", "kind", "message"), ERRORS, ids=[e[2] for e in ERRORS])
def test_errors_of_what_torch_has_not(torch, options, kind, message):
    import rnnfast.torch

    with pytest.raises(kind, match=message):
        rnnfast.torch.LSTM(5, 4)(torch.zeros(4, 3, 5), **options)


def test_more_errors(torch):
    import rnnfast.torch

    lstm = rnnfast.torch.LSTM(5, 4)
    with pytest.raises(ValueError, match=r"tokens in 0 .. 4, got 5"):
        lstm(torch.tensor([[0, 5]]))
    with pytest.raises(ValueError, match=r"tokens in 0 .. 4, got -1"):
        rnnfast.torch.GRUCell(5, 4)(torch.tensor([-1]))
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 5), torch.zeros(2, 5)])
    with pytest.raises(ValueError, match="lengths and reset need a padded tensor, got a PackedSequence"):
        lstm(packed, lengths=[1, 2])
    wrong = torch.nn.utils.rnn.PackedSequence(torch.zeros(5, 5), torch.tensor([1, 4]))
    with pytest.raises(ValueError, match="must not increase"):
        lstm(wrong)
    with pytest.raises(ValueError, match="needs parameters of float32"):
        rnnfast.torch.LSTM(5, 4, compute_dtype="bfloat16", dtype=torch.float64)(torch.zeros(2, 1, 5).double())
    half = rnnfast.torch.LSTM(5, 4, proj_size=2)
    with pytest.raises(NotImplementedError, match="lengths and reset need rnnfast's kernels.*proj_size"):
        half(torch.zeros(4, 3, 5), lengths=[1, 2, 3])


def test_dropout_follows_torchs_generator(torch):
    import rnnfast.torch

    module = rnnfast.torch.LSTM(5, 64, 2, dropout=0.5)
    x = torch.randn(7, 3, 5)

    def outputs(seed):
        torch.manual_seed(seed)
        return module(x)[0]

    assert torch.equal(outputs(1), outputs(1))
    assert not torch.equal(outputs(1), outputs(2))
    with torch.no_grad():  # as torch: training mode drops without gradients too
        assert torch.equal(outputs(1), module(x)[0]) is False
        assert torch.equal(outputs(1), outputs(1))
    module.eval()
    assert torch.equal(outputs(1), outputs(2))
    module.train()
    module.dropout = 0.0  # changeable later
    assert torch.equal(outputs(1), outputs(2))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_so_many(torch, p):
    """The second layer of an RNN that copies its input shows the first one's output as it was dropped."""
    import rnnfast.torch

    H = 64
    module = rnnfast.torch.RNN(H, H, 2, nonlinearity="relu", dropout=p, bias=False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.weight_ih_l0.copy_(torch.eye(H))
        module.weight_ih_l1.copy_(torch.eye(H))
    x = torch.ones(50, 20, H, requires_grad=True)
    y = module(x)[0]
    assert set(y.detach().unique().tolist()) <= {0.0, float(np.float32(1 / (1 - p)))}
    n = y.numel()
    assert abs((y == 0).sum().item() / n - p) < 5 * (p * (1 - p) / n) ** 0.5
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # the same mask backward


def test_what_torch_computes_is_told_once(torch):
    import rnnfast.torch

    x = torch.randn(3, 2, 5)
    cases = {
        "proj_size": (rnnfast.torch.LSTM(5, 4, proj_size=2), x),
        "parameters are float16": (rnnfast.torch.GRU(5, 4).half(), x.half()),
        "parameters are bfloat16": (rnnfast.torch.LSTMCell(5, 4).bfloat16(), x[0].bfloat16()),
        "dropout is 1": (rnnfast.torch.RNN(5, 4, 2, dropout=1.0), x),
    }
    for reason, (module, given) in cases.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(3):
                module(given)
        told = [w for w in told if "rnnfast" in str(w.message)]
        assert len(told) == 1 and reason in str(told[0].message), reason
        assert told[0].category is RuntimeWarning
        assert told[0].filename == __file__
    theirs = torch.nn.LSTM(5, 4, proj_size=2)
    ours = cases["proj_size"][0]
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x)[0], theirs(x)[0])


def test_sparse_input_is_torchs(torch):
    import rnnfast.torch

    ours, theirs = rnnfast.torch.LSTMCell(5, 4), torch.nn.LSTMCell(5, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.eye(5)[:3].to_sparse()
    try:
        expected = theirs(x)
    except Exception as error:
        with pytest.raises(type(error)):
            ours(x)
    else:
        with pytest.warns(RuntimeWarning, match="layout sparse_coo"):
            got = ours(x)
        assert torch.equal(got[0], expected[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_meta_gives_the_fake_result(torch, kind):
    import rnnfast.torch

    made = {}
    for library in (rnnfast.torch, torch.nn):
        module = getattr(library, kind)(5, 4, device="meta")
        x = torch.zeros(*((3, 5) if "Cell" in kind else (2, 3, 5)), device="meta")
        result = module(x)
        flat = torch.utils._pytree.tree_leaves(result)
        made[library] = [(t.device, t.shape, t.dtype) for t in flat]
    assert made[rnnfast.torch] == made[torch.nn]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_autocast_has_torchs_dtypes_and_computes_in_bf16(torch, kind, dtype):
    import rnnfast.torch

    ours, theirs = getattr(rnnfast.torch, kind)(33, 17), getattr(torch.nn, kind)(33, 17)
    exact = getattr(rnnfast.torch, kind)(33, 17, compute_dtype="bfloat16")
    theirs.load_state_dict(ours.state_dict())
    exact.load_state_dict(ours.state_dict())
    x = torch.randn(*((5, 33) if "Cell" in kind else (4, 5, 33))).to(getattr(torch, dtype))
    flat = torch.utils._pytree.tree_leaves
    with torch.autocast("cpu", torch.bfloat16):
        mine = flat(ours(x))
        if kind == "LSTM" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # torch's raises without AVX-512
            assert [t.dtype for t in mine] == [torch.bfloat16] * 3
        else:
            assert [t.dtype for t in mine] == [t.dtype for t in flat(theirs(x))]
        sum(t.float().sum() for t in mine).backward()
    for a, b in zip(mine, flat(exact(x.float())), strict=True):
        assert torch.equal(a, b.to(a.dtype))
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())
    tokens = torch.tensor([[3, 32, 0]])[0 if "Cell" in kind else slice(None)]
    with torch.autocast("cpu", torch.bfloat16):
        assert flat(ours(tokens))[0].dtype is (mine[0].dtype if dtype == "float32" else flat(ours(x.float()))[0].dtype)
    if kind != "LSTM":  # which torch cannot do either
        with torch.autocast("cpu", torch.float16), pytest.warns(RuntimeWarning, match="autocast is to float16"):
            ours(x.float())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_torchs(torch, threads):
    """The number is torch's; the bits are the same for any."""
    import rnnfast.torch

    module, x = rnnfast.torch.LSTM(64, 64), torch.randn(20, 32, 64)
    expected = module(x)[0]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(module(x)[0], expected)
    finally:
        torch.set_num_threads(before)


def test_import_of_rnnfast_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, rnnfast; assert not [m for m in sys.modules if m.split('.')[0] == 'torch']"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert rnnfast.LSTM is not None
