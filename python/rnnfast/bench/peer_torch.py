"""torch, each job the faster of the ways that were tried:

* inference under inference_mode; gradients set to None before a step, not to zero;
* one-hot characters by a look-up in an identity matrix (4 to 8 times faster than one_hot(...).float());
* Adam(fused=True); the optimiser, clipping and loss are torch's own;
* ragged batches as packed sequences.

A step of a stream and a sampling loop are timed with nn.LSTM and with nn.LSTMCell; sampling draws with softmax and
multinomial and collects tensors, read once at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from .cases import CLIP_NORM, LEARNING_RATE, Arrays, Case, Layer, Model, lengths
from .peers import Runner, Steps, first_outputs, named

__all__ = ["runners"]

CELL = "torch cell"  # nn.LSTMCell and its like


def runners(case: Case, params: Arrays, data: Arrays, threads: int) -> list[Runner]:
    torch.set_num_threads(threads)
    if isinstance(case, Model):
        return _samplers(case, params, data) if case.job == "sample" else [_training(case, params, data)]
    return _streams(case, params, data) if case.mode == "step" else [_layer(case, params, data)]


def _rnn(case: Layer, params: Arrays) -> Any:
    kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[case.cell]
    rnn: Any = kind(case.I, case.H, case.layers, bidirectional=case.bidirectional)
    return _loaded(rnn, params).to(getattr(torch, case.dtype))


def _layer(case: Layer, params: Arrays, data: Arrays) -> Runner:
    rnn, dtype, cut = _rnn(case, params), getattr(torch, case.dtype), lengths(case)
    x, dy = torch.tensor(data["x"]).to(dtype), torch.tensor(data["dy"]).to(dtype)
    counts = None if cut is None else torch.tensor(cut)

    def layers() -> Any:
        if counts is None:
            return rnn(x)
        packed = nn.utils.rnn.pack_padded_sequence(x, counts, enforce_sorted=False)
        y, state = rnn(packed)
        return nn.utils.rnn.pad_packed_sequence(y, total_length=case.T)[0], state

    def forward() -> Any:
        with torch.inference_mode():
            return layers()

    def forward_backward() -> Any:
        rnn.zero_grad(set_to_none=True)
        x.grad = None
        result = layers()
        result[0].backward(dy)
        return result

    def answers() -> Arrays:
        if case.mode == "forward":
            return _numpy(*forward())
        found = _numpy(*forward_backward()) | {"dx": _array(x.grad)}
        return found | {f"grad {name}": _array(p.grad) for name, p in rnn.named_parameters()}

    if case.mode == "forward":
        return Runner("torch", forward, answers)
    x.requires_grad_()
    return Runner("torch", forward_backward, answers)


def _numpy(y: Any, state: Any) -> Arrays:
    return named(_array(y), tuple(map(_array, state)) if isinstance(state, tuple) else _array(state))


def _array(tensor: Any) -> Any:
    return tensor.detach().float().numpy()


def _streams(case: Layer, params: Arrays, data: Arrays) -> list[Runner]:
    rnn, x = _rnn(case, params), torch.tensor(data["x"])[0]  # (1, I): one step, no batch
    cell: Any = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}[case.cell](case.I, case.H)
    _loaded(cell, {name.removesuffix("_l0"): value for name, value in params.items()})

    def runner(name: str, once: Callable[[Any], tuple[Any, Any]]) -> Runner:
        state: Any = None

        def step() -> Any:
            nonlocal state
            with torch.inference_mode():
                y, state = once(state)
            return y

        return Runner(name, step, lambda: first_outputs(lambda: step().numpy()[0]))

    def by_cell(state: Any) -> tuple[Any, Any]:
        new = cell(x, state)
        return (new[0] if case.cell == "lstm" else new), new

    return [runner("torch", lambda state: rnn(x, state)), runner(CELL, by_cell)]


# ---- models ----


def _net(case: Model, params: Arrays) -> tuple[Any, Any, Any]:
    """(table that a token's row is looked up in, LSTM, output layer)"""
    width = case.embedding or case.V
    rnn = _loaded(nn.LSTM(width, case.H, case.layers), _under("rnn.", params))
    output = _loaded(nn.Linear(case.H, case.V), _under("output.", params))
    table = nn.Parameter(torch.tensor(params["embedding.weight"])) if case.embedding else torch.eye(case.V)
    return table, rnn, output


def _training(case: Model, params: Arrays, data: Arrays) -> Runner:
    table, rnn, output = _net(case, params)
    weights = [*rnn.parameters(), *output.parameters(), *([table] if case.embedding else [])]
    optimizer = torch.optim.Adam(weights, LEARNING_RATE, fused=True)
    state: Any = None

    def step(tokens: Any) -> float:
        nonlocal state
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.dtype == "bfloat16"):
            y, (h, c) = rnn(nn.functional.embedding(tokens[:-1], table), state)
            state = (h.detach(), c.detach())
            loss = nn.functional.cross_entropy(output(y).flatten(0, 1), tokens[1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.step()
        return float(loss.item())

    steps = Steps(torch.tensor(data["tokens"]).long(), step)
    return Runner("torch", steps.step, steps.first_losses)


def _samplers(case: Model, params: Arrays, data: Arrays) -> list[Runner]:
    table, rnn, output = _net(case, params)
    cells = []
    for layer in range(case.layers):
        cell = nn.LSTMCell(case.H if layer else case.V, case.H)
        cell.load_state_dict({name: getattr(rnn, f"{name}_l{layer}") for name, _ in cell.named_parameters()})
        cells.append(cell)

    def by_lstm(x: Any, state: Any) -> tuple[Any, Any]:
        y, state = rnn(x[None], state)
        return y[0], state

    def by_cells(x: Any, states: Any) -> tuple[Any, Any]:
        states = states or [None] * len(cells)
        for i, cell in enumerate(cells):
            states[i] = cell(x, states[i])
            x = states[i][0]
        return x, states

    def runner(name: str, once: Callable[[Any, Any], tuple[Any, Any]]) -> Runner:
        def sample(greedy: bool) -> Any:
            with torch.inference_mode():
                token, state, drawn = torch.tensor(data["prompt"]).long().repeat(case.B), None, []
                for _ in range(case.T):
                    y, state = once(nn.functional.embedding(token, table), state)
                    logits = output(y)
                    token = logits.argmax(1) if greedy else torch.multinomial(logits.softmax(1), 1)[:, 0]
                    drawn.append(token)
                return torch.stack(drawn, 1).numpy()

        return Runner(name, lambda: sample(False), lambda: {"tokens": sample(True)})

    return [runner("torch", by_lstm), runner(CELL, by_cells)]


def _loaded(module: Any, params: Arrays) -> Any:
    module.load_state_dict({name: torch.tensor(value) for name, value in params.items()})
    return module


def _under(prefix: str, params: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
