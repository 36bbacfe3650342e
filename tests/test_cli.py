"""The command line: training, sampling, evaluating."""

import csv
import dataclasses
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rnnfast
from cli_runs import SMALL, TEXT, Stdin, command, run, state, text_file, train
from rnnfast import checkpoint
from rnnfast._options import TrainingOptions, make_limits
from rnnfast.classify import SequenceLabeler
from rnnfast.cli import common, main
from rnnfast.cli.lm_flags import option_names
from rnnfast.lm import fit, load
from rnnfast.lm.options import FitOptions
from rnnfast.seq2seq.options import Seq2SeqOptions
from toy import metrics


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"))


# ---- the command itself ----


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rnnfast {rnnfast.__version__}\n"


@pytest.mark.parametrize("words", ["", "lm", "lm train", "lm sample", "lm eval", "demo", "info"])
def test_help(words, capsys):
    assert main([*words.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: rnnfast {words}".strip())


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert rnnfast.__version__ in text and rnnfast.isa() in text
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_module_and_console_script():
    code, out, err = run("--version")
    assert (code, out, err) == (0, f"rnnfast {rnnfast.__version__}\n", "")


def test_errors_are_shown_whole_when_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("RNNFAST_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["lm", "sample", str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (".5h", 1800), ("1h30m", 5400), ("1h0m5s", 3605)],
)
def test_times(text, expected):
    assert common.seconds(text) == expected


# ---- train ----


def test_train_writes_a_run_and_speaks_in_the_right_places(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["lm", "train", text_file(tmp_path), "--out", str(out), *SMALL]) == 0
    shown = capsys.readouterr()
    assert set(os.listdir(out)) - {"loss.png"} == {"last.safetensors", "best.safetensors", "metrics.csv"}
    assert "step 10: validation loss" in shown.err and "step 20: validation loss" in shown.err
    assert "done: 20 steps" in shown.err and f"rnnfast lm sample {out}" in shown.err
    assert "4,960 characters, " in shown.err and "\r" not in shown.err
    assert len(shown.out) == 2 * (1 + 20 + 1)  # a sample of 20 characters after a new line, twice
    meta = checkpoint.read_header(out / "last.safetensors")
    assert meta["options"]["hidden_size"] == 8 and meta["task"]["config"]["seed"] == 3


def test_quiet_says_nothing(tmp_path, capsys):
    train(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_default_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lm", "train", text_file(tmp_path), *SMALL, "--quiet"]) == 0
    assert (tmp_path / "rnnfast-bottles" / "last.safetensors").exists()


def test_same_seed_same_run(tmp_path, trained):
    assert state(train(tmp_path) / "last.safetensors") == state(trained / "last.safetensors")
    other = train(tmp_path, "--overwrite", "--seed", "4")
    assert state(other / "last.safetensors") != state(trained / "last.safetensors")


def test_overwrite_begins_anew(tmp_path, trained):
    out = train(tmp_path, "--seed", "9")
    assert state(train(tmp_path, "--overwrite") / "last.safetensors") == state(trained / "last.safetensors")
    assert metrics(out) == metrics(trained)


def test_a_fresh_seed_is_recorded(tmp_path):
    small = [w for w in SMALL if w not in ("--seed", "3")]
    out = train(tmp_path, small=small)
    meta = checkpoint.read_header(out / "last.safetensors")
    assert meta["options"]["seed"] == meta["task"]["config"]["seed"] is not None


def test_it_learns(tmp_path):
    out = train(tmp_path, "--max-steps", "300", "--eval-every", "100", "--rnn-size", "32", "--learning-rate", "0.02")
    losses = [float(row["val_loss"]) for row in metrics(out) if row["val_loss"]]
    assert losses[-1] < losses[0] and losses[-1] < 0.5  # a coin of so many sides: 3.4


def test_stdin(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(sys, "stdin", Stdin(TEXT))
    assert main(["lm", "train", "-", "--out", str(tmp_path / "run"), *SMALL, "--quiet"]) == 0
    assert state(tmp_path / "run" / "last.safetensors") == state(trained / "last.safetensors")


@pytest.mark.parametrize(
    "flags",
    [
        "--model gru --embedding-size 6 --dropout 0.2 --num-layers 2",
        "--model rnn --nonlinearity relu --optimizer sgd --momentum 0.9 --learning-rate 0.1",
        "--embedding-size 8 --tie-weights --optimizer adamw --weight-decay 0.1",
        "--optimizer rmsprop --decay-rate 0.9 --grad-clip 1 --grad-clip-by value",
        "--level byte --schedule step --learning-rate-decay 0.97 --learning-rate-decay-after 1",
        "--level word --min-count 2 --schedule plateau --plateau-patience 0 --patience 5",
        "--dtype float64 --schedule constant --warmup 5",
        "--val-frac 0 --grad-clip 0 --save-every 7",
        "--compute-dtype bfloat16 --model gru",
    ],
)
def test_flags_train_sample_and_evaluate(tmp_path, flags, capsys):
    out = train(tmp_path, *flags.split())
    assert main(["lm", "sample", str(out), "--length", "30", "--seed", "1", "--quiet"]) == 0
    sample = capsys.readouterr()
    assert len(sample.out) > 5 and sample.err == ""
    assert main(["lm", "eval", str(out), text_file(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["nats"] < 6 and found["bits"] == pytest.approx(found["nats"] / math.log(2))


def test_underscores_as_in_char_rnn(tmp_path, trained):
    small = [re.sub("(?<=[a-z])-", "_", w) if w.startswith("--") else w for w in SMALL]
    assert "--rnn_size" in small
    assert state(train(tmp_path, small=small) / "last.safetensors") == state(trained / "last.safetensors")


def test_each_option_has_a_flag():
    names, flags = option_names()
    options = {f.name for f in dataclasses.fields(FitOptions)}
    assert set(flags) == options
    assert all(names[f.replace("_", "-")] == f for f in options)
    assert set(FitOptions.FROZEN) <= options
    char_rnn = ("rnn-size", "num-layers", "model", "learning-rate", "dropout", "seq-length", "batch-size", "max-epochs")
    for name in (*char_rnn, "grad-clip", "val-frac", "seed", "wordvec-size", "lr-decay-every", "checkpoint-every"):
        assert name in names
    FitOptions().validate()


def test_config_files(tmp_path, trained, capsys):
    config = tmp_path / "config.json"
    flags = SMALL[:-2]  # threads are no option of the run
    assert main(["lm", "train", "--save-config", str(config), *flags]) == 0
    assert json.loads(config.read_text())["hidden_size"] == 8
    out = train(tmp_path, small=["--config", str(config)])
    assert state(out / "last.safetensors") == state(trained / "last.safetensors")
    config.write_text('{"rnn_size": 9, "seq-length": 10, "--batch-size": 4, "max_steps": 3}')
    out = train(tmp_path, "--overwrite", "--config", str(config), "--rnn-size", "10", small=[])
    options = checkpoint.read_header(out / "last.safetensors")["options"]
    assert options["hidden_size"] == 10 and options["batch_size"] == 4 and options["max_steps"] == 3


def test_limits_are_those_that_are_given():
    epochs = [
        make_limits(FitOptions(**o)).max_epochs for o in ({}, {"max_steps": 9}, {"max_time": 9}, {"max_epochs": 3})
    ]
    assert epochs == [50, None, None, 3]


def test_numbers_of_numpy_become_those_of_python():
    given = {"hidden_size": np.int64(8), "embedding_size": np.uint8(8), "tie_weights": np.bool_(True)}
    given |= {"learning_rate": np.float32(0.5), "dropout": np.longdouble(0.25), "cell": np.str_("gru")}
    options = FitOptions(**given).validate().to_dict()
    for name, value in given.items():
        assert options[name] == value and type(options[name]) in (int, bool, float, str)
    assert json.loads(json.dumps(options)) == options


def test_what_a_run_is_made_of_is_the_same_for_all_kinds():
    for kind in (FitOptions, Seq2SeqOptions, SequenceLabeler):
        assert set(TrainingOptions.FROZEN) < set(kind.FROZEN)


def test_the_config_of_a_run_resumes_it(tmp_path):
    config = text_file(tmp_path, json.dumps({"seed": None, "max_steps": 3, "hidden_size": 4}), "config.json")
    out = train(tmp_path, small=["--config", config])
    assert main(["lm", "train", "--out", str(out), "--resume", "--config", config, "--max-steps", "5", "--quiet"]) == 0


def test_max_time(tmp_path, capsys):
    started = time.monotonic()
    out = train(tmp_path, "--max-time", "1s", "--max-steps", "1000000")
    assert time.monotonic() - started < 20
    with open(out / "metrics.csv", encoding="ascii") as f:
        assert 0.8 < float(list(csv.DictReader(f))[-1]["seconds"]) < 10


# ---- sample ----


def sampled(capsys, *words):
    assert main(["lm", "sample", *map(str, words)]) == 0
    return capsys.readouterr()


def test_sample_is_the_models(trained, capsys):
    model = load(trained)
    shown = sampled(capsys, trained, "--primetext", "Take", "--length", 40, "--seed", 5, "--temperature", 0.7)
    assert shown.out == model.sample_text("Take", 40, temperature=0.7, seed=5) + "\n"
    assert shown.err == ""
    options = ("--top-k", 3, "--top-p", 0.9)
    shown = sampled(capsys, trained, "--start-text", "Take", "--length", 40, "--seed", 5, *options)
    assert shown.out == model.sample_text("Take", 40, top_k=3, top_p=0.9, seed=5) + "\n"


def test_greedy_samples_need_no_seed(trained, capsys):
    first, second = (sampled(capsys, trained, "--length", 30, "--temperature", 0, "--quiet").out for _ in range(2))
    assert first == second and len(first) == 31


def test_a_fresh_seed_is_printed(trained, capsys):
    shown = sampled(capsys, trained, "--length", 30)
    seed = re.fullmatch(r"seed (\d+)\n", shown.err)[1]
    assert sampled(capsys, trained, "--length", 30, "--seed", seed).out == shown.out


def test_several_samples(trained, capsys):
    one = sampled(capsys, trained, "--length", 25, "--seed", 5, "--primetext", "a").out
    many = sampled(capsys, trained, "--length", 25, "--seed", 5, "--primetext", "a", "--num-samples", 3).out
    texts = re.split(r"^--- \d ---\n", many, flags=re.M)
    assert texts[0] == "" and texts[1] == one and len(set(texts)) == 4


def test_prime_from_files(trained, tmp_path, monkeypatch, capsys):
    expected = sampled(capsys, trained, "--length", 10, "--seed", 5, "--primetext", "on the").out
    path = text_file(tmp_path, "on the", "prime.txt")
    assert sampled(capsys, trained, "--length", 10, "--seed", 5, "--primefile", path).out == expected
    monkeypatch.setattr(sys, "stdin", Stdin("on the"))
    assert sampled(capsys, trained, "--length", 10, "--seed", 5, "--primefile", "-").out == expected


def test_checkpoint_or_folder(trained, capsys):
    outputs = [
        sampled(capsys, path, "--length", 20, "--seed", 1).out for path in (trained, trained / "best.safetensors")
    ]
    assert outputs[0] == outputs[1]


def test_sample_streams(trained):
    """The beginning is there long before the end."""
    words = command("lm", "sample", trained, "--length", 100_000_000, "--seed", 1)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert len(process.stdout.read(200)) == 200
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in err


def test_a_reader_that_has_enough(trained):
    words = shlex.join(command("lm", "sample", trained, "--length", 100_000_000, "--seed", 1))
    done = subprocess.run(["sh", "-c", f"{words} | head -c 100"], capture_output=True, timeout=60)
    assert len(done.stdout) == 100 and done.stderr == b""


# ---- eval ----


def test_eval_agrees_with_the_training(trained, capsys):
    text = str(trained.parent / "bottles.txt")

    def evaluated(*flags):
        assert main(["lm", "eval", str(trained), text, "--json", *flags]) == 0
        return json.loads(capsys.readouterr().out)

    best = checkpoint.read_header(trained / "best.safetensors")["trainer"]["best_loss"]
    val = evaluated("--part", "val")
    assert val["nats"] == pytest.approx(best, abs=0.01)
    train_part, whole = evaluated("--part", "train"), evaluated()
    assert whole["tokens"] == len(TEXT) - 1 == train_part["tokens"] + val["tokens"] + 1
    # The carried state makes the whole almost the sum of its parts.
    parts = (train_part["nats"] * train_part["tokens"] + val["nats"] * val["tokens"]) / whole["tokens"]
    assert whole["nats"] == pytest.approx(parts, abs=0.01)
    reset = evaluated("--reset-every", "7")
    assert reset["tokens"] == whole["tokens"] and reset["nats"] != whole["nats"]
    assert evaluated("--reset-every", "7", "--batch-size", "3")["nats"] == pytest.approx(reset["nats"], rel=1e-5)


def test_eval_by_hand(trained, capsys):
    """The mean of -log p(next character), from the logits of one forward pass over all."""
    model = load(trained)
    text = TEXT[:500]
    ids = model.tokenizer.encode(text)
    logits = model(ids[:-1, None])[0][:, 0].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(len(ids) - 1), ids[1:]].mean()
    assert main(["lm", "eval", str(trained), text_file(trained.parent, text, "part.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nats"] == pytest.approx(expected, rel=1e-5)


def test_eval_in_words(trained, capsys):
    assert main(["lm", "eval", str(trained), str(trained.parent / "bottles.txt")]) == 0
    shown = capsys.readouterr()
    assert re.fullmatch(
        r"\d\.\d{4} nats a character, \d\.\d{4} bits, perplexity \d+\.\d{3} \(4,959 tokens\)\n", shown.out
    )
    assert shown.err == ""


# ---- through Python ----


def test_fit_returns_the_best_model(tmp_path, capsys):
    options = {"hidden_size": 8, "num_layers": 1, "batch_size": 4, "seq_length": 10, "max_steps": 20, "eval_every": 10}
    model = fit(TEXT, out=tmp_path / "run", seed=3, sample_length=20, **options)
    assert model.tokenizer.decode(model.tokenizer.encode("bottles")) == "bottles"
    best = load(tmp_path / "run")
    assert all(np.array_equal(best.params[k], v) for k, v in model.params.items())
    shown = capsys.readouterr()
    assert "step 10: validation loss" in shown.err and len(shown.out) == 44
    same = fit(Path(text_file(tmp_path)), quiet=True, seed=3, **options)
    assert all(np.array_equal(same.params[k], v) for k, v in model.params.items())
    assert capsys.readouterr() == ("", "")
    longer = fit(TEXT, out=tmp_path / "run", resume=True, quiet=True, max_steps=30)
    assert longer.config == model.config


def test_samples_do_not_change_the_training(tmp_path, trained):
    out = train(tmp_path, "--sample-length", "0")
    assert state(out / "last.safetensors") == state(trained / "last.safetensors")


def test_broken_terminal_encoding(tmp_path):
    """A letter that standard output cannot show is replaced, not an error."""
    out = train(tmp_path, text=TEXT.replace("e", "é"))
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    words = command("lm", "sample", out, "--length", "100", "--seed", "1")
    done = subprocess.run(words, capture_output=True, timeout=60, env=environment)
    assert done.returncode == 0 and done.stdout.isascii()


def test_progress_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("rnnfast._progress.Progress.BAR_SECONDS", 0.0)
    assert main(["lm", "train", text_file(tmp_path), "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert "%|" in screen.getvalue() and "chars/s" in screen.getvalue()


def test_names_that_begin_as_flags_do_are_files_in_the_commands_that_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("-text.txt").write_text("to be or not to be\n" * 60)
    assert main(["lm", "train", "./-text.txt", "--out=-run", *SMALL]) == 0
    shown = re.search(r"rnnfast (lm sample .*)", capsys.readouterr().err)[1]
    assert main([*shlex.split(shown), "--length", "5", "--primetext", "to", "--quiet"]) == 0
