"""Who is timed: rnnfast, and beside it torch as someone who knows torch well would write the same job.

A runner has the weights and inputs of its case; `answers` computes what all runners of the case must agree on, `run` is
what is timed. What torch is given, each the faster of the ways that were tried:

* inference under inference_mode; gradients set to None before a step, not to zero;
* one-hot characters by a look-up in an identity matrix (4 to 8 times faster than one_hot(...).float());
* Adam(fused=True); the optimiser, clipping and loss are torch's own.

The sampling loop is timed with nn.LSTM and with nn.LSTMCell; each draws with softmax and multinomial and collects
tensors, read once at the end.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import optim
from ..layers import GRU, LSTM, RNN
from ..lm import LanguageModel
from .cases import CLIP_NORM, LEARNING_RATE, Arrays, Case, CharModel, Layer, arrays, parameters

__all__ = ["OURS", "PEERS", "Runner", "find_peers", "runners", "tolerance"]

OURS = "rnnfast"
PEERS = ("torch",)
STEPS_COMPARED = 4


@dataclass(frozen=True)
class Runner:
    """One way to do a case; `name` is a column of the table."""

    name: str
    run: Callable[[], object]
    answers: Callable[[], Arrays]


def find_peers() -> dict[str, Any]:
    """The peers' modules, None where one cannot be imported."""
    found: dict[str, Any] = {}
    for name in PEERS:
        try:
            found[name] = importlib.import_module(name)
        except (ImportError, OSError):  # OSError: one of its libraries is missing
            found[name] = None
    return found


def runners(case: Case, peers: dict[str, Any]) -> list[Runner]:
    """Ours first, then those of the peers that are there."""
    params, data = parameters(case), arrays(case)
    made = [_our_layer(case, params, data) if isinstance(case, Layer) else _our_model(case, params, data)]
    torch = peers.get("torch")
    if torch is not None:
        made += [_torch_layer(torch, case, params, data)] if isinstance(case, Layer) else []
        made += _torch_model(torch, case, params, data) if isinstance(case, CharModel) else []
    return made


def tolerance(case: Case) -> float:
    """Differences of float32 sums in another order; the same characters where they are picked by argmax."""
    return 0.0 if isinstance(case, CharModel) and case.job == "sample" else 2e-5


# ---- rnnfast ----


def _our_layer(case: Layer, params: Arrays, data: Arrays) -> Runner:
    layer: Any = {"rnn": RNN, "lstm": LSTM, "gru": GRU}[case.cell](case.I, case.H, seed=1)
    layer.load_state_dict(params)
    x, dy = data["x"], data["dy"]

    def forward_backward() -> tuple[Any, Any, Any]:
        layer.zero_grad()
        y, state, cache = layer.forward(x)
        dx, _ = layer.backward(dy, None, cache, want_dstate0=False)  # nor does torch make it for the zeros
        return y, state, dx

    def answers() -> Arrays:
        if case.mode == "forward":
            y, state = layer(x)
            return _named(y, state)
        y, state, dx = forward_backward()
        return _named(y, state) | {"dx": dx} | {f"grad {name}": grad.copy() for name, grad in layer.grads.items()}

    return Runner(OURS, (lambda: layer(x)) if case.mode == "forward" else forward_backward, answers)


def _our_model(case: CharModel, params: Arrays, data: Arrays) -> Runner:
    model = LanguageModel(case.V, case.H, case.layers, seed=1)
    model.load_state_dict(params)
    if case.job == "sample":
        prompt = data["prompt"]
        return Runner(
            OURS,
            lambda: model.sample(prompt, case.T, temperature=1.0, seed=1),
            lambda: {"characters": model.sample(prompt, case.T, temperature=0.0, seed=1)},
        )
    stepper = _Steps(data["tokens"], _OurStep(model))
    return Runner(OURS, stepper.step, stepper.first_losses)


class _OurStep:
    def __init__(self, model: LanguageModel) -> None:
        self.model, self.optimizer, self.state = model, optim.Adam(LEARNING_RATE), None

    def __call__(self, tokens: NDArray[Any]) -> float:
        loss, self.state = self.model.train_step(tokens, self.state, self.optimizer, clip_norm=CLIP_NORM)
        return loss


class _Steps:
    """Training steps over chunks that come round again."""

    def __init__(self, chunks: Any, step: Callable[[Any], float]) -> None:
        self.chunks, self._step, self._next = chunks, step, 0

    def step(self) -> float:
        self._next += 1
        return self._step(self.chunks[(self._next - 1) % len(self.chunks)])

    def first_losses(self) -> Arrays:
        """Each is of weights that all updates before it have made, so they cover gradients, clipping and Adam too."""
        return {"losses": np.array([self.step() for _ in range(STEPS_COMPARED)])}


def _named(y: Any, state: Any) -> Arrays:
    h, *c = state if isinstance(state, tuple) else (state,)
    return {"y": y, "h": h} | ({"c": c[0]} if c else {})


# ---- torch ----


def _torch_layer(torch: Any, case: Layer, params: Arrays, data: Arrays) -> Runner:
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[case.cell]
    rnn = _loaded(torch, kind(case.I, case.H), params)
    x, dy = torch.tensor(data["x"]), torch.tensor(data["dy"])

    def forward() -> Any:
        with torch.inference_mode():
            return rnn(x)

    def forward_backward() -> Any:
        rnn.zero_grad(set_to_none=True)
        x.grad = None
        result = rnn(x)
        result[0].backward(dy)
        return result

    def answers() -> Arrays:
        if case.mode == "forward":
            return _numpy(forward())
        named = _numpy(forward_backward()) | {"dx": x.grad.numpy()}
        return named | {f"grad {name}": p.grad.numpy() for name, p in rnn.named_parameters()}

    def _numpy(result: Any) -> Arrays:
        y, state = result
        state = tuple(s.detach().numpy() for s in state) if isinstance(state, tuple) else state.detach().numpy()
        return _named(y.detach().numpy(), state)

    if case.mode == "forward":
        return Runner("torch", forward, answers)
    x.requires_grad_()
    return Runner("torch", forward_backward, answers)


def _torch_model(torch: Any, case: CharModel, params: Arrays, data: Arrays) -> list[Runner]:
    def net() -> tuple[Any, Any, Any]:
        rnn = _loaded(torch, torch.nn.LSTM(case.V, case.H, case.layers), _under("rnn.", params))
        output = _loaded(torch, torch.nn.Linear(case.H, case.V), _under("output.", params))
        return rnn, output, torch.eye(case.V)

    if case.job == "step":
        steps = _Steps(torch.tensor(data["tokens"]).long(), _torch_step(torch, *net()))
        return [Runner("torch", steps.step, steps.first_losses)]
    whole = _torch_lstm_sampler(torch, *net())
    cells = _torch_cell_sampler(torch, case, *net())
    prompt = torch.tensor(data["prompt"]).long()

    def runner(name: str, sampler: Callable[..., Any]) -> Runner:
        run = lambda: sampler(prompt, case.T, greedy=False)  # noqa: E731
        return Runner(name, run, lambda: {"characters": np.array(sampler(prompt, case.T, greedy=True))})

    return [runner("torch", whole), runner("torch LSTMCell", cells)]


def _torch_step(torch: Any, rnn: Any, output: Any, one_hot: Any) -> Callable[[Any], float]:
    nn = torch.nn
    weights = [*rnn.parameters(), *output.parameters()]
    optimizer = torch.optim.Adam(weights, LEARNING_RATE, fused=True)
    state: Any = None

    def step(tokens: Any) -> float:
        nonlocal state
        optimizer.zero_grad(set_to_none=True)
        y, (h, c) = rnn(nn.functional.embedding(tokens[:-1], one_hot), state)
        state = (h.detach(), c.detach())
        logits = output(y)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.step()
        return float(loss.item())

    return step


def _torch_lstm_sampler(torch: Any, rnn: Any, output: Any, one_hot: Any) -> Callable[..., list[int]]:
    def sample(token: Any, length: int, greedy: bool) -> list[int]:
        with torch.inference_mode():
            state, drawn = None, []
            for _ in range(length):
                y, state = rnn(torch.nn.functional.embedding(token, one_hot), state)  # (1, V): one sequence, unbatched
                token = _draw(torch, output(y)[0], greedy)
                drawn.append(token)
            ids: list[int] = torch.cat(drawn).tolist()
            return ids

    return sample


def _torch_cell_sampler(torch: Any, case: CharModel, rnn: Any, output: Any, one_hot: Any) -> Callable[..., list[int]]:
    cells = []
    for layer in range(case.layers):
        cell = torch.nn.LSTMCell(case.H if layer else case.V, case.H)
        weights = {name: getattr(rnn, f"{name}_l{layer}") for name, _ in cell.named_parameters()}
        cell.load_state_dict(weights)
        cells.append(cell)

    def sample(token: Any, length: int, greedy: bool) -> list[int]:
        with torch.inference_mode():
            states: list[Any] = [None] * len(cells)
            drawn = []
            for _ in range(length):
                y = torch.nn.functional.embedding(token, one_hot)  # (1, V)
                for i, cell in enumerate(cells):
                    states[i] = cell(y, states[i])
                    y = states[i][0]
                token = _draw(torch, output(y)[0], greedy)
                drawn.append(token)
            ids: list[int] = torch.cat(drawn).tolist()
            return ids

    return sample


def _draw(torch: Any, logits: Any, greedy: bool) -> Any:
    return logits.argmax(0, keepdim=True) if greedy else torch.multinomial(logits.softmax(0), 1)


def _loaded(torch: Any, module: Any, params: Arrays) -> Any:
    module.load_state_dict({name: torch.tensor(value) for name, value in params.items()})
    return module


def _under(prefix: str, params: Arrays) -> Arrays:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
