"""`rnnfast bench` and the scripts that make the README's tables. No test looks at how long anything took."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnnfast import bench, cli
from rnnfast.bench import cases, measure, peers, report
from rnnfast.bench.cases import CELLS, CharModel, Layer

ROOT = Path(__file__).resolve().parent.parent
HASTE = measure.Effort(repeats=2, least=1, block=1e-6, limit=0.0)
SMALL = [
    *(Layer(cell, mode, 5, 3, 7, 17) for cell in CELLS for mode in report.MODES),
    CharModel("step", T=6, B=3, V=11, H=8),
    CharModel("sample", T=12, B=1, V=11, H=8),
]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


readme_table, shakespeare = script("readme_table"), script("shakespeare")


@pytest.fixture
def small(monkeypatch):
    """Tiny cases, one or two repeats."""
    monkeypatch.setattr(bench, "all_cases", lambda quick: list(SMALL))
    monkeypatch.setattr(bench, "QUICK", HASTE)


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises ImportError


def check_document(doc, peer_names):
    assert doc["kind"] == "rnnfast bench" and doc["format"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", doc["date"])
    assert {"rnnfast", "isa", "cpu", "python", "numpy", "threads", "cores", "load_before"} <= doc["info"].keys()
    assert [r["case"] for r in doc["rows"]] == [case.name for case in SMALL]
    for r in doc["rows"]:
        expected = {"rnnfast", *peer_names}
        if peer_names and r["config"].get("job") == "sample":
            expected.add("torch LSTMCell")
        assert r["seconds"].keys() == expected
        assert r["ratios"].keys() == r["differences"].keys() == expected - {"rnnfast"}
        assert isinstance(r["noisy"], bool) and r["threads"] == 1 and r["kind"] in ("layer", "charlm")
        for timing in r["seconds"].values():
            assert 0 < timing["min"] <= timing["median"] and timing["spread"] >= 0
            assert timing["repeats"] >= 1 and timing["calls"] >= 1
        assert all(0 <= difference <= 2e-5 for difference in r["differences"].values())


def test_run_without_torch(small, no_torch, capsys, tmp_path):
    out = tmp_path / "new folder" / "bench.json"
    assert bench.main(["--quick", "--threads", "1", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    doc = json.loads(out.read_text())
    check_document(doc, [])
    assert doc["peers"] == {"torch": None}
    assert "torch cannot be imported" in captured.err and f"[{len(SMALL)}/{len(SMALL)}]" in captured.err
    assert captured.out == report.table(doc) + "\n"
    assert "Not installed here, so not compared: torch." in captured.out
    assert list(out.parent.iterdir()) == [out]


def test_run_with_torch(small, torch, capsys, tmp_path):
    out = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    assert bench.main(["--quick", "--threads", "1", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    doc = json.loads(out.read_text())
    check_document(doc, ["torch"])
    assert doc["peers"] == {"torch": torch.__version__}
    assert captured.out == report.table(doc) + "\n" and f"torch {torch.__version__}" in captured.out
    assert torch.get_num_threads() == threads


def test_the_command_line_hands_over(small, no_torch, capsys, tmp_path):
    assert cli.main(["bench", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [case.name for case in SMALL]
    assert cli.main(["bench", "--quick", "--threads", "1,2", "--cases", "gru/forward/,sample"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| (gru|charlm)", line)]
    assert [line.split("|")[2].strip() for line in rows] == ["1", "2", "1", "2"]
    for wrong in (["--cases", "transformer"], ["--threads", "0"], ["--threads", "two"], ["--speed"]):
        assert cli.main(["bench", *wrong]) == 2, wrong
        assert wrong[0] in capsys.readouterr().err.splitlines()[-1]


def test_output_that_cannot_be_written_shows_before_measuring(small, no_torch, capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert cli.main(["bench", "--quick", "--out", str(tmp_path / "file" / "bench.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1

    def interrupted(*args):
        raise KeyboardInterrupt

    out = tmp_path / "bench.json"
    out.write_text("older results")
    monkeypatch.setattr(bench, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.main(["--quick", "--out", str(out)])
    assert out.read_text() == "older results" and not list(tmp_path.glob("*.part"))


def test_wrong_answers_are_not_timed(small, no_torch, monkeypatch, capsys):
    def with_liar(case, found):
        ours = peers.runners(case, found)[0]
        shift = 1 if case.name.startswith("gru/forward/") else 0
        liar = peers.Runner("liar", ours.run, lambda: {name: a + shift for name, a in ours.answers().items()})
        return [ours, liar] if isinstance(case, Layer) else [ours]

    monkeypatch.setattr(bench, "runners", with_liar)
    assert bench.main(["--quick", "--threads", "1"]) == 1
    captured = capsys.readouterr()
    assert "NOT TIMED, the answers differ: liar: y differs" in captured.err
    assert "gru/forward/" not in captured.out and "gru/forward+backward/" in captured.out


@pytest.mark.parametrize("quick", [False, True])
def test_cases(quick):
    every = cases.all_cases(quick)
    assert len({case.name for case in every}) == len(every)
    assert {case.cell for case in every if isinstance(case, Layer)} == set(CELLS)
    assert {case.job for case in every if isinstance(case, CharModel)} == set(report.CHAR_JOBS)
    assert cases.select(every, None) == every
    assert cases.select(every, " lstm/forward/ , nothing,") == [c for c in every if c.name.startswith("lstm/forward/")]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_same_for_every_peer_and_every_time(case):
    for draw in (cases.parameters, cases.arrays):
        one, two = draw(case), draw(case)
        assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    first, second = (peers.runners(case, {})[0].answers() for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first | second)


def test_compare():
    a = {"y": np.array([1.0, -4.0]), "h": np.zeros(2)}
    assert measure.compare(a, {"y": np.array([1.0, -4.0]), "h": np.zeros(2)}, 0.0) == 0.0
    assert measure.compare(a, {"y": np.array([1.01, -4.0]), "h": np.zeros(2)}, 0.1) == pytest.approx(0.0025)
    for other in (
        {"y": np.array([1.0, -4.0])},
        {"y": np.array([1.0]), "h": np.zeros(2)},
        {"y": np.array([1.0, -4.5]), "h": np.zeros(2)},
        {"y": np.array([1.0, np.nan]), "h": np.zeros(2)},
    ):
        with pytest.raises(measure.AnswersDiffer):
            measure.compare(a, other, 0.1)
    with pytest.raises(measure.AnswersDiffer):
        measure.compare({"y": np.array([np.nan])}, {"y": np.array([1.0])}, 0.1)


def test_interleaved_takes_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = measure.interleaved(runs, measure.Effort(repeats=4, least=4, block=0.0, limit=0.0))
    assert timings.keys() == {"a", "b"}
    assert all(len(t.seconds) == 4 and t.calls == 1 for t in timings.values())
    assert "".join(order)[-8:] == "abbaabba"
    few = measure.interleaved(runs, measure.Effort(repeats=50, least=3, block=0.0, limit=0.0))
    assert len(few["a"].seconds) == len(few["b"].seconds) == 3


def test_timing_statistics():
    timing = measure.Timing((4.0, 2.0, 3.0, 8.0, 3.0), calls=7)
    assert (timing.median, timing.minimum, timing.spread) == (3.0, 2.0, pytest.approx(2 / 3))
    assert timing.to_dict() == {"median": 3.0, "min": 2.0, "spread": 0.6667, "repeats": 5, "calls": 7}


def fake_row(case, threads=1, **medians):
    timings = {name.replace("_", " "): measure.Timing((m, m, m), 1) for name, m in medians.items()}
    return report.row(case, threads, dict.fromkeys(timings.keys() - {"rnnfast"}, 0.0), timings)


def fake_document(rows, torch="2.13.0"):
    return report.document(rows, {"torch": torch}, measure.Effort(), load=0.1)


def fake_rows():
    layer, step, sample = SMALL[0], SMALL[-2], SMALL[-1]
    return [
        fake_row(layer, rnnfast=0.002, torch=0.005),
        fake_row(layer, 2, rnnfast=0.001, torch=0.010),
        fake_row(step, rnnfast=0.010, torch=0.021),
        fake_row(sample, rnnfast=0.00001, torch=0.002, torch_LSTMCell=0.0005),
    ]


def test_ratios_of_fake_numbers():
    rows = fake_rows()
    assert [report.ratios(r) for r in rows] == [
        {"torch": 2.5},
        {"torch": 10.0},
        {"torch": 2.1},
        {"torch": 200.0, "torch LSTMCell": 50.0},
    ]
    assert [report.best_ratio(r) for r in rows] == [2.5, 10.0, 2.1, 50.0]
    assert report.best_ratio(fake_row(SMALL[0], rnnfast=1.0)) is None
    assert not any(r["noisy"] for r in rows)


def test_tables_of_fake_numbers():
    doc = fake_document(fake_rows())
    full = report.table(doc)
    assert re.search(r"^\| rnn/forward/T5-B3-I7-H17 +\| 1 +(\| 2.00 ms ){2}(\| 5.00 ms ){2}\| 2.50 ×", full, re.M)
    assert re.search(r"^\| charlm/sample/2x8-T12-B1 .* 200 × +\| 500 µs +\| 500 µs +\| 50.0 × +\|$", full, re.M)
    assert "Geometric mean of these ratios: RNN forward 5.00 ×." in full
    layers = report.layers_table(doc)
    assert re.search(r"^\| 5, 3, 7, 17 \| 1 +\| 2.00 ms, 2.50 × +\|( +\|){5}$", layers, re.M)
    assert re.search(r"^\| 5, 3, 7, 17 \| 2 +\| 1.00 ms, 10.0 × +\|( +\|){5}$", layers, re.M)
    jobs = report.charlm_table(doc)
    assert re.search(r"^\| training step \(B 3, T 6\) +\| 1 +\| 10.0 ms \| 21.0 ms \(2.10 ×\) +\| +\|$", jobs, re.M)
    assert re.search(r"one stream \| 1 +\| 10.0 µs \| 2.00 ms \(200 ×\) +\| 500 µs \(50.0 ×\) +\|$", jobs, re.M)
    for text in (full, layers, jobs):
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(row) for row in rows}) == 1 and len({row.count("|") for row in rows}) == 1
        assert "torch 2.13.0" in text and doc["info"]["cpu"] in text and "noisy" not in text


def test_tables_without_a_peer():
    doc = fake_document([fake_row(SMALL[0], rnnfast=1.5), fake_row(SMALL[-1], rnnfast=0.5)], torch=None)
    for text in (report.table(doc), report.layers_table(doc), report.charlm_table(doc)):
        assert "Not installed here, so not compared: torch." in text and "×" not in text
    assert "1.50 s" in report.layers_table(doc) and "500 ms" in report.charlm_table(doc)


def test_noise_is_told():
    timings = {"rnnfast": measure.Timing((1.0, 1.0, 1.0), 1), "torch": measure.Timing((2.0, 3.0, 4.0), 1)}
    doc = fake_document([report.row(SMALL[0], 2, {"torch": 0.0}, timings)])
    assert doc["noisy"] == ["rnn/forward/T5-B3-I7-H17, 2 threads"]
    assert "1.00 s, 3.00 × ~" in report.layers_table(doc) and "The machine was noisy" in report.layers_table(doc)
    assert "| rnn/forward/T5-B3-I7-H17 ~ |" in report.table(doc)


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
    names = ["layers", "charlm", "shakespeare", "tbptt_memory", "robustness"]
    assert set(names) == set(readme_table.TABLES)
    readme.write_text("before\n" + "between\n".join(map(block.format, names)) + "after\n")
    old = readme.read_text()
    assert readme_table.main([*arguments, "--check"]) == 0  # nothing is there to be checked
    assert "no results yet for: layers, charlm, shakespeare, tbptt_memory, robustness" in capsys.readouterr().err
    (results / "bench.json").write_text(json.dumps(fake_document(fake_rows())))
    (results / "shakespeare.json").write_text(json.dumps(shakespeare.summarize([fake_run()])))
    assert readme_table.main([*arguments, "--check"]) == 1 and readme.read_text() == old
    assert "not up to date" in capsys.readouterr().err
    assert readme_table.main(arguments) == 0
    (results / "tbptt_memory.json").write_text(json.dumps(memory_document()))
    imports = {"worst": 0.0514, "info": fake_run()["info"], "date": "2026-01-02"}
    (results / "robustness.json").write_text(json.dumps({"imports": imports}))
    assert readme_table.main([*arguments, "--check"]) == 1
    assert readme_table.main(arguments) == readme_table.main([*arguments, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- bench:begin layers -->\n") and text.endswith("-->\nafter\n")
    assert text.count("between\n") == 4 and "old" not in text
    assert "2.00 ms, 2.50 ×" in text and "| not reached |" in text and "| 2,048 MiB |" in text
    assert re.search(r"\| `import rnnfast`, beyond `import numpy` \| 51 ms +\|", text)
    assert re.search(r"\| fast: LSTM 1 × 256, 0.35 M parameters \| 11 s +\| 21 s +\| not reached", text)
    readme.write_text(text.replace("2.50 ×", "25.0 ×"))
    assert readme_table.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<!-- bench:begin layers -->\n",
        "<!-- bench:end layers -->\n",
        "<!-- bench:begin layers -->\n<!-- bench:end charlm -->\n",
        "<!-- bench:begin unknown -->\n<!-- bench:end unknown -->\n",
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
