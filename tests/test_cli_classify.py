"""`rnnfast classify train | predict | eval`, its files, and what it says to wrong ones."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from classify_data import C, largest_channel, ragged, running_sign, write_ts
from cli_runs import command
from rnnfast import checkpoint
from rnnfast.classify import SequenceClassifier, SequenceLabeler, SequenceRegressor, load
from rnnfast.classify.confusion import confusion_matrix, plot_matrix
from rnnfast.classify.files import read
from rnnfast.cli import main
from rnnfast.train import LAST
from toy import comparable

X = ragged(120)
Y = largest_channel(X)
SMALL = [
    *("--rnn-size", "8", "--max-steps", "20", "--eval-every", "10", "--lr", "0.01", "--seed", "3"),
    *("--threads", "1", "--quiet"),
]


def write_csv(path, X, y=None, token=False):
    """y: a label for each sequence, or a list of them for each step."""
    rows = [["sequence", *(["token"] if token else [f"c{i}" for i in range(C)]), *([] if y is None else ["label"])]]
    for i, x in enumerate(X):
        for t, step in enumerate(x):
            label = [] if y is None else [y[i][t] if np.ndim(y[i]) else y[i]]
            rows.append([f"s{i}", *([step] if token else map(repr, map(float, step))), *label])
    with open(path, "w", newline="") as f:
        csv.writer(f).writerows(rows)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    lengths = np.array([len(x) for x in X])
    padded = np.zeros((len(X), lengths.max(), C), np.float32)
    for i, x in enumerate(X):
        padded[i, : len(x)] = x
    np.savez(folder / "padded.npz", X=padded, y=Y, lengths=lengths)
    np.savez(folder / "first.npz", X=padded.transpose(0, 2, 1), y=Y, lengths=lengths)
    np.savez(folder / "joined.npz", X=np.concatenate(X), y=Y, lengths=lengths)
    np.savez(folder / "steps.npz", X=np.concatenate(X), y=np.concatenate(running_sign(X)).astype(int), lengths=lengths)
    np.savez(folder / "numbers.npz", X=np.concatenate(X), y=np.array([x.sum() for x in X]), lengths=lengths)
    np.savez(folder / "bare.npz", X=padded, lengths=lengths)
    write_csv(folder / "rows.csv", X, Y)
    write_csv(folder / "steps.csv", X, [np.where(s, "up", "down") for s in running_sign(X)])
    write_csv(folder / "numbers.csv", X, [[v] * len(x) for v, x in zip(map(len, X), X, strict=True)])
    write_csv(folder / "bare.csv", X[:5])
    write_csv(folder / "tokens.csv", ragged(60, tokens=True), [int(t[0]) for t in ragged(60, tokens=True)], token=True)
    write_ts(folder / "uea.ts", X, Y)
    return folder


@pytest.fixture(scope="module")
def trained(files):
    assert main(["classify", "train", str(files / "rows.csv"), "--out", str(files / "run"), *SMALL]) == 0
    return files / "run"


@pytest.fixture(scope="module")
def labeler(files):
    line = ["classify", "train", str(files / "steps.csv"), "--task", "label", "--out", str(files / "labels"), *SMALL]
    assert main(line) == 0
    return files / "labels"


# ---- files ----


@pytest.mark.parametrize("name", ["padded.npz", "joined.npz", "rows.csv", "uea.ts"])
def test_the_same_sequences_from_every_file(files, name, trained):
    loaded = read(files / name)
    assert list(loaded.y) == list(Y) and len(loaded.names) == len(X)
    sequences = (
        [x[:n] for x, n in zip(loaded.X, loaded.lengths, strict=True)] if loaded.lengths is not None else loaded.X
    )
    for got, expected in zip(sequences, X, strict=True):
        np.testing.assert_array_equal(got.astype(np.float32), expected)
    out = files / f"run of {name}"
    assert main(["classify", "train", str(files / name), "--out", str(out), *SMALL]) == 0
    np.testing.assert_array_equal(load(out).predict_proba(X), load(trained).predict_proba(X))


def test_labels_of_steps_and_numbers(files):
    for name in ("steps.npz", "steps.csv"):
        loaded = read(files / name, steps=True)
        assert [list(np.asarray(y) == np.asarray(y)[-1]) for y in loaded.y] == [
            list(s == s[-1]) for s in running_sign(X)
        ]
    assert read(files / "numbers.csv", numbers=True).y == list(map(len, X))
    tokens = read(files / "tokens.csv")
    assert tokens.X[3].dtype == np.int64 and tokens.X[3].tolist() == ragged(60, tokens=True)[3].tolist()
    text = (files / "rows.csv").read_text()
    (files / "bom.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert list(read(files / "bom.csv").y) == list(Y)
    np.savez(files / "ones.npz", X=np.ones((2, C)), y=np.array(["a", "b"]), lengths=[1, 1])
    assert [y.tolist() for y in read(files / "ones.npz", steps=True).y] == [["a"], ["b"]]
    turned = read(files / "uea.ts", channels_first=True)
    assert turned.X[0].shape == (C, len(X[0]))


@pytest.mark.parametrize(
    ("task", "name", "cls"),
    [
        ("label", "steps.npz", SequenceLabeler),
        ("regress", "numbers.npz", SequenceRegressor),
        ("regress", "numbers.csv", SequenceRegressor),
        ("regress-steps", "steps.npz", SequenceRegressor),
        ("classify", "tokens.csv", SequenceClassifier),
        ("classify", "first.npz", SequenceClassifier),
    ],
)
def test_every_task(files, tmp_path, capsys, task, name, cls):
    extra = ["--channels-first"] if name == "first.npz" else ["--embedding-size", "3"] if name == "tokens.csv" else []
    out = tmp_path / "run"
    assert main(["classify", "train", str(files / name), "--task", task, "--out", str(out), *SMALL, *extra]) == 0
    model = load(out)
    assert type(model) is cls and model.hidden_size == 8 and model.seed_ == 3
    assert main(["classify", "predict", str(out), str(files / name)]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    value = "value" if task.startswith("regress") else "label"
    steps = task in ("label", "regress-steps")
    assert rows[0] == ["sequence", *(["step"] if steps else []), value]
    assert len(rows) - 1 == (sum(map(len, X)) if steps else 60 if name == "tokens.csv" else len(X))
    assert main(["classify", "eval", str(out), str(files / name)]) == 0
    assert capsys.readouterr().out.startswith("R2 " if task.startswith("regress") else "accuracy 0.")


# ---- predict and eval ----


def test_predict(files, trained, tmp_path, capsys):
    assert main(["classify", "predict", str(trained), str(files / "bare.csv"), "--proba"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    model = load(trained)
    assert rows[0] == ["sequence", "label", "p(blue)", "p(green)", "p(red)"]
    assert [r[:2] for r in rows[1:]] == [[f"s{i}", label] for i, label in enumerate(model.predict(X[:5]))]
    np.testing.assert_array_equal([[float(v) for v in r[2:]] for r in rows[1:]], model.predict_proba(X[:5]))
    output = tmp_path / "labels.csv"
    assert main(["classify", "predict", str(trained), str(files / "bare.npz"), "--output", str(output)]) == 0
    assert [r["label"] for r in csv.DictReader(output.open())] == model.predict(X).tolist()


def test_predict_does_not_look_at_labels(files, labeler, trained, numbers, tmp_path, capsys):
    (tmp_path / "blank.csv").write_text("sequence,c0,c1,c2,label\ns,1,2,3,\n")
    (tmp_path / "other.ts").write_text("@classLabel true a\n@data\n1:2:3:?\n")
    np.savez(tmp_path / "dates.npz", X=np.ones((1, 1, 3)), y=np.array(["2026-01-02"], "M8[D]"))
    for model in (labeler, trained, numbers):
        for name in ("blank.csv", "other.ts", "dates.npz"):
            assert main(["classify", "predict", str(model), str(tmp_path / name)]) == 0
            assert len(capsys.readouterr().out.splitlines()) == 2


def test_output_to_a_device_or_a_link_goes_there(files, trained, tmp_path):
    (tmp_path / "link.csv").symlink_to("labels.csv")
    for output in ("/dev/null", str(tmp_path / "link.csv")):
        assert main(["classify", "predict", str(trained), str(files / "bare.csv"), "--output", output]) == 0
    assert not Path("/dev/null").is_file() and (tmp_path / "link.csv").is_symlink()
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 6


def test_eval_writes_the_confusion_matrix(files, trained, tmp_path, capsys):
    model = load(trained)
    matrix = confusion_matrix(model, X, Y)
    wanted = [[int(((a == Y) & (b == model.predict(X))).sum()) for b in model.classes_] for a in model.classes_]
    assert matrix.tolist() == wanted
    file = tmp_path / "matrix.csv"
    line = ["classify", "eval", str(trained), str(files / "uea.ts")]
    assert main([*line, "--confusion-matrix", str(file)]) == 0
    right = int(np.trace(matrix))
    assert capsys.readouterr().out == f"accuracy {right / 120:.4f}: {right} of 120 sequences\n"
    rows = list(csv.reader(file.open()))
    assert rows[0][1:] == ["blue", "green", "red"] and [r[0] for r in rows[1:]] == rows[0][1:]
    assert [[int(v) for v in r[1:]] for r in rows[1:]] == wanted
    assert main(line) == 0
    assert str(wanted[0][0]) in capsys.readouterr().out.splitlines()[3]
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["confusion_matrix"] == wanted and result["count"] == 120 and result["accuracy"] == right / 120


def test_eval_draws_the_confusion_matrix(files, labeler, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "matrix.png"
    line = ["classify", "eval", str(labeler), str(files / "steps.csv"), "--confusion-matrix", str(file)]
    assert main(line) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    pytest.importorskip("matplotlib")
    plot_matrix(tmp_path / "matrix.png", np.eye(3, dtype=np.int64), ["$\\frac$", "$1 to $5", "\u5b57"])
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_a_folder_is_refused_before_anything_is_done(files, labeler, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = str(tmp_path / "none" / "matrix.png")
    line = ["classify", "eval", str(labeler), str(files / "steps.csv"), "--confusion-matrix", file]
    one_error(line, 1, "none/matrix.png: No such file or directory", capsys)


# ---- runs ----


def test_stopped_by_ctrl_c_and_resumed_is_the_same(files, tmp_path):
    line = ["classify", "train", files / "rows.csv", "--rnn-size", 8, "--seed", 3, "--schedule", "constant"]
    process = subprocess.Popen(
        command(*line, "--max-epochs", 100000, "--out", tmp_path / "out"), stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "out" / "best.safetensors").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    step = int(re.search(r"stopped at step (\d+); saved. To go on:\n  rnnfast classify train .* --resume", err)[1])
    more = ["--max-steps", str(step + 7), "--quiet"]
    assert main([*map(str, line[:3]), "--out", str(tmp_path / "out"), "--resume", *more]) == 0
    assert main([*map(str, line), "--out", str(tmp_path / "straight"), *more]) == 0
    resumed, straight = (comparable(checkpoint.load(tmp_path / name / LAST)) for name in ("out", "straight"))
    assert resumed == straight


@pytest.mark.parametrize("name", ["rows.csv", "padded.npz"])
def test_weights_of_classes_from_a_config_are_resumed_and_saved(files, tmp_path, capsys, name):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"class_weight": {"red": 2.0}, "seed": None}))
    line = ["classify", "train", str(files / name), "--out", str(tmp_path / "run"), "--quiet", "--config", str(config)]
    assert main([*line, "--max-steps", "2", "--save-config", str(tmp_path / "all.json")]) == 0
    for again in ([], ["--resume", "--max-steps", "4"]):
        if again:
            assert main([*line[:-2], *again]) == 0  # the command that Ctrl-C prints
        assert load(tmp_path / "run").class_weight == {"red": 2.0}
    assert main([*line, "--resume", "--max-steps", "5"]) == 0
    assert json.loads((tmp_path / "all.json").read_text())["class_weight"] == {"red": 2.0}
    line[line.index("--config") + 1] = str(tmp_path / "all.json")
    assert main([*line, "--overwrite"]) == 0


def test_config(files, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"rnn-size": 5, "bidirectional": True, "max_steps": 4, "scale": True}))
    line = ["classify", "train", str(files / "rows.csv"), "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*line, "--config", str(config), "--model", "gru", "--save-config", str(tmp_path / "all.json")]) == 0
    model = load(tmp_path / "run")
    assert (model.hidden_size, model.bidirectional, model.cell, model.scale) == (5, True, "gru", True)
    assert json.loads((tmp_path / "all.json").read_text())["cell"] == "gru"


# ---- wrong use and bad files ----

HEAD = "sequence,a,b,label\n"
USE = [
    ("classify", 2, "required: COMMAND"),
    ("classify train", 2, "required: FILE"),
    ("classify train {csv} --rnn-size 0 --out {tmp}/o", 2, "--rnn-size: must be an integer of at least 1, got 0"),
    ("classify train {csv} --pooling sum --out {tmp}/o", 2, "--pooling: invalid choice: 'sum'"),
    ("classify train {csv} --task sort", 2, "--task: invalid choice: 'sort'"),
    (
        "classify train {csv} --task label --pooling max --out {tmp}/o",
        2,
        "--pooling: must be left out with --task label",
    ),
    ("classify train {csv} --resume", 2, "--resume: needs --out"),
    ("classify train {csv} --out {run}", 2, "--out: .*run is not empty"),
    ("classify train {csv} --out {run} --resume --task label", 2, "--task: must be classify as in the run"),
    ("classify train {csv} --out {run} --resume --rnn-size 9", 2, "--rnn-size: must be 8 as in the run .* got 9"),
    ("classify train {csv} --out {run} --resume --weight-decay 5", 2, "--weight-decay: must be None as .* got 5.0"),
    ("classify train {tmp}/none.csv --rnn-size 0 --save-config {tmp}/c --out {tmp}/o", 2, "--rnn-size: must be"),
    ("classify predict {run} {csv} --output {tmp}/none/labels.csv", 1, "/none/labels.csv: No such file"),
    (
        "classify train {csv} --embedding-size 3 --out {tmp}/o",
        2,
        "--embedding-size: must be None where X is not tokens",
    ),
    ("classify train {csv} --val-frac 0 --patience 2 --out {tmp}/o", 2, "--patience: must be None with val_frac 0"),
    ("classify predict {numbers} {csv} --proba", 2, "--proba: needs a model of labels"),
    ("classify eval {numbers} {csv} --confusion-matrix a.csv", 2, "--confusion-matrix: needs a model of labels"),
    (
        "classify eval {run} {csv} --confusion-matrix a.txt",
        2,
        "--confusion-matrix: must end in .csv or .png, got a.txt",
    ),
    ("classify eval {run} {tmp}/none.csv", 1, "none.csv: No such file"),
    ("classify eval {tmp} {csv}", 1, "holds no checkpoint"),
    ("classify eval {csv} {csv}", 1, "is not a checkpoint"),
]


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def damaged_npz():
    content = io.BytesIO()
    np.savez_compressed(content, X=np.zeros((20, 5, 2)), y=np.arange(20) % 2)
    damaged = bytearray(content.getvalue())
    names = int.from_bytes(damaged[26:28], "little") + int.from_bytes(damaged[28:30], "little")
    damaged[30 + names] = 0x07  # the first block is of no type that there is
    return bytes(damaged)


FILES = [
    ("a.txt", "", "the name must end in .npz, .csv or .ts"),
    ("a.csv", "", "line 1: the header must have sequence, label and channels, got ''"),
    ("a.csv", "a,b,label\n1,2,x\n", "line 1: the header must have sequence"),
    ("a.csv", HEAD, "must hold at least one sequence, got none"),
    ("a.csv", HEAD + "s,1,2,x\ns,1,x\n", "line 3: must have 4 columns as the header, got 3"),
    ("a.csv", HEAD + "s,1,2,x\n\ns,1,two,x\n", "line 4, column b: must be a number, got 'two'"),
    ("a.csv", HEAD + "s,1,2,x\ns,1,2,y\n", "line 3: label must be 'x' as in the rows of sequence s before, got 'y'"),
    ("a.csv", HEAD + "s,1,2,x\nt,1,2,y\ns,1,2,x\n", "line 4: the rows of sequence s must follow one another"),
    ("a.csv", HEAD + "s,1,2,x\nt,1,nan,y\n", "line 3, column b: must be a number, got 'nan'"),
    ("a.csv", HEAD + "s,1,2,x\nt,1,2,\n", "line 3: label must be given, got ''"),
    ("a.csv", HEAD + 's,1,2,x\n"t,1,2,y\n', "line 3: must be CSV: unexpected end of data"),
    ("a.csv", "sequence,a,label,label\ns,1,x,y\n", "line 1: the header must have one column called label, got 2"),
    ("a.csv", HEAD + "s,1,2,x\ns,1,2,x\nt,1,2,x\nt,1,2,x\n", "y must hold at least 2 classes, got 1"),
    ("a.csv", "sequence,a,b\ns,1,2\n", "must hold labels, got none"),
    ("a.csv", "sequence,token,label\ns,1.5,x\n", "line 2, column token: must be an integer, got '1.5'"),
    ("a.csv", f"sequence,token,label\ns,1,x\nt,{10**20},y\n", "line 3, column token: must be an integer, got '1000"),
    ("a.csv", f"sequence,token,label\ns,{'9' * 400},x\n", "line 2, column token: must be an integer, got '9999"),
    ("a.csv", b"sequence,a,label\ns,1,\xfc\n", "must be UTF-8 text, got byte 0xfc"),
    ("a.ts", "@data\n1,2:3,4:x\n1,2:3:y\n", "line 3: must have 2 channels of one length, got 2 of lengths 2, 1"),
    ("a.ts", "@data\n1,2:3,4:x\n1,2:y\n", "line 3: must have 2 channels of one length, got 1 of lengths 2"),
    ("a.ts", "@classLabel true a B\n@data\n1:B\n2:b\n", "line 4: the label must be one of .* B, a, got 'b'"),
    ("a.ts", "@data\n1:x\n2:\n", "line 3: the label must be given, got ''"),
    ("a.ts", "@\n@data\n1:x\n", "y must hold at least 2 classes, got 1"),
    ("a.ts", "@data\n1,?:x\n", "line 2, channel 0: must be a number, got '?'"),
    ("a.ts", "1,2:x\n", "line 1: must begin with @ or #, or come after @data"),
    ("a.ts", "@timestamps true\n@data\n", "line 1: series with time stamps are not supported"),
    ("a.ts", "@data\n", "must hold at least one sequence"),
    ("a.ts", "@classlabel false\n@data\n1,2:3,4\n", "must hold labels, got none"),
    ("a.npz", b"", "must be an .npz file of numbers and strings"),
    ("a.npz", b"PK\x03\x04half", "must be an .npz file of numbers and strings"),
    ("a.npz", damaged_npz(), "must be an .npz file of numbers and strings: .*invalid block type"),
    ("a.npz", {"X": np.ones((4, 2, 1), bool), "y": [0, 1, 0, 1]}, "a.npz: X must be numbers, got bool of shape"),
    ("a.npz", {"X": 1.0, "y": [0]}, "a.npz: X must be numbers, got float64 of shape ()"),
    ("a.npz", {"X": np.ones((2, 2, 1)), "y": [b"a", b"b"]}, "a.npz: y must be labels, .* got [|]S1 of shape"),
    ("a.npz", {"X": np.ones((1, 2, 1)), "y": np.array(["2026-01-02"], "M8[D]")}, "y must be labels, .* got datetime64"),
    ("a.npz", {"X": np.ones((2, 2, 1)), "y": 1}, "a.npz: y must be labels, .* got int64 of shape ()"),
    ("a.npz", {"X": np.ones((2, 1)), "y": [0, 1], "lengths": [True, True]}, "lengths must be integers, got bool"),
    ("a.npz", npy(np.ones(3)), "must be an .npz file of numbers and strings: it is an .npy file"),
    ("a.npz", {"x": np.zeros(3)}, "must hold arrays X, y and, if need be, lengths, got x"),
    (
        "a.npz",
        {"X": np.zeros((5, 2)), "y": [0, 1], "lengths": [2, 2]},
        "lengths must be integers whose sum is the 5 rows",
    ),
    ("a.npz", {"X": np.zeros((5, 2)), "y": [0, 1, 2], "lengths": [2, 3]}, "y must hold one label each"),
]


@pytest.fixture(scope="module")
def numbers(files):
    line = [
        "classify",
        "train",
        str(files / "numbers.csv"),
        "--task",
        "regress",
        "--out",
        str(files / "regress"),
        *SMALL,
    ]
    assert main(line) == 0
    return files / "regress"


def one_error(line, code, error, capsys):
    assert main(line) == code
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and ": error: " in err
    assert re.search(error, err), err


@pytest.mark.parametrize(("line", "code", "error"), USE, ids=[u[0] for u in USE])
def test_wrong_use(files, trained, numbers, tmp_path, capsys, line, code, error):
    line = line.format(csv=files / "rows.csv", run=trained, tmp=tmp_path, numbers=numbers)
    one_error(line.split(), code, error, capsys)
    assert not list(tmp_path.iterdir())


def test_numbers_of_steps_name_their_line(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("sequence,a,label\n" + "".join(f"s,{i},{i}.25\n" for i in range(60)) + "s,1,oops\n")
    for value, got in (("oops", "oops"), ("nan", "nan")):
        (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace("oops", value))
        line = ["classify", "train", str(tmp_path / "a.csv"), "--task", "regress-steps", "--out", str(tmp_path / "o")]
        one_error(line, 1, f"line 62, column label: must be a number, got '{got}'", capsys)
    (tmp_path / "a.ts").write_text("@targetlabel true\n@data\n1,2:0.5\n1,2:many\n")
    line = ["classify", "train", str(tmp_path / "a.ts"), "--task", "regress", "--out", str(tmp_path / "o")]
    one_error(line, 1, "line 4, label: must be a number, got 'many'", capsys)


def test_a_run_of_another_model_is_not_gone_on_with(files, tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("".join(f"{'ab' * n}\t{'ba' * n}\n" for n in range(1, 20)))
    more = ["--rnn-size", "4", "--max-steps", "2", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["seq2seq", "train", str(tmp_path / "pairs.tsv"), *more]) == 0
    capsys.readouterr()
    line = ["classify", "train", str(files / "rows.csv"), "--out", str(tmp_path / "run"), "--resume"]
    one_error(line, 1, "last.safetensors must be a checkpoint of a sequence estimator, got one of ", capsys)


@pytest.mark.parametrize(("name", "content", "error"), FILES, ids=[f"{i}-{f[0]}" for i, f in enumerate(FILES)])
def test_bad_files(tmp_path, capsys, name, content, error):
    if isinstance(content, dict):
        np.savez(tmp_path / name, **content)
    else:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    one_error(["classify", "train", str(tmp_path / name), "--out", str(tmp_path / "out"), "--quiet"], 1, error, capsys)
    assert [p.name for p in tmp_path.iterdir()] == [name]
