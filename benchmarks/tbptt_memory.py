"""Peak memory of truncated BPTT, which must not grow with the length of the stream, and of full BPTT, which does.

    python benchmarks/tbptt_memory.py --out benchmarks/results/tbptt_memory.json

Each run is a process of its own: a character model trained on a stream of random tokens that is made as it is read,
in chunks of --seq-length steps. Peak memory is the process's largest resident set, interpreter and libraries
included.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

VOCABULARY = 65


def peak_bytes():
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: Linux counts the parent's memory at the time of the fork in it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def stream(args):
    """Chunks (x, target) of random tokens, `args.steps` steps in all."""
    import numpy as np

    rng = np.random.default_rng(args.seed)
    tokens = rng.integers(0, VOCABULARY, (1, args.batch_size), dtype=np.int32)
    left = args.steps
    while left:
        new = rng.integers(0, VOCABULARY, (min(left, args.seq_length), args.batch_size), dtype=np.int32)
        tokens = np.concatenate([tokens[-1:], new])
        yield tokens[:-1], tokens[1:]
        left -= len(new)


def run(args):
    """One measurement, in this process."""
    import rnnfast
    from rnnfast import tbptt

    rnnfast.set_num_threads(args.threads)
    model = rnnfast.lm.LanguageModel(VOCABULARY, args.hidden_size, args.num_layers, cell=args.cell, seed=args.seed)
    update = tbptt.updater(rnnfast.optim.Adam(1e-3), model, clip_norm=5.0)
    before, start = peak_bytes(), time.perf_counter()
    if args.kind == "truncated":
        for _, _state in tbptt.truncated(model, stream(args), update=update):
            pass
    else:
        tbptt.full(model, stream(args))
        update()
    return {
        "kind": args.kind,
        "steps": args.steps,
        "start_bytes": before,
        "peak_bytes": peak_bytes(),
        "seconds": round(time.perf_counter() - start, 2),
        "info": rnnfast.info(),
    }


def measure(args, kind, steps):
    """One measurement, in a new process."""
    options = ["--kind", kind, "--steps", str(steps)]
    for name in ("seq_length", "batch_size", "hidden_size", "num_layers", "cell", "threads", "seed"):
        options += ["--" + name.replace("_", "-"), str(getattr(args, name))]
    command = [sys.executable, __file__, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10_000, 1_000_000], help="of truncated BPTT")
    parser.add_argument("--full-steps", type=int, nargs="*", default=[1_000, 10_000], help="of full BPTT")
    parser.add_argument("--seq-length", type=int, default=100, help="steps of a chunk")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--cell", default="lstm", choices=("rnn", "lstm", "gru"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="results as JSON go here")
    parser.add_argument("--kind", choices=("truncated", "full"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse()
    if args.kind:
        args.steps = args.steps[0]
        print(json.dumps(run(args)))
        return
    runs = []
    for kind, steps in [*(("truncated", n) for n in args.steps), *(("full", n) for n in args.full_steps)]:
        runs.append(measure(args, kind, steps))
        mib = runs[-1]["peak_bytes"] / 2**20
        print(f"{kind:>9} {steps:>9,} steps: {mib:8.1f} MiB at most, {runs[-1]['seconds']} s", file=sys.stderr)
    info = [r.pop("info") for r in runs][0]
    peaks = [r["peak_bytes"] for r in runs if r["kind"] == "truncated"]
    settings = {k: v for k, v in vars(args).items() if k not in ("steps", "full_steps", "out", "kind")}
    result = {"settings": settings, "runs": runs, "truncated_growth": max(peaks) / min(peaks) - 1, "info": info}
    print(f"truncated BPTT: the longest stream took {100 * (peaks[-1] / peaks[0] - 1):+.2f} % memory", file=sys.stderr)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
