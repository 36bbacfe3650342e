"""Cases of rnnfast.torch: the same module, input and cotangents for torch.nn's class and for ours."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

import tolerances

LAYERS = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU")
CELLS = ("RNNCell_tanh", "RNNCell_relu", "LSTMCell", "GRUCell")
FORMS = ("batched", "unbatched", "packed", "packed_unsorted", "strided", "empty")
SIZES = (1, 2, 7, 16, 33)


@dataclass(frozen=True)
class Case:
    cell: str
    form: str
    dtype: str
    layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    state: bool
    training: bool
    sizes: tuple[int, int, int, int]  # T, B, I, H

    def __str__(self) -> str:
        marks = [f"L{self.layers}", "bias" * self.bias, "batch_first" * self.batch_first, "both" * self.bidirectional]
        marks += ["state" * self.state, "train" if self.training else "eval"]
        return "-".join([self.cell, self.form, self.dtype, *filter(None, marks), "x".join(map(str, self.sizes))])


def layer_cases() -> list[Case]:
    """All combinations of options; sizes, states and the mode are drawn."""
    rng = np.random.default_rng(11)
    options = itertools.product(
        LAYERS, FORMS, ("float32", "float64"), (1, 2), (True, False), (True, False), (True, False)
    )
    return [
        Case(*option, bool(rng.integers(2)), bool(rng.integers(2)), tuple(map(int, rng.choice(SIZES, 4))))
        for option in options
    ]


def cell_cases() -> list[Case]:
    rng = np.random.default_rng(12)
    options = itertools.product(
        CELLS, ("batched", "unbatched", "strided", "empty"), ("float32", "float64"), (True, False)
    )
    return [
        Case(cell, form, dtype, 1, bias, False, False, state, True, (1, *map(int, rng.choice(SIZES, 3))))
        for (cell, form, dtype, bias), state in itertools.product(options, (True, False))
    ]


def modules(torch, case: Case, dtype: str | None = None):
    """(ours, torch's) with the same parameters."""
    import rnnfast.torch

    name, _, nonlinearity = case.cell.replace("RNN_", "RNN_").partition("_")
    _, _, I, H = case.sizes
    options = {"bias": case.bias, "dtype": getattr(torch, dtype or case.dtype)}
    if nonlinearity:
        options["nonlinearity"] = nonlinearity.lower()
    arguments = (I, H)
    if not name.endswith("Cell"):
        arguments = (I, H, case.layers)
        options |= {"batch_first": case.batch_first, "bidirectional": case.bidirectional}
    torch.manual_seed(0)
    ours = getattr(rnnfast.torch, name)(*arguments, **options)
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    return ours.train(case.training), theirs.train(case.training)


def run(torch, case: Case, module, dtype: str | None = None) -> dict[str, np.ndarray]:
    """Outputs, states and all gradients of a module, from the same numbers, on the module's device."""
    T, B, I, H = case.sizes
    B = 0 if case.form == "empty" else B
    single, cell = case.form == "unbatched", "Cell" in case.cell
    rng = np.random.default_rng([T, B, I, H])
    kind, place = getattr(torch, dtype or case.dtype), next(module.parameters()).device

    def tensor(*shape):
        value = torch.tensor(rng.standard_normal(shape).astype(np.float32)).to(place, kind)
        if case.form == "strided" and value.ndim > 1:  # the same numbers, laid out otherwise
            value = value.transpose(0, -1).contiguous().transpose(0, -1)
        return value.requires_grad_()

    lead = () if cell else (B, T) if case.batch_first else (T, B)
    x = tensor(*((I,) if single else (B, I)) if cell else ((T, I) if single else (*lead, I)))
    rows = () if cell else (case.layers * (1 + case.bidirectional),)
    states = [tensor(*rows, *(() if single else (B,)), H) for _ in range(2 if "LSTM" in case.cell else 1)]
    given = x
    if case.form.startswith("packed"):
        lengths = torch.tensor(rng.integers(1, T + 1, B))
        lengths[0] = T
        if case.form == "packed":
            lengths = lengths.sort(descending=True).values
        given = torch.nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=case.batch_first, enforce_sorted=case.form == "packed"
        )
    state = (tuple(states) if len(states) > 1 else states[0]) if case.state else None
    made = module(given, state)
    outputs = [made] if cell else [made[0], made[1]]
    flat = [t for o in outputs for t in (o if isinstance(o, tuple) and not hasattr(o, "batch_sizes") else (o,))]
    flat = [t.data if hasattr(t, "batch_sizes") else t for t in flat]
    sum((t * torch.tensor(rng.standard_normal(t.shape)).to(place, kind)).sum() for t in flat).backward()
    found = {f"output {i}": t.detach() for i, t in enumerate(flat)} | {"dx": x.grad}
    if case.state:
        found |= {f"dstate {i}": s.grad for i, s in enumerate(states)}
    found |= {name: p.grad for name, p in module.named_parameters()}
    return {name: value.cpu().numpy().astype(np.float64) for name, value in found.items()}


def assert_same(ours, theirs, exact=None):
    """Of float64 within rounding; of float32 against `exact`, what torch computes in float64."""
    assert ours.keys() == theirs.keys()
    for name, mine in ours.items():
        assert mine.shape == theirs[name].shape, name
        truth = theirs[name] if exact is None else exact[name]
        scale = max(1.0, float(np.abs(truth).max(initial=0)))
        limit = tolerances.TORCH64 * scale
        if exact is not None:
            limit = tolerances.TORCH32 * scale + tolerances.PEER_FACTOR32 * float(
                np.abs(theirs[name] - truth).max(initial=0)
            )
        error = float(np.abs(mine - truth).max(initial=0))
        assert error <= limit, f"{name}: {error:.2e} > {limit:.2e}"


def assert_one_pass_keeps_and_another_consumes(torch, module, x, times):
    """Two threads go backward through one graph, one with retain_graph, and both get its gradients."""
    weights = list(module.parameters())
    expected = torch.autograd.grad(module(x)[0].sum(), weights)

    def gradients(y, keep):
        try:
            return torch.autograd.grad(y, weights, retain_graph=keep)
        except RuntimeError as error:  # autograd's own, where the other pass has freed the graph before
            assert "backward through the graph a second time" in str(error)
            return expected

    with ThreadPoolExecutor(2) as pool:
        for _ in range(times):
            y = module(x)[0].sum()
            for found in pool.map(gradients, (y, y), (True, False)):
                assert all(map(torch.equal, found, expected))
