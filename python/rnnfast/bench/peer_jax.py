"""JAX: lax.scan under jit, the input product of all steps taken before it.

Its threads are those of the processors that the process may run on, so a case is measured in a process that may run on
as many as the case has threads.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .cases import Arrays, Case, Layer, lengths
from .peers import Runner, named

__all__ = ["runners"]


def runners(case: Case, params: Arrays, data: Arrays, threads: int) -> list[Runner]:
    if not isinstance(case, Layer) or case.mode == "step" or case.dtype != "float32":
        return []
    cut = lengths(case)
    live = None if cut is None else jnp.asarray(np.arange(case.T)[:, None] < cut)[..., None]  # (T, B, 1)
    weights, x, dy = {k: jnp.asarray(v) for k, v in params.items()}, jnp.asarray(data["x"]), jnp.asarray(data["dy"])

    def forward(weights: Any, x: Any) -> Any:
        return _layers(case, weights, x, live)

    def forward_backward(weights: Any, x: Any, dy: Any) -> Any:
        y, pull, state = jax.vjp(forward, weights, x, has_aux=True)
        return y, state, *pull(dy)

    def answers() -> Arrays:
        y, state, *gradients = run()
        found = {k: np.asarray(v) for k, v in named(y, state).items()}
        if gradients:
            found |= {"dx": np.asarray(gradients[1])}
            found |= {f"grad {k}": np.asarray(v) for k, v in gradients[0].items()}
        return found

    compiled: Any = jax.jit(forward if case.mode == "forward" else forward_backward)
    arguments: tuple[Any, ...] = (weights, x) if case.mode == "forward" else (weights, x, dy)

    def run() -> Any:
        return jax.block_until_ready(compiled(*arguments))

    return [Runner("jax", run, answers)]


def _layers(case: Layer, weights: Any, x: Any, live: Any) -> tuple[Any, tuple[Any, ...]]:
    """y (T, B, D*H), and the final states (L*D, B, H)."""
    ends = []
    for layer in range(case.layers):
        outputs = []
        for reverse in (False, True)[: 2 if case.bidirectional else 1]:
            of = [
                weights[f"{k}_l{layer}" + "_reverse" * reverse]
                for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            y, end = _direction(case.cell, x, live, reverse, *of)
            outputs.append(y)
            ends.append(end)
        x = jnp.concatenate(outputs, axis=-1)
    return x, tuple(jnp.stack(states) for states in zip(*ends, strict=True))


def _direction(cell: str, x: Any, live: Any, reverse: bool, w: Any, r: Any, b_w: Any, b_r: Any) -> Any:
    H = r.shape[1]
    products = x @ w.T + (b_w if cell == "gru" else b_w + b_r)
    zeros = jnp.zeros((x.shape[1], H), x.dtype)

    def step(state: Any, at: Any) -> Any:
        product, alive = at
        new = _cell(cell, state, product, state[0] @ r.T, b_r)
        if alive is None:
            return new, new[0]
        kept = tuple(jnp.where(alive, a, b) for a, b in zip(new, state, strict=True))
        return kept, jnp.where(alive, new[0], 0)

    state, y = lax.scan(step, (zeros,) * (2 if cell == "lstm" else 1), (products, live), reverse=reverse)
    return y, state


def _cell(cell: str, state: Any, product: Any, recurrent: Any, bias: Any) -> Any:
    if cell == "rnn":
        return (jnp.tanh(product + recurrent),)
    if cell == "lstm":
        i, f, g, o = jnp.split(product + recurrent, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    r_w, z_w, n_w = jnp.split(product, 3, axis=-1)
    r_r, z_r, n_r = jnp.split(recurrent + bias, 3, axis=-1)
    z = jax.nn.sigmoid(z_w + z_r)
    n = jnp.tanh(n_w + jax.nn.sigmoid(r_w + r_r) * n_r)
    return ((1 - z) * n + z * state[0],)
