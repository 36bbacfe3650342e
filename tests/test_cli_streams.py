"""Standard streams that are closed, full or of few letters: they end no training, and nothing is lost."""

import os
import subprocess
from pathlib import Path

import pytest

from cli_runs import SMALL, command, text_file
from rnnfast import checkpoint

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def train(tmp_path, stdout):
    """A training that prints a sample at steps 10 and 20: (exit code, standard error, the last step saved)."""
    words = command("lm", "train", text_file(tmp_path), "--out", tmp_path / "run", *SMALL)
    done = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, timeout=120, check=False)
    last = checkpoint.read_header(tmp_path / "run" / "last.safetensors")
    return done.returncode, done.stderr.decode(), last["trainer"]["step"]


def test_nobody_reads_the_samples(tmp_path):
    read, write = os.pipe()
    os.close(read)
    code, err, step = train(tmp_path, write)
    os.close(write)
    assert (code, step) == (0, 20)
    assert "no more samples: standard output: Broken pipe" in err and "done: 20 steps" in err
    assert "Exception" not in err and "Traceback" not in err


@full
def test_no_room_for_the_samples(tmp_path):
    with open("/dev/full", "w") as stdout:
        code, err, step = train(tmp_path, stdout)
    assert (code, step) == (0, 20)
    assert "no more samples: standard output: No space left on device" in err and "done: 20 steps" in err


@full
def test_no_room_for_results():
    with open("/dev/full", "w") as stdout:
        done = subprocess.run(command("info"), stdout=stdout, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("rnnfast: error: ") and done.stderr.endswith(b"No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    line = subprocess.list2cmdline(command("lm", "train", text_file(tmp_path), "--out", tmp_path / "run", *SMALL))
    done = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert checkpoint.read_header(tmp_path / "run" / "last.safetensors")["trainer"]["step"] == 20


def test_a_text_from_a_closed_standard_input():
    line = subprocess.list2cmdline(command("lm", "train", "-"))
    done = subprocess.run(["sh", "-c", f"{line} <&-"], capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == "rnnfast: error: standard input is closed: give a file\n"


SCRIPT = """
import rnnfast
model = rnnfast.lm.fit({text!r}, hidden_size=8, num_layers=1, batch_size=4, seq_length=10, max_steps=8, seed=1)
print(ascii(model.sample_text("", 3, seed=1)))
"""


@pytest.mark.parametrize(("encoding", "text"), [("ascii", "\u00e9\u4e2dabc\n" * 300), ("utf-8", "ab\ud800c" * 300)])
def test_letters_that_standard_output_does_not_have(encoding, text):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    words = [*command()[:1], "-c", SCRIPT.format(text=text)]
    done = subprocess.run(words, capture_output=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"?" in done.stdout  # of the sample
