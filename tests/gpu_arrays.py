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


def test_backward_on_another_stream_and_the_default_streams_turn():
    host = rnnfast.GRU(64, 96, 2, seed=3)
    x, state = np.random.default_rng(0).standard_normal((30, 16, 64), np.float32), np.ones((2, 16, 96), np.float32)
    y, h, host_cache = host.forward(x, state)
    dx, dstate = host.backward(np.ones_like(y), h, host_cache)
    for repeat in range(5):
        layer = rnnfast.GRU(64, 96, 2, seed=3, device="cuda")
        first, second = torch.cuda.Stream(), torch.cuda.Stream()
        torch.cuda._sleep(int(5e7))  # whoever does not wait for the default stream is far ahead of it
        for param in layer.params.values():
            param[...] = param.copy()
        with torch.cuda.stream(first):
            torch.cuda._sleep(int(5e7))
            on_device = torch.tensor(x, device="cuda")
            got, h_got, cache = layer.forward(on_device, state)  # NumPy: uploaded on the default stream
        with torch.cuda.stream(second):
            got_dx, got_dstate = layer.backward(np.ones_like(y), h, cache)
            assert cache.nbytes == 0
        with torch.cuda.stream(first):  # takes what the cache gave back
            spoilt = [torch.full((1 << 18,), float("nan"), device="cuda") for _ in range(16)]
            del spoilt
        grads = {name: grad.copy() for name, grad in layer.grads.items()}
        torch.cuda.synchronize()
        for a, b in ((got, y), (h_got, h), (got_dx, dx), (got_dstate, dstate)):
            assert np.allclose(a.cpu(), b, atol=2e-5), repeat
        for name, grad in grads.items():
            assert np.allclose(grad, host.grads[name], atol=2e-3, rtol=1e-4), name


def test_tokens_on_another_stream():
    host, layer = (rnnfast.LSTM(9, 12, device=device, seed=1) for device in (None, "cuda"))
    tokens = np.random.default_rng(0).integers(0, 9, (5, 3))
    y, _, host_cache = host.forward(tokens)
    host.backward(y, None, host_cache)
    with torch.cuda.stream(torch.cuda.Stream()):
        on_device = torch.tensor(tokens, device="cuda")
        got, _, cache = layer.forward(on_device)
        dx, _ = layer.backward(got, None, cache)
    assert dx is None
    for name, grad in layer.grads.items():
        assert np.allclose(grad, host.grads[name], atol=1e-5), name
    torch.cuda.synchronize()
    assert np.allclose(got.cpu(), y, atol=1e-6)


def test_mixed_arrays_and_exchange():
    layer = rnnfast.GRU(4, 12, device="cuda", seed=1)
    x, state = np.ones((5, 3, 4), np.float32), np.ones((1, 3, 12), np.float32)
    y, h = layer(x, state)
    for other in (torch.ones((1, 3, 12), device="cuda"), cupy.ones((1, 3, 12), cupy.float32), cuda.to_device(state)):
        assert np.array_equal(layer(x, other)[0], y)
        assert np.array_equal(layer(cuda.to_device(x), other)[0], y)
    weight = layer.params["weight_hh_l0"]
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(int(1e7))
        shared, own = torch.from_dlpack(weight), torch.from_dlpack(weight.__dlpack__(copy=True))
        assert shared.data_ptr() == weight.address != own.data_ptr() and torch.equal(shared, own)
    assert cupy.from_dlpack(weight).data.ptr == weight.address
    with pytest.raises(BufferError, match="dl_device must be"):
        weight.__dlpack__(dl_device=(1, 0))


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
