"""rnnfast: fused recurrent networks (RNN, LSTM, GRU), forward and backward, and what is built on them."""

from typing import TYPE_CHECKING

from ._openmp import ensure_libgomp

_libgomp = ensure_libgomp()  # before the extension, which needs it

from . import cuda, ops, optim, random, tbptt  # noqa: E402
from ._info import info, isa  # noqa: E402
from ._threads import get_num_threads, set_num_threads, threads  # noqa: E402
from ._version import __version__  # noqa: E402
from .dense import Dropout, Embedding, Linear  # noqa: E402
from .layers import GRU, LSTM, RNN  # noqa: E402
from .module import Module  # noqa: E402

from . import lm  # noqa: E402  # isort: skip

if TYPE_CHECKING:
    from . import seq2seq

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "Linear",
    "Module",
    "__version__",
    "classify",
    "cuda",
    "get_num_threads",
    "info",
    "isa",
    "lm",
    "ops",
    "optim",
    "random",
    "seq2seq",
    "set_num_threads",
    "tbptt",
    "threads",
]


def __getattr__(name: str) -> object:
    """What is imported when it is first used: each would add a third to the time of this import."""
    if name in ("classify", "seq2seq"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
