"""What is made of measurements: `rnnfast bench`'s tables, and the scripts in benchmarks/ with the README's."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import readme_table
import roofline
import shakespeare
from bench_cases import MACHINE, SMALL
from classify_results import fake_classify, fake_classify_speed
from rnnfast.bench import cases, limits, measure, peers, report, tables
from rnnfast.bench.limits import Machine

ROOT = Path(__file__).resolve().parent.parent


def fake_row(case, threads=1, **medians):
    timings = {name.replace("_", " "): measure.Timing((m, m, m), 1) for name, m in medians.items()}
    peers_ = dict.fromkeys(timings.keys() - set(peers.OWN), 0.0)
    return report.row(case, threads, peers_, timings, 5e-7 * (threads > 1), MACHINE.peak(threads, case.dtype) / 2)


def fake_document(rows, **peers):
    made = report.document(rows, peers, measure.Effort(), 0.1, MACHINE, 1_230_000)
    return json.loads(json.dumps(made))


def fake_rows():
    layer, ragged, stream, step, sample = SMALL[0], SMALL[12], SMALL[18], SMALL[-4], SMALL[-2]
    training = report.row(
        step, 1, {}, {k: measure.Timing((v,), 1) for k, v in (("rnnfast", 0.01), (peers.PART, 0.009))}, 0.0, 1e9
    )
    return [
        fake_row(layer, rnnfast=2.0, torch=5.0, onnxruntime=4.0),
        fake_row(layer, 2, rnnfast=1.0, torch=10.0, jax=20.0),
        fake_row(ragged, **{"rnnfast": 1.8, "torch": 9.0, peers.PADDED: 2.0}),
        fake_row(stream, rnnfast=1e-6, onnxruntime=3e-6),
        training,
        fake_row(sample, rnnfast=0.00001, torch=0.002, torch_cell=0.0005),
    ]


def test_ratios_of_fake_numbers():
    rows = fake_rows()
    assert [report.ratios(r) for r in rows[:2]] == [{"torch": 2.5, "onnxruntime": 2.0}, {"torch": 10.0, "jax": 20.0}]
    assert [report.best_ratio(r) for r in rows] == [2.0, 10.0, 5.0, 3.0, None, 50.0]
    assert rows[4]["rest"] == pytest.approx(0.1) and rows[4]["ratios"] == {}
    assert not any(r["noisy"] for r in rows)
    first = fake_document(rows)["rows"][0]
    assert first["limit"] == pytest.approx(limits.limit(SMALL[0], 1, MACHINE, 0.0, first["peak"]))
    assert first["fraction"] == pytest.approx(first["limit"] / 2.0, abs=1e-4)


def test_tables_of_fake_numbers():
    doc = fake_document(fake_rows(), torch="2.13.0", onnxruntime="1.32.0", jax="0.10.2")
    percent = f"{doc['rows'][0]['fraction']:.0%}"
    full = tables.everything(doc)
    start = rf"^\| rnn/forward/T5-B3-I7-H17 +\| 1 +\| 2.00 s +\| 2.00 s +\| 0% +\| {percent} +"
    assert re.search(start + r"\| 5.00 s \(2.50 ×\) +\| 4.00 s \(2.00 ×\)", full, re.M)
    assert re.search(r"^\| charlm/sample/2x8-T12-B1 .*\| 2.00 ms \(200 ×\) .*\| 500 µs \(50.0 ×\) +\|$", full, re.M)
    assert re.search(r"^\| best of them +\| 4.64 × ", full, re.M)  # of 2, 10 and 5
    assert re.search(r"^\| jax +\| 20.0 × ", full, re.M)
    layers = tables.layers_table(doc)
    assert re.search(rf"^\| 5, 3, 7, 17 +\| 1 +\| 2.00 s, 2.00 ×, {percent} +\|( +\|){{5}}$", layers, re.M)
    assert re.search(r"^\| 5, 3, 7, 17: ragged +\| 1 +\| 1.80 s, 5.00 ×", layers, re.M)
    longest = cases.lengths(SMALL[12]).max() / 5
    assert f"| {1.8 / 2.0 / longest:.2f} " in tables.ragged_table(doc) and "padded" not in full
    assert re.search(r"^\| RNN 7 +\| 1 +\| 1.00 µs .*\| 3.00 µs \(3.00 ×\) \|$", tables.streams_table(doc), re.M)
    jobs = tables.models_table(doc)
    assert re.search(r"^\| training step, 2 × 8, V 11, B 3, T 6 +\| 1 +\| 10.0 ms .*\| 10% ", jobs, re.M)
    assert re.search(
        r"^\| sampling 12 tokens, 2 × 8, one stream .* 2.00 ms \(200 ×\) +\| 500 µs \(50.0 ×\)", jobs, re.M
    )
    assert "| 500 ns" in tables.limits_table(doc) and "8 KiB a thread" in tables.limits_table(doc)
    assert "The wheel has 1.23 MB." in full
    for text in (full, layers, jobs):
        for table in re.findall(r"(?:^\|.*\n?)+", text, re.M):
            assert len({len(row) for row in table.splitlines()}) == 1
        assert "jax 0.10.2" in text and doc["info"]["cpu"] in text and "noisy" not in text


def test_tables_without_a_peer():
    doc = fake_document([fake_row(SMALL[0], rnnfast=1.5), fake_row(SMALL[-2], rnnfast=0.5)], torch=None)
    for text in (tables.everything(doc), tables.layers_table(doc), tables.models_table(doc)):
        assert "Not installed here, so not compared: torch." in text and not re.search(r"\d ×[ ,)]*\|", text)
    assert "1.50 s" in tables.layers_table(doc) and "500 ms" in tables.models_table(doc)


def test_noise_is_told():
    timings = {"rnnfast": measure.Timing((1.0, 1.0, 1.0), 1), "torch": measure.Timing((2.0, 3.0, 4.0), 1)}
    doc = fake_document([report.row(SMALL[0], 2, {"torch": 0.0}, timings, 0.0, 1e9)], torch="2.13.0")
    assert doc["noisy"] == ["rnn/forward/T5-B3-I7-H17, 2 threads"]
    layers = tables.layers_table(doc)
    assert re.search(r"1.00 s, 3.00 ×, \d+% ~ \|", layers) and "The machine was noisy" in layers
    assert "| rnn/forward/T5-B3-I7-H17 ~ |" in tables.everything(doc)


def test_roofline(tmp_path):
    pytest.importorskip("matplotlib")
    results, out = tmp_path / "bench.json", tmp_path / "roofline.svg"
    doc = fake_document(fake_rows())
    doc["limits"] = Machine.measure(1).to_dict()
    results.write_text(json.dumps(doc))
    assert [p[:3] for p in roofline.points(doc)][:2] == [("rnn", "forward", 1), ("rnn", "forward", 2)]
    roofline.main(["--results", str(results), "--out", str(out)])
    assert out.read_text().startswith("<?xml") and out.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(2.5e-8, "0.03 µs"), (1e-6, "1.00 µs"), (0.00012345, "123 µs"), (0.0009999, "1.00 ms"), (0.00999, "9.99 ms")],
        *[(0.012345, "12.3 ms"), (0.9999, "1.00 s"), (9.999, "10.0 s"), (75.0, "75.0 s"), (1234.0, "1234 s")],
    ],
)
def test_duration(seconds, text):
    assert report.duration(seconds) == text


# ---- the README ----


def fake_run(recipe="fast", seed=1, **changes):
    times = {"1.88": 10.0 + seed, "1.72": 20.0 + seed, "1.50": None}
    final = {"carried": 1.6 + seed / 100, "reset": 1.62, "reset_every": 256, "training_seconds": 55.0, "seconds": 57.0}
    return {
        "recipe": recipe,
        "seed": seed,
        "date": f"2026-01-0{seed}T00:00:00+00:00",
        "clock": "a clock",
        "info": {"rnnfast": "0.1.0", "isa": "avx512", "threads": 2, "cpu": "a CPU"},
        "data": {"sha256": "0"},
        "options": {**shakespeare.RECIPES[recipe], "cell": "lstm", "seed": seed},
        "parameters": 347_457,
        "steps": 100,
        "epochs": 5.0,
        "time_to": times,
        "final": {**final, "carried_seconds": 56.0},
        "evaluations": [],
        **changes,
    }


def test_summary_of_seeds():
    runs = [fake_run(seed=s) for s in (3, 1, 2)]
    runs[0]["time_to"]["1.72"] = None  # seed 3 never gets there
    runs[1]["time_to"]["1.50"] = 50.0
    summary = shakespeare.summarize([*runs, fake_run("accurate", seed=4)])
    assert list(summary["recipes"]) == ["fast", "accurate"]
    fast = summary["recipes"]["fast"]
    assert fast["seeds"] == [1, 2, 3] and len(fast["runs"]) == 3 and "seed" not in fast["options"]
    assert fast["median"]["time_to"] == {"1.88": 12.0, "1.72": 22.0, "1.50": None}
    assert fast["median"]["final"]["carried"] == 1.62
    assert summary["recipes"]["accurate"]["seeds"] == [4]
    for other, word in (
        (fake_run(seed=1), "same seed"),
        (fake_run(seed=2, info={**fake_run()["info"], "threads": 1}), "threads is 2 with seed 1, 1 with seed 2"),
        (fake_run(seed=2, options={**fake_run()["options"], "hidden_size": 8}), "hidden_size"),
    ):
        with pytest.raises(SystemExit, match=word):
            shakespeare.summarize([fake_run(), other])


def memory_document():
    settings = {"seq_length": 100, "batch_size": 8, "hidden_size": 128, "num_layers": 2, "cell": "lstm"}
    runs = [
        {"kind": kind, "steps": steps, "start_bytes": 2**25, "peak_bytes": peak}
        for kind, steps, peak in (("truncated", 10_000, 2**26), ("full", 10_000, 2**31))
    ]
    return {"settings": settings, "runs": runs, "info": fake_run()["info"]}


def test_readme_is_written_and_checked(tmp_path, capsys):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    arguments = ["--readme", str(readme), "--results", str(results)]
    block = "<!-- bench:begin {0} -->\nold {0}\n<!-- bench:end {0} -->\n"
    names = list(readme_table.TABLES)
    readme.write_text("before\n" + "between\n".join(map(block.format, names)) + "after\n")
    old = readme.read_text()
    assert readme_table.main([*arguments, "--check"]) == 0  # nothing is there to be checked
    assert f"no results yet for: {', '.join(names)}" in capsys.readouterr().err
    (results / "bench.json").write_text(json.dumps(fake_document(fake_rows())))
    (results / "shakespeare.json").write_text(json.dumps(shakespeare.summarize([fake_run()])))
    assert readme_table.main([*arguments, "--check"]) == 1 and readme.read_text() == old
    assert "not up to date" in capsys.readouterr().err
    assert readme_table.main(arguments) == 0
    (results / "tbptt_memory.json").write_text(json.dumps(memory_document()))
    step = {"cell": "gru", "layers": 2, "bytes": {"rnnfast": 2**22}, "seconds": {"rnnfast": {"median": 0.25}}}
    doc = {"settings": {"shape": [9, 8, 7, 6], "steps": 50}, "rows": [step], "growth": {"gru": {"growth": -1}}}
    doc |= {"info": fake_run()["info"], "date": "2026-01-02"}
    (results / "memory.json").write_text(json.dumps(doc))
    gpu = {"cell": "gru", "T": 9, "B": 8, "H": 7, "plan": ["small", "step"]}
    gpu["ms"] = {"automatic": [1.0, 2.0], "cudnn": [2.0, 5.0], "cudnn_tf32": [3.0, 4.0]}
    doc = {"device": "a GPU", "torch": "2", "cudnn": 9, "rows": [gpu]}
    (results / "cuda_h100.json").write_text(json.dumps(doc))
    imports = {"worst": 0.0514, "info": fake_run()["info"], "date": "2026-01-02"}
    (results / "robustness.json").write_text(json.dumps({"imports": imports}))
    (results / "classify.json").write_text(json.dumps(fake_classify()))
    (results / "classify_speed.json").write_text(json.dumps(fake_classify_speed()))
    rows = [
        {"group": "layers", "name": f"lstm/forward/{size}", "threads": 2, "ratio": ratio}
        for size, ratio in (("T1", 2.0), ("T2", 8.0))
    ]
    rows += [{"group": "overhead", "name": "gru/forward/T1", "threads": 1, "ratio": 1.0, "overhead": 1.25e-5}]
    doc = {"rows": rows, "info": {**fake_run()["info"], "torch": "9.8"}, "date": "2026-01-02"}
    (results / "torch_backend.json").write_text(json.dumps(doc))
    score = {"sequence_error": 0.3, "token_error": 0.07, "interval": [0.29, 0.31]}
    recipe = {"options": {"cell": "lstm", "hidden_size": 512, "attention": None}, "parameters": 2_600_000}
    recipe |= {"median": {"test": {"beam 1": score, "beam 5": score}}, "seconds": 3000.0, "seeds": [1]}
    doc = {"recipes": {"plain": {**recipe, "runs": [{"beam_size": 5}]}}, "data": {"words": 9}, "date": "2026-01-02"}
    (results / "cmudict.json").write_text(json.dumps({**doc, "info": fake_run()["info"]}))
    search = {"sources": 64, "beam_size": 5, "rnnfast": 0.01, "torch": 0.04, "torch, a loop": 0.2}
    doc = {
        "attention": {"none": {"steps": {"shuffled": {"rnnfast": 0.1, "torch": 0.4}}, "search": [search]}},
        "batch_size": 64,
    }
    (results / "sequences.json").write_text(
        json.dumps({**doc, "torch": "9.8", "info": fake_run()["info"], "date": "2026-01-02"})
    )
    assert readme_table.main([*arguments, "--check"]) == 1
    assert readme_table.main(arguments) == readme_table.main([*arguments, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- bench:begin means -->\n") and text.endswith("-->\nafter\n")
    assert text.count("between\n") == len(names) - 1 and "old" not in text
    assert "2.00 s, 2.00 ×" in text and "| not reached |" in text and "| 2,048 MiB |" in text
    assert "| GRU, 2 layers | 4 MiB, 250 ms |" in text
    assert "| GRU 9 × 8, 7 | 2.00 (1.00) | small / step | 5.00 (2.00) | 4.00 (3.00) | 2.5 |" in text
    assert "PyTorch costs 12.5 µs (forward): " in text
    assert re.search(r"\| forward \| 2 +\| 2 +\| 4.00 × +\| 2.00 ×, lstm/T1 +\|", text)
    assert re.search(r"\| `import rnnfast`, beyond `import numpy` \| 51 ms +\|", text)
    assert re.search(r"\| fast: LSTM 1 × 256, 0.35 M parameters \| 11 s +\| 21 s +\| not reached", text)
    assert "| 30.00 % | 29.00 to 31.00 | 7.00 % | 50.0 min | 1 " in text
    assert re.search(r"beam of 5, 64 sources, without attention +\| 10.0 ms +\| 4.00 × +\| 20.00 × ", text)
    readme.write_text(text.replace("2.00 ×", "20.0 ×"))
    assert readme_table.main([*arguments, "--check"]) == 1


def test_results_in_a_folder(tmp_path):
    readme, other = tmp_path / "README.md", tmp_path / "other"
    other.mkdir()
    (other / "classify_speed.json").write_text(json.dumps(fake_classify_speed()))
    readme.write_text("<!-- bench:begin {0} -->\n<!-- bench:end {0} -->\n".format("other/classify_speed"))
    assert readme_table.main(["--readme", str(readme), "--results", str(tmp_path)]) == 0
    assert "4.00 ms (2.50 ×)" in readme.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "<!-- bench:begin layers -->\n",
        "<!-- bench:end layers -->\n",
        "<!-- bench:begin layers -->\n<!-- bench:end models -->\n",
        "<!-- bench:begin unknown -->\n<!-- bench:end unknown -->\n",
        "<!-- bench:begin other/unknown -->\n<!-- bench:end other/unknown -->\n",
        "<!-- bench:begin layers --> same line <!-- bench:end layers -->\n",
    ],
)
def test_wrong_markers(text, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert readme_table.main(["--readme", str(readme), "--results", str(tmp_path), "--check"]) == 1
    assert "bench:begin" in capsys.readouterr().err and readme.read_text() == text


def test_the_readme_shows_the_results_that_are_there(capsys):
    assert readme_table.main(["--check"]) == 0, capsys.readouterr().err


# ---- benchmarks/shakespeare.py ----


def test_shakespeare_runs(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be: that is the question.\n" * 60)
    out = tmp_path / "folder" / "run.json"
    options = ["hidden_size=8", "batch_size=4", "seq_length=8", "max_steps=3", "max_time=null"]
    command = [sys.executable, str(ROOT / "benchmarks" / "shakespeare.py"), "--data", str(text), "--recipe", "fast"]
    command += ["--seed", "5", "--threads", "1", "--quiet", "--out", str(out), "--set", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("the text is not char-rnn's")
    result = json.loads(out.read_text())
    assert (result["kind"], result["recipe"], result["seed"]) == ("shakespeare run", "fast", 5)
    assert result["steps"] == 3 and result["options"]["hidden_size"] == 8 and result["info"]["threads"] == 1
    assert result["data"]["characters"] == 2580 and result["data"]["validation"] == 258
    assert result["time_to"].keys() == {"1.88", "1.72", "1.50"} and result["time_to"]["1.50"] is None
    final = result["final"]
    assert 0 < final["training_seconds"] <= final["carried_seconds"] <= final["seconds"]
    assert 1 < final["carried"] < 4 and 1 < final["reset"] < 4
    last = result["evaluations"][-1]
    assert last["step"] == 3 and last["loss"] == pytest.approx(final["carried"])
    summary = shakespeare.summarize([result])
    assert summary["recipes"]["fast"]["median"]["final"] == final
    assert "0.00 M parameters" in readme_table.shakespeare(summary)


def test_shakespeare_refuses(capsys, monkeypatch, tmp_path):
    for arguments, word in (
        (["--recipe", "fast"], "--data"),
        (["--recipe", "fast", "--data", str(tmp_path / "none.txt")], "char-rnn"),
        (["--recipe", "fast", "--data", __file__, "--set", "hidden_size"], "OPTION=JSON"),
        (["--recipe", "slow", "--data", __file__], "--recipe"),
    ):
        monkeypatch.setattr(sys, "argv", ["shakespeare.py", *arguments, "--out", str(tmp_path / "out.json")])
        with pytest.raises(SystemExit) as e:
            shakespeare.parse()
        assert e.value.code == 2 and word in capsys.readouterr().err


def test_process_start_is_before_this_line():
    import time

    started, clock = shakespeare.process_start()
    assert started <= shakespeare.FIRST_LINE <= time.monotonic() and clock
