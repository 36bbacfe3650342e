"""What comes to rnnfast.torch seldom and must neither crash nor go wrong: tensors that are elsewhere, lazy or wrapped,
concurrent passes, copies of changed and frozen modules."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
pytestmark = pytest.mark.filterwarnings("ignore:.*runs on torch.nn's own code")


@pytest.fixture
def ours(torch):
    import rnnfast.torch

    torch.manual_seed(0)
    return rnnfast.torch


def pair(torch, ours, name, *args, **options):
    """A module of ours and torch's with the same weights."""
    mine, theirs = getattr(ours, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


@pytest.mark.parametrize("name", NAMES)
def test_tensors_on_meta_and_cpu_together(torch, ours, name):
    x = torch.zeros(2, 3) if name.endswith("Cell") else torch.zeros(2, 1, 3)
    on_meta = getattr(ours, name)(3, 4, device="meta")
    assert on_meta(x.to("meta")) is not None
    with pytest.raises(RuntimeError):
        on_meta(x)
    with pytest.raises(RuntimeError):
        getattr(ours, name)(3, 4)(x.to("meta"))


def test_batch_sizes_that_are_not_dense_int64(torch, ours):
    rows, packed = torch.randn(6, 3), torch.nn.utils.rnn.PackedSequence
    mine, theirs = pair(torch, ours, "GRU", 3, 4)
    expected = mine(packed(rows, torch.tensor([3, 2, 1])))[0].data
    apart = packed(rows, torch.tensor([3, 99, 2, 99, 1])[::2])  # torch's own code reads the numbers between them
    assert torch.equal(mine(apart)[0].data, expected)
    short = packed(rows, torch.tensor([3, 2, 1], dtype=torch.int32))
    with pytest.raises(RuntimeError) as error:
        theirs(short)
    with pytest.raises(RuntimeError, match=f"^{re.escape(str(error.value).splitlines()[0])}"):
        mine(short)


def test_one_pass_keeps_the_graph_and_another_consumes_it(torch, ours):
    lstm, x = ours.LSTM(32, 128), torch.randn(100, 8, 32)
    weights = list(lstm.parameters())
    expected = torch.autograd.grad(lstm(x)[0].sum(), weights)

    def gradients(y, keep):
        try:
            return torch.autograd.grad(y, weights, retain_graph=keep)
        except RuntimeError as error:  # autograd's own, where the other pass has freed the graph before
            assert "backward through the graph a second time" in str(error)
            return expected

    with ThreadPoolExecutor(2) as pool:
        for _ in range(25):
            y = lstm(x)[0].sum()
            for found in pool.map(gradients, (y, y), (True, False)):
                assert all(map(torch.equal, found, expected))
