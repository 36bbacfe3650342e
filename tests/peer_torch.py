"""The same cases computed by torch: whole modules, weights by name, PackedSequence for lengths."""

from __future__ import annotations

import numpy as np

from cases import Problem, plain, results

KINDS = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU"}


def torch_module(torch, problem: Problem, dtype: str, **options):
    """torch.nn.RNN, LSTM or GRU with the parameters of a case."""
    case = problem.case
    if case.cell.startswith("rnn_"):
        options["nonlinearity"] = case.cell.removeprefix("rnn_")
    module = getattr(torch.nn, KINDS[case.cell])(
        case.I,
        case.H,
        case.layers,
        bias=case.bias,
        bidirectional=case.bidirectional,
        dtype=getattr(torch, dtype),
        **options,
    )
    module.load_state_dict({name: torch.tensor(value) for name, value in problem.params.items()})
    return module


def run_torch(torch, problem: Problem, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Everything by torch, forward and backward. The case has no resets, no dropout and no row of length 0."""
    case = problem.case
    module = torch_module(torch, problem, dtype)
    value = lambda a: torch.tensor(np.asarray(a).astype(dtype))  # noqa: E731
    x = value(np.where(problem.valid, _rows(problem), 0)).requires_grad_()
    state = None
    if problem.state is not None:
        state = tuple(value(s).requires_grad_() for s in problem.state)
    if problem.lengths is None:
        y, end = module(x, plain(state))
    else:
        pack = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(problem.lengths), enforce_sorted=False)
        packed, end = module(pack, plain(state))
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, total_length=case.T)
    end = end if isinstance(end, tuple) else (end,)
    loss = (y * value(np.where(problem.valid, problem.dy, 0))).sum()
    loss = loss + sum((s * value(d)).sum() for s, d in zip(end, problem.dstate, strict=True))
    loss.backward()
    arrays = lambda tensors: tuple(t.detach().numpy() for t in tensors)  # noqa: E731
    dstate = arrays(s.grad for s in state) if state else tuple(np.full_like(d, np.nan) for d in problem.dstate)
    dx = None if case.tokens else x.grad.numpy()
    grads = {name: param.grad.numpy() for name, param in module.named_parameters()}
    return results(case, y.detach().numpy(), plain(arrays(end)), dx, plain(dstate), grads)


def without_given_state(problem: Problem, computed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What torch can be asked for: no gradient of a state that was not given."""
    return {k: v for k, v in computed.items() if problem.state is not None or k not in ("dh0", "dc0")}


def _rows(problem: Problem) -> np.ndarray:
    return np.eye(problem.case.I)[problem.x] if problem.case.tokens else problem.x
