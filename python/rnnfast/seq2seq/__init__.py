"""One sequence into another: encoder, decoder, attention, beam search; and a vector into a sequence."""

from .attention import Attention
from .decoder import Decoder
from .encoder import Encoder
from .fit import evaluate_pairs, fit, load
from .model import Seq2Seq
from .search import Hypothesis

__all__ = ["Attention", "Decoder", "Encoder", "Hypothesis", "Seq2Seq", "evaluate_pairs", "fit", "load"]
