"""Finite differences: the judge of every gradient, of the oracle's and of the kernels'."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import tolerances

# Fourth order: f'(0) = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h
WEIGHTS = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))


def check_gradients(
    loss: Callable[[], float], arrays: dict[str, np.ndarray], grads: dict[str, np.ndarray], step: float, most: int = 24
) -> None:
    """``grads[name]`` is the gradient of ``loss()`` by ``arrays[name]``, which ``loss`` reads anew at each call.

    Elements that are NaN are no variables. Up to ``most`` elements of an array are tried one by one, the steepest among
    them; then all of them at once along one direction of random signs.
    """
    rng = np.random.default_rng(len(arrays))
    noise = tolerances.FD_NOISE * (1 + abs(loss())) / step
    for name, array in arrays.items():
        grad = grads[name]
        assert grad.shape == array.shape, f"d{name}: shape {grad.shape}, expected {array.shape}"
        variables = np.flatnonzero(~np.isnan(array))
        if not len(variables):
            continue
        steepest = float(np.abs(grad.flat[variables]).max())
        chosen = {variables[np.abs(grad.flat[variables]).argmax()], *rng.permutation(variables)[: most - 1]}
        for index in chosen:
            direction = np.zeros(array.shape)
            direction.flat[index] = 1
            error = abs(_slope(loss, array, direction, step) - grad.flat[index])
            limit = max(tolerances.FD * steepest, noise)
            assert error <= limit, f"d{name}[{index}]: error {error:.3g} > {limit:.3g}, largest gradient {steepest:.3g}"
        direction = np.zeros(array.shape)
        direction.flat[variables] = rng.choice([-1.0, 1.0], len(variables)) / len(variables) ** 0.5
        expected = float((grad * direction).flat[variables].sum())
        error = abs(_slope(loss, array, direction, step) - expected)
        limit = max(tolerances.FD * steepest * len(variables) ** 0.5, noise)
        assert error <= limit, f"d{name} along a direction: error {error:.3g} > {limit:.3g}"


def _slope(loss: Callable[[], float], array: np.ndarray, direction: np.ndarray, step: float) -> float:
    before = array.copy()
    total = 0.0
    for times, weight in WEIGHTS:
        array[...] = before + times * step * direction
        total += weight * loss()
    array[...] = before
    return total / step
