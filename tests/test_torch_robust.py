"""What comes to rnnfast.torch seldom and must neither crash nor go wrong: tensors that are elsewhere, lazy or wrapped,
concurrent passes, copies of changed and frozen modules."""

from __future__ import annotations

import copy
import re

import pytest

from cases import misaligned
from torch_cases import assert_one_pass_keeps_and_another_consumes

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
pytestmark = pytest.mark.filterwarnings("ignore:.*runs on torch.nn's own code")


@pytest.fixture
def ours(torch):
    import rnnfast.torch

    torch.manual_seed(0)
    return rnnfast.torch


def pair(torch, ours, name, *args, **options):
    """A module of ours and torch's with the same weights."""
    mine, theirs = getattr(ours, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


@pytest.mark.parametrize("name", NAMES)
def test_tensors_on_meta_and_cpu_together(torch, ours, name):
    x = torch.zeros(2, 3) if name.endswith("Cell") else torch.zeros(2, 1, 3)
    on_meta = getattr(ours, name)(3, 4, device="meta")
    assert on_meta(x.to("meta")) is not None
    with pytest.raises(RuntimeError):
        on_meta(x)
    with pytest.raises(RuntimeError):
        getattr(ours, name)(3, 4)(x.to("meta"))


def test_batch_sizes_that_are_not_dense_int64(torch, ours):
    rows, packed = torch.randn(6, 3), torch.nn.utils.rnn.PackedSequence
    mine, theirs = pair(torch, ours, "GRU", 3, 4)
    expected = mine(packed(rows, torch.tensor([3, 2, 1])))[0].data
    apart = packed(rows, torch.tensor([3, 99, 2, 99, 1])[::2])  # torch's own code reads the numbers between them
    assert torch.equal(mine(apart)[0].data, expected)
    short = packed(rows, torch.tensor([3, 2, 1], dtype=torch.int32))
    with pytest.raises(RuntimeError) as error:
        theirs(short)
    with pytest.raises(RuntimeError, match=f"^{re.escape(str(error.value).splitlines()[0])}"):
        mine(short)


def test_one_pass_keeps_the_graph_and_another_consumes_it(torch, ours):
    assert_one_pass_keeps_and_another_consumes(torch, ours.LSTM(32, 128), torch.randn(100, 8, 32), 25)


@pytest.mark.parametrize("what", ["hx", "weight"])
def test_a_wrapper_subclass_anywhere_is_seen(torch, ours, what):
    from torch.testing._internal.two_tensor import TwoTensor

    gru, x, hx = ours.GRU(3, 4), torch.randn(2, 1, 3), torch.randn(1, 1, 4)
    weights = dict(gru.named_parameters())
    expected = gru(x, hx)[0]
    if what == "hx":
        hx = TwoTensor(hx, hx)
    else:
        bias = weights["bias_hh_l0"].detach()
        weights["bias_hh_l0"] = TwoTensor(bias, bias)
    found = torch.func.functional_call(gru, weights, (x, hx))[0]
    assert isinstance(found, TwoTensor) and torch.equal(found.a, expected)


def test_lazy_negations_and_zeros(torch, ours):
    for module in (ours.GRU(3, 4), ours.GRUCell(3, 4)):
        x, hx = torch.randn(2, 3), torch.randn(1, 4)
        if isinstance(module, ours.GRUCell):
            hx = hx.expand(2, 4).contiguous()
        negative, zeros = torch._neg_view, torch._efficientzerotensor

        def call(x, hx, weights=None, module=module):
            made = torch.func.functional_call(module, weights or {}, (x, hx))
            return made[0] if isinstance(made, tuple) else made

        expected = call(x, hx)
        weights = {name: -w.detach() for name, w in module.named_parameters()}
        assert torch.equal(call(negative(-x), hx), expected)
        assert torch.equal(call(x, negative(-hx)), expected)
        assert torch.equal(call(x, hx, {name: negative(w) for name, w in weights.items()}), expected)
        assert torch.equal(call(zeros(x.shape), zeros(hx.shape)), call(torch.zeros(x.shape), torch.zeros(hx.shape)))
        none = {name: zeros(w.shape) for name, w in weights.items()}
        assert torch.equal(call(x, hx, none), call(x, hx, {name: 0 * w for name, w in weights.items()}))
        dy, parameters = torch.randn(expected.shape), list(module.parameters())
        found, wanted = (torch.autograd.grad(expected, parameters, d, retain_graph=True) for d in (negative(-dy), dy))
        assert all(map(torch.equal, found, wanted))
        torch.autograd.grad(expected, parameters, zeros(dy.shape))


@pytest.mark.parametrize("batch_first", [False, True])
def test_tensors_at_odd_addresses(torch, ours, batch_first):
    """Tensors of what others have in memory: a field of a record, a part of a file."""

    def odd(tensor):
        return torch.from_numpy(misaligned(tensor.numpy()))

    module, cell = ours.GRU(3, 5, batch_first=batch_first), ours.GRUCell(3, 5)
    x, hx, dy = torch.randn(2, 2, 3), torch.randn(1, 2, 5), torch.randn(2, 2, 5)
    weights = {name: w.detach() for name, w in module.named_parameters()}

    def results(change):
        module.zero_grad()
        at = change(x).requires_grad_()
        y, end = module(at, change(hx))
        y.backward(change(dy))
        with torch.no_grad():
            called = torch.func.functional_call(module, {name: change(w) for name, w in weights.items()}, (x, hx))
            stepped = cell(change(x[0]), change(hx[0]))
        return [y, end, at.grad, *(w.grad for w in module.parameters()), *called, stepped]

    assert all(map(torch.equal, results(odd), results(torch.clone)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LSTM"])
def test_forward_mode_is_torchs(torch, ours, name):
    mine, theirs = pair(torch, ours, name, 3, 4)
    x = torch.randn(2, 3)

    def last(module):
        return lambda x: module(x)[0]

    for module in (mine, theirs):
        module.requires_grad_(False)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangents = [torch.autograd.forward_ad.unpack_dual(last(m)(dual)).tangent for m in (mine, theirs)]
    torch.testing.assert_close(*tangents)
    torch.testing.assert_close(*(torch.func.jvp(last(m), (x,), (x,)) for m in (mine, theirs)))
    torch.testing.assert_close(*(torch.func.hessian(lambda x, m=m: last(m)(x).sum())(x) for m in (mine, theirs)))


def test_forward_mode_of_an_lstm_raises_as_torchs_does(torch, ours):
    lstm, x = ours.LSTM(3, 4).requires_grad_(False), torch.randn(2, 3)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward AD"):
        lstm(torch.autograd.forward_ad.make_dual(x, x))


def test_lengths_and_reset_are_dense_and_beside_the_input(torch, ours):
    gru, x = ours.GRU(3, 4), torch.randn(5, 2, 3)
    lengths, reset = torch.tensor([5, 3]), torch.rand(5, 2) < 0.5
    for name, value in (("lengths", lengths), ("reset", reset)):
        for wrong in (value.to("meta"), value.to_sparse()):
            with pytest.raises(ValueError, match=f"{name} must be a dense tensor on the device cpu, got a tensor on"):
                gru(x, **{name: wrong})
    expected = gru(x, lengths=lengths, reset=reset)[0]
    with torch.device("meta"):
        found = gru(x, lengths=lengths.tolist(), reset=reset.tolist())[0]
    assert torch.equal(found, expected)
    for wrong in (2**32 + 1, -(2**32) + 1):
        with pytest.raises(ValueError, match=r"lengths must be in 0 .. 5, got"):
            gru(x, lengths=torch.tensor([wrong, 3]))


def parametrized(torch, kind):
    return torch.nn.utils.parametrizations.weight_norm(kind(3, 4), "weight_hh_l0")


@pytest.mark.parametrize("only_norm", [False, True])
def test_a_frozen_module_takes_what_is_loaded_or_passed(torch, ours, only_norm):
    x = torch.randn(2, 1, 3)
    for make in (lambda: ours.LSTM(3, 4), lambda: parametrized(torch, ours.LSTM)):
        frozen, other = ours.freeze(make()), make()
        own, given = dict(frozen.named_parameters()), dict(other.named_parameters())
        if only_norm:
            name = list(own)[-1]
            given = {**own, name: given[name]}
            other.load_state_dict(given)
        with torch.no_grad():
            before, expected = frozen(x)[0], other(x)[0]
            assert not torch.equal(before, expected)
            assert torch.equal(torch.func.functional_call(frozen, given, (x,))[0], expected)
            assert torch.equal(frozen(x)[0], before)
            frozen.load_state_dict(other.state_dict())
            assert torch.equal(frozen(x)[0], expected)
            frozen.load_state_dict(other.state_dict())
            assert torch.equal(torch.compile(frozen, fullgraph=True, backend="eager")(x)[0], expected)
            assert torch.equal(frozen(x)[0], expected)
            next(frozen.parameters()).zero_()
            assert torch.equal(frozen(x)[0], expected)  # packed again, and so not seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_frozen_module_gives_gradients_of_its_input(torch, ours, name, steps):
    module = getattr(ours, name)(3, 4).requires_grad_(False)
    x = torch.randn(2, 3) if name.endswith("Cell") else torch.randn(steps, 2, 3)
    x.requires_grad_()

    def gradient():
        return torch.autograd.grad(module(x)[0].sum(), x)[0]

    expected = gradient()
    ours.freeze(module)
    assert torch.equal(gradient(), expected)


def test_copies_of_frozen_and_accelerated_parametrized_modules(torch, ours):
    x = torch.randn(2, 1, 3)
    frozen = ours.freeze(parametrized(torch, ours.LSTM))
    copied = copy.deepcopy(frozen)
    assert frozen._frozen is not None and copied._frozen is None
    with torch.no_grad():
        assert torch.equal(copied(x)[0], frozen(x)[0])
    module = parametrized(torch, torch.nn.LSTM)
    copied = copy.deepcopy(module)
    ours.accelerate(module)
    assert isinstance(module, ours.LSTM) and not isinstance(copied, ours.LSTM)
    torch.testing.assert_close(module(x)[0], copied(x)[0])
    ours.accelerate(copied)
    module.compute_dtype = "bfloat16"
    ours.restore(ours.freeze(module))
    assert isinstance(copied, ours.LSTM) and not isinstance(module, ours.LSTM)
    assert not {"_frozen", "compute_dtype"} & vars(module).keys()
    torch.nn.utils.parametrize.remove_parametrizations(copied, "weight_hh_l0")
    assert type(copied) is ours.LSTM


@pytest.mark.parametrize("name", NAMES)
def test_batched_cotangents(torch, ours, name):
    functional, module, x = torch.autograd.functional, getattr(ours, name)(3, 4), torch.randn(2, 3, dtype=torch.float64)
    module.double()

    def outputs(x):
        return module(x)[0]

    one_by_one, at_once = (functional.jacobian(outputs, x, vectorize=v) for v in (False, True))
    torch.testing.assert_close(at_once, one_by_one)
    one_by_one, at_once = (functional.hessian(lambda x: outputs(x).sum(), x, vectorize=v) for v in (False, True))
    torch.testing.assert_close(at_once, one_by_one)
    made = outputs(x)
    weights, cotangents = list(module.parameters()), torch.randn(5, *made.shape, dtype=torch.float64)
    found = torch.autograd.grad(made, weights, cotangents, retain_graph=True, is_grads_batched=True)
    for i in range(5):
        expected = torch.autograd.grad(made, weights, cotangents[i], retain_graph=True)
        torch.testing.assert_close([f[i] for f in found], list(expected))


def test_gradients_mapped_over_cotangents(torch, ours):
    """torch.vmap of torch.autograd.grad, as its documentation computes jacobians."""
    mine, theirs = ours.GRU(2, 3).double(), torch.nn.GRU(2, 3).double()
    theirs.load_state_dict(mine.state_dict())
    found = []
    for module in (mine, theirs):
        x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 1, 2).requires_grad_()
        y = module(x)[0]
        cotangents = torch.eye(y.numel(), dtype=torch.float64).view(-1, *y.shape)
        gradient = torch.vmap(lambda v, y=y, x=x: torch.autograd.grad(y, x, v, retain_graph=True)[0])
        found.append(gradient(cotangents))
    torch.testing.assert_close(*found)


def test_a_compute_dtype_that_there_is_not_is_refused(torch, ours):
    module, x = ours.GRU(3, 4), torch.randn(5, 2, 3)
    expected = module(x)[0]
    for wrong in ("float32", torch.bfloat16, False):
        module.compute_dtype = wrong
        with pytest.raises(ValueError, match="compute_dtype must be None or 'bfloat16', got "):
            module(x)
    module.compute_dtype = None
    assert torch.equal(module(x)[0], expected)


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm. is deprecated")
def test_a_reload_while_weights_are_packed_is_seen(torch, ours, monkeypatch):
    """As another thread may: the weights were read, and what is packed of them is not yet in its place."""
    from rnnfast.torch._frozen import Freezable

    module, other, x = ours.freeze(ours.GRU(3, 4)), ours.GRU(3, 4), torch.randn(5, 2, 3)
    module.load_state_dict(module.state_dict())  # so that the next call packs
    sources = Freezable._sources

    def reload(self):
        monkeypatch.undo()
        module.load_state_dict(other.state_dict())
        return sources(self)

    with torch.no_grad():
        monkeypatch.setattr(Freezable, "_sources", reload)
        module(x)
        assert Freezable._sources is sources
        assert torch.equal(module(x)[0], other(x)[0])


def test_weights_that_a_hook_computes_are_not_frozen(torch, ours):
    def make():
        return torch.nn.utils.weight_norm(ours.LSTM(3, 4), "weight_hh_l0")

    one, other, x = make(), make(), torch.randn(5, 2, 3)
    other.load_state_dict(one.state_dict())
    with pytest.warns(RuntimeWarning, match="this LSTM is not frozen: a hook computes its weights"):
        ours.freeze(other)
    with torch.no_grad():
        assert torch.equal(other(x)[0], one(x)[0])
        one.weight_hh_l0_g.mul_(2)
        other.weight_hh_l0_g.mul_(2)
        assert torch.equal(other(x)[0], one(x)[0])


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.filterwarnings("ignore")  # weight_norm of old is deprecated
def test_weight_norm_and_tied_weights(torch, ours, old):
    norm = torch.nn.utils.weight_norm if old else torch.nn.utils.parametrizations.weight_norm
    made = []
    for _ in range(2):
        torch.manual_seed(1)
        made.append(norm(torch.nn.LSTM(3, 4), "weight_hh_l0"))
    mine, theirs = made
    kind = type(mine)
    ours.accelerate(mine)
    assert isinstance(mine, ours.LSTM)
    x = torch.randn(5, 2, 3)
    for module in (mine, theirs):
        module(x)[0].square().sum().backward()
    torch.testing.assert_close(mine(x)[0], theirs(x)[0])
    for (name, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    ours.restore(mine)
    assert type(mine).__mro__[1:] == kind.__mro__[1:] and not isinstance(mine, ours.LSTM)

    mine, theirs = ours.GRU(4, 4, 2), torch.nn.GRU(4, 4, 2)
    theirs.load_state_dict(mine.state_dict())
    for module in (mine, theirs):
        module.weight_hh_l1 = module.weight_hh_l0
        module(torch.ones(5, 2, 4))[0].square().sum().backward()
    torch.testing.assert_close(mine.weight_hh_l0.grad, theirs.weight_hh_l0.grad)
