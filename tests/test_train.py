"""The training loop: schedules, limits, clipping, progress."""

import io
import math

import numpy as np
import pytest

from rnnfast import Linear, checkpoint, optim
from rnnfast._progress import Progress, duration
from rnnfast.random import CounterRng
from rnnfast.schedules import Schedule
from rnnfast.train import BEST, LAST, Limits, Trainer, TrainingError, update
from toy import SCHEDULES, LineTask, Momentum, metrics, trainer

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
