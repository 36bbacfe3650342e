"""benchmarks/cmudict.py: the dictionary as it is read, its split, and the summary of runs."""

from __future__ import annotations

import pytest

import cmudict
import readme_table
from rnnfast.seq2seq.evaluate import wilson


def test_the_dictionary_without_stress_comments_and_what_is_then_the_same(tmp_path):
    path = tmp_path / "some.dict"
    path.write_text("abide AH0 B AY1 D\nabide(2) AH1 B AY1 D\nread R IY1 D\nread(2) R EH1 D # past\n'm AH0 M\n")
    assert cmudict.read_dictionary(path) == {"abide": ["AH B AY D"], "read": ["R IY D", "R EH D"], "'m": ["AH M"]}
    path.write_text("abide AH0\nlonely # nothing\n")
    with pytest.raises(SystemExit, match="line 2"):
        cmudict.read_dictionary(path)


def test_a_words_pronunciations_are_on_one_side():
    words = {f"w{i}": ["A", "B"] for i in range(4000)}
    parts = cmudict.split(words)
    assert [round(len(p) / 8000, 2) for p in parts] == pytest.approx([0.85, 0.05, 0.10], abs=0.011)
    assert sum(len({w for w, _ in p}) for p in parts) == 4000
    assert cmudict.split(dict(reversed(words.items())))[1][::-1] == [
        (w, p) for w, _ in parts[1][::2] for p in ("B", "A")
    ]


def fake_run(seed, error, **changes):
    score = {"sources": 1000, "sequence_error": error, "token_error": 0.07, "loss": 0.3}
    part = {"beam 1": {**score, "sequence_error": error + 0.01}, "beam 5": score}
    options = {"cell": "lstm", "hidden_size": 512, "attention": "general", "seed": seed}
    info = {"rnnfast": "0.1.0", "isa": "avx512", "threads": 2, "cpu": "a CPU"}
    same = {"recipe": "attention", "parameters": 2_600_000, "seconds": 3500.0, "info": info, "data": {"words": 126_052}}
    part = {"validation": part, "test": part}
    return {**same, **part, "seed": seed, "options": options, "date": "2026-01-01", "beam_size": 5, **changes}


def test_summary_and_table():
    summary = cmudict.summarize([fake_run(2, 0.31), fake_run(1, 0.29), fake_run(3, 0.30)])
    recipe = summary["recipes"]["attention"]
    assert recipe["seeds"] == [1, 2, 3] and recipe["median"]["test"]["beam 5"]["sequence_error"] == 0.30
    assert recipe["median"]["test"]["beam 5"]["interval"] == wilson(300, 1000)
    table = readme_table.cmudict(summary)
    assert "| 31.00 % " in table and "| 30.00 % " in table and "126,052 words" in table
    with pytest.raises(SystemExit, match="seeds only"):
        cmudict.summarize([fake_run(1, 0.3), fake_run(2, 0.3, data={"words": 1})])
