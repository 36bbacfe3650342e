"""The training loop: schedules, limits, checkpoints, and a resume that changes no bit."""

import csv
import importlib.util
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rnnfast import Linear, checkpoint, optim
from rnnfast._interrupt import Interrupt
from rnnfast._progress import Progress, duration
from rnnfast._run_folder import FolderError, check, replacing
from rnnfast.random import CounterRng
from rnnfast.schedules import Schedule
from rnnfast.train import BEST, LAST, METRICS, Limits, Trainer, TrainingError, update
from toy import LineTask, Momentum

TIMES = ("items_per_second", "seconds")  # of a row of metrics, differ from run to run
SCHEDULES = {
    "constant": Schedule("constant", 0.05),
    "step": Schedule("step", 0.05, decay=0.7, decay_after=2, decay_every=3),
    "cosine": Schedule("cosine", 0.05, warmup=10, min_learning_rate=0.001),
    "plateau": Schedule("plateau", 0.05, decay=0.5, patience=0),
}


def trainer(task=None, out=None, *, schedule=None, **limits):
    limits = {"max_steps": 60, "eval_every": 10, "log_every": 5, **limits}
    schedule = schedule or Schedule("constant", 0.05)
    return Trainer(task or LineTask(), Momentum(), schedule, Limits(**limits), out=out)


def comparable(state):
    """Everything in a state but the clock."""
    arrays, meta = state
    clock = ("seconds", "row_seconds", "seconds_evaluated", "eval_seconds")
    numbers = {k: v for k, v in meta["trainer"].items() if k not in clock}
    arrays = {**arrays, "trainer.rows": arrays["trainer.rows"][:, :6]}
    arrays = {k: (v.dtype.str, v.shape, v.tobytes()) for k, v in arrays.items()}
    return arrays, numbers, meta["optimizer"], meta["schedule"], meta["task_state"]


def metrics(out):
    with open(Path(out) / METRICS, encoding="ascii") as f:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)]


# ---- schedules ----


def test_constant_and_warmup():
    s = Schedule("constant", 1.0, warmup=4)
    assert [s.rate(i, 0.0, 0.0) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_step_decays_by_epochs():
    s = Schedule("step", 1.0, decay=0.5, decay_after=2, decay_every=3)
    assert [s.rate(0, e, 0.0) for e in (0, 1.9, 2, 4.9, 5, 8)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]


def test_cosine():
    s = Schedule("cosine", 1.0, min_learning_rate=0.2)
    rates = [s.rate(i, 0.0, i / 100) for i in range(101)]
    assert rates[0] == 1.0 and rates[50] == pytest.approx(0.6) and rates[100] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True)


def test_cosine_begins_where_the_warmup_ends():
    s = Schedule("cosine", 1.0, warmup=20)
    rates = [s.rate(i, 0.0, i / 100) for i in range(101)]
    assert rates[:20] == sorted(rates[:20]) and rates[19] == rates[20] == 1.0
    assert rates[20:] == sorted(rates[20:], reverse=True) and rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-15)


def test_plateau():
    s = Schedule("plateau", 1.0, decay=0.1, patience=1, min_learning_rate=0.05)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.5, 1.9, 1.9, 1.9, 1.9, 1.9):
        s.observe(loss)
        rates.append(s.rate(0, 0.0, 0.0))
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    other = Schedule("plateau", 1.0, decay=0.1, patience=1, min_learning_rate=0.05)
    other.load_state_dict(s.state_dict())
    assert other.state_dict() == s.state_dict()


def test_unknown_schedule():
    with pytest.raises(ValueError, match="schedule must be one of constant, step, cosine, plateau, got 'linear'"):
        Schedule("linear")


# ---- the loop ----


def test_it_learns_and_says_how():
    result = trainer(max_steps=300).run()
    assert result.stopped == "steps" and result.step == 300
    assert result.best_loss < 1e-2 < result.rows[0]["train_loss"]
    assert [r["step"] for r in result.rows] == list(range(5, 301, 5))
    assert [r["step"] for r in result.rows if r["val_loss"] is not None] == list(range(10, 301, 10))
    assert result.rows[-1]["items"] == 300 * 5


@pytest.mark.parametrize(
    ("limits", "steps", "stopped"),
    [
        ({"max_steps": 13}, 13, "steps"),
        ({"max_steps": None, "max_epochs": 3}, 21, "steps"),
        ({"max_steps": 13, "max_epochs": 3}, 13, "steps"),
        ({"max_steps": 100, "max_epochs": 3}, 21, "steps"),
    ],
)
def test_limits(limits, steps, stopped):
    result = trainer(**limits).run()
    assert (result.step, result.stopped) == (steps, stopped)
    assert result.rows[-1]["step"] == steps and result.rows[-1]["val_loss"] is not None  # evaluated at the end


@pytest.mark.parametrize(("epoch", "every"), [(7, 100), (340, 340), (5000, 1000)])
def test_evaluations_by_default(epoch, every):
    t = Trainer(LineTask(steps_per_epoch=epoch), Momentum(), Schedule(), Limits(max_epochs=1))
    assert (t.eval_every, t.log_every) == (every, every // 10)


def test_no_limit_at_all():
    with pytest.raises(ValueError, match="max_steps, max_epochs or max_time must be given"):
        trainer(max_steps=None)


def test_max_time():
    result = trainer(max_steps=None, max_time=0.3).run()
    assert result.stopped == "time" and result.step > 10
    assert 0.2 < result.seconds < 2.0


def test_patience():
    task = LineTask(losses=[3.0, 2.0, 2.5, 2.0, 1.9, 1.95, 1.95, 1.95, 1.0])
    result = trainer(task, max_steps=1000, patience=3).run()
    assert result.stopped == "patience" and result.step == 80
    assert (result.best_loss, result.best_step) == (1.9, 50)


def test_train_loss_is_the_mean_since_the_last_row():
    task = LineTask()
    rows = trainer(task, max_steps=23).run().rows
    assert [r["step"] for r in rows] == [5, 10, 15, 20, 23]
    for i, row in enumerate(rows):
        assert row["train_loss"] == pytest.approx(np.mean(task.train_losses[5 * i : 5 * i + 5]), abs=1e-15)


def test_the_schedule_is_followed():
    rows = trainer(schedule=SCHEDULES["cosine"], log_every=1).run().rows
    s = SCHEDULES["cosine"]
    assert [r["learning_rate"] for r in rows] == [s.rate(i, 0.0, i / 60) for i in range(60)]


def test_best_weights_are_kept():
    task = LineTask(losses=[3.0, 1.0, 2.0])
    t = Trainer(task, Momentum(), Schedule(), Limits(max_steps=30, eval_every=10), keep_best=True)
    t.run()
    at_20 = trainer(LineTask(), max_steps=20, schedule=Schedule())
    at_20.run()
    np.testing.assert_array_equal(t.best_weights["w"], at_20.task.module.params["w"])


def test_no_validation(tmp_path):
    result = trainer(LineTask(validate=False), tmp_path).run()
    assert result.loss is None and result.best_loss is None
    assert (tmp_path / LAST).exists() and not (tmp_path / BEST).exists()
    assert all(row["val_loss"] == "" for row in metrics(tmp_path))


def test_what_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="at step 33: the gradient's norm is nan; try a lower learning rate"):
        trainer(LineTask({33: "nan"}), tmp_path).run()
    assert checkpoint.read_header(tmp_path / LAST)["trainer"]["step"] == 30
    with pytest.raises(TrainingError, match="validation loss is nan"):
        trainer(LineTask(losses=[math.nan])).run()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("clip", [{}, {"clip_value": 1.0}, {"clip_norm": 1.0}, {"clip_value": 1.0, "clip_norm": 1.0}])
def test_no_gradient_that_is_not_finite_reaches_the_weights(clip, wrong):
    model, optimizer = Linear(3, 2, seed=0), optim.SGD(0.1)
    model.rng = CounterRng(0)
    before = model.state_dict()

    def gradients():
        model.grads["weight"][1, 2] = wrong
        return 1.0

    with pytest.raises(FloatingPointError, match="norm of the gradients must be finite"):
        update(model, optimizer, gradients, **clip)
    assert all((model.params[name] == before[name]).all() for name in model.params)


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
from test_train import LineTask, trainer
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


# ---- progress ----


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, capsys, **kwargs):
    progress = Progress(stream=stream, **kwargs)
    progress.BAR_SECONDS = 0.0
    t = Trainer(
        LineTask(), Momentum(), Schedule(), Limits(max_steps=20, max_epochs=None, eval_every=10), progress=progress
    )
    t.run()
    return stream.getvalue(), capsys.readouterr().out


def test_plain_lines_where_there_is_no_terminal(capsys):
    err, out = shown(io.StringIO(), capsys, every=5)
    assert "\r" not in err and "\x1b" not in err
    lines = err.splitlines()
    assert lines[0].startswith("step 5/20, epoch 0.71, loss ") and "points/s" in lines[0] and " left" in lines[0]
    assert any(line.startswith("step 10: validation loss ") for line in lines)
    assert out == "sample at 10\nsample at 20\n"


def test_a_bar_on_a_terminal(capsys):
    err, out = shown(Terminal(), capsys)
    assert "100%|" in err and "loss " in err and "points/s" in err and " left" in err
    assert out == "sample at 10\nsample at 20\n"


def test_quiet(capsys):
    assert shown(Terminal(), capsys, quiet=True) == ("", "")


def test_duration():
    assert [duration(s) for s in (0, 59.6, 75, 3600, 7325)] == ["0:00", "1:00", "1:15", "1:00:00", "2:02:05"]
