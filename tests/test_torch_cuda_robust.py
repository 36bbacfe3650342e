"""What else is true of rnnfast.torch on the GPU's kernels: graphs kept, freed and recomputed, frozen weights, errors,
and what is left to torch, saying so."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from emulated import needs_device
from rnnfast import cuda
from torch_cases import assert_one_pass_keeps_and_another_consumes

pytestmark = [needs_device, pytest.mark.filterwarnings("error::RuntimeWarning")]


def layer(device, kind, *sizes, **options):
    import rnnfast.torch

    return getattr(rnnfast.torch, kind)(*sizes, device=device, **options)


def same(a, b):
    return all(np.array_equal(p.detach().cpu(), q.detach().cpu()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_backward_twice_gives_the_same_bits(torch, torch_device, device_calls, kind):
    module = layer(torch_device, kind, 3, 7, 2, dropout=0.25)
    x = torch.randn(5, 3, 3, device=torch_device, requires_grad=True)
    loss, found = module(x)[0].square().sum(), []
    for keep in (True, False):
        x.grad = None
        module.zero_grad()
        loss.backward(retain_graph=keep)
        found.append([x.grad, *(p.grad.clone() for p in module.parameters())])
    assert same(*found) and device_calls == ["forward", "backward", "backward"]
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        loss.backward()


def test_one_pass_keeps_the_graph_and_another_consumes_it(torch, torch_device):
    module, x = layer(torch_device, "LSTM", 4, 9), torch.randn(6, 3, 4, device=torch_device)
    assert_one_pass_keeps_and_another_consumes(torch, module, x, 5)


def test_only_what_is_wanted_has_gradients(torch, torch_device):
    module = layer(torch_device, "LSTM", 3, 4)
    module.requires_grad_(False)
    x, h, c = (torch.randn(s, device=torch_device) for s in ((5, 2, 3), (1, 2, 4), (1, 2, 4)))
    y = module(x.requires_grad_(), (h, c.requires_grad_()))[0]
    y.sum().backward()
    assert x.grad is not None and c.grad is not None and h.grad is None
    assert all(p.grad is None for p in module.parameters())
    module.weight_hh_l0.requires_grad_(True)
    _, (last, _) = module(x.detach())
    last.sum().backward()  # of the state alone
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["weight_hh_l0"]
    with torch.no_grad():
        assert not module(x)[0].requires_grad


def test_parameters_that_were_changed_before_backward_are_an_error_as_in_torch(torch, torch_device):
    module = layer(torch_device, "LSTM", 3, 4)
    loss = module(torch.randn(2, 2, 3, device=torch_device))[0].sum()
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_checkpointing_and_offloading_give_the_same_bits_and_the_cache_is_freed(torch, torch_device):
    from torch.utils.checkpoint import checkpoint

    module = layer(torch_device, "GRU", 3, 4, 2, dropout=0.5)
    x = torch.randn(5, 2, 3, device=torch_device, requires_grad=True)

    def offloaded(x):
        with torch.autograd.graph.save_on_cpu():
            return module(x)[0]

    ways = (
        lambda x: module(x)[0],
        offloaded,
        lambda x: checkpoint(lambda x: module(x)[0], x, use_reentrant=False),
        lambda x: checkpoint(lambda x: module(x)[0], x, use_reentrant=True),
    )
    found = []
    for way in ways:
        torch.manual_seed(5)
        loss = way(x).square().sum()
        found.append(torch.autograd.grad(loss, (x, *module.parameters())) if way is not ways[-1] else None)
        if found[-1] is None:  # which only .backward() can do
            loss.backward()
            found[-1] = [x.grad, *(p.grad for p in module.parameters())]
    assert all(same(one, found[0]) for one in found)

    from rnnfast.torch import _gpu

    gc.collect()
    before, y = len(_gpu._places), module(x)[0]
    assert len(_gpu._places) == before + 1
    owner = weakref.ref(next(iter(_gpu._places.values())).kept.cache)
    y.sum().backward()
    assert owner() is None  # though y is still there
    del y
    gc.collect()
    assert len(_gpu._places) == before


def test_frozen_weights_are_those_of_their_moment(torch, torch_device):
    import rnnfast.torch

    module, x = layer(torch_device, "LSTM", 3, 4, 2).eval(), torch.randn(5, 2, 3, device=torch_device)
    expected = module(x)[0].detach()
    rnnfast.torch.freeze(module)
    with pytest.raises(RuntimeError, match="this LSTM is frozen"):
        module(x)
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
        assert same([module(x)[0]], [expected])
    module.requires_grad_(False)
    assert not same([module(x.clone().requires_grad_())[0]], [expected])  # of the weights as they are
    with torch.no_grad():
        module.load_state_dict(module.state_dict())  # seen
        assert not same([module(x)[0]], [expected])
        later = module(x)[0]
        rnnfast.torch.unfreeze(module)
        assert same([module(x)[0]], [later])


def test_torch_func(torch, torch_device):
    """functional_call, grad, and vmap over inputs."""
    module = layer(torch_device, "GRU", 3, 4, 2)
    parameters, x = dict(module.named_parameters()), torch.randn(3, 5, 2, 3, device=torch_device)

    def loss(parameters, x):
        return torch.func.functional_call(module, parameters, (x,))[0].square().sum()

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        module.zero_grad()
        loss(parameters, x[i]).backward()
        for name, p in parameters.items():
            torch.testing.assert_close(each[name][i], p.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.vmap(module)(x)[0], torch.stack([module(one)[0] for one in x]))
    jacobians = [torch.autograd.functional.jacobian(lambda x: module(x)[1], x[0], vectorize=v) for v in (False, True)]
    torch.testing.assert_close(*jacobians, rtol=1e-5, atol=1e-6)


def test_errors_of_what_torch_has_not(torch, torch_device):
    lstm, x = layer(torch_device, "LSTM", 5, 4), torch.zeros(4, 3, 5, device=torch_device)
    for options, kind, message in (
        ({"lengths": [1, 2]}, ValueError, r"lengths must have shape \(3,\), got \(2,\)"),
        ({"lengths": [1, 2, 9]}, ValueError, "lengths must be in 0 .. 4, got 9"),
        ({"lengths": [1, 2**32 + 1, 3]}, ValueError, "lengths must be in 0 .. 4, got 2147483647"),
        ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths must be integers, got dtype torch.float32"),
        ({"lengths": torch.zeros(3, device="meta")}, ValueError, "lengths must be a dense tensor on the device"),
        ({"reset": [[True]]}, ValueError, r"reset must have shape \(4, 3\), got \(1, 1\)"),
    ):
        with pytest.raises(kind, match=message):
            lstm(x, **options)
    with pytest.raises(ValueError, match=r"tokens in 0 .. 4, got 5"):
        lstm(torch.tensor([[0, 5]], device=torch_device))
    wrong = torch.nn.utils.rnn.PackedSequence(x[0], torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="must not increase"):
        lstm(wrong)


LEFT_TO_TORCH = {
    "float64": ({"dtype": "float64"}, "there are no GPU kernels for float64"),
    "proj_size": ({"proj_size": 2}, "proj_size has no kernels yet"),
    "LSTMCell": ({}, "a cell has no GPU kernels"),
}


@pytest.mark.parametrize("name", LEFT_TO_TORCH)
def test_what_has_no_kernels_is_torchs_with_one_warning(torch, torch_device, device_calls, name):
    options, reason = LEFT_TO_TORCH[name]
    dtype = getattr(torch, options.get("dtype", "float32"))
    kind = "LSTMCell" if name == "LSTMCell" else "LSTM"
    ours = layer(torch_device, kind, 5, 4, **{**options, "dtype": dtype})
    theirs = getattr(torch.nn, kind)(5, 4, device=torch_device, **{**options, "dtype": dtype})
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*((3, 5) if "Cell" in kind else (2, 3, 5)), dtype=dtype, device=torch_device)
    with pytest.warns(RuntimeWarning, match=f"runs on torch.nn's own code: {reason}") as told:
        first = ours(x)
    told = [warning.filename for warning in told if warning.category is RuntimeWarning]
    assert told == [__file__]
    for mine in (first, ours(x)):  # no other warning
        assert same([mine[0]], [theirs(x)[0]])
    if name == "float64":
        with pytest.raises(NotImplementedError, match=f"need rnnfast's kernels, which cannot be used: {reason}"):
            ours(x, lengths=[1, 2, 2])
    assert not device_calls


def test_without_the_module_without_a_gpu_and_under_autocast(torch, torch_device, device_calls, monkeypatch):
    x = torch.randn(2, 3, 5, device=torch_device)
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "_cuda", None)
        with pytest.warns(RuntimeWarning, match="own code: this build of rnnfast has no GPU kernels"):
            layer(torch_device, "GRU", 5, 4)(x)
    with monkeypatch.context() as patch:
        patch.setattr(cuda._cuda, "device_count", lambda: 0)
        with pytest.warns(RuntimeWarning, match="own code: there is no CUDA device"):
            layer(torch_device, "GRU", 5, 4)(x)
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with pytest.warns(RuntimeWarning, match="own code: autocast is on"):
            layer(torch_device, "GRU", 5, 4)(x)
    finally:
        torch.set_autocast_enabled("cuda", before)
    assert not device_calls


def test_an_emulated_gpu_takes_no_tensors_of_a_real_one(torch):
    from rnnfast.torch import _gpu

    if cuda._cuda.emulated:
        assert _gpu.problem("float32", "sequences", True) == "this build of rnnfast has an emulated GPU, for tests"
    assert _gpu.problem("float32", "sequences", cuda._cuda.emulated is False) is None


def test_torchs_tensors_as_kernels_read_them(torch):
    """Sixteen bytes apart, whatever they are views of; numbers that are kept negated or not at all are made."""
    kind = object.__new__(cuda._Torch)
    kind._torch, kind._device = torch, torch.device("cpu")
    flat = torch.randn(13)
    for value in (flat[1:], flat[::2], torch._neg_view(flat), torch._efficientzerotensor((3,)), flat[:0], flat):
        made = kind._contiguous(value)
        assert made.data_ptr() % 16 == 0 and made.is_contiguous() and not made.is_neg()
        assert torch.equal(made + 0, value + torch.zeros(()))
    assert made.data_ptr() == flat.data_ptr()


@pytest.mark.gpu
def test_on_a_gpu_calls_do_not_wait_and_have_torchs_stream_and_memory(torch, torch_device):
    for compute in (None, "bfloat16"):
        lstm = layer(torch_device, "LSTM", 64, 64, 2, compute_dtype=compute)
        x = torch.randn(50, 8, 64, device=torch_device, requires_grad=True)
        expected = torch.autograd.grad(lstm(x)[0].square().sum(), (x, *lstm.parameters()))
        torch.cuda.synchronize()
        stream, done = torch.cuda.Stream(), torch.cuda.Event()
        for cycles in (1, int(2e9)):  # at first a stream gets its cuBLAS; about a second
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(cycles)
                before = torch.cuda.memory_allocated()
                y = lstm(x)[0]
                assert torch.cuda.memory_allocated() > before + 4 * 50 * 8 * 64 * 6
                found = torch.autograd.grad(y.square().sum(), (x, *lstm.parameters()))
                done.record()
        assert not done.query(), "the calls came back before what was ahead of them in the stream had run"
        stream.synchronize()
        assert same(found, expected)
