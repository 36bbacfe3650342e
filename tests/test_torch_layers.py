"""rnnfast.torch computes what torch.nn computes: outputs, states, gradients, attributes, state dicts and errors."""

from __future__ import annotations

import pytest

from torch_cases import CELLS, LAYERS, Case, assert_same, cell_cases, layer_cases, modules, run

CASES = layer_cases() + cell_cases()


def test_there_are_enough_cases():
    assert len(set(CASES)) >= 500


@pytest.mark.filterwarnings("error::RuntimeWarning")  # which would say that torch has computed it
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_torch(torch, case):
    ours, theirs = modules(torch, case)
    exact = None
    if case.dtype == "float32":
        double = modules(torch, case, "float64")[1]
        double.load_state_dict({name: value.double() for name, value in theirs.state_dict().items()})
        exact = run(torch, case, double, "float64")
    assert_same(run(torch, case, ours), run(torch, case, theirs), exact)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("case", CASES[5::97], ids=str)
def test_equals_torch_without_dlpacks_functions(torch, case, monkeypatch):
    """As with a torch that has not got them."""
    from rnnfast.torch import _cores

    ours, _ = modules(torch, case)
    expected = run(torch, case, ours)
    monkeypatch.setattr(_cores, "_TENSORS", _cores._core.Tensors(torch, None))
    _cores.cpu_core.cache_clear()
    ours.zero_grad()
    found = run(torch, case, ours)
    _cores.cpu_core.cache_clear()
    assert all((found[name] == value).all() for name, value in expected.items())


@pytest.mark.parametrize("cell", LAYERS + CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_is_torchs_module_in_all_but_speed(torch, cell, bias):
    ours, theirs = modules(torch, Case(cell, "batched", "float32", 2, bias, True, True, False, True, (3, 2, 5, 4)))
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():  # the same initialisation from the same generator
        assert torch.equal(ours.state_dict()[name], value)
    for attribute, value in vars(theirs).items():
        if not attribute.startswith("_"):
            assert getattr(ours, attribute) == value
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(0.5)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    if hasattr(theirs, "all_weights"):
        assert [[w.shape for w in row] for row in ours.all_weights] == [
            [w.shape for w in r] for r in theirs.all_weights
        ]
        ours.flatten_parameters()


def _raised(call):
    try:
        call()
    except Exception as error:  # whatever it is, ours must be the same
        return type(error), str(error)
    return None


LAYER_ERRORS = {
    "one axis": lambda t, m: m(t.zeros(5)),
    "four axes": lambda t, m: m(t.zeros(2, 3, 4, 5)),
    "another width": lambda t, m: m(t.zeros(3, 2, 6)),
    "another dtype": lambda t, m: m(t.zeros(3, 2, 5, dtype=t.float64)),
    "no steps": lambda t, m: m(t.zeros(0, 2, 5)),
    "integers of three axes": lambda t, m: m(t.zeros(3, 2, 5, dtype=t.int64)),
    "a state of another batch": lambda t, m: m(t.zeros(3, 2, 5), _state(t, m, (2, 3, 4))),
    "a state of two axes": lambda t, m: m(t.zeros(3, 2, 5), _state(t, m, (2, 4))),
    "a state of three axes without a batch": lambda t, m: m(t.zeros(3, 5), _state(t, m, (2, 1, 4))),
    "a state of another dtype": lambda t, m: m(t.zeros(3, 2, 5), _state(t, m, (2, 2, 4), t.float64)),
    "a state that is no tensor": lambda t, m: m(t.zeros(3, 2, 5), 1.0),
    "no tensor": lambda t, m: m([1.0, 2.0]),
    "packed of another width": lambda t, m: m(t.nn.utils.rnn.pack_sequence([t.zeros(3, 6), t.zeros(2, 6)])),
    "packed with a state of another batch": lambda t, m: m(
        t.nn.utils.rnn.pack_sequence([t.zeros(3, 5), t.zeros(2, 5)]), _state(t, m, (2, 3, 4))
    ),
}
CELL_ERRORS = {
    "three axes": lambda t, m: m(t.zeros(2, 3, 5)),
    "another width": lambda t, m: m(t.zeros(2, 6)),
    "another dtype": lambda t, m: m(t.zeros(2, 5, dtype=t.float64)),
    "a state of another batch": lambda t, m: m(t.zeros(2, 5), _state(t, m, (3, 4))),
    "a state of three axes": lambda t, m: m(t.zeros(2, 5), _state(t, m, (1, 2, 4))),
    "a state of another width": lambda t, m: m(t.zeros(2, 5), _state(t, m, (2, 7))),
    "no tensor": lambda t, m: m([1.0]),
}
CONSTRUCTOR_ERRORS = [
    {"hidden_size": 0}, {"input_size": 0}, {"num_layers": 0}, {"dropout": 2.0}, {"dropout": True},
    {"bias": 1}, {"batch_first": 1}, {"hidden_size": 2.5}, {"proj_size": 9}, {"proj_size": -1},
    {"nonlinearity": "sine"},
]  # fmt: skip


def _state(torch, module, shape, dtype=None):
    state = torch.zeros(shape, dtype=dtype)
    return (state, state.clone()) if "LSTM" in type(module).__name__ else state


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell", LAYERS + CELLS)
def test_errors_are_torchs(torch, cell):
    ours, theirs = modules(torch, Case(cell, "batched", "float32", 2, True, False, False, False, True, (3, 2, 5, 4)))
    calls = CELL_ERRORS if "Cell" in cell else LAYER_ERRORS
    for name, call in calls.items():
        expected = _raised(lambda: call(torch, theirs))  # noqa: B023
        assert _raised(lambda: call(torch, ours)) == expected, name  # noqa: B023
        assert expected is not None, name


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_errors_of_constructors_are_torchs(torch, kind):
    import rnnfast.torch

    for wrong in CONSTRUCTOR_ERRORS:
        options = {"input_size": 3, "hidden_size": 4, **wrong}
        expected = _raised(lambda: getattr(torch.nn, kind)(**options))  # noqa: B023
        assert _raised(lambda: getattr(rnnfast.torch, kind)(**options)) == expected, wrong  # noqa: B023
        assert expected is not None, wrong
    with pytest.raises(ValueError, match="compute_dtype must be None or 'bfloat16', got 'float16'"):
        getattr(rnnfast.torch, kind)(3, 4, compute_dtype="float16")
