"""What the scripts share that train a model by a recipe, several times, and take the medians over the seeds."""

import argparse
import json
import sys
from pathlib import Path


def parser(doc, recipes, threads=None):
    """The flags that all of them have; `check` looks at what comes of it. `threads`: what --threads is otherwise."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--recipe", choices=sorted(recipes))
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=threads, metavar="N", help=f"default: {threads or 'all that are allowed'}")
    add("--set", nargs="*", default=[], metavar="OPTION=JSON", help="change the recipe: hidden_size=64 max_epochs=2")
    add("--summary", type=Path, nargs="+", metavar="JSON", help="results of single runs: write their medians")
    add("--out", type=Path, required=True, metavar="JSON")
    add("--quiet", action="store_true")
    return made


def check(made, args, data=None):
    """`data`: what the file that --data names is; None where the script has no such flag."""
    needed = ["--recipe"] if data is None else ["--data", "--recipe"]
    if args.summary is None and any(getattr(args, flag[2:]) is None for flag in needed):
        made.error(f"{' and '.join(needed)} {'is' if data is None else 'are'} needed, or --summary")
    if data is not None and args.data is not None and not args.data.is_file():
        made.error(f"--data: {args.data} is not there. It is {data}")
    if any("=" not in pair for pair in args.set):
        made.error("--set takes OPTION=JSON, as in hidden_size=64")
    try:
        changes(args)
    except ValueError as e:
        made.error(f"--set takes OPTION=JSON, where a string has quotes (cell='\"gru\"'): {e}")
    return args


def changes(args):
    """What --set changes, by name."""
    return {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in args.set)}


def by_recipe(runs, recipes, settings):
    """(name, its runs in the order of their seeds) of each recipe. Seeds may differ, and nothing else that the results
    depend on: the options, where it ran, and what settings(run) says."""

    def of(run):
        about = {k: run["info"][k] for k in ("rnnfast", "isa", "threads", "cpu")}
        return {**without_seed(run["options"]), **about, **settings(run)}

    for name in sorted({r["recipe"] for r in runs}, key=list(recipes).index):
        first, *others = group = sorted((r for r in runs if r["recipe"] == name), key=lambda r: r["seed"])
        for other in others:
            for key, value in of(first).items():
                if of(other)[key] != value:
                    seen = f"{value!r} with seed {first['seed']}, {of(other)[key]!r} with seed {other['seed']}"
                    sys.exit(f"the runs of recipe {name} must differ in their seeds only: {key} is {seen}")
        if len({r["seed"] for r in group}) != len(group):
            sys.exit(f"two runs of recipe {name} have the same seed")
        yield name, group


def without_seed(options):
    return {k: v for k, v in options.items() if k != "seed"}


def main(args, train, summarize):
    """Writes what one of them makes."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.summary is not None:
        result = summarize([json.loads(path.read_text()) for path in args.summary])
    else:
        result = train(args)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
