"""rnnfast: fused recurrent networks (RNN, LSTM, GRU), forward and backward, and what is built on them."""

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
    "set_num_threads",
    "tbptt",
    "threads",
]


def __getattr__(name: str) -> object:
    """rnnfast.classify is imported when it is first used: it would add a third to the time of this import."""
    if name == "classify":
        import importlib

        return importlib.import_module(".classify", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
