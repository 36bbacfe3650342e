"""What only a real GPU can show: torch's and CuPy's arrays in and out, their streams and allocators, and torch's cuDNN
as the judge. Run by scripts/gpu.sh; pytest does not collect it by itself."""

from __future__ import annotations

import cupy
import numpy as np
import pytest
import torch

import rnnfast
from rnnfast import cuda


@pytest.mark.parametrize("kind", ["automatic", "small", "persistent", "step"])
@pytest.mark.parametrize("hidden", [33, 64, 250])
def test_torch_arrays_and_its_lstm(kind, hidden):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    peer = torch.nn.LSTM(7, hidden, 2, bidirectional=True).cuda()
    layer = rnnfast.LSTM(7, hidden, 2, bidirectional=True, device="cuda")
    layer.load_state_dict({name: value.detach().cpu().numpy() for name, value in peer.named_parameters()})
    x = torch.randn(6, 5, 7, device="cuda", requires_grad=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), cuda.recurrence(kind):
        y, (h, c), cache = layer.forward(x)
        dx, (dh, dc) = layer.backward(torch.ones_like(y), (torch.ones_like(h), torch.ones_like(c)), cache)
        assert all(t.is_cuda and t.dtype == torch.float32 for t in (y, h, c, dx, dh, dc))
    stream.synchronize()
    y_peer, (h_peer, c_peer) = peer(x)
    (y_peer.sum() + h_peer.sum() + c_peer.sum()).backward()
    for got, want in ((y, y_peer), (h, h_peer), (c, c_peer), (dx, x.grad)):
        assert torch.allclose(got, want, atol=2e-5, rtol=1e-4)
    for name, value in peer.named_parameters():
        assert torch.allclose(torch.from_dlpack(layer.grads[name]), value.grad, atol=2e-4, rtol=1e-4), name


def test_torch_tokens_strides_and_doubles():
    layer = rnnfast.GRU(9, 12, device="cuda", seed=1)
    tokens = torch.randint(0, 9, (5, 3), device="cuda")
    y, _ = layer(tokens)
    one_hot = torch.nn.functional.one_hot(tokens, 9)
    assert y.is_cuda and torch.allclose(y, layer(one_hot.double())[0], atol=1e-6)
    turned = one_hot.float().transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(layer(turned)[0], layer(one_hot.float())[0])


def test_cupy_arrays():
    layer = rnnfast.GRU(4, 12, device="cuda", seed=1)
    x = cupy.random.standard_normal((5, 3, 4), dtype=cupy.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.synchronize()
        y, h, cache = layer.forward(x)
        dx, _ = layer.backward(cupy.ones_like(y), None, cache)
        assert isinstance(y, cupy.ndarray) and isinstance(dx, cupy.ndarray)
        stream.synchronize()
    host = rnnfast.GRU(4, 12, seed=1)
    assert np.allclose(y.get(), host(x.get())[0], atol=1e-5)
    assert np.allclose(cupy.from_dlpack(layer.grads["bias_ih_l0"]).get(), layer.grads["bias_ih_l0"])


def test_a_call_does_not_wait_for_the_device():
    layer = rnnfast.LSTM(64, 64, device="cuda")
    x = torch.randn(50, 8, 64, device="cuda")
    layer.forward(x)
    torch.cuda.synchronize()
    torch.cuda._sleep(int(2e9))  # about a second
    done = torch.cuda.Event()
    y, _, cache = layer.forward(x)
    layer.backward(torch.ones_like(y), None, cache)
    done.record()
    assert not done.query(), "the calls came back before what was ahead of them in the stream had run"


def test_two_hundred_thousand_steps():
    layer = rnnfast.RNN(1, 8, device="cuda", seed=2)
    x = torch.randn(200_000, 2, 1, device="cuda")
    y, h, cache = layer.forward(x)
    dx, _ = layer.backward(torch.ones_like(y), None, cache)
    host = rnnfast.RNN(1, 8, seed=2)
    y_host, _, host_cache = host.forward(x.cpu().numpy())
    dx_host, _ = host.backward(np.ones_like(y_host), None, host_cache)
    assert np.allclose(y.cpu(), y_host, atol=1e-4) and np.allclose(dx.cpu(), dx_host, atol=1e-3)
