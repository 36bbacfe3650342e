"""Language models: tokenizers, the recurrent model, training it on a text, sampling from it."""

from .data import split
from .fit import fit, load
from .model import LanguageModel, evaluate_text
from .tokenizer import ByteTokenizer, CharTokenizer, SpaceTokenizer, Tokenizer, WordTokenizer, from_dict

__all__ = [
    "ByteTokenizer",
    "CharTokenizer",
    "LanguageModel",
    "SpaceTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "evaluate_text",
    "fit",
    "from_dict",
    "load",
    "split",
]
