"""The files of a training run, and a resume that changes no bit."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rnnfast
from rnnfast import checkpoint
from rnnfast._interrupt import Interrupt
from rnnfast._run_folder import FolderError, check, replacing
from rnnfast.schedules import Schedule
from rnnfast.train import BEST, LAST, METRICS, Limits, Trainer
from toy import SCHEDULES, LineTask, Momentum, comparable, metrics, trainer

# ---- files ----


def test_files_of_a_run(tmp_path):
    out = tmp_path / "a" / "b"
    result = trainer(LineTask(losses=[3.0, 1.0, 2.0]), out).run()
    rows = metrics(out)
    assert [int(r["step"]) for r in rows] == [r["step"] for r in result.rows]
    assert [float(r["train_loss"]) for r in rows] == [r["train_loss"] for r in result.rows]  # to the bit
    assert checkpoint.read_header(out / LAST)["trainer"]["step"] == 60
    assert checkpoint.read_header(out / BEST)["trainer"]["step"] == 20
    expected = {LAST, BEST, METRICS}
    if importlib.util.find_spec("matplotlib") or os.environ.get("RNNFAST_REQUIRE_TORCH"):  # then it is installed too
        expected.add("loss.png")
        assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert set(os.listdir(out)) == expected


def test_overwrite_that_dies_leaves_no_best_of_the_old_run_beside_the_new_one(tmp_path, monkeypatch):
    trainer(LineTask(), tmp_path).run()
    old, replaced = (tmp_path / LAST).read_bytes(), []

    def replace(source, target):
        replaced.append((Path(target).name, sorted(p.name for p in tmp_path.glob("*.safetensors"))))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="cannot write the checkpoint"):
        trainer(LineTask(), tmp_path).run()
    assert replaced == [(LAST, [LAST])] and (tmp_path / LAST).read_bytes() == old


def test_a_run_that_dies_between_its_two_checkpoints_keeps_its_best(tmp_path, monkeypatch):
    """The best one is of the step that the run says, at each moment and after going on from there."""
    whole = trainer(LineTask(), tmp_path / "whole").run()

    def dies(source, target, replace=os.replace):
        if Path(target).name == BEST:
            raise OSError(28, "No space left on device")
        replace(source, target)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(OSError, match="cannot write the checkpoint"):
            trainer(LineTask(), out).run()
    saved = checkpoint.read_header(out / LAST)["trainer"]
    assert saved["best_step"] == saved["step"] and not (out / BEST).exists()
    resumed = trainer(LineTask(), out)
    resumed.resume()
    assert checkpoint.read_header(out / BEST)["trainer"]["step"] == saved["best_step"]
    again = resumed.run()
    assert (again.best_step, again.best_loss) == (whole.best_step, whole.best_loss)
    assert checkpoint.read_header(out / BEST)["trainer"]["step"] == whole.best_step


def test_a_row_for_each_step_does_not_swell_the_description(tmp_path):
    trainer(LineTask(), tmp_path, max_steps=200, log_every=1).run()
    arrays, meta = checkpoint.load(tmp_path / LAST)
    assert arrays["trainer.rows"].shape == (200, 8) and len(json.dumps(meta)) < 3000
    resumed = trainer(LineTask(), tmp_path, max_steps=201, log_every=1)
    resumed.resume()
    rows = resumed.run().rows
    assert [(r["step"], r["items"]) for r in rows] == [(i, 5 * i) for i in range(1, 202)]
    assert all(type(r["step"]) is int for r in rows) and [r["val_loss"] for r in rows[:3]] == [None] * 3


def test_overwrite_removes_what_the_old_run_left_and_nothing_else(tmp_path):
    trainer(LineTask(), tmp_path).run()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f".{LAST}.77.tmp").write_text("half")
    trainer(LineTask(validate=False), tmp_path, max_steps=3).run()
    assert set(os.listdir(tmp_path)) - {"loss.png"} == {LAST, METRICS, "notes.txt"}
    assert len(metrics(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_shows_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    task = LineTask()
    with pytest.raises(OSError, match="file"):
        trainer(task, tmp_path / "file" / "out").run()
    assert task.steps == 0


FOLDERS = [
    ("not empty", {"resume": False, "overwrite": False}, lambda d: (d / "x").write_text(""), "is not empty"),
    ("a file", {"resume": False, "overwrite": True}, lambda d: (d.rmdir(), d.write_text("")), "must be a folder"),
    ("nothing to resume", {"resume": True, "overwrite": False}, lambda d: None, "nothing to resume"),
    ("missing to resume", {"resume": True, "overwrite": False}, lambda d: d.rmdir(), "nothing to resume"),
    ("both", {"resume": True, "overwrite": True}, lambda d: None, "exclude each other"),
]


@pytest.mark.parametrize(("flags", "prepare", "error"), [f[1:] for f in FOLDERS], ids=[f[0] for f in FOLDERS])
def test_folders_that_are_refused(tmp_path, flags, prepare, error):
    out = tmp_path / "out"
    out.mkdir()
    prepare(out)
    with pytest.raises(FolderError, match=error):
        check(out, **flags)


def test_folders_that_are_taken(tmp_path):
    check(tmp_path / "new", resume=False, overwrite=False)
    check(tmp_path, resume=False, overwrite=False)
    (tmp_path / LAST).write_text("")
    check(tmp_path, resume=True, overwrite=False)
    check(tmp_path, resume=False, overwrite=True)
    assert os.listdir(tmp_path) == [LAST]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.csv"]
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.csv"]
    with pytest.raises(FileNotFoundError) as e, replacing(tmp_path / "none" / "a.csv") as temporary:
        temporary.write_text("new")
    assert e.value.filename == str(tmp_path / "none" / "a.csv")


# ---- resume ----


def straight(tmp_path, **kwargs):
    t = trainer(LineTask(), tmp_path / "straight", **kwargs)
    t.run()
    return comparable(t.state()), metrics(tmp_path / "straight")


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("at", [1, 7, 10, 14, 33, 59])
def test_interrupted_and_resumed_is_the_same_to_the_bit(tmp_path, kind, at):
    def schedule():
        s = SCHEDULES[kind]
        return Schedule(**{name: getattr(s, name) for name in s.__dataclass_fields__})

    expected = straight(tmp_path, schedule=schedule())
    first = trainer(LineTask({at: "interrupt"}), tmp_path / "out", schedule=schedule())
    result = first.run()
    assert result.stopped == "interrupted" and result.step == at
    second = trainer(LineTask(), tmp_path / "out", schedule=schedule())
    second.resume()
    assert second.run().stopped == "steps"
    assert comparable(second.state()) == expected[0]
    assert metrics(tmp_path / "out") == expected[1]


@pytest.mark.parametrize("evaluation", [1, 3, 6])
def test_interrupted_in_an_evaluation(tmp_path, evaluation):
    expected = straight(tmp_path)
    result = trainer(LineTask({f"evaluation {evaluation}": "interrupt"}), tmp_path / "out").run()
    assert result.stopped == "interrupted" and result.step == 10 * evaluation
    second = trainer(LineTask(), tmp_path / "out")
    second.resume()
    second.run()
    assert comparable(second.state()) == expected[0]
    assert metrics(tmp_path / "out") == expected[1]


def test_resumed_with_a_higher_limit(tmp_path):
    expected = straight(tmp_path)
    trainer(LineTask(), tmp_path / "out", max_steps=30).run()
    second = trainer(LineTask(), tmp_path / "out", max_steps=60)
    second.resume()
    second.run()
    assert comparable(second.state()) == expected[0]
    assert metrics(tmp_path / "out") == expected[1]


def test_resumed_when_all_is_done(tmp_path):
    trainer(LineTask(), tmp_path).run()
    before = metrics(tmp_path)
    task = LineTask()
    second = trainer(task, tmp_path)
    second.resume()
    assert second.run().step == 60
    assert not task.train_losses and metrics(tmp_path) == before


def test_resumed_without_the_best_checkpoint(tmp_path):
    def best(**limits):
        task = LineTask(losses=[1.0, 2.0, 3.0])
        return Trainer(task, Momentum(), Schedule(), Limits(eval_every=10, **limits), out=tmp_path, keep_best=True)

    best(max_steps=20).run()
    (tmp_path / BEST).unlink()
    with pytest.raises(checkpoint.CheckpointError, match=f"{BEST} is missing"):
        best(max_steps=30).resume()


def test_resumed_evaluations_by_the_clock_go_on(tmp_path):
    t = trainer(LineTask(), tmp_path, eval_seconds=1000.0)
    t._started -= 3000  # they have passed
    t.run()
    at = [r["step"] for r in t.rows if r["val_loss"] is not None]
    second = trainer(LineTask(), tmp_path, max_steps=80, eval_seconds=1000.0)
    second.resume()
    assert second.eval_seconds == t.eval_seconds > 0
    second.run()
    assert at == [1, 60] and [r["step"] for r in second.rows if r["val_loss"] is not None] == [1, 60, 80]


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from toy import LineTask, trainer
trainer(LineTask({int(sys.argv[3]): "kill"}), sys.argv[2], save_every=4).run()
"""


@pytest.mark.parametrize("at", [3, 42])
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path, at):
    expected = straight(tmp_path, save_every=4)
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "out"), str(at)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    second = trainer(LineTask(), tmp_path / "out", save_every=4)
    second.resume()
    assert second.step == (at - 1) // 4 * 4 if at > 3 else second.step == 0
    second.run()
    assert comparable(second.state()) == expected[0]
    assert metrics(tmp_path / "out") == expected[1]


def test_resume_refuses_another_run(tmp_path):
    trainer(LineTask(), tmp_path).run()
    with pytest.raises(checkpoint.CheckpointError, match="run with another seed: 0, not 1"):
        trainer(LineTask(data_seed=1), tmp_path).resume()
    other = LineTask()
    other.describe = lambda: {"kind": "line", "data": {"seed": 0}, "vocabulary": 65}
    with pytest.raises(checkpoint.CheckpointError, match="another kind of model: it does not say its vocabulary"):
        trainer(other, tmp_path).resume()
    other = LineTask()
    del other.module.params["b"]
    with pytest.raises(checkpoint.CheckpointError, match="does not fit this training run: state must have"):
        trainer(other, tmp_path).resume()
    with pytest.raises(ValueError, match="out must be given to resume"):
        trainer(LineTask()).resume()


# ---- Ctrl-C ----


def test_a_second_ctrl_c_ends_at_once():
    interrupt = Interrupt()
    with pytest.raises(KeyboardInterrupt), interrupt.caught():
        signal.raise_signal(signal.SIGINT)
        assert interrupt.stop
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # Python's own handler is back


def test_sigterm_saves_and_then_does_what_it_should(tmp_path):
    got = []
    old = signal.signal(signal.SIGTERM, lambda *a: got.append(a))
    try:
        trainer(LineTask({25: "terminate"}), tmp_path).run()
    finally:
        signal.signal(signal.SIGTERM, old)
    assert len(got) == 1
    assert checkpoint.read_header(tmp_path / LAST)["trainer"]["step"] == 25


def test_ignored_signals_stay_ignored(tmp_path):
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert trainer(LineTask({25: "interrupt"}), tmp_path).run().step == 60
    finally:
        signal.signal(signal.SIGINT, old)


def test_in_another_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(trainer().run()))
    thread.start()
    thread.join()
    assert results[0].step == 60


def test_a_plot_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, capsys):
    def broken(path, rows):
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr("rnnfast.train.plot_losses", broken)
    options = {"hidden_size": 8, "num_layers": 1, "batch_size": 4, "seq_length": 10, "max_steps": 4, "seed": 1}
    model = rnnfast.lm.fit("abc\n" * 300, out=tmp_path / "run", **options)
    assert model.sample_text("", 3, seed=1)
    assert "no loss.png: numpy.core.multiarray failed to import" in capsys.readouterr().err
