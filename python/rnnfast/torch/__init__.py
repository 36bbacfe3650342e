"""PyTorch's recurrent layers and cells on the kernels of rnnfast.

    model = rnnfast.torch.accelerate(model)  # every nn.RNN, nn.LSTM, nn.GRU and cell inside, in place

or the classes by name: RNN, LSTM, GRU, RNNCell, LSTMCell and GRUCell derive from those of torch.nn, with their
constructors, parameters, state dicts and errors. They also take `lengths`, `reset`, integers for one-hot rows and
`compute_dtype="bfloat16"`. CUDA tensors run on the GPU kernels, where rnnfast is built with them. What the kernels
cannot do (other devices and dtypes, proj_size) runs on torch.nn's own code, with one warning that says why.

Double backward (create_graph=True) and torch.func's derivatives of derivatives run step by step in PyTorch's own
operations: right, but as slow as those.
"""

from ._cells import GRUCell, LSTMCell, RNNCell
from ._convert import accelerate, freeze, restore, unfreeze
from ._dynamo import allow_compilation
from ._modules import GRU, LSTM, RNN

allow_compilation()

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "accelerate",
    "freeze",
    "restore",
    "unfreeze",
]
