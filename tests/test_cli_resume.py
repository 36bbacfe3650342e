"""The command line: going on after Ctrl-C and kill -9, to the bit."""

import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cli_runs import SMALL, run, state, text_file, train
from rnnfast import _run_folder, checkpoint
from rnnfast.cli import main
from toy import metrics

LONG = [
    *SMALL,
    "--max-steps",
    "200",
    "--eval-every",
    "25",
    "--save-every",
    "5",
    "--dropout",
    "0.3",
    "--num-layers",
    "2",
]
# A step that takes a while, so that a signal finds the run where it should.
SLOWLY = """
import sys, time
from rnnfast.lm.fit import LanguageModelTask
step = LanguageModelTask.train_step
def slowly(self, *args, **kwargs):
    time.sleep(0.004)
    return step(self, *args, **kwargs)
LanguageModelTask.train_step = slowly
from rnnfast.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("uninterrupted"), small=LONG)


def start_and_stop(tmp_path, after_step, number, *flags):
    """Start the run of `uninterrupted`, send it a signal once it is beyond a step: (process, its streams)."""
    out = tmp_path / "run"
    words = ["lm", "train", text_file(tmp_path), "--out", str(out), *LONG, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *words], **pipes)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "last.safetensors").exists():
            meta = checkpoint.read_header(out / "last.safetensors")
            if meta["trainer"]["step"] >= after_step:
                break
        time.sleep(0.002)
    process.send_signal(number)
    streams = process.communicate(timeout=60)
    return process.returncode, streams[0].decode(), streams[1].decode()


@pytest.mark.parametrize("after_step", [5, 100, 150])
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path, uninterrupted, after_step):
    """200 steps, or kill -9 on the way and the rest after it: the same weights, optimiser, generators, losses."""
    code, _, _ = start_and_stop(tmp_path, after_step, signal.SIGKILL, "--quiet")
    assert code == -signal.SIGKILL
    out = tmp_path / "run"
    reached = checkpoint.read_header(out / "last.safetensors")["trainer"]["step"]
    assert after_step <= reached < 200
    assert main(["lm", "train", text_file(tmp_path), "--out", str(out), "--resume", "--quiet"]) == 0
    assert state(out / "last.safetensors") == state(uninterrupted / "last.safetensors")
    assert state(out / "best.safetensors") == state(uninterrupted / "best.safetensors")
    assert metrics(out) == metrics(uninterrupted)
    assert not list(out.glob(".*"))  # nothing left of a file that was being written


def test_100_steps_killed_then_100_more(tmp_path, uninterrupted):
    """The same when the first run was told to do 100 steps only; the schedule must not depend on the number."""
    constant = ["--schedule", "constant"]
    whole = train(tmp_path, *constant, small=LONG)
    (tmp_path / "half").mkdir()
    out = train(tmp_path / "half", *constant, "--max-steps", "100", small=LONG)
    assert main(["lm", "train", "--out", str(out), "--resume", "--max-steps", "200", "--quiet"]) == 0
    assert state(out / "last.safetensors") == state(whole / "last.safetensors")
    assert metrics(out) == metrics(whole)


def test_ctrl_c_saves_and_prints_the_command_that_resumes(tmp_path, uninterrupted):
    code, _, err = start_and_stop(tmp_path, 50, signal.SIGINT)
    out = tmp_path / "run"
    assert code == 130 and "Traceback" not in err
    stopped = re.search(r"stopped at step (\d+); saved\. To go on:\n +(rnnfast lm train .*)\n\Z", err)
    assert stopped, err
    assert checkpoint.read_header(out / "last.safetensors")["trainer"]["step"] == int(stopped[1]) >= 50
    words = shlex.split(stopped[2])
    assert words[0] == "rnnfast"
    assert main([*words[1:], "--quiet"]) == 0
    assert state(out / "last.safetensors") == state(uninterrupted / "last.safetensors")
    assert metrics(out) == metrics(uninterrupted)


def test_resume_finds_the_text_again_and_takes_new_limits(tmp_path, capsys):
    out = train(tmp_path)
    assert main(["lm", "train", "--out", str(out), "--resume", "--max-steps", "30", "--threads", "1"]) == 0
    assert "done: 30 steps" in capsys.readouterr().err
    assert main(["lm", "train", "--out", str(out), "--resume", "--quiet"]) == 0  # nothing left to do
    assert checkpoint.read_header(out / "last.safetensors")["trainer"]["step"] == 30


def test_a_run_goes_on_in_the_folder_that_it_chose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("lm", "train", text_file(tmp_path), *SMALL)[0] == 0
    code, _, err = run("lm", "train", "bottles.txt", "--resume", "--max-steps", "30")
    assert code == 0 and "done: 30 steps" in err


def test_the_last_checkpoint_stays_finite(tmp_path):
    flags = ["--optimizer", "sgd", "--lr", "1e39", "--grad-clip", "0", "--save-every", "1"]
    code, _, err = run("lm", "train", text_file(tmp_path), "--out", tmp_path / "run", *SMALL, *flags)
    assert code == 1 and "not finite" in err and "Traceback" not in err
    weights = _run_folder.weights_in(checkpoint.load(tmp_path / "run" / "last.safetensors")[0])
    assert weights and all(np.isfinite(w).all() for w in weights.values())
