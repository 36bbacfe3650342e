"""Results of benchmarks/classify.py and classify_speed.py as they could be, for the tests of what is made of them."""

import classify

INFO = {"rnnfast": "0.1.0", "isa": "avx512", "threads": 1, "cpu": "a CPU"}


def fake_classify_run(recipe="mnist", seed=1, **changes):
    options = {"hidden_size": 128, "num_layers": 2, "cell": "gru", "bidirectional": True, "seed": seed}
    return {
        "kind": "classify run",
        "recipe": recipe,
        "changed": {},
        "seed": seed,
        "date": f"2026-01-0{seed}T00:00:00+00:00",
        "info": INFO,
        "model": "SequenceClassifier",
        "augment": "warp",
        "options": options,
        "sequences": {"train": 4000, "test": 1000},
        "parameters": 123_456,
        "steps": 100,
        "epochs": 5.0,
        "training_seconds": 60.0 + seed,
        "validation_accuracy": None,
        "test_accuracy": 0.97 + seed / 1000,
        "target": 0.965,
        "losses": [],
        **changes,
    }


def fake_classify():
    return classify.summarize([fake_classify_run(seed=s) for s in (3, 1, 2)] + [fake_classify_run("fashion")])


def fake_classify_speed():
    row = {"model": "GRU 9", "threads": 2, "ratio": 2.5, "rnnfast": {"median": 0.004}, "torch": {"median": 0.01}}
    shape = {"T": 28, "C": 28, "classes": 10, "batch": 32}
    return {"date": "2026-01-02T00:00:00", "torch": "9.8", "info": INFO, "shape": shape, "rows": [row]}
