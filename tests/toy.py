"""A model, an optimiser and a task of a few numbers, to try the trainer on, and what its runs leave."""

import csv
import os
import signal
from pathlib import Path

import numpy as np

from rnnfast.schedules import Schedule
from rnnfast.train import METRICS, Limits, Trainer

TIMES = ("items_per_second", "seconds")  # of a row of metrics, differ from run to run
SCHEDULES = {
    "constant": Schedule("constant", 0.05),
    "step": Schedule("step", 0.05, decay=0.7, decay_after=2, decay_every=3),
    "cosine": Schedule("cosine", 0.05, warmup=10, min_learning_rate=0.001),
    "plateau": Schedule("plateau", 0.05, decay=0.5, patience=0),
}


class Line:
    """y = w x + b"""

    def __init__(self):
        self.params = {"w": np.zeros(3), "b": np.zeros(1)}

    def state_dict(self):
        return {k: v.copy() for k, v in self.params.items()}

    def load_state_dict(self, state):
        if state.keys() != self.params.keys():
            raise ValueError(f"state must have {sorted(self.params)}, got {sorted(state)}")
        for name, value in state.items():
            self.params[name][...] = value


class Momentum:
    def __init__(self, lr=0.1):
        self.lr, self.steps, self.v = lr, 0, {}

    def step(self, params, grads):
        self.steps += 1
        for name, p in params.items():
            self.v[name] = 0.9 * self.v.get(name, 0.0) + grads[name]
            p -= self.lr * self.v[name]

    def state_dict(self):
        return {"type": "Momentum", "hyper": {"lr": self.lr}, "step": self.steps, "arrays": dict(self.v)}

    def load_state_dict(self, state):
        self.steps, self.v = state["step"], dict(state["arrays"])


class LineTask:
    """Batches in an order that depends on the epoch, a carried state, a generator: all that a resume must restore.

    `events`: {step: what to do then}, "interrupt" | "kill" | "nan"; or at an evaluation, "evaluate interrupt".
    """

    unit = "points"

    def __init__(self, events=None, validate=True, data_seed=0, losses=None, steps_per_epoch=7):
        rng = np.random.default_rng(data_seed)
        self.steps_per_epoch = steps_per_epoch
        self.x = rng.standard_normal((steps_per_epoch, 5, 3))
        self.y = self.x @ np.array([1.0, -2.0, 0.5]) + 0.3
        self.module, self.events, self.validate = Line(), events or {}, validate
        self.data_seed, self.losses = data_seed, losses
        self.noise, self.carried, self.steps, self.evaluations = np.random.default_rng(5), 0.0, 0, 0
        self.train_losses = []

    def train_batches(self, epoch, start):
        if start == 0:
            self.carried = 0.0
        order = np.random.default_rng(epoch).permutation(self.steps_per_epoch)
        return iter(order[start:])

    def train_step(self, batch, optimizer):
        self.steps += 1
        self._event(self.steps)
        if self.events.get(self.steps) == "nan":
            raise FloatingPointError("the gradient's norm is nan")
        x, y = self.x[batch], self.y[batch] + 0.01 * self.noise.standard_normal() + 0.001 * self.carried
        p = self.module.params
        error = x @ p["w"] + p["b"] - y
        loss = float((error**2).mean())
        self.carried = 0.5 * self.carried + float(error.mean())
        optimizer.step(p, {"w": 2 * (error @ x) / len(y), "b": np.array([2 * error.mean()])})
        self.train_losses.append(loss)
        return loss, len(y)

    def evaluate(self):
        self.evaluations += 1
        self._event(f"evaluation {self.evaluations}")
        if not self.validate:
            return None
        if self.losses is not None:
            return {"loss": self.losses[min(self.evaluations, len(self.losses)) - 1]}
        p = self.module.params
        return {"loss": float(((self.x @ p["w"] + p["b"] - self.y) ** 2).mean())}

    def sample(self, step):
        return f"sample at {step}"

    def describe(self):
        return {"kind": "line", "data": {"seed": self.data_seed}}

    def state_dict(self):
        state = self.noise.bit_generator.state
        return {"carried": np.array(self.carried)}, {"noise": state, "steps": self.steps}

    def load_state_dict(self, arrays, meta):
        self.carried = float(arrays["carried"])
        self.noise.bit_generator.state = meta["noise"]
        self.steps = meta["steps"]

    def _event(self, when):
        event = self.events.get(when)
        if event in ("interrupt", "terminate"):
            os.kill(os.getpid(), signal.SIGINT if event == "interrupt" else signal.SIGTERM)
        elif event == "kill":
            os.kill(os.getpid(), signal.SIGKILL)


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
