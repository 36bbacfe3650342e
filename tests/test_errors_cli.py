"""Wrong use and bad input of the command line: one clear line each, the right exit code, and nothing written."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cli_runs import SMALL, TEXT, text_file, train
from rnnfast import checkpoint
from rnnfast.cli import main
from rnnfast.lm import fit
from test_checkpoint import rewritten

TRAIN = " ".join(["lm train {text} --out {tmp}/out", *SMALL])
TWICE = {"cell": "gru", "model": "rnn"}
RESUME = "lm train {text} --out {run} --resume --quiet"

# (arguments, exit code, what the error says). {text}, {run}, … are the fixture's.
USE = [
    ("", 2, "the following arguments are required: COMMAND"),
    ("learn", 2, "invalid choice: 'learn'"),
    ("lm", 2, "required: COMMAND"),
    ("lm train --quiet", 2, "FILE must be given"),
    ("{TRAIN} --rnn-sise 8", 2, "unrecognized arguments: --rnn-sise"),
    ("{TRAIN} --num-lay 8", 2, "unrecognized arguments: --num-lay"),
    ("{TRAIN} --rnn-size 0", 2, "--rnn-size: must be an integer of at least 1, got 0"),
    ("{TRAIN} --rnn-size abc", 2, "--rnn-size/--hidden-size: invalid int value: 'abc'"),
    ("{TRAIN} --num-layers -1", 2, "--num-layers: must be an integer of at least 1, got -1"),
    ("{TRAIN} --batch-size 0", 2, "--batch-size: must be an integer of at least 1, got 0"),
    ("{TRAIN} --seq-length 0", 2, "--seq-length: must be an integer of at least 1, got 0"),
    ("{TRAIN} --dropout 1", 2, "--dropout: must be a number of at least 0 and less than 1, got 1.0"),
    ("{TRAIN} --dropout -0.1", 2, "--dropout: must be .* got -0.1"),
    ("{TRAIN} --learning-rate nan", 2, "--learning-rate: must be a number greater than 0, got nan"),
    ("{TRAIN} --learning-rate 0", 2, "--learning-rate: must be a number greater than 0, got 0.0"),
    ("{TRAIN} --learning-rate inf", 2, "--learning-rate: must be .* got inf"),
    ("{TRAIN} --grad-clip -1", 2, "--grad-clip: must be a number of at least 0, got -1.0"),
    ("{TRAIN} --learning-rate-decay 0", 2, "--learning-rate-decay: must be .* greater than 0"),
    ("{TRAIN} --val-frac 1", 2, "--val-frac: must be a number of at least 0 and less than 1"),
    ("{TRAIN} --model transformer", 2, "--model/--cell: invalid choice: 'transformer'"),
    ("{TRAIN} --optimizer lion", 2, "--optimizer: invalid choice: 'lion'"),
    ("{TRAIN} --schedule linear", 2, "--schedule: invalid choice: 'linear'"),
    ("{TRAIN} --level syllable", 2, "--level: invalid choice: 'syllable'"),
    ("{TRAIN} --dtype float16", 2, "--dtype: invalid choice: 'float16'"),
    (
        "{TRAIN} --dtype float64 --compute-dtype bfloat16",
        2,
        "--compute-dtype: must be None or .float64. where dtype is .float64., got .bfloat16.",
    ),
    ("{TRAIN} --max-time soon", 2, "--max-time: must be a time like 90, 10m or 1h30m, got 'soon'"),
    ("{TRAIN} --max-time 1h30", 2, "--max-time: must be a time like .* got '1h30'"),
    ("{TRAIN} --max-time 0", 2, "--max-time: must be a number greater than 0, got 0.0"),
    ("{TRAIN} --max-epochs 0", 2, "--max-epochs: must be an integer of at least 1, got 0"),
    ("{TRAIN} --tie-weights", 2, "--embedding-size: must be the hidden size .8. for tied weights"),
    ("{TRAIN} --val-frac 0 --patience 2", 2, "--patience: must be None with val_frac 0"),
    ("{TRAIN} --val-frac 0 --schedule plateau", 2, "--schedule: must be another one with val_frac 0"),
    ("{TRAIN} --min-learning-rate 1", 2, "--min-learning-rate: must be at most the learning rate"),
    ("{TRAIN} --threads 0", 2, "--threads: must be at least 1, got 0"),
    ("{TRAIN} --threads 3000000000", 2, "--threads: must be at most 2147483647, got 3000000000"),
    ("{TRAIN} --rnn-size 3000000000", 2, "--rnn-size: must be at most 2147483647, got 3000000000"),
    ("{TRAIN} --sample-length 3000000000", 2, "--sample-length: must be at most 2147483647"),
    ("{TRAIN} --seed -1", 2, "--seed: must be an integer from 0 to .* got -1"),
    ("lm train --resume", 2, "--resume: needs FILE, or --out"),
    ("lm train {text} --resume", 2, "--out: there is nothing to resume in rnnfast-bottles"),
    ("{RESUME} --overwrite", 2, "resume and overwrite exclude each other"),
    ("{TRAIN} --resume", 2, "--out: there is nothing to resume in .*out"),
    ("lm train {text} --out {run}", 2, "--out: .*run is not empty"),
    ("lm train {text} --out {text}", 2, "--out: out must be a folder, got .*bottles.txt"),
    ("{RESUME} --rnn-size 9", 2, "--rnn-size: must be 8 as in the run that is resumed, got 9"),
    ("{RESUME} --batch-size 9", 2, "--batch-size: must be 4 as in the run .* got 9"),
    ("{RESUME} --weight-decay 5", 2, "--weight-decay: must be None as in the run .* got 5.0"),
    ("{RESUME} --momentum 0.9", 2, "--momentum: must be 0.0 as in the run .* got 0.9"),
    ("{RESUME} --decay-rate 0.9", 2, "--decay-rate: must be 0.95 as in the run .* got 0.9"),
    ("{TRAIN} --config {text}", 2, "--config: .*bottles.txt must be a JSON file"),
    ("{TRAIN} --config {list}", 2, "--config: .* must hold a JSON object, got list"),
    ("{TRAIN} --config {unknown}", 2, "has an option that does not exist: 'rnn_sise'"),
    ("{TRAIN} --config {bad}", 2, "--dropout: must be .* got 'much'"),
    ("{TRAIN} --config {twice}", 2, "has cell more than once, as 'model' the last time"),
    ("lm sample", 2, "required: CHECKPOINT"),
    ("lm sample {run} --temperature -1", 2, "--temperature: must be .* got -1.0"),
    ("lm sample {run} --temperature nan", 2, "--temperature: must be .* got nan"),
    ("lm sample {run} --top-k 0", 2, "--top-k: must be at least 1, got 0"),
    ("lm sample {run} --top-p 0", 2, "--top-p: must be .* got 0.0"),
    ("lm sample {run} --top-p 1.5", 2, "--top-p: must be .* got 1.5"),
    ("lm sample {run} --length -1", 2, "--length: must be at least 0, got -1"),
    ("lm sample {run} --num-samples 0", 2, "--num-samples: must be at least 1, got 0"),
    ("lm sample {run} --length 3000000000", 2, "--length: must be at most 2147483647, got 3000000000"),
    ("lm sample {run} --num-samples 3000000000", 2, "--num-samples: must be at most 2147483647"),
    ("lm eval {run} {text} --reset-every 3000000000", 2, "--reset-every: must be at most 2147483647"),
    ("lm sample {run} --primetext a --primefile {text}", 2, "together with --primetext"),
    ("lm eval {run} {text} --reset-every 0", 2, "--reset-every: must be at least 1, got 0"),
    ("lm eval {run} {text} --part half", 2, "--part: invalid choice: 'half'"),
    ("demo --seconds 0", 2, "--seconds: must be greater than 0, got 0"),
    ("demo --seconds never", 2, "--seconds: must be a time like"),
]

INPUT = [
    ("lm train {tmp}/none.txt --out {tmp}/out", 1, "none.txt: No such file or directory"),
    ("lm train {run} --out {tmp}/out", 1, "run: Is a directory"),
    ("{TRAIN} --num-layers 2000", 1, "num_layers must be an integer from 1 to 1000, got 2000"),
    ("{TRAIN} --config {tmp}/none.json", 1, "none.json: No such file or directory"),
    ("lm train {empty} --out {tmp}/out", 1, "must hold at least one character, got ''"),
    ("lm train {one} --out {tmp}/out", 1, "must hold at least 2 tokens, got 1"),
    ("{TRAIN} --batch-size 500", 1, "batch_size 500 x seq_length 10 needs .* set batch_size to at most"),
    ("lm train {three} --out {tmp}/out", 1, "must hold at least 4 tokens"),
    ("lm train {latin1} --out {tmp}/out", 1, "must be UTF-8 text, got byte 0xfc at .*--level byte"),
    ("{TRAIN} --sample-primetext JAQ~", 1, "not among them: .*'~'"),
    ("lm train {text} --out {text}/out {SMALL}", 1, "bottles.txt/out: Not a directory"),
    ("{TRAIN} --learning-rate 1e38 --grad-clip 0", 1, "stopped at step .* try a lower learning rate"),
    ("lm train {other} --out {run} --resume", 1, "text must be the one that the run in"),
    ("lm train {text} --out {truncated} --resume", 1, "does not match its checksum"),
    ("lm train {text} --out {seq2seq} --resume", 1, "got one of seq2seq"),
    ("lm sample {run} --primetext JAQ~", 1, "not among them: .*'Q'.*'~'"),
    ("lm sample {tmp}/none", 1, "none: No such file or directory"),
    ("lm sample {tmp}", 1, "holds no checkpoint"),
    ("lm sample {text}", 1, "bottles.txt is not a checkpoint"),
    ("lm sample {empty}", 1, "is empty, not a checkpoint"),
    ("lm sample {truncated}", 1, "does not match its checksum"),
    ("lm sample {header}", 1, "is truncated: its header"),
    ("lm sample {flipped}", 1, "does not match its checksum"),
    ("lm sample {newer}", 1, "newer than this rnnfast reads .* upgrade"),
    ("lm sample {seq2seq}", 1, "must be a checkpoint of a language model, got one of seq2seq"),
    ("lm sample {foreign}", 1, "not one that rnnfast wrote"),
    ("lm sample {misfit}", 1, "the language model in it cannot be made"),
    ("lm sample {nan}", 1, "the logits of sample 0 at position 0 are not finite"),
    ("lm eval {nan} {text}", 1, "the loss of .* on this text is nan"),
    ("demo --quiet --seconds 60 --text {text} --primetext JAQ~", 1, "not among them: .*'Q'.*'~'"),
    ("lm eval {run} {other}", 1, "not among them"),
    ("lm eval {run} {one}", 1, "at least 2 tokens, got 1"),
    ("lm eval {run} {other} --part val", 1, "text must be the one that the run"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    run = train(folder)
    texts = {"empty": "", "one": "a", "three": "abc", "other": "Shall I compare thee to a summer's day? " * 50}
    found = {"run": run, "text": text_file(folder)}
    found |= {name: text_file(folder, text, f"{name}.txt") for name, text in texts.items()}
    Path(folder, "latin1.txt").write_bytes("Gemüse".encode("latin-1") * 100)
    found["latin1"] = folder / "latin1.txt"
    for name, value in {"list": [1], "unknown": {"rnn_sise": 8}, "bad": {"dropout": "much"}, "twice": TWICE}.items():
        found[name] = text_file(folder, json.dumps(value), f"{name}.json")
    found |= damaged(folder, run)
    return found


def damaged(folder, run):
    """Folders with one bad last.safetensors each."""
    content = (run / "last.safetensors").read_bytes()
    arrays, meta = checkpoint.load(run / "last.safetensors")
    half = len(content) - 100
    contents = {
        "truncated": content[:-10],
        "header": content[:200],
        "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        "newer": rewritten(content, version="2"),
        "foreign": safetensors.numpy.save({"w": np.zeros(3, np.float32)}),
    }
    found = {}
    for name in [*contents, "seq2seq", "misfit", "nan"]:
        found[name] = Path(folder, name)
        found[name].mkdir()
        if name in contents:
            (found[name] / "last.safetensors").write_bytes(contents[name])
    spoilt = {name: np.full_like(a, np.nan) if name.startswith("model.") else a for name, a in arrays.items()}
    checkpoint.save(found["nan"] / "last.safetensors", spoilt, meta)
    other = {**meta, "task": {**meta["task"], "kind": "seq2seq"}}
    checkpoint.save(found["seq2seq"] / "last.safetensors", arrays, other)
    config = {**meta["task"]["config"], "hidden_size": 9}
    checkpoint.save(found["misfit"] / "last.safetensors", arrays, {**meta, "task": {**meta["task"], "config": config}})
    return found


def snapshot(*folders):
    return {str(p): p.read_bytes() if p.is_file() else None for f in folders for p in Path(f).rglob("*")}


CASES = USE + INPUT


@pytest.mark.parametrize(("line", "code", "error"), CASES, ids=[c[0] for c in CASES])
def test_one_clear_error_and_nothing_written(files, tmp_path, monkeypatch, capsys, line, code, error):
    monkeypatch.chdir(tmp_path)
    before = snapshot(files["run"].parent)
    line = line.replace("{TRAIN}", TRAIN).replace("{RESUME}", RESUME).replace("{SMALL}", " ".join(SMALL))
    assert main(line.format(tmp=tmp_path, **files).split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if "; the run is in " not in line and not line.startswith("seed ")]
    assert len(lines) == 1 and lines[0].startswith("rnnfast") and ": error: " in lines[0]
    assert re.search(error, lines[0]), lines[0]
    assert snapshot(files["run"].parent) == before
    # A run that fails on its way keeps what it had saved; every other leaves nothing at all.
    left = {p.name for p in tmp_path.rglob("*")}
    assert left <= ({"out", "last.safetensors", "metrics.csv"} if "stopped at step" in error else set())


def test_there_are_enough_cases():
    assert len(CASES) >= 80 and len({c[0] for c in CASES}) == len(CASES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(files, tmp_path, monkeypatch, capsys):
    real, full = os.open, [False]
    monkeypatch.setattr(
        os, "open", lambda p, *a, **k: real("/dev/full" if full[0] and str(p).endswith(".tmp") else p, *a, **k)
    )
    full[0] = True
    assert main([*TRAIN.format(tmp=tmp_path, **files).split(), "--quiet"]) == 1
    why = "cannot write the checkpoint: No space left on device"
    assert capsys.readouterr().err == f"rnnfast: error: {tmp_path}/out/last.safetensors: {why}\n"
    assert list((tmp_path / "out").iterdir()) == []
    # A disk that fills up later: the old checkpoint stays, and the run can be resumed.
    shutil.copytree(files["run"], tmp_path / "run")
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    resume = RESUME.format(text=files["text"], run=tmp_path / "run").split() + ["--max-steps", "40"]
    assert main(resume) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    full[0] = False
    assert main(resume) == 0


def test_overwrite_keeps_the_old_run_until_the_new_one_begins(files, tmp_path, capsys):
    shutil.copytree(files["run"], tmp_path / "run")
    before = snapshot(tmp_path)
    for bad in ("{empty}", "{latin1}", "{tmp}/none"):
        text = bad.format(tmp=tmp_path, **files)
        assert main(["lm", "train", text, "--out", str(tmp_path / "run"), "--overwrite", "--quiet"]) == 1
    assert snapshot(tmp_path) == before


# ---- the same through Python ----

OPTIONS = [
    ({"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
    ({"hidden_size": 8.0}, "hidden_size must be an integer of at least 1, got 8.0"),
    ({"num_layers": True}, "num_layers must be an integer of at least 1, got True"),
    ({"learning_rate": float("nan")}, "learning_rate must be a number greater than 0, got nan"),
    ({"dropout": None}, "dropout must be a number of at least 0 and less than 1, got None"),
    ({"cell": "LSTM"}, "cell must be one of lstm, gru, rnn, got 'LSTM'"),
    ({"rnn_size": 8}, "rnn_size must be left out: there is no such option"),
    ({"max_epochs": 2.5}, "max_epochs must be an integer of at least 1, got 2.5"),
    ({"seed": 2**64}, "seed must be an integer from 0 to 2..64 - 1"),
    ({"resume": True}, "resume needs out, the folder of the run"),
    ({"overwrite": True}, "overwrite needs out, the folder of the run"),
]


@pytest.mark.parametrize(("options", "error"), OPTIONS, ids=[str(o[0]) for o in OPTIONS])
def test_fit_names_the_option(options, error):
    with pytest.raises(ValueError, match=error):
        fit(TEXT, quiet=True, **options)


@pytest.mark.parametrize("text", [b"bytes", None, 3, ["a"]])
def test_fit_wants_text(text):
    with pytest.raises(TypeError, match="text must be a str, or a Path to a file, got "):
        fit(text)
