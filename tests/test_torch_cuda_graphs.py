"""rnnfast.torch on the GPU's kernels under torch.compile, its operators, and tensors on devices that differ. Tensors on
a GPU that is not there are torch's fake ones."""

from __future__ import annotations

import numpy as np
import pytest

from emulated import needs_device

pytestmark = needs_device


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_compiles_as_one_graph(torch, torch_device, device_calls, kind, backend):
    import rnnfast.torch

    torch.compiler.reset()
    module, x = (
        getattr(rnnfast.torch, kind)(3, 4, 2, bidirectional=True, device=torch_device),
        torch.randn(5, 2, 3, device=torch_device),
    )
    found = []
    for call in (module, torch.compile(module, fullgraph=True, backend=backend)):
        leaf = x.clone().requires_grad_()
        module.zero_grad()
        call(leaf)[0].square().sum().backward()
        found.append([leaf.grad, *(p.grad.clone() for p in module.parameters())])
    for compiled, eager in zip(*found, strict=True):
        assert np.array_equal(compiled.cpu(), eager.cpu())
    assert device_calls == ["forward", "backward"] * 2


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_what_is_left_to_torch_is_one_graph_too(torch, torch_device, device_calls, kind):
    import rnnfast.torch

    torch.compiler.reset()
    options = {"dtype": torch.float64, "device": torch_device}
    ours, theirs = (getattr(library, kind)(3, 4, **options) for library in (rnnfast.torch, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*(5, 2, 3)["Cell" in kind :], **options)
    with pytest.warns(RuntimeWarning, match="runs on torch.nn's own code: .* no GPU kernels"):
        found = torch.compile(ours, fullgraph=True, backend="aot_eager")(x)[0]
    torch.testing.assert_close(found, theirs(x)[0])
    assert not device_calls


def fake_module(torch, kind, *sizes):
    """With parameters on a GPU that need not be there."""
    import rnnfast.torch

    module = getattr(rnnfast.torch, kind)(*sizes, device="meta")
    for name, parameter in list(module.named_parameters()):
        setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape, device="cuda")))
    return module


def test_graphs_are_of_the_tensors_device(torch, device_calls):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        module = fake_module(torch, "LSTM", 3, 4)
        net, weights = module._network(torch.float32), list(module.parameters())
        x, lengths = torch.empty(5, 2, 3, device="cuda"), torch.empty(2, dtype=torch.int32)
        made = torch.ops.rnnfast.forward(x, [], weights, lengths, None, None, *net, True)
        shapes = [("cuda", (5, 2, 4)), ("cuda", (1, 2, 4)), ("cuda", (1, 2, 4)), ("cpu", (1,))]
        assert [(t.device.type, tuple(t.shape)) for t in made] == shapes
        dy, *dstate, cache = made
        found = torch.ops.rnnfast.backward(
            dy, dstate, x, [], weights, cache, lengths, None, None, *net, True, False, True
        )
        assert all(d.is_cuda and d.shape == of.shape for d, of in zip(found, (x, *weights), strict=True))
    assert not device_calls


def test_tensors_on_different_devices_are_torchs_error(torch, device_calls, monkeypatch):
    from torch._subclasses import FakeTensorMode

    from rnnfast.torch import _gpu

    monkeypatch.setattr(_gpu, "problem", lambda *_: None)
    with FakeTensorMode():
        module = fake_module(torch, "GRU", 3, 4)
        x, h = torch.empty(5, 2, 3, device="cuda"), torch.empty(1, 2, 4, device="cuda")
        for given in ((x.cpu(), h), (x, h.cpu())):
            with pytest.raises(RuntimeError, match="same device"):
                module(*given)


def test_the_operator_looks_at_what_it_gets(torch, torch_device):
    import rnnfast.torch

    lstm, x = rnnfast.torch.LSTM(5, 4, device=torch_device), torch.zeros(4, 3, 5, device=torch_device)
    net, weights = lstm._network(torch.float32), list(lstm.parameters())
    forward, backward = torch.ops.rnnfast.forward, torch.ops.rnnfast.backward
    given, short = (None, None, None), torch.zeros(3, device=torch_device)
    for bad in (x[..., :4], x.double(), x[0]):
        with pytest.raises(ValueError, match="are not what Network"):
            forward(bad, [], weights, *given, *net, True)
    for bad in ([x], [x, x], weights[:2]):
        with pytest.raises(ValueError, match="are not what Network"):
            forward(x, bad, weights, *given, *net, True)
    for bad in (weights[:3], [*weights[:3], short]):
        with pytest.raises(ValueError, match="are not what Network"):
            forward(x, [], bad, *given, *net, True)
    y, h, c, cache = forward(x, [], weights, *given, *net, True)
    with pytest.raises(ValueError, match="gradients of what Network"):
        backward(short, [h, c], x, [], weights, cache, *given, *net, True, False, True)
    # Of a cache that is of another x nothing is read.
    found = backward(y[:2], [h, c], x[:2], [], weights, cache, *given, *net, True, False, True)
    right = forward(x[:2], [], weights, *given, *net, True)[-1]
    expected = backward(y[:2], [h, c], x[:2], [], weights, right, *given, *net, True, False, True)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.detach().cpu(), b.detach().cpu())
