"""benchmarks/classify.py: its data, its recipes on small ones, its summary and table; and the example that it uses."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import classify
import readme_table
from classify_data import largest_channel, ragged, write_ts
from classify_results import fake_classify, fake_classify_run, fake_classify_speed

ROOT = Path(__file__).resolve().parent.parent


def digits_file(folder, each=500):
    """A file like mnist_5k.csv.gz: digit d is a bright patch that depends on d, in noise."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(10), each)
    images = rng.integers(0, 60, (len(classes), 28, 28))
    for d in range(10):
        images[classes == d, 4 + 2 * d : 8 + 2 * d, 4:24] += 150
    with gzip.open(folder / "mnist_5k.csv.gz", "wt", compresslevel=1) as f:
        np.savetxt(f, np.c_[images.reshape(len(images), -1), classes], fmt="%d", delimiter=",")


def test_a_run(tmp_path):
    digits_file(tmp_path)
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "classify.py"),
        "--recipe",
        "mnist",
        "--data-dir",
        str(tmp_path),
    ]
    command += ["--seed", "5", "--quiet", "--out", str(tmp_path / "a" / "run.json"), "--set", "hidden_size=8"]
    command += ["num_layers=1", "max_epochs=null", "max_steps=40"]
    for flags in ([], ["--choose"]):
        done = subprocess.run(command + flags, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / "a" / "run.json").read_text())
        assert result["sequences"] == ({"train": 3600, "validation": 400} if flags else {"train": 4000, "test": 1000})
        assert result["options"]["hidden_size"] == 8 and result["steps"] == 40 and result["info"]["threads"] == 1
        accuracies = result["validation_accuracy"], result["test_accuracy"]
        assert 0 < accuracies[not flags] <= 1 and accuracies[bool(flags)] is None
    with pytest.raises(SystemExit, match="made with --choose"):
        classify.summarize([result])


def test_summary():
    mnist = fake_classify()["recipes"]["mnist"]
    assert mnist["seeds"] == [1, 2, 3] and mnist["median"]["test_accuracy"] == pytest.approx(0.972)
    assert [r["test_accuracy"] for r in mnist["runs"]] == pytest.approx([0.971, 0.972, 0.973])
    for other, word in (
        (fake_classify_run(seed=1), "same seed"),
        (fake_classify_run(seed=2, augment=None), "augment is 'warp' with seed 1, None with seed 2"),
        (fake_classify_run(seed=2, options={**fake_classify_run()["options"], "hidden_size": 3}), "hidden_size"),
    ):
        with pytest.raises(SystemExit, match=word):
            classify.summarize([fake_classify_run(), other])


def test_tables():
    text = readme_table.classify(fake_classify())
    row = "| GRU 2 × 128, both directions, 123 k parameters | 97.20% | 97.10% to 97.30% |"
    assert row in " ".join(text.split()) and "training data changed by `warp`" in text
    assert "a CPU, 1 thread; 2026-01-03." in text
    assert "| GRU 9 | 4.00 ms (2.50 ×) |" in " ".join(readme_table.classify_speed(fake_classify_speed()).split())


@pytest.mark.parametrize("name", ["warp", "flip", "noise"])
def test_augmentation(name):
    pictures = list(np.random.default_rng(0).random((7, 28, 28), np.float32))
    got = classify.AUGMENT[name](pictures, np.random.default_rng(1))
    assert len(got) == 7 and all(p.shape == (28, 28) and p.dtype == np.float32 for p in map(np.asarray, got))
    again = classify.AUGMENT[name](pictures, np.random.default_rng(1))
    np.testing.assert_array_equal(got, again)
    assert not np.array_equal(got, pictures)


def test_a_warp_of_nothing_changes_nothing():
    pictures = list(np.random.default_rng(0).random((3, 28, 28), np.float32))
    same = classify.warp(pictures, np.random.default_rng(1), degrees=0, scale=0, shear=0, shift=0)
    np.testing.assert_allclose(same, pictures, atol=1e-6)


def test_moving_digits():
    videos = classify.example("moving_digits")
    digits = np.random.default_rng(0).random((5, 28, 28), np.float32)
    X, y = videos.videos(digits, 50, steps=12, seed=3)
    assert X.shape == (50, 12, 784) and X.dtype == np.float32 and 0 <= X.min() and X.max() <= 1
    assert set(y.flat) == set(videos.LABELS) and y.shape == (50, 12)
    np.testing.assert_array_equal(videos.videos(digits, 50, steps=12, seed=3)[0], X)
    shrinking = np.full((1, 28, 28), 1, np.float32)
    X, y = videos.videos(shrinking, 200, steps=3)
    covered = (X > 0).sum(axis=2)  # two squares that come closer cover less
    assert covered[y == "overlapping"].mean() < covered[y == "parting"].mean()


def test_turned_videos():
    video = np.random.default_rng(0).random((2, 784), np.float32)
    ways = {classify.turn([video], np.random.default_rng(i))[0].tobytes() for i in range(60)}
    assert len(ways) == 8 and video.tobytes() in ways
    assert all(sorted(w) == sorted(video.tobytes()) for w in ways)


def test_missing_data(tmp_path):
    for recipe in classify.RECIPES.keys() - {"fashion", "mnist1d", "japanese_vowels"}:
        with pytest.raises(SystemExit, match="mnist_5k.csv.gz is not there"):
            classify.DATA[recipe](tmp_path)


def test_the_examples_run(tmp_path):
    digits_file(tmp_path, each=120)
    X = ragged(60)
    write_ts(tmp_path / "a.ts", X, largest_channel(X))
    digits, series = str(tmp_path / "mnist_5k.csv.gz"), str(tmp_path / "a.ts")
    for line, said in (
        (["moving_digits.py", digits, "--videos", "30", "--epochs", "1"], "% of the frames of 500 videos"),
        (["classify_ts.py", series, series, "--epochs", "1", "--jobs", "1"], "right of 60 series"),
    ):
        command = [sys.executable, str(ROOT / "examples" / line[0]), *line[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
