"""rnnfast seq2seq train | translate | eval."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

from cli_runs import Stdin, command, run
from rnnfast import checkpoint, seq2seq
from rnnfast.cli import main
from rnnfast.cli.lm_flags import option_names
from rnnfast.cli.seq2seq_flags import GROUPS
from rnnfast.seq2seq.options import Seq2SeqOptions
from rnnfast.seq2seq.plot import plot_attention

WORDS = [f"{a}{b}{c}" for a in "abcd" for b in "abcd" for c in "abcd"]
PAIRS = "".join(f"{w}\t{w[::-1].upper()}\n" for w in WORDS)
SMALL = ["--rnn-size", "12", "--batch-size", "8", "--seed", "3", "--threads", "1", "--quiet", "--max-steps", "6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seq2seq")
    (folder / "pairs.tsv").write_text(PAIRS)
    assert main(["seq2seq", "train", str(folder / "pairs.tsv"), "--out", str(folder / "run"), *SMALL]) == 0
    return folder


def test_train_translate_eval(trained, tmp_path, capsys, monkeypatch):
    run_folder = str(trained / "run")
    model = seq2seq.load(run_folder)
    (tmp_path / "sources.txt").write_text("abc\ndd\n")
    search = ["--beam-size", "3", "--max-length", "6", "--quiet"]
    assert main(["seq2seq", "translate", run_folder, str(tmp_path / "sources.txt"), *search]) == 0
    said = capsys.readouterr().out.split("\n")[:-1]
    assert said == model.translate(["abc", "dd"], beam_size=3, max_length=6)
    monkeypatch.setattr(sys, "stdin", Stdin("abc\ndd\n"))
    assert main(["seq2seq", "translate", run_folder, "--scores", "--n-best", "2", *search]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.split("\n")[:-1]]
    found = model.generate([model.tokenizers[0].encode(s) for s in ("abc", "dd")], beam_size=3, n_best=2, max_length=6)
    assert [r[0] for r in rows] == ["abc"] * len(found[0]) + ["dd"] * len(found[1])
    assert [float(r[2]) for r in rows] == [round(h.score, 4) for f in found for h in f]
    assert main(["seq2seq", "eval", run_folder, str(trained / "pairs.tsv"), "--json", *search]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sources"] == 64 and result["pairs"] == 64 and 0 <= result["sequence_error"] <= 1
    assert main(["seq2seq", "eval", run_folder, str(trained / "pairs.tsv"), *search]) == 0
    assert "of 64 sources right; sequence error" in capsys.readouterr().out


def test_the_attention_picture(trained, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "stdin", Stdin("abc\ndd\n" * 6))
    picture = tmp_path / "attention.png"
    words = ["seq2seq", "translate", str(trained / "run"), "--max-length", "6"]
    assert main([*words, "--attention-plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [picture]
    said = capsys.readouterr()
    assert "attention is in" in said.err
    monkeypatch.setattr(sys, "stdin", Stdin("abc\ndd\n" * 6))
    assert main(words) == 0 and capsys.readouterr().out == said.out
    monkeypatch.setattr(sys, "stdin", Stdin(""))
    assert main([*words, "--attention-plot", str(tmp_path / "none.png")]) == 0
    assert "no attention to draw" in capsys.readouterr().err and not (tmp_path / "none.png").exists()


def test_only_the_attention_that_is_drawn_is_kept(trained, tmp_path, monkeypatch):
    asked = []
    generate = seq2seq.Seq2Seq.generate

    def watched(model, sources, **options):
        asked.append((len(sources), options.get("attention", False)))
        return generate(model, sources, **options)

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(seq2seq.Seq2Seq, "generate", watched)
    monkeypatch.setattr(sys, "stdin", Stdin("abc\n" * 12))
    words = ["seq2seq", "translate", str(trained / "run"), "--max-length", "6", "--quiet"]
    assert main([*words, "--attention-plot", str(tmp_path / "attention.png")]) == 0
    assert asked == [(9, True), (3, False)]


def test_without_matplotlib_nothing_is_searched(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin("abc\n"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["seq2seq", "translate", str(trained / "run"), "--attention-plot", str(tmp_path / "a.png")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "pip install 'rnnfast[plot]'" in said.err


@pytest.mark.filterwarnings("error")
def test_symbols_are_drawn_as_they_are(tmp_path):
    pytest.importorskip("matplotlib")
    symbols = ["$\\frac$", "$", "\u5b57", "$_^$"]
    plot_attention(tmp_path / "attention.png", [(symbols, symbols, np.eye(4))])
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_resume_and_validation_pairs(tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    (tmp_path / "val.tsv").write_text("abc\tCBA\n")
    words = ["seq2seq", "train", "--out", str(tmp_path / "run"), *SMALL]
    assert main([*words, str(tmp_path / "pairs.tsv"), "--val", str(tmp_path / "val.tsv"), "--attention", "none"]) == 0
    assert main([*words, "--resume", "--max-steps", "9"]) == 0
    meta = checkpoint.read_header(tmp_path / "run" / "last.safetensors")
    assert meta["trainer"]["step"] == 9 and meta["task"]["pairs"]["validation"] == 1
    assert meta["options"]["attention"] is None
    capsys.readouterr()
    assert main([*words, "--resume", "--rnn-size", "14"]) == 2
    assert "argument --rnn-size: must be 12" in capsys.readouterr().err
    assert main(words) == 2  # neither FILE nor --resume
    assert "FILE must be given" in capsys.readouterr().err


def test_ctrl_c_prints_the_command_that_resumes(tmp_path):
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    (tmp_path / "val.tsv").write_text("abc\tCBA\n")
    words = ["seq2seq", "train", "pairs.tsv", "--val", "val.tsv", "--out", "run", *SMALL[:-3], "--max-steps", "1000000"]
    process = subprocess.Popen(command(*words), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "best.safetensors").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    printed = re.search(r"stopped at step (\d+); saved. To go on:\n  rnnfast (seq2seq train .*)\n\Z", err)
    assert printed, err
    step = int(printed[1]) + 2
    code, _, err = run(*shlex.split(printed[2]), "--max-steps", step, cwd=tmp_path)
    assert code == 0, err
    meta = checkpoint.read_header(tmp_path / "run" / "last.safetensors")
    assert meta["trainer"]["step"] == step and meta["task"]["pairs"]["validation"] == 1
    # FILE may be given all the same: the validation pairs are those of the run
    code, _, err = run("seq2seq", "train", "pairs.tsv", "--out", "run", "--resume", "--max-steps", step, cwd=tmp_path)
    assert code == 0, err
    code, _, err = run("seq2seq", "train", "val.tsv", "--out", "run", "--resume", cwd=tmp_path)
    assert code == 1 and "of a run on other pairs: 64 to train on and 1 to validate on" in err and "--val" in err


def test_every_option_has_a_flag_and_configs_hold_them(tmp_path):
    names, flags = option_names(GROUPS)
    assert set(flags) == set(Seq2SeqOptions().to_dict()) == set(names.values())
    config = tmp_path / "config.json"
    assert main(["seq2seq", "train", "--no-bidirectional", "--attention", "dot", "--save-config", str(config)]) == 0
    saved = json.loads(config.read_text())
    assert saved["bidirectional"] is False and saved["attention"] == "dot"
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    words = ["seq2seq", "train", str(tmp_path / "pairs.tsv"), "--out", str(tmp_path / "run"), "--config", str(config)]
    assert main([*words, *SMALL]) == 0
    assert seq2seq.load(tmp_path / "run").config["bidirectional"] is False


WRONG = {
    "a missing tab": (["train"], "abc\n", 1, ["line 1", "no tab"]),
    "no pairs": (["train"], "", 1, ["at least one pair"]),
    "an attention that is none": (
        ["train", "--attention", "loud"],
        PAIRS,
        2,
        ["--attention", "one of none, dot", "loud"],
    ),
    "an odd size": (["train", "--rnn-size", "7"], PAIRS, 2, ["--rnn-size", "even", "7"]),
    "layers that do not fit": (["train", "--encoder-layers", "2"], PAIRS, 2, ["--encoder-layers", "bridge", "2"]),
    "a size for no attention": (["train", "--attention-size", "7"], PAIRS, 2, ["--attention-size", "additive", "7"]),
    "both from standard input": (["train", "--val", "-"], PAIRS, 2, ["--val", "a file", "-"]),
    "a folder that is full": (["train", "--out", "."], PAIRS, 2, ["--out", "not empty"]),
    "an unknown symbol": (["translate"], "abc\nabz\n", 1, ["standard input, line 2", "'z'", "position 2"]),
    "an empty line": (["translate"], "abc\n\nab\n", 1, ["standard input, line 2", "at least one symbol"]),
    "a beam of none": (["translate", "--beam-size", "0"], "abc\n", 2, ["--beam-size", "from 1 to", "0"]),
    "a beam too wide": (["translate", "--beam-size", str(2**62)], "abc\n", 2, ["--beam-size", "from 1 to 2147483647"]),
    "a target too long": (["eval", "--max-length", str(2**62)], "abc\tCBA\n", 2, ["--max-length", "to 2147483647"]),
    "a picture in no folder": (["translate", "--attention-plot", "no/a.png"], "abc\n", 1, ["no/a.png", "No such file"]),
    "a picture in place of a folder": (["translate", "--attention-plot", "."], "abc\n", 1, [".: Is a directory"]),
    "more than the beam": (["translate", "--n-best", "9"], "abc\n", 2, ["--n-best", "from 1 to", "9"]),
    "an unknown target": (["eval"], "abc\tCBZ\n", 1, ["standard input, line 1", "'Z'"]),
    "an eval without a tab": (["eval"], "abc\tCBA\nabc\n", 1, ["standard input, line 2", "no tab"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_one_clear_line(case, trained, tmp_path, capsys, monkeypatch):
    (command, *flags), text, code, said = WRONG[case]
    if "--attention-plot" in flags:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.txt").write_text("kept")
    monkeypatch.setattr(sys, "stdin", Stdin(text))
    place = ["-"] if command == "train" else [str(trained / "run"), "-"]
    flags = flags if command != "train" or "--out" in flags else [*flags, "--out", "run"]
    assert main(["seq2seq", command, *place, *flags, *(["--max-steps", "1"] if command == "train" else [])]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in said), error
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_bad_file_of_pairs_loses_nothing(tmp_path, capsys):
    good, bad = tmp_path / "pairs.tsv", tmp_path / "bad.tsv"
    good.write_text(PAIRS)
    bad.write_text(PAIRS + "abc CBA\n")
    run_folder = tmp_path / "run"
    assert main(["seq2seq", "train", str(good), "--out", str(run_folder), *SMALL]) == 0
    before = {p.name: p.read_bytes() for p in run_folder.iterdir()}
    assert main(["seq2seq", "train", str(bad), "--out", str(run_folder), "--overwrite", *SMALL]) == 1
    assert f"{bad}, line 65: must be a source, a tab and a target, got no tab" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in run_folder.iterdir()} == before


def test_it_runs_as_a_command(trained):
    code, out, err = run("seq2seq", "translate", trained / "run", "--max-length", "5", stdin=b"abc\n")
    assert code == 0 and out.count("\n") == 1 and not err
