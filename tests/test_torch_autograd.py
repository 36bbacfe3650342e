"""Gradients of rnnfast.torch beyond one backward pass: twice, of themselves, by torch.func, recomputed, offloaded."""

from __future__ import annotations

import gc
import weakref

import pytest

KINDS = {
    "RNN": {"nonlinearity": "tanh"},
    "RNN relu": {"nonlinearity": "relu"},
    "LSTM": {},
    "GRU": {},
}
CELLS = ("RNNCell", "LSTMCell", "GRUCell")


def layer(torch, kind, *sizes, **options):
    import rnnfast.torch

    torch.manual_seed(3)
    options = {"dtype": torch.float64, **KINDS.get(kind, {}), **options}
    return getattr(rnnfast.torch, kind.split()[0])(*sizes, **options)


def gradients(module, x, loss):
    module.zero_grad()
    x.grad = None
    loss.backward()
    return [x.grad.clone(), *(p.grad.clone() for p in module.parameters())]


def same(a, b, tolerance=0.0):
    return max(float((p - q).detach().abs().max()) for p, q in zip(a, b, strict=True)) <= tolerance


def function_of(torch, module, **options):
    """The module as a function of input, h, c and parameters."""
    names = [name for name, _ in module.named_parameters()]
    pair = "LSTM" in type(module).__name__

    def function(x, h, c, *parameters):
        state = (h, c) if pair else h + 0 * c
        made = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, state), options)
        return tuple(torch.utils._pytree.tree_leaves(made))

    return function


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_and_gradgradcheck(torch, kind, both):
    module = layer(torch, kind, 2, 3, 2, bidirectional=both)
    rows = 4 if both else 2
    x, h, c = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 2, 2), (rows, 2, 3), (rows, 2, 3)))
    options = {}
    if not both:
        options = {"lengths": torch.tensor([3, 2]), "reset": torch.tensor([[0, 1], [1, 0], [0, 0]], dtype=torch.bool)}
    function = function_of(torch, module, **options)
    assert torch.autograd.gradcheck(function, (x, h, c, *module.parameters()))
    assert torch.autograd.gradgradcheck(function, (x, h, c, *module.parameters()), fast_mode=both)


@pytest.mark.parametrize("kind", CELLS)
def test_gradcheck_of_cells(torch, kind):
    module = layer(torch, kind, 2, 3)
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 2), (2, 3), (2, 3))]
    assert torch.autograd.gradcheck(function_of(torch, module), (*inputs, *module.parameters()))
    assert torch.autograd.gradgradcheck(function_of(torch, module), (*inputs, *module.parameters()))


@pytest.mark.parametrize("packed", [False, True])
def test_double_backward_with_dropout_has_the_masks_of_the_first(torch, packed):
    """A gradient penalty against the same by finite differences of the first gradient, for one seed."""
    module = layer(torch, "LSTM", 3, 4, 2, dropout=0.5)
    x = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)

    def loss(x):
        torch.manual_seed(7)
        given = torch.nn.utils.rnn.pack_padded_sequence(x, [5, 3, 2]) if packed else x
        y = module(given)[0]
        return (y.data if packed else y).square().sum()

    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (penalty,) = torch.autograd.grad(first.square().sum(), x)
    direction, step = torch.randn_like(x), 1e-5
    shifted = [torch.autograd.grad(loss(x + sign * step * direction), x)[0].square().sum() for sign in (1, -1)]
    expected = (shifted[0] - shifted[1]) / (2 * step)
    assert abs((penalty * direction).sum() - expected) <= 1e-6 * abs(expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_backward_twice_gives_the_same_bits(torch, kind, training):
    module = layer(torch, kind, 7, 33, 2, dropout=0.25, dtype=torch.float32).train(training)
    x = torch.randn(9, 5, 7, requires_grad=True)
    loss = module(x)[0].square().sum()
    module.zero_grad()
    loss.backward(retain_graph=True)
    first = [x.grad.clone(), *(p.grad.clone() for p in module.parameters())]
    assert same(first, gradients(module, x, loss))
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        loss.backward()


def test_parameters_that_were_changed_before_backward_are_an_error_as_in_torch(torch):
    module = layer(torch, "LSTM", 3, 4)
    loss = module(torch.randn(2, 2, 3, dtype=torch.float64))[0].sum()
    with torch.no_grad():
        module.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_only_what_is_wanted_has_gradients(torch):
    module = layer(torch, "GRU", 3, 4)
    module.requires_grad_(False)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    module(x)[0].sum().backward()
    assert x.grad is not None and all(p.grad is None for p in module.parameters())
    module.weight_hh_l0.requires_grad_(True)
    module(x.detach())[0].sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["weight_hh_l0"]
    y, last = module(x.detach())
    last.sum().backward()  # of the state alone
    with torch.no_grad():
        assert not module(x)[0].requires_grad
    assert y.requires_grad


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_bits_and_frees_the_cache(torch, reentrant):
    from torch.utils.checkpoint import checkpoint

    module = layer(torch, "LSTM", 3, 4, 2, dropout=0.5)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for again in (False, True):
        torch.manual_seed(5)
        call = lambda x: module(x)[0]  # noqa: E731
        y = checkpoint(call, x, use_reentrant=reentrant) if again else call(x)
        found.append(gradients(module, x, y.square().sum()))
    assert same(*found)


def test_offloaded_tensors_give_the_same_bits(torch):
    """The cache that comes back is a copy, which is worth nothing: backward computes forward again."""
    module = layer(torch, "GRU", 3, 4, 2, dropout=0.5)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for offload in (False, True):
        torch.manual_seed(5)
        if offload:
            with torch.autograd.graph.save_on_cpu():
                y = module(x)[0]
        else:
            y = module(x)[0]
        found.append(gradients(module, x, y.square().sum()))
    assert same(*found)


def test_the_cache_is_freed_with_the_graph(torch):
    saved = []
    module = layer(torch, "LSTM", 3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(weakref.ref(t)), t)[1], lambda t: t):
        y = module(x)[0]
    del y
    gc.collect()
    assert saved and saved[0]() is None


@pytest.mark.parametrize("kind", KINDS)
def test_torch_func(torch, kind):
    """functional_call, grad, vmap over inputs and states, over weights, and gradients of each sample."""
    module = layer(torch, kind, 3, 4, 2, bidirectional=True)
    parameters = dict(module.named_parameters())
    x = torch.randn(6, 5, 2, 3, dtype=torch.float64)

    def loss(parameters, x):
        return torch.func.functional_call(module, parameters, (x,))[0].square().sum()

    whole = torch.func.grad(loss)(parameters, x[0])
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(6):
        module.zero_grad()
        loss(parameters, x[i]).backward()
        assert same([each[name][i] for name in parameters], [p.grad for p in module.parameters()], 1e-12)
        if i == 0:
            assert same(list(whole.values()), [p.grad for p in module.parameters()])
    y, _ = torch.vmap(module)(x)
    assert same(y, [module(one)[0] for one in x])
    scaled = {name: torch.stack([p.detach(), 0.5 * p.detach()]) for name, p in parameters.items()}
    y = torch.vmap(lambda p: torch.func.functional_call(module, p, (x[0],))[0])(scaled)
    assert same(y[:1], [module(x[0])[0]])
    slopes = torch.vmap(torch.func.grad(loss), in_dims=(0, None))(scaled, x[0])
    assert same([slopes[name][0] for name in parameters], list(whole.values()), 1e-12)


def test_vmap_over_states_and_batch_first(torch):
    module = layer(torch, "LSTM", 3, 4, batch_first=True)
    x, h = torch.randn(6, 2, 5, 3, dtype=torch.float64), torch.randn(1, 2, 6, 4, dtype=torch.float64)
    c = torch.randn(1, 2, 4, dtype=torch.float64)
    y, (h_n, c_n) = torch.vmap(lambda x, h: module(x, (h, c)), in_dims=(0, 2))(x, h)
    for i in range(6):
        expected = module(x[i], (h[:, :, i], c))
        assert same([y[i], h_n[i], c_n[i]], [expected[0], *expected[1]])
    cell = layer(torch, "GRUCell", 3, 4)
    x, h = torch.randn(6, 2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    assert same(torch.vmap(cell, in_dims=(0, None))(x, h), [cell(one, h) for one in x])
    assert same(torch.vmap(cell)(x[:2], h[:, None].expand(2, 2, 4)), [cell(x[i], h[i].expand(2, 4)) for i in range(2)])
    assert same(
        torch.vmap(cell, in_dims=(1, 0))(x, h.new_ones(2, 6, 4)), [cell(x[:, i], h.new_ones(6, 4)) for i in range(2)]
    )


def test_jacobians(torch):
    module = layer(torch, "GRU", 2, 3)
    x = torch.randn(2, 1, 2, dtype=torch.float64)
    function = lambda x: module(x)[0]  # noqa: E731
    assert same([torch.func.jacrev(function)(x)], [torch.autograd.functional.jacobian(function, x)], 1e-14)
    loss = lambda x: function(x).square().sum()  # noqa: E731
    twice = torch.func.jacrev(torch.func.jacrev(loss))(x)
    assert same([twice], [torch.autograd.functional.hessian(loss, x)], 1e-14)
