"""rnnfast.torch on the GPU's kernels, against torch.nn in float64 and bit for bit against the layers for NumPy, whose
judge is the oracle (test_cuda*.py). In a build for real GPUs the tensors are there; where the device is emulated they
are of the CPU, and let pass for those of a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from cases import CELLS, Case, build, make_layer
from emulated import needs_device
from test_torch_beyond import OPTIONS, module_of
from torch_cases import assert_same, layer_cases, modules, run

pytestmark = [needs_device, pytest.mark.filterwarnings("error::RuntimeWarning")]

ALL = [case for case in layer_cases() if case.dtype == "float32"]


def layer(device, kind, *sizes, **options):
    import rnnfast.torch

    return getattr(rnnfast.torch, kind)(*sizes, device=device, **options)


def same(a, b):
    return all(np.array_equal(p.detach().cpu(), q.detach().cpu()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("case", ALL[::5], ids=str)
def test_equals_torch(torch, torch_device, device_calls, case):
    ours, theirs = modules(torch, case)
    double = theirs.double()
    exact = run(torch, case, double, "float64")
    theirs = modules(torch, case)[1]
    assert_same(run(torch, case, ours.to(torch_device)), run(torch, case, theirs), exact)
    assert device_calls == ["forward", "backward"]


@pytest.mark.parametrize("compute", [None, "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_has_the_bits_of_the_layer_for_numpy(torch, torch_device, device_calls, cell, options, compute):
    """Outputs, states and all gradients, NaN in the padding."""
    batch_first = cell in ("lstm", "rnn_relu")
    problem = build(Case(cell, 5, 3, 7, 17, layers=2, bidirectional=True, **options))
    numpy = make_layer(problem, compute or "float32", batch_first=batch_first, device="cuda")
    turn = (lambda a: np.ascontiguousarray(a.swapaxes(0, 1))) if batch_first else (lambda a: a)
    single = lambda a: a.astype(np.float32)  # noqa: E731
    x = turn(problem.x) if options.get("tokens") else turn(single(problem.x))
    dy, reset = turn(single(problem.dy)), None if problem.reset is None else turn(problem.reset)
    state, dstate = tuple(map(single, problem.state)), tuple(map(single, problem.dstate))
    plain = (lambda s: s) if len(state) > 1 else (lambda s: s[0])
    y, last, cache = numpy.forward(x, plain(state), lengths=problem.lengths, reset=reset)
    dx, dstate0 = numpy.backward(dy, plain(dstate), cache)
    expected = [y, *(last if len(state) > 1 else (last,)), *(dstate0 if len(state) > 1 else (dstate0,))]
    expected += [*([] if dx is None else [dx]), *(np.asarray(g) for g in numpy.grads.values())]
    device_calls.clear()

    module = module_of(torch, problem, batch_first=batch_first, compute_dtype=compute).to(torch_device)
    tx = torch.tensor(x, device=torch_device)
    starts = [torch.tensor(s, device=torch_device, requires_grad=True) for s in state]
    if dx is not None:
        tx.requires_grad_()
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths)
    ty, tlast = module(tx, plain(starts), lengths=lengths, reset=None if reset is None else torch.tensor(reset))
    ends = list(tlast) if len(state) > 1 else [tlast]
    torch.autograd.backward([ty, *ends], [torch.tensor(d, device=torch_device) for d in (dy, *dstate)])
    got = [ty, *ends, *(s.grad for s in starts), *([] if dx is None else [tx.grad])]
    got += [p.grad for p in module.parameters()]
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine.detach().cpu().numpy(), theirs)
    assert device_calls == ["forward", "backward"]


@pytest.mark.parametrize("compute", [None, "bfloat16"])
@pytest.mark.parametrize("lengths", [(5, 3, 3, 1), (4, 4, 4, 4)], ids=str)
def test_packed_rows_are_those_of_lengths(torch, torch_device, lengths, compute):
    module = layer(torch_device, "GRU", 3, 5, 2, bidirectional=True, compute_dtype=compute)
    x = torch.randn(5, 4, 3, device=torch_device)
    found = []
    for packed in (False, True):
        leaf, given = x.clone().requires_grad_(), {"lengths": lengths}
        rows = leaf
        if packed:
            rows, given = torch.nn.utils.rnn.pack_padded_sequence(leaf, torch.tensor(lengths)), {}
        y, last = module(rows, **given)
        if packed:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=5)
        module.zero_grad()
        (y.square().sum() + last.sum()).backward()
        found.append([y, last, leaf.grad, *(p.grad.clone() for p in module.parameters())])
    assert same(*found)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("packed", [False, True])
def test_double_backward(torch, torch_device, device_calls, kind, packed):
    """A gradient penalty, whose own gradients are torch.nn's in float64; the masks of dropout are those of forward."""
    ours = layer(torch_device, kind, 2, 3, 2, bidirectional=True)
    theirs = getattr(torch.nn, kind)(2, 3, 2, bidirectional=True).double()
    theirs.load_state_dict({name: value.cpu().double() for name, value in ours.state_dict().items()})
    x, found = torch.randn(4, 3, 2), []
    for module, where, dtype in ((ours, torch_device, torch.float32), (theirs, "cpu", torch.float64)):
        leaf = x.clone().to(where, dtype).requires_grad_()
        rows = torch.nn.utils.rnn.pack_padded_sequence(leaf, torch.tensor([4, 2, 1])) if packed else leaf
        y = module(rows)[0]
        (first,) = torch.autograd.grad((y.data if packed else y).square().sum(), leaf, create_graph=True)
        first.square().sum().backward()
        found.append([first, leaf.grad, *(p.grad for p in module.parameters())])
    assert device_calls == ["forward", "backward", "backward"]
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine.detach().cpu().double(), exact.detach(), rtol=1e-4, atol=1e-5)


def test_dropout_has_the_masks_of_its_seed_twice_differentiated_too(torch, torch_device):
    from rnnfast.torch import _plain
    from rnnfast.torch._network import Call, Given

    module, x = layer(torch_device, "GRU", 3, 5, 3, dropout=0.5), torch.randn(4, 2, 3, device=torch_device)
    torch.manual_seed(7)
    y, last = module(x)
    torch.manual_seed(7)
    seed = torch.randint(2**63 - 1, (), device="cpu")
    net = module._network(torch.float32, dropout=0.5)
    expected = _plain.forward(Call(net, Given(seed=seed), x, (), tuple(module.parameters())))
    for mine, theirs in zip((y, last), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.manual_seed(7)
    with torch.no_grad():  # as torch: in training without gradients too
        assert same([module(x)[0]], [y])
    module.eval()
    assert same([module(x)[0]], [module(x)[0]]) and not same([module(x)[0]], [y])
