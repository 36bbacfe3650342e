"""Test cases of recurrent layers: what a case is, and how the compiled layers and the oracle compute it.

A case is a handful of sizes and switches; everything else is drawn from its seed. All numbers are float32 numbers, so
that a float32 layer and the float64 oracle start from the very same ones.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import strategies as st

import tolerances
from rnnfast import reference as ref

SIZES = (1, 2, 7, 16, 17, 33, 64, 129)
LENGTHS = (None, "full", "random")
CELLS = ref.CELLS
PER_CELL = pytest.mark.parametrize("cell", CELLS)
PER_DTYPE = pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])


@dataclass(frozen=True)
class Case:
    cell: str
    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    lengths: str | None = None  # None, "full", "random" (zeros among them), "positive"
    reset: bool = False
    tokens: bool = False
    state: bool = True
    dropout: float = 0.0
    seed: int = 0

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def cost(self) -> int:
        """Multiplications of a forward pass, roughly."""
        G, D = ref.REGISTRY[self.cell].blocks, self.directions
        below = self.I + (self.layers - 1) * D * self.H
        return self.T * self.B * G * self.H * D * (below + self.layers * self.H)


@dataclass
class Problem:
    """A case with its numbers. x and dy are NaN past the end of a row, tokens there are no tokens."""

    case: Case
    params: dict[str, np.ndarray]
    x: np.ndarray
    state: tuple[np.ndarray, ...] | None  # (h,) or (h, c)
    dy: np.ndarray
    dstate: tuple[np.ndarray, ...]
    lengths: np.ndarray | None
    reset: np.ndarray | None
    rng_step: int = 0
    masks: list[np.ndarray] | None = field(default=None)

    @property
    def valid(self) -> np.ndarray:
        """(T, B, 1) bool"""
        case = self.case
        lengths = np.full(case.B, case.T) if self.lengths is None else self.lengths
        return (np.arange(case.T)[:, None] < lengths)[..., None]


def param_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    G, H, D = ref.REGISTRY[case.cell].blocks, case.H, case.directions
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(case.layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:D]:
            shapes["weight_ih" + suffix] = (G * H, case.I if layer == 0 else D * H)
            shapes["weight_hh" + suffix] = (G * H, H)
            if case.bias:
                shapes["bias_ih" + suffix] = shapes["bias_hh" + suffix] = (G * H,)
    return shapes


def build(case: Case) -> Problem:
    rng = np.random.default_rng([case.seed, case.T, case.B, case.I, case.H])
    T, B, H, D = case.T, case.B, case.H, case.directions
    states = range(ref.REGISTRY[case.cell].states)
    lengths = {
        None: None,
        "full": np.full(B, T),
        "random": rng.integers(0, T + 1, B) * (rng.random(B) > 0.15),
        "positive": rng.integers(1, T + 1, B),
    }[case.lengths]
    problem = Problem(
        case,
        params=_params(case, rng),
        x=_x(case, rng),
        state=tuple(_state(case, rng) for _ in states) if case.state else None,
        dy=_single(rng.standard_normal((T, B, D * H))),
        dstate=tuple(_single(rng.standard_normal((case.layers * D, B, H))) for _ in states),
        lengths=lengths,
        reset=rng.random((T, B)) < 0.3 if case.reset else None,
    )
    if case.dropout:
        problem.rng_step = 2**32 - 3  # so that the step's carry into its high word is tried as well
        problem.masks = ref.layer_dropout_masks(case.dropout, case.seed, problem.rng_step, case.layers, D, (T, B, H))
    problem.dy = np.where(problem.valid, problem.dy, np.nan)
    problem.x = _padded(problem, problem.x)
    if case.cell == "rnn_relu":
        _keep_off_the_kink(problem, rng)
    return problem


def _single(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float32).astype(np.float64)


def _params(case: Case, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """U(-1, 1) / sqrt(H), as layers begin. For relu wider, so that fewer pre-activations are near 0, but with recurrent
    matrices of norm 1 at most: nothing else would keep values, and rounding errors with them, from growing with T."""
    params = {}
    for name, shape in param_shapes(case).items():
        width = 1 / np.sqrt(case.H)
        if case.cell == "rnn_relu":
            width = 1.0 if name.startswith("bias") else 2 * width
        value = rng.uniform(-width, width, shape)
        if case.cell == "rnn_relu" and name.startswith("weight_hh"):
            value /= max(1.0, np.linalg.norm(value, 2))
        params[name] = _single(value)
    return params


def _state(case: Case, rng: np.random.Generator) -> np.ndarray:
    return _single(rng.uniform(-1, 1, (case.layers * case.directions, case.B, case.H)))


def _x(case: Case, rng: np.random.Generator) -> np.ndarray:
    if case.tokens:
        return rng.integers(0, case.I, (case.T, case.B))
    return _single(rng.standard_normal((case.T, case.B, case.I)))


def _padded(problem: Problem, x: np.ndarray) -> np.ndarray:
    return np.where(problem.valid[..., 0], x, -1) if problem.case.tokens else np.where(problem.valid, x, np.nan)


def _keep_off_the_kink(problem: Problem, rng: np.random.Generator) -> None:
    """Draw again what a pre-activation near 0 comes from: its row of x and the state, now and then the parameters."""
    for attempt in range(1, 600):
        _, _, cache = run_reference(problem)
        near = np.zeros(problem.case.B, bool)
        for run in cache.runs:
            for step in run.steps:
                near |= (step.live & (np.abs(step.ax + step.ah) < tolerances.RELU_MARGIN)).any(axis=1)
        if not near.any():
            return
        x = _padded(problem, _x(problem.case, rng))
        problem.x = np.where(near.reshape((-1,) + (1,) * (x.ndim - 2)), x, problem.x)
        if problem.state is not None:
            problem.state = (np.where(near[:, None], _state(problem.case, rng), problem.state[0]),)
        if attempt % 30 == 0:
            problem.params = _params(problem.case, rng)
    raise AssertionError(f"no relu case without pre-activations near 0: {problem.case}")


def plain(states: tuple[np.ndarray, ...] | None):
    """(h,) to h, (h, c) to itself: states as the layers take and give them."""
    return states[0] if states is not None and len(states) == 1 else states


def as_tuple(states) -> tuple[np.ndarray, ...]:
    """The other way round."""
    return states if isinstance(states, tuple) else (states,)


def number(dtype: str) -> str:
    """The dtype of a layer's parameters and results; "bfloat16" is one that computes in it."""
    return "float32" if dtype == "bfloat16" else dtype


def run_reference(problem: Problem, dtype=np.float64, compute_dtype=None):
    case = problem.case
    return ref.forward(
        case.cell,
        problem.params,
        problem.x,
        plain(problem.state),
        num_layers=case.layers,
        bidirectional=case.bidirectional,
        lengths=problem.lengths,
        reset=problem.reset,
        dropout_masks=problem.masks,
        dtype=dtype,
        compute_dtype=compute_dtype,
    )


def results(case: Case, y, state, dx, dstate, grads) -> dict[str, np.ndarray]:
    """One flat dictionary of everything that a layer computes."""
    names = ("h", "c")[: ref.REGISTRY[case.cell].states]
    out = {"y": y, **dict(zip(names, (state,) if len(names) == 1 else state, strict=True))}
    if dx is not None:
        out["dx"] = dx
    if dstate is not None:
        dstate = (dstate,) if len(names) == 1 else dstate
        out |= {f"d{name}0": d for name, d in zip(names, dstate, strict=True)}
    return out | {f"d{name}": grad for name, grad in grads.items()}


def oracle(problem: Problem, dtype=np.float64, compute_dtype=None) -> dict[str, np.ndarray]:
    """Everything by the reference: y, h, c, dx, dh0, dc0, dweight_ih_l0, ..."""
    y, state, cache = run_reference(problem, dtype, compute_dtype)
    dx, dstate, grads = ref.backward(problem.dy, plain(problem.dstate), cache)
    return results(problem.case, y, state, dx, dstate, grads)


def make_layer(problem: Problem, dtype: str, **options):
    """The compiled layer of a case, with its parameters."""
    import rnnfast

    case = problem.case
    kinds = {"rnn_tanh": rnnfast.RNN, "rnn_relu": rnnfast.RNN, "lstm": rnnfast.LSTM, "gru": rnnfast.GRU}
    if case.cell.startswith("rnn_"):
        options["nonlinearity"] = case.cell.removeprefix("rnn_")
    layer = kinds[case.cell](
        case.I,
        case.H,
        case.layers,
        bias=case.bias,
        bidirectional=case.bidirectional,
        dropout=case.dropout,
        dtype=number(dtype),
        compute_dtype=dtype,
        seed=case.seed,
        **options,
    )
    assert list(layer.params) == list(param_shapes(case))
    for name, value in problem.params.items():
        layer.params[name][...] = value
    layer.rng.seed, layer.rng.step = case.seed, problem.rng_step
    return layer


def inputs(problem: Problem, dtype: str):
    """x, state, and the keywords of forward, in the layer's dtype."""
    dtype = number(dtype)
    x = problem.x if problem.case.tokens else problem.x.astype(dtype)
    state = None if problem.state is None else plain(tuple(s.astype(dtype) for s in problem.state))
    return x, state, {"lengths": problem.lengths, "reset": problem.reset}


def run(problem: Problem, dtype: str = "float64", layer=None, **backward_options) -> dict[str, np.ndarray]:
    """Everything by the compiled layer, forward and backward, with gradients that begin at zero."""
    layer = layer or make_layer(problem, dtype)
    x, state, keywords = inputs(problem, dtype)
    dtype = number(dtype)
    layer.zero_grad()
    y, end, cache = layer.forward(x, state, **keywords)
    dstate = plain(tuple(d.astype(dtype) for d in problem.dstate))
    dx, dfirst = layer.backward(problem.dy.astype(dtype), dstate, cache, **backward_options)
    return results(problem.case, y, end, dx, dfirst, {name: np.array(grad) for name, grad in layer.grads.items()})


@st.composite
def cases(draw, cell: str, budget: int = 4_000_000, **fixed) -> Case:
    """Cases of one cell, of any odd size, whose forward pass costs at most ``budget`` multiplications."""
    size, flag = st.sampled_from(SIZES), st.booleans()
    strategies = {
        "T": size,
        "B": size,
        "I": size,
        "H": size,
        "layers": st.integers(1, 3),
        "bidirectional": flag,
        "bias": flag,
        "lengths": st.sampled_from((None, "full", "random", "random")),
        "reset": flag,
        "tokens": flag,
        "state": flag,
        "seed": st.integers(0, 2**32 - 1),
    }
    case = Case(
        cell,
        **{name: fixed[name] if name in fixed else draw(s) for name, s in strategies.items()},
        **{name: value for name, value in fixed.items() if name not in strategies},
    )
    while case.cost > budget:  # the next smaller of the largest size
        largest = max((n for n in "TBIH" if n not in fixed), key=lambda n: getattr(case, n))
        smaller = SIZES[SIZES.index(getattr(case, largest)) - 1]
        case = dataclasses.replace(case, **{largest: smaller})
    return _drawable(case) if cell == "rnn_relu" else case


def _drawable(case: Case) -> Case:
    """Rows so short and thin that one with no pre-activation near 0 is found soon; a bias, else some are exactly 0."""
    case = dataclasses.replace(case, bias=True)
    while case.T * case.H * case.layers * case.directions > 1500 and case.T > 1:
        case = dataclasses.replace(case, T=SIZES[SIZES.index(case.T) - 1])
    return case


# One row, few rows, many rows; little and much work: each way to share it out, and sums over more than 256 terms.
EACH_WAY = [
    Case("", 1, 1, 1, 1),
    Case("", 40, 1, 33, 129, layers=2),
    Case("", 16, 3, 129, 129, bidirectional=True),
    Case("", 33, 17, 16, 33, layers=2, bidirectional=True, lengths="random", reset=True),
    Case("", 9, 129, 7, 64, lengths="random", reset=True),
    Case("", 20, 64, 17, 64, layers=2, tokens=True),
    Case("", 12, 16, 33, 64, layers=3, dropout=0.5, lengths="random"),
]
PER_WAY = pytest.mark.parametrize("size", EACH_WAY, ids=range(len(EACH_WAY)))


def drawn(case: Case, cell: str):
    """The problem, without the search for pre-activations off the kink of relu: bits do not depend on it."""
    problem = build(Case(**{**vars(case), "cell": "rnn_tanh" if cell == "rnn_relu" else cell}))
    problem.case = Case(**{**vars(case), "cell": cell})
    return problem


def misaligned(a: np.ndarray) -> np.ndarray:
    """A copy at an odd address, C-contiguous; what reads it where it is, the sanitizers stop."""
    memory = np.empty(a.nbytes + 1, np.uint8)
    memory[1:] = np.frombuffer(a.tobytes(), np.uint8)
    return memory[1:].view(a.dtype).reshape(a.shape)


def same_bits(a, b) -> bool:
    """Equal to the last bit: the sign of a zero and the payload of a NaN count."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        assert same_bits(got[name], expected[name]), f"{name} differs, by {difference(got[name], expected[name])}"


def difference(a, b) -> float:
    """The largest |a - b|, infinite where one is NaN and the other is not, or the shapes differ."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return float("inf")
    d = np.where(np.isnan(a) & np.isnan(b), 0, np.abs(a.astype(np.float64) - b))
    return float(np.where(np.isnan(d), np.inf, d).max(initial=0))


def assert_close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float, what: str = "") -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape, f"{name}: shape {got[name].shape}, expected {value.shape}"
        error, limit = difference(got[name], value), tolerance * max(1.0, float(np.abs(value).max(initial=0)))
        assert error <= limit, f"{name}: error {error:.3g} > {limit:.3g} {what}"
