"""The one training loop, for every model of rnnfast.

A model comes with a `Task`: its batches, one training step, its evaluation, and what a checkpoint must keep beside the
weights. `Trainer.run` does the rest: schedule, validation, early stop, progress, metrics.csv, loss.png, best and last
checkpoint, a clean stop on Ctrl-C. A run that is killed and resumed does the very same steps as one that was not, to
the bit: everything that the next step depends on is in the checkpoint, the position in the data included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import _run_folder, checkpoint, optim
from ._interrupt import Interrupt
from ._progress import COLUMNS, Progress, append_metrics, duration, plot_losses, write_metrics
from ._run_folder import BEST, LAST, METRICS, PLOT
from .schedules import Schedule

__all__ = ["BEST", "LAST", "METRICS", "Limits", "Result", "Task", "Trainer", "TrainingError", "update"]

Arrays = dict[str, NDArray[Any]]
_SAVED = (
    *("step", "epoch", "position", "evaluated", "loss", "best_loss", "best_step", "bad_evaluations"),
    *("rate", "loss_sum", "loss_count", "items", "row_items", "row_seconds", "seconds_evaluated", "eval_seconds"),
)  # the trainer's own numbers in a checkpoint, beside its rows of metrics


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is as it was."""


class Task(Protocol):
    """What the trainer needs to know about a model and its data."""

    module: Any  # params, state_dict(), load_state_dict(): what is trained
    unit: str  # what an item is, for "items per second": "chars"
    steps_per_epoch: int

    def train_batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from batch `start` on; the same ones for the same arguments."""
        ...

    def train_step(self, batch: Any, optimizer: Any, **clip: float) -> tuple[float, int]:
        """One update: (mean loss, items). A gradient that is not finite raises FloatingPointError before any update."""
        ...

    def evaluate(self) -> dict[str, float] | None:
        """{"loss": …} on the validation data, None where there is none; what else is in it is shown. Changes nothing
        that training depends on."""
        ...

    def sample(self, step: int) -> str | None:
        """Something to show after an evaluation."""
        ...

    def describe(self) -> dict[str, Any]:
        """Jsonable: the kind and configuration of the model, and the identity of the data. A checkpoint with another
        description is refused."""
        ...

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """What the next batch depends on beside weights, optimiser and position: carried state, generators."""
        ...

    def load_state_dict(self, arrays: Arrays, meta: dict[str, Any]) -> None: ...


def update(
    model: Any,
    optimizer: Any,
    gradients: Callable[[], float],
    *,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> float:
    """One update of a model that has dropout's generator as `rng`: `gradients` runs it forward and backward, adding
    into its grads, and returns the loss, which update returns.

    Gradients are clipped by value, then by norm; one that is not finite raises FloatingPointError. If it raises,
    neither the parameters nor the optimiser nor dropout's generator have changed.
    """
    step = model.rng.step
    try:
        model.zero_grad()
        loss = gradients()
        if clip_value is not None:
            optim.clip_grad_norm([model], math.inf)  # refuses an infinite one, which would be clipped too
            optim.clip_grad_value([model], clip_value)
        optim.clip_grad_norm([model], math.inf if clip_norm is None else clip_norm)
        optimizer.step(model)
    except BaseException:
        model.rng.step = step
        raise
    return float(loss)


@dataclass
class Limits:
    """When training stops, and what happens how often. Times in seconds, everything else in steps or evaluations."""

    max_steps: int | None = None
    max_epochs: int | None = None
    max_time: float | None = None  # of training, resumed runs added up
    patience: int | None = None  # stop after so many evaluations in a row without a new best
    eval_every: int | None = None  # None: once an epoch, but every 100 to 1000 steps
    eval_seconds: float | None = None  # evaluate when so much time has passed instead, however many steps that is
    save_every: int | None = None  # besides after each evaluation
    log_every: int | None = None  # a row of metrics.csv; None: ten rows between two evaluations


@dataclass
class Result:
    """How a run ended. `stopped`: "steps", "time", "patience" or "interrupted"."""

    stopped: str
    step: int
    loss: float | None  # the last validation loss
    best_loss: float | None
    best_step: int
    seconds: float
    rows: list[dict[str, Any]] = field(repr=False)


class Trainer:
    """`Trainer(task, optimizer, schedule, limits, out=folder).run()`; `resume()` before it goes on from the last
    checkpoint in `out`. Without `out` nothing is written. `options` is kept in the checkpoint for whoever reads it."""

    def __init__(
        self,
        task: Task,
        optimizer: Any,
        schedule: Schedule,
        limits: Limits | None = None,
        *,
        clip: Mapping[str, float] | None = None,
        out: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        started: float | None = None,
        keep_best: bool = False,
    ) -> None:
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.limits = limits if limits is not None else Limits()
        self.clip = dict(clip or {})
        self.out = None if out is None else Path(out)
        self.options = dict(options or {})
        self.progress = progress if progress is not None else Progress(quiet=True)
        self.total_steps = self._total_steps()
        epoch = task.steps_per_epoch
        self.eval_every = self.limits.eval_every or min(max(epoch, 100), 1000)
        self.log_every = self.limits.log_every or max(1, self.eval_every // 10)
        self.keep_best = keep_best
        self.best_weights: Arrays | None = None
        self._started = started if started is not None else time.monotonic()
        self._before = 0.0  # seconds of the runs that this one resumes
        self._interrupt = Interrupt()
        # All that follows is in the checkpoint.
        self.step, self.epoch, self.position = 0, 0, 0
        self.evaluated = 0  # the step of the last evaluation
        self.seconds_evaluated = self.eval_seconds = 0.0  # when it was, how long it took
        self.loss: float | None = None
        self.best_loss: float | None = None
        self.best_step = self.bad_evaluations = 0
        self.rate, self.loss_sum, self.loss_count, self.items = 0.0, 0.0, 0, 0
        self.row_items, self.row_seconds = 0, 0.0  # since the last row
        self.rows: list[dict[str, Any]] = []

    # ---- the loop ----

    def run(self) -> Result:
        try:
            with self._interrupt.caught():
                self._prepare_out()
                stopped = self._loop()
                self._finish(stopped)
        except FloatingPointError as e:
            advice = "try a lower learning rate, or clip the gradients"
            raise TrainingError(f"training stopped at step {self.step + 1}: {e}; {advice}") from e
        finally:
            self.progress.close()
        self._interrupt.obey()
        return Result(
            stopped, self.step, self.loss, self.best_loss, self.best_step, self.seconds, [dict(r) for r in self.rows]
        )

    def _loop(self) -> str:
        batches: Iterator[Any] | None = None
        while True:
            ended = self._ended()
            if self._evaluation_due(ended) and not self._interrupt.stop:
                seen = self._evaluate()
                if seen is not None:
                    self._save(LAST)
                    if self.best_loss is not None and self.best_step == self.step:
                        self._save(BEST)
                    self._show_evaluation(*seen)  # all is saved, should this fail
                    ended = self._ended()
            if self._interrupt.stop:  # an evaluation that is due is left to the run that resumes this one
                return "interrupted"
            if self.step % self.log_every == 0 and self.step > (self.rows[-1]["step"] if self.rows else 0):
                self._row(None)
            if ended is not None:
                return ended
            if batches is None:
                batches = self.task.train_batches(self.epoch, self.position)
            self._train_step(next(batches))
            if self.position == self.task.steps_per_epoch:
                self.epoch, self.position, batches = self.epoch + 1, 0, None
            if self.limits.save_every and self.step % self.limits.save_every == 0:
                self._save(LAST)

    def _evaluation_due(self, ended: str | None) -> bool:
        if self.step == self.evaluated:
            return False
        if ended is not None:
            return True
        if self.limits.eval_seconds is not None:
            return self.seconds - self.seconds_evaluated >= self.limits.eval_seconds
        return self.step % self.eval_every == 0

    def _train_step(self, batch: Any) -> None:
        t0 = time.perf_counter()
        self.rate = self.schedule.rate(self.step, self.fraction_of_epochs, self.done)
        self.optimizer.lr = self.rate
        loss, items = self.task.train_step(batch, self.optimizer, **self.clip)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        self.step += 1
        self.position += 1
        self.loss_sum, self.loss_count = self.loss_sum + float(loss), self.loss_count + 1
        self.items, self.row_items = self.items + items, self.row_items + items
        self.row_seconds += time.perf_counter() - t0
        if self.progress.due(self.step):
            self.progress.update(self.done, self._line(float(loss)))

    def _evaluate(self) -> tuple[Mapping[str, float], str | None] | None:
        """Evaluate and take note of it: the metrics and a sample. None if Ctrl-C cut it short."""
        t0 = time.monotonic()
        try:
            with self._interrupt.raising():
                metrics = self.task.evaluate()
                sample = self.task.sample(self.step)
        except KeyboardInterrupt:
            self._interrupt.stop = True
            return None
        self.loss = None if metrics is None else float(metrics["loss"])
        if self.loss is not None:
            if not math.isfinite(self.loss):
                raise FloatingPointError(f"the validation loss is {self.loss}")
            self._take_note(self.loss)
        self.evaluated = self.step
        self._row(self.loss)
        self.seconds_evaluated, self.eval_seconds = self.seconds, time.monotonic() - t0
        return {} if metrics is None else metrics, sample

    def _take_note(self, loss: float) -> None:
        self.schedule.observe(loss)
        self.bad_evaluations += 1
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.bad_evaluations = loss, self.step, 0
            if self.keep_best:
                self.best_weights = self.task.module.state_dict()

    def _ended(self) -> str | None:
        if self.step >= self.total_steps:
            return "steps"
        if self.limits.patience is not None and self.bad_evaluations >= self.limits.patience:
            return "patience"
        # The last evaluation takes about as long as the one before it, and belongs to the time allowed.
        if self.limits.max_time is not None and self.seconds + self.eval_seconds >= self.limits.max_time:
            return "time"
        return None

    def _finish(self, stopped: str) -> None:
        if stopped == "interrupted":
            self._save(LAST)
        if self.out is not None:
            try:
                plot_losses(self.out / PLOT, self.rows)
            except Exception as e:  # of matplotlib or of the disk: the run is whole without
                self.progress.message(f"no {PLOT}: {e}")

    # ---- where it stands ----

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    @property
    def fraction_of_epochs(self) -> float:
        return self.epoch + self.position / self.task.steps_per_epoch

    @property
    def done(self) -> float:
        """The part of the run that is behind, by whichever limit is nearer."""
        done = self.step / self.total_steps if self.total_steps < math.inf else 0.0
        if self.limits.max_time is not None:
            allowed = max(1e-9, self.limits.max_time - self.eval_seconds)
            done = max(done, self.seconds / allowed)
        return min(1.0, done)

    def _total_steps(self) -> float:
        limits, epoch = self.limits, self.task.steps_per_epoch
        by_epochs = math.inf if limits.max_epochs is None else limits.max_epochs * epoch
        total = min(by_epochs, math.inf if limits.max_steps is None else limits.max_steps)
        if total == math.inf and limits.max_time is None:
            raise ValueError("max_steps, max_epochs or max_time must be given: training would never end")
        return total

    def _row(self, val_loss: float | None) -> None:
        row = {
            "step": self.step,
            "epoch": round(self.fraction_of_epochs, 4),
            "items": self.items,
            "train_loss": self.loss_sum / self.loss_count if self.loss_count else None,
            "val_loss": val_loss,
            "learning_rate": self.rate,
            "items_per_second": round(self.row_items / self.row_seconds, 1) if self.row_seconds else None,
            "seconds": round(self.seconds, 3),
        }
        self.rows.append(row)
        if self.out is not None:
            append_metrics(self.out / METRICS, row)
        self.loss_sum, self.loss_count, self.row_items, self.row_seconds = 0.0, 0, 0, 0.0

    def _line(self, loss: float) -> str:
        shown = self.loss_sum / self.loss_count if self.loss_count else loss
        steps = f"{self.step}" if self.total_steps == math.inf else f"{self.step}/{self.total_steps:.0f}"
        return (
            f"step {steps}, epoch {self.fraction_of_epochs:.2f}, loss {shown:.4f}, {self._speed()}, "
            f"{duration(self._left())} left"
        )

    def _speed(self) -> str:
        items, seconds = self.row_items, self.row_seconds
        if not seconds:
            last = self.rows[-1]["items_per_second"] if self.rows else None
            return f"{last or 0:,.0f} {self.task.unit}/s"
        return f"{items / seconds:,.0f} {self.task.unit}/s"

    def _left(self) -> float:
        """Seconds to the end, at the pace so far."""
        done = self.done
        return self.seconds * (1.0 - done) / done if done > 0 else 0.0

    def _show_evaluation(self, metrics: Mapping[str, float], sample: str | None) -> None:
        row, val = self.rows[-1], ""
        if self.loss is not None:
            val = f"validation loss {self.loss:.4f}, "
            if self.best_step != self.step:
                val += f"best {self.best_loss:.4f} at step {self.best_step}, "
            val += "".join(f"{name} {value:.4f}, " for name, value in metrics.items() if name != "loss")
        train = "" if row["train_loss"] is None else f"training loss {row['train_loss']:.4f}, "
        self.progress.message(f"step {self.step}: {val}{train}{self._speed()}, {duration(self.seconds)} so far")
        if sample is not None:
            self.progress.text(sample)

    # ---- checkpoints ----

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything that the rest of the run depends on: arrays and a jsonable description."""
        arrays = {f"model.{k}": v for k, v in self.task.module.state_dict().items()}
        optimizer = dict(self.optimizer.state_dict())
        arrays |= {f"optimizer.{k}": np.asarray(v) for k, v in optimizer.pop("arrays").items()}
        task_arrays, task_meta = self.task.state_dict()
        arrays |= {f"task.{k}": v for k, v in task_arrays.items()}
        rows = [[math.nan if row[c] is None else row[c] for c in COLUMNS] for row in self.rows]
        arrays["trainer.rows"] = np.array(rows, np.float64).reshape(-1, len(COLUMNS))
        return arrays, {
            "task": self.task.describe(),
            "task_state": task_meta,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "trainer": {"seconds": self.seconds, **{name: getattr(self, name) for name in _SAVED}},
            "options": self.options,
        }

    def load_state(self, arrays: Arrays, meta: dict[str, Any]) -> None:
        """Take over what `state` returned, from a run on the same model and data."""

        def part(prefix: str) -> Arrays:
            return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}

        self.task.module.load_state_dict(_run_folder.weights_in(arrays))
        self.optimizer.load_state_dict({**meta["optimizer"], "arrays": part("optimizer.")})
        self.task.load_state_dict(part("task."), meta["task_state"])
        self.schedule.load_state_dict(meta["schedule"])
        self._before = meta["trainer"]["seconds"]
        self.rows = [_read_row(values) for values in arrays["trainer.rows"].tolist()]
        for name in _SAVED:
            setattr(self, name, meta["trainer"][name])
        self.optimizer.lr = self.rate

    def resume(self) -> None:
        """Go on from the last checkpoint in `out`."""
        if self.out is None:
            raise ValueError("out must be given to resume: it is the folder that holds the checkpoint")
        path = self.out / LAST
        arrays, meta = checkpoint.load(path)
        _run_folder.check_same(path, meta.get("task", {}), self.task.describe())
        try:
            self.load_state(arrays, meta)
        except (KeyError, ValueError) as e:
            raise checkpoint.CheckpointError(f"{path} does not fit this training run: {e}") from e
        if self.best_loss is None:
            return
        best = self.out / BEST
        if self.best_step == self.step:
            self._save(BEST)  # the run may have ended before it was
        if self.keep_best:
            if not best.exists():
                raise checkpoint.CheckpointError(f"{best} is missing: the best weights of the run that is resumed")
            self.best_weights = _run_folder.weights_in(checkpoint.load(best)[0])

    def _prepare_out(self) -> None:
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        _run_folder.tidy(self.out)
        if self.step == 0:  # a folder that cannot be written to, or is full, shows now and not in an hour
            out = self.out
            checkpoint.save(out / LAST, *self.state(), ready=lambda: _run_folder.forget(out))
        write_metrics(self.out / METRICS, self.rows)

    def _save(self, name: str) -> None:
        if self.out is None:
            return
        arrays, meta = self.state()
        if not all(np.isfinite(array).all() for array in _run_folder.weights_in(arrays).values()):
            raise FloatingPointError("a parameter is not finite")  # the last checkpoint stays
        checkpoint.save(self.out / name, arrays, meta)


def _read_row(values: Sequence[float]) -> dict[str, Any]:
    """A row of metrics, from a checkpoint's numbers."""
    row: dict[str, Any] = {c: None if math.isnan(v) else v for c, v in zip(COLUMNS, values, strict=True)}
    return {**row, "step": int(row["step"]), "items": int(row["items"])}
