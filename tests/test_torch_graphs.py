"""rnnfast.torch under torch.compile and torch.export, and its operators."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest


@pytest.fixture(autouse=True)
def _fresh(torch):
    torch.compiler.reset()
    torch.manual_seed(1)


def model_of(torch, kind, **options):
    import rnnfast.torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(rnnfast.torch, kind)(5, 7, 2, **options)
            self.out = torch.nn.Linear(14 if options.get("bidirectional") else 7, 3)

        def forward(self, x, state=None):
            y, state = self.rnn(torch.tanh(x), state)
            return self.out(y), state

    return Model()


def all_of(torch, model, call, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    y, state = call(x)
    leaves = torch.utils._pytree.tree_leaves(state)
    (y.square().sum() + sum(s.sum() for s in leaves)).backward()
    return [y.detach(), *(s.detach() for s in leaves), x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_compiles_as_one_graph_forward_and_backward(torch, kind):
    model = model_of(torch, kind, bidirectional=kind == "LSTM", batch_first=kind == "GRU")
    compiled, x = torch.compile(model, fullgraph=True, backend="inductor"), torch.randn(4, 3, 5)
    for a, b in zip(all_of(torch, model, model, x), all_of(torch, model, compiled, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    explained = torch._dynamo.explain(model)(x)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], model(x)[0])


def test_compiled_with_other_sizes_states_and_twice_backward(torch):
    model = model_of(torch, "LSTM")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, batch in ((4, 3), (5, 2), (9, 6)):
        x, state = torch.randn(steps, batch, 5), (torch.randn(2, batch, 7), torch.randn(2, batch, 7))
        torch.testing.assert_close(compiled(x, state)[0], model(x, state)[0])
    torch.compiler.reset()
    with torch._functorch.config.patch(donated_buffer=False):  # without which torch refuses retain_graph
        loss = compiled(x)[0].square().sum()
        found = []
        for retain in (True, False):
            model.zero_grad()
            loss.backward(retain_graph=retain)
            found.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_compiled_dropout_and_cells(torch):
    import rnnfast.torch

    rnn = rnnfast.torch.RNN(16, 16, 2, dropout=0.5, bias=False, nonlinearity="relu")
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.copy_(torch.eye(16) if parameter is rnn.weight_ih_l0 or parameter is rnn.weight_ih_l1 else 0)
    compiled, x = torch.compile(rnn, fullgraph=True, backend="inductor"), torch.ones(9, 8, 16, requires_grad=True)
    one, two = compiled(x)[0], compiled(x)[0]
    assert set(one.detach().unique().tolist()) == {0.0, 2.0} and not torch.equal(one, two)
    (grad,) = torch.autograd.grad(one.sum(), x)
    assert torch.equal(grad, one.detach())  # the same masks backward

    cell = rnnfast.torch.LSTMCell(5, 7)
    step = torch.compile(lambda x, h, c: cell(x, (h, c)), fullgraph=True, backend="inductor")
    x, h, c = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    for a, b in zip(step(x, h, c), cell(x, (h, c)), strict=True):
        torch.testing.assert_close(a, b)
    step(x, h, c)[0].sum().backward()
    assert cell.weight_hh.grad is not None


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_exports_and_loads(torch, kind, strict):
    model, x = model_of(torch, kind).eval(), torch.randn(4, 3, 5)
    program = torch.export.export(model, (x,), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(x)[0], model(x)[0], rtol=0, atol=0)
    (node,) = [n for n in program.graph.nodes if "rnnfast.forward" in str(n.target)]
    assert node.args[-1] is False  # nothing is kept for a backward pass, which a program may still have
    again, trained = model_of(torch, kind), torch.export.load(io.BytesIO(file.getvalue())).module()
    again.load_state_dict(model.state_dict())
    for module in (again.eval(), trained):
        module(x)[0].square().sum().backward()
    for (_, a), (_, b) in zip(again.named_parameters(), trained.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_operators_pass_torchs_own_checks(torch, kind):
    import rnnfast.torch
    from rnnfast.torch._network import Given, Network

    module = getattr(rnnfast.torch, kind)(5, 7, dtype=torch.float64)
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    net = Network(kind.lower(), 5, 7, 1, 1, True, "sequences", 0.0, "float64")
    lengths = torch.tensor([4, 2, 0], dtype=torch.int32)
    for given in (Given(), Given(lengths), Given(lengths, torch.zeros(4, 3, dtype=torch.bool))):
        arguments = (x, [], list(module.parameters()), *given, *net, True)
        torch.library.opcheck(torch.ops.rnnfast.forward.default, arguments)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "GRUCell", "tokens"])
def test_double_backward_through_the_operators(torch, kind):
    """A gradient penalty in a graph and under a mode that sees operators alone, against that of eager calls."""
    from torch.utils._python_dispatch import TorchDispatchMode

    import rnnfast.torch

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    if kind == "GRUCell":
        module, x, options = rnnfast.torch.GRUCell(3, 4, dtype=torch.float64), torch.randn(2, 3), {}
    else:
        name = "LSTM" if kind == "tokens" else kind
        module = getattr(rnnfast.torch, name)(3, 4, 2, bidirectional=True, dropout=0.5, dtype=torch.float64)
        x = torch.tensor([[0, 1], [2, 2], [1, 0]]) if kind == "tokens" else torch.randn(3, 2, 3)
        options = {"lengths": torch.tensor([3, 2])}
    if kind != "tokens":
        x = x.double().requires_grad_()

    def penalty(call):
        torch.manual_seed(3)  # of dropout
        y = torch.utils._pytree.tree_leaves(call(x, **options))[0]
        sources = [t for t in (x, *module.parameters()) if t.requires_grad]
        first = torch.autograd.grad(y.square().sum(), sources, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), sources)

    expected = penalty(module)
    with Mode():
        under_mode = penalty(module)
    for found in (under_mode, penalty(torch.compile(module, fullgraph=True, backend="eager"))):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_compiled_before_anything_was_imported_by_torch(torch):
    """In a fresh process, where torch._dynamo is imported after rnnfast.torch; which must not import it."""
    code = """
import sys, torch, rnnfast.torch
assert "torch._dynamo" not in sys.modules
model = torch.compile(rnnfast.torch.GRU(3, 4), fullgraph=True, backend="eager")
def shape():
    print(tuple(model(torch.zeros(2, 1, 3))[0].shape))
if "thread" in sys.argv:  # torch's settings are a thread's own
    import threading, torch._dynamo
    shape = threading.Thread(target=shape)
    shape.start(), shape.join()
else:
    shape()
"""
    for where in ("main", "thread"):
        done = subprocess.run([sys.executable, "-c", code, where], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "(2, 1, 4)", done.stderr
