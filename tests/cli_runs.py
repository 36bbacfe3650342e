"""Small runs of the command line, shared by its tests."""

import io
import os
import subprocess
import sys
from pathlib import Path

from rnnfast import checkpoint
from rnnfast.cli import main
from toy import comparable

VERSE = "{n} bottles of beer on the wall, {n} bottles of beer.\nTake one down, pass it around!\n"
TEXT = "".join(VERSE.format(n=n) for n in range(60))
SMALL = [
    *("--rnn-size", "8", "--num-layers", "1", "--batch-size", "4", "--seq-length", "10", "--seed", "3"),
    *("--max-steps", "20", "--eval-every", "10", "--sample-length", "20", "--threads", "1"),
]


def text_file(folder, text=TEXT, name="bottles.txt"):
    path = Path(folder, name)
    path.write_text(text, encoding="utf-8")
    return str(path)


def train(folder, *flags, text=TEXT, small=SMALL):
    """A finished run: its folder."""
    out = Path(folder, "run")
    assert main(["lm", "train", text_file(folder, text), "--out", str(out), *small, "--quiet", *flags]) == 0
    return out


def state(path):
    """All of a checkpoint but the clock."""
    return comparable(checkpoint.load(path))


def command(*words):
    return [sys.executable, "-m", "rnnfast", *map(str, words)]


def run(*words, stdin=None, **kwargs):
    """In its own process: (exit code, standard output, standard error)."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command(*words), input=stdin, capture_output=True, timeout=120, env=environment, **kwargs)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Stdin(io.TextIOWrapper):
    def __init__(self, text):
        super().__init__(io.BytesIO(text.encode()))
