"""What float32 errors are measured in: for every result of a layer, *the same sum with absolute values*.

A kernel computes sums: pre-activations sum_k w x, gradients sum_t,b da x, and so on. Its rounding errors are a few eps
of the sum of the |terms|, not of the sum itself, which cancellation can make as small as it likes. ``scales`` runs
through the trace that the oracle left and adds up |terms| where a layer adds up terms, one step deep: what came from
the step before enters with its own size, not with its own scale, else the scales would grow with time and allow
anything.
"""

from __future__ import annotations

import numpy as np

import tolerances
from cases import Problem, difference, oracle, plain, results, run_reference
from rnnfast import reference as ref


def scales(problem: Problem) -> dict[str, np.ndarray]:
    """The scale of everything in ``cases.oracle(problem)``, under the same names and in the same shapes."""
    y, _, cache = run_reference(problem)
    dx, _, grads = ref.backward(problem.dy, plain(problem.dstate), cache)  # leaves dax and dah in the trace
    case, D = problem.case, problem.case.directions
    sizes = {name: np.abs(value) for name, value in problem.params.items()}
    x_scale = np.abs(cache.runs[0].x)
    ends, starts = [], [()] * len(cache.runs)
    for layer in range(case.layers):
        ys = []
        for run in cache.runs[layer * D : layer * D + D]:
            run.x = x_scale  # from here on the trace holds the scale of the input, and of h_prev in each step
            y_scale, end = _forward(run, sizes, len(ends), problem)
            ys.append(y_scale)
            ends.append(end)
        x_scale = np.concatenate(ys, axis=-1)
        if problem.masks and layer < case.layers - 1:
            x_scale = x_scale * problem.masks[layer]
    d_scale = np.where(problem.valid, np.abs(problem.dy), 0)
    grad_scales: dict[str, np.ndarray] = {}
    for layer in reversed(range(case.layers)):
        if problem.masks and layer < case.layers - 1:
            d_scale = d_scale * problem.masks[layer]
        below = 0
        for d, dy_scale in enumerate(np.split(d_scale, D, axis=-1)):
            index = layer * D + d
            dx_scale, starts[index] = _backward(cache.runs[index], dy_scale, index, problem, grad_scales)
            below = below + dx_scale
        d_scale = below
    state, dstate = (plain(tuple(np.stack(s) for s in zip(*rows, strict=True))) for rows in (ends, starts))
    grad_scales = {name: grad_scales[name] for name in grads}
    return results(case, x_scale, state, None if dx is None else d_scale, dstate, grad_scales)


def _forward(run, sizes, index, problem):
    """|x| |W|' + |h| |R|' + |b|, summed over the blocks of a unit, plus the sizes of the states themselves."""
    w, r = np.abs(run.w), np.abs(run.r)
    b_ih, b_hh = sizes.get("bias_ih" + run.suffix, 0), sizes.get("bias_hh" + run.suffix, 0)
    H = r.shape[1]
    y_scale = np.zeros(run.x.shape[:2] + (H,))
    zero = np.zeros(y_scale.shape[1:])
    end = tuple(np.abs(s[index]) for s in problem.state) if problem.state else (zero,) * run.cell.states
    for step in run.steps:
        step.ax_scale = run.x[step.t] @ w.T + b_ih
        step.ah_scale = np.abs(step.prev[0]) @ r.T + b_hh
        step.h_prev_scale = np.where(step.cut, 0, end[0])
        new, _ = run.cell.forward(step.ax, step.ah, step.prev)
        a = (step.ax_scale + step.ah_scale).reshape(len(zero), -1, H).sum(axis=1)
        of_state = [np.abs(s) + np.abs(prev) + a for s, prev in zip(new, step.prev, strict=True)]
        of_state[0] = sum(of_state)  # the output is computed from all new states
        end = tuple(np.where(step.live, s, before) for s, before in zip(of_state, end, strict=True))
        y_scale[step.t] = np.where(step.live, of_state[0], 0)
    return y_scale, end


def _backward(run, dy_scale, index, problem, grad_scales):
    """The mirror: |J| |ds| for what a step gives to its pre-activations, then |da| |W|, sum |da| |x|, sum |da|."""
    w, r = np.abs(run.w), np.abs(run.r)
    carried = scale = tuple(np.abs(d[index]) for d in problem.dstate)
    dx_scale = np.zeros(run.x.shape)
    dw, dr, db_ih, db_hh = np.zeros_like(w), np.zeros_like(r), np.zeros(len(w)), np.zeros(len(w))
    for step in reversed(run.steps):
        ds = (carried[0] + dy_scale[step.t], *carried[1:])
        exact, moved = _parts(run.cell, step, ds)
        _, _, *passed = _sum_of_sizes(exact)  # to the previous states, past the pre-activations
        dax, dah, *direct = _sum_of_sizes(exact + moved)
        dax, dah = np.where(step.live, dax, 0), np.where(step.live, dah, 0)
        own = (passed[0] + np.abs(step.dah) @ r, *passed[1:])  # the size of what the step before gets
        full = (direct[0] + dah @ r, *direct[1:])  # its scale
        carried, scale = (
            tuple(np.where(step.live, np.where(step.cut, 0, b), after) for b, after in zip(before, old, strict=True))
            for before, old in ((own, carried), (full, scale))
        )
        dx_scale[step.t] = dax @ w
        dw += dax.T @ run.x[step.t]
        dr += dah.T @ step.h_prev_scale
        db_ih += dax.sum(0)
        db_hh += dah.sum(0)
    for name, value in (("weight_ih", dw), ("weight_hh", dr), ("bias_ih", db_ih), ("bias_hh", db_hh)):
        grad_scales[name + run.suffix] = value
    return dx_scale, scale


def _sum_of_sizes(parts):
    return [sum(map(np.abs, part)) for part in zip(*parts, strict=True)]


def _parts(cell, step, ds):
    """Backward for one state at a time (it is linear in ds, and here no state should cancel another), and how it moves
    with what forward rounded: each saved value by its own size, each half of the pre-activations by its scale."""
    small = 2.0**-20
    saved = [step.saved]
    for k, value in enumerate(step.saved):
        saved.append((*step.saved[:k], value * (1 + small), *step.saved[k + 1 :]))
    for ax, ah in ((step.ax_scale, 0), (0, step.ah_scale)):
        saved.append(cell.forward(step.ax + small * ax, step.ah + small * ah, step.prev)[1])
    exact, moved = [], []
    for i in range(len(ds)):
        only = tuple(s if i == j else np.zeros_like(s) for j, s in enumerate(ds))
        first, *others = ([ax, ah, *prev] for ax, ah, prev in (cell.backward(s, step.prev, only) for s in saved))
        exact.append(first)
        moved += [[(a - b) / small for a, b in zip(other, first, strict=True)] for other in others]
    return exact, moved


def assert_single(problem: Problem, got: dict[str, np.ndarray], peer) -> None:
    """Float32 results are within 16 eps of the float64 oracle in their scale, element by element, or the worst error of
    an array is at most twice that of ``peer()``: the same case in float32 by someone else."""
    exact, scale, others = oracle(problem), scales(problem), None
    assert got.keys() == exact.keys()
    for name, value in exact.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == value.shape, f"{name}: shape {got[name].shape}, expected {value.shape}"
        error = np.abs(got[name].astype(np.float64) - value)
        limit = tolerances.EPS_FACTOR32 * tolerances.EPS32 * scale[name] + tolerances.TINY32
        if (error <= limit).all():
            continue
        others = peer() if others is None else others
        worst, allowed = error.max(), tolerances.PEER_FACTOR32 * difference(others[name], value)
        with np.errstate(divide="ignore", invalid="ignore"):
            units = np.nanmax(error / (tolerances.EPS32 * scale[name]))
        assert worst <= allowed, (
            f"{name}: {units:.3g} eps of its scale, and {worst:.3g} > {allowed:.3g}: {problem.case}"
        )
