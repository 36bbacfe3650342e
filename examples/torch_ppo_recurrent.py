"""PPO with a recurrent policy: rollouts step by step, updates over whole sequences with the episodes' ends as resets.

    python examples/torch_ppo_recurrent.py
    python examples/torch_ppo_recurrent.py --loop          # updates step by step, as libraries do without reset masks

The task needs memory: a cue is shown at the first step of an episode, and the last step is rewarded for the action that
it named. Episodes differ in length, so they end at different times in the environments of a batch. Between them the
policy's state must be zero. A loop can do that by multiplying the state with a mask at each step; with `reset=` the
whole rollout is one call.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

import rnnfast.torch


class Recall:
    """Environments (B) that show one of `cues`, then blanks, then ask; an episode has 3 to `longest` steps."""

    def __init__(self, batch: int, cues: int, longest: int, generator: torch.Generator) -> None:
        self.batch, self.cues, self.longest, self.generator = batch, cues, longest, generator
        self.left = torch.zeros(batch, dtype=torch.long)
        self.cue = torch.zeros(batch, dtype=torch.long)

    def begin(self, where: torch.Tensor) -> torch.Tensor:
        """Observations of those that begin: the cue, one-hot; the last input says that an answer is wanted."""
        draw = lambda low, high: torch.randint(low, high, (self.batch,), generator=self.generator)  # noqa: E731
        self.left = torch.where(where, draw(2, self.longest), self.left)
        self.cue = torch.where(where, draw(0, self.cues), self.cue)
        shown = torch.zeros(self.batch, self.cues + 1)
        shown[where, self.cue[where]] = 1
        shown[:, -1] = self.left == 0
        return shown

    def step(self, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(observation, reward, which episodes begin with the observation)"""
        ended = self.left == 0
        reward = (ended & (action == self.cue)).float()
        self.left = self.left - 1
        return self.begin(ended), reward, ended


class Policy(nn.Module):
    def __init__(self, inputs: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.gru = rnnfast.torch.GRU(inputs, hidden)
        self.actor, self.critic = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, x, state, reset, loop=False):
        """x (T, B, I), reset (T, B) -> logits (T, B, actions), values (T, B), state."""
        if loop:
            outputs = []
            for x_t, reset_t in zip(x, reset, strict=True):
                y, state = self.gru(x_t[None], state * ~reset_t[None, :, None])
                outputs.append(y)
            y = torch.cat(outputs)
        else:
            y, state = self.gru(x, state, reset=reset)
        return self.actor(y), self.critic(y)[..., 0], state


def rollout(policy, environment, x, reset, state, steps):
    kept = {name: [] for name in ("x", "reset", "action", "log_p", "value", "reward")}
    with torch.no_grad():
        for _ in range(steps):
            logits, value, state = policy(x[None], state, reset[None])
            chosen = torch.distributions.Categorical(logits=logits[0])
            action = chosen.sample()
            row = {"x": x, "reset": reset, "action": action, "log_p": chosen.log_prob(action), "value": value[0]}
            x, row["reward"], reset = environment.step(action)
            for name, values in kept.items():
                values.append(row[name])
        _, last, _ = policy(x[None], state, reset[None])
    return {name: torch.stack(values) for name, values in kept.items()}, x, reset, state, last[0]


def advantages(data, reset, last, gamma=0.99, smoothing=0.95):
    """Generalised advantage estimates (Schulman et al. 2016)."""
    following, carried, found = last, torch.zeros_like(last), []
    ends = torch.cat([data["reset"][1:], reset[None]])
    for t in reversed(range(len(ends))):
        goes_on = (~ends[t]).float()
        error = data["reward"][t] + gamma * following * goes_on - data["value"][t]
        carried = error + gamma * smoothing * goes_on * carried
        following = data["value"][t]
        found.append(carried)
    return torch.stack(found[::-1])


def update(policy, optimizer, data, state, advantage, epochs, loop):
    """The clipped objective (Schulman et al. 2017) over the whole rollout; returns the seconds that it took."""
    target = advantage + data["value"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    seconds = 0.0
    for _ in range(epochs):
        began = time.perf_counter()
        logits, value, _ = policy(data["x"], state, data["reset"], loop)
        chosen = torch.distributions.Categorical(logits=logits)
        ratio = (chosen.log_prob(data["action"]) - data["log_p"]).exp()
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss = -gain + 0.5 * (value - target).square().mean() - 0.01 * chosen.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        seconds += time.perf_counter() - began
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
    return seconds


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--loop", action="store_true", help="updates step by step instead of with reset masks")
    add("--iterations", type=int, default=60)
    add("--batch", type=int, default=32, help="environments")
    add("--steps", type=int, default=64, help="of a rollout")
    add("--hidden", type=int, default=64)
    add("--cues", type=int, default=4)
    add("--longest", type=int, default=10, help="steps of an episode at the most")
    add("--epochs", type=int, default=4)
    add("--lr", type=float, default=3e-3)
    add("--seed", type=int, default=1)
    add("--threads", type=int, help="default: as many as torch takes")
    add("--quiet", action="store_true")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    environment = Recall(args.batch, args.cues, args.longest, torch.Generator().manual_seed(args.seed))
    policy = Policy(args.cues + 1, args.hidden, args.cues)
    optimizer = torch.optim.Adam(policy.parameters(), args.lr)
    reset = torch.ones(args.batch, dtype=torch.bool)
    x, state = environment.begin(reset), torch.zeros(1, args.batch, args.hidden)
    rewards, seconds = [], 0.0
    for iteration in range(args.iterations):
        first = state
        data, x, reset, state, last = rollout(policy, environment, x, reset, state, args.steps)
        seconds += update(policy, optimizer, data, first, advantages(data, reset, last), args.epochs, args.loop)
        episodes = torch.cat([data["reset"][1:], reset[None]]).sum()
        rewards.append(float(data["reward"].sum() / episodes))
        if not args.quiet and (iteration % 10 == 9 or iteration + 1 == args.iterations):
            per = seconds / (iteration + 1) / args.epochs * 1e3
            print(f"iteration {iteration + 1}: {rewards[-1]:.0%} of the answers right; {per:.2f} ms an update")
    return {"rewards": rewards, "seconds": seconds}


if __name__ == "__main__":
    main()
