"""A character model in PyTorch, trained by truncated back-propagation; one line makes it run on rnnfast's kernels.

    python examples/torch_charlm.py                                  # rnnfast
    python examples/torch_charlm.py --backend torch                  # the same without that line
    torchrun --nproc-per-node 2 examples/torch_charlm.py             # two processes, each with half of the batch

Under torchrun the model is DistributedDataParallel over gloo, and the losses are those of one process with the whole
batch. A text of your own: --text FILE; without one it reads the help of Python's standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

import rnnfast.torch


class CharModel(nn.Module):
    def __init__(self, vocabulary: int, cell: str, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.rnn = getattr(nn, cell)(hidden, hidden, layers)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, tokens, state=None):
        y, state = self.rnn(self.embedding(tokens), state)
        return self.output(y), state


def read(path: Path | None) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def streams(text: str, batch: int) -> tuple[torch.Tensor, int]:
    """(tokens (N, batch), the size of the vocabulary): the text in `batch` columns, each continuing where it ended."""
    vocabulary = sorted(set(text))
    number = {character: i for i, character in enumerate(vocabulary)}
    tokens = torch.tensor([number[character] for character in text])
    rows = len(tokens) // batch
    return tokens[: rows * batch].view(batch, rows).T.contiguous(), len(vocabulary)


def detached(state):
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def processes() -> tuple[int, int]:
    """(how many processes torchrun has started, which of them this is)."""
    return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))


@contextmanager
def process_group():
    """The processes' group; after it, gloo's threads are gone: one that still lets go of a tensor while the
    interpreter ends aborts the process."""
    if processes()[0] == 1:
        yield
        return
    import torch.distributed.nn  # before the group is made: its functions keep the group that they find

    torch.distributed.init_process_group("gloo")
    yield
    torch.distributed.destroy_process_group()


def train(args: argparse.Namespace) -> dict:
    world, rank = processes()
    torch.manual_seed(args.seed)
    tokens, vocabulary = streams(read(args.text), args.batch)
    tokens = tokens.chunk(world, dim=1)[rank].contiguous()  # this process's columns
    model = CharModel(vocabulary, args.cell, args.hidden, args.layers)
    if args.backend == "rnnfast":
        model = rnnfast.torch.accelerate(model)
    parallel = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    losses, state, began = [], None, time.perf_counter()
    chunks = (len(tokens) - 1) // args.steps_per_chunk
    for step in range(args.steps):
        at = step % chunks * args.steps_per_chunk
        state = None if at == 0 else state
        x, target = tokens[at : at + args.steps_per_chunk], tokens[at + 1 : at + args.steps_per_chunk + 1]
        logits, state = parallel(x, state)
        state = detached(state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        whole = loss.detach() / world
        if world > 1:
            torch.distributed.all_reduce(whole)
        losses.append(float(whole))
        if rank == 0 and not args.quiet and (step % 20 == 19 or step + 1 == args.steps):
            each = (time.perf_counter() - began) / (step + 1)
            print(f"step {step + 1}: loss {losses[-1]:.4f}, {each * 1e3:.1f} ms a step")
    return {"losses": losses, "seconds": time.perf_counter() - began, "rank": rank}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = made.add_argument
    add("--text", type=Path, help="a text in UTF-8; default: the help of Python's standard library")
    add("--backend", choices=("rnnfast", "torch"), default="rnnfast")
    add("--cell", choices=("LSTM", "GRU", "RNN"), default="LSTM")
    add("--hidden", type=int, default=128)
    add("--layers", type=int, default=2)
    add("--batch", type=int, default=32, help="sequences, of all processes together")
    add("--steps-per-chunk", type=int, default=50, help="characters of each sequence in a training step")
    add("--steps", type=int, default=200, help="training steps")
    add("--lr", type=float, default=2e-3)
    add("--seed", type=int, default=1)
    add("--threads", type=int, help="default: as many as torch takes")
    add("--out", type=Path, help="write losses and seconds as JSON")
    add("--quiet", action="store_true")
    return made


def main(argv: list[str] | None = None) -> dict:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    with process_group():
        result = train(args)
    if args.out and result["rank"] == 0:
        args.out.write_text(json.dumps(result), encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
