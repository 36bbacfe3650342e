"""`rnnfast bench` and the scripts that make the README's tables. No test looks at how long anything took."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnnfast import _core, bench, cli
from rnnfast.bench import cases, limits, measure, peers, report, tables
from rnnfast.bench.cases import CELLS, Layer, Model
from rnnfast.bench.limits import Machine

ROOT = Path(__file__).resolve().parent.parent
HASTE = measure.Effort(repeats=2, least=1, block=1e-6, limit=0.0, settle=0.0)
SMALL = [
    *(Layer(cell, mode, 5, 3, 7, 17) for cell in CELLS for mode in cases.MODES),
    *(Layer(cell, mode, 5, 3, 7, 17, layers=2, bidirectional=True) for cell in CELLS for mode in cases.MODES),
    *(Layer(cell, mode, 5, 3, 7, 17, ragged=True) for cell in CELLS for mode in cases.MODES),
    *(Layer(cell, "step", 1, 1, 7, 7) for cell in CELLS),
    Model("step", T=6, B=3, V=11, H=8),
    Model("step", T=6, B=3, V=11, H=8, embedding=5),
    Model("sample", T=12, B=1, V=11, H=8),
    Model("sample", T=12, B=3, V=11, H=8),
]
# Round numbers: 100 flop/s and 10 bytes/s a thread, whatever the size.
MACHINE = Machine({1: 100.0, 2: 200.0}, {}, {n: {8192: 10.0 * n, 2**28: 10.0 * n} for n in (1, 2)})


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


readme_table, shakespeare, roofline = script("readme_table"), script("shakespeare"), script("roofline")


@pytest.fixture
def small(monkeypatch):
    """Tiny cases, one or two repeats, all in this process, without measuring the machine."""
    monkeypatch.setattr(bench, "all_cases", lambda quick=False: list(SMALL))
    monkeypatch.setattr(bench, "QUICK", HASTE)
    monkeypatch.setattr(bench, "_apart", bench._measure_all)
    monkeypatch.setattr(Machine, "measure", classmethod(lambda cls, threads: MACHINE))


@pytest.fixture
def no_peers(monkeypatch):
    for name in peers.PEERS:
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError


def check_document(doc, found):
    assert doc["kind"] == "rnnfast bench" and doc["format"] == report.FORMAT
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", doc["date"])
    assert {"rnnfast", "isa", "cpu", "python", "numpy", "threads", "cores", "load_before"} <= doc["info"].keys()
    assert [r["case"] for r in doc["rows"]] == [case.name for case in SMALL]
    for r, case in zip(doc["rows"], SMALL, strict=True):
        assert cases.from_config(r["config"]) == case
        expected = {"rnnfast", *peers_of(case, found)}
        training = isinstance(case, Model) and case.job == "step"
        assert r["seconds"].keys() == expected | ({peers.PART} if training else set())
        assert r["ratios"].keys() == r["differences"].keys() == expected - {"rnnfast"}
        assert isinstance(r["noisy"], bool) and r["threads"] == 1 and r["kind"] in ("layer", "model")
        assert r["limit"] > 0 and r["fraction"] >= 0 and ("rest" in r) == training
        for timing in r["seconds"].values():
            assert 0 < timing["min"] <= timing["median"] and timing["spread"] >= 0
            assert timing["repeats"] >= 1 and timing["calls"] >= 1
        assert all(0 <= difference <= 2e-5 for difference in r["differences"].values())


def peers_of(case, found):
    backward = case.mode == "forward+backward" if isinstance(case, Layer) else case.job == "step"
    alone = case.mode == "step" if isinstance(case, Layer) else case.job == "sample"
    names = {"torch"} | ({"torch cell"} if alone else set()) if "torch" in found else set()
    names |= {"onnxruntime"} & found if not backward else set()
    return names | ({"jax"} & found if isinstance(case, Layer) and case.mode != "step" else set())


def test_run_without_peers(small, no_peers, capsys, tmp_path):
    out = tmp_path / "new folder" / "bench.json"
    assert bench.main(["--quick", "--threads", "1", "--out", str(out), "--wheel", __file__]) == 0
    captured = capsys.readouterr()
    doc = json.loads(out.read_text())
    check_document(doc, set())
    assert doc["wheel_bytes"] == Path(__file__).stat().st_size
    assert doc["peers"] == dict.fromkeys(peers.PEERS)
    assert "torch cannot be imported" in captured.err and f"[1 thread, {len(SMALL)}/{len(SMALL)}]" in captured.err
    assert captured.out == tables.everything(doc) + "\n"
    assert "Not installed here, so not compared: torch, onnxruntime, jax." in captured.out
    assert list(out.parent.iterdir()) == [out]


def test_run_with_the_peers_that_are_here(capsys, tmp_path):
    # In a process of its own, as the command does it: their pools of threads shall not meet the other tests.
    found = {
        name
        for name, needed in peers.PEERS.items()
        if all(importlib.util.find_spec(module) is not None for module in needed)
    }
    written = []
    doc, failed = bench.run(SMALL, [1], HASTE, {"limits": MACHINE.to_dict()}, written.append)
    assert failed == []
    check_document(doc, found)
    assert {name for name, version in doc["peers"].items() if version} == found
    assert len(written) == len(SMALL) + 1 and [len(d["rows"]) for d in written[:2]] == [1, 2]
    assert doc["limits"]["float32"][1] > 1e8  # of this machine, not of the document that it went on with
    assert tables.everything(doc)


def test_a_run_goes_on_where_it_ended(small, no_peers, capsys, tmp_path, monkeypatch):
    out, measured, real = tmp_path / "bench.json", [], bench._measure

    def interrupted(case, *rest):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(case.name)
        return real(case, *rest)

    monkeypatch.setattr(bench, "_measure", interrupted)
    command = ["--quick", "--threads", "1", "--out", str(out)]
    with pytest.raises(KeyboardInterrupt):
        bench.main(command)
    first = json.loads(out.read_text())["rows"]
    assert [r["case"] for r in first] == measured == [case.name for case in SMALL[:3]]
    monkeypatch.setattr(bench, "_measure", lambda case, *rest: measured.append(case.name) or real(case, *rest))
    assert bench.main([*command, "--resume"]) == 0
    assert measured == [case.name for case in SMALL]
    doc = json.loads(out.read_text())
    assert doc["rows"][:3] == first

    doc["rows"] = [{**r, "noisy": r["case"] == SMALL[1].name} for r in doc["rows"]]
    out.write_text(json.dumps(doc))
    measured.clear()
    assert bench.main([*command, "--again"]) == 0 and measured == [SMALL[1].name]
    noisy, calm = ({"seconds": {"rnnfast": {"spread": spread}}} for spread in (0.3, 0.1))
    assert report.quieter(noisy, calm) is report.quieter(calm, noisy) is calm
    doc["info"]["isa"] = "another"
    out.write_text(json.dumps(doc))
    capsys.readouterr()
    assert cli.main(["bench", *command, "--resume"]) == 1
    assert "must be of this machine" in capsys.readouterr().err
    assert cli.main(["bench", "--quick", "--resume"]) == 2


def test_the_command_line_hands_over(small, no_peers, capsys, tmp_path):
    assert cli.main(["bench", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [case.name for case in SMALL]
    assert cli.main(["bench", "--quick", "--threads", "1", "--cases", "gru/forward/,sample"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| (gru|charlm)", line)]
    assert len(rows) == 5 and {line.split("|")[2].strip() for line in rows} == {"1"}
    for wrong in (
        ["--cases", "transformer"],
        ["--threads", "0"],
        ["--threads", "999"],
        ["--threads", "two"],
        ["--speed"],
    ):
        assert cli.main(["bench", *wrong]) == 2, wrong
        assert wrong[0] in capsys.readouterr().err.splitlines()[-1]


def test_output_that_cannot_be_written_shows_before_measuring(small, no_peers, capsys, tmp_path, monkeypatch):
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


def test_wrong_answers_are_not_timed(small, no_peers, monkeypatch, capsys):
    def with_liar(case, *rest):
        ours = peers.runners(case, {}, 1)[0]
        shift = 1 if case.name.startswith("gru/forward/") else 0
        liar = peers.Runner("liar", ours.run, lambda: {name: a + shift for name, a in ours.answers().items()})
        return [ours, liar] if isinstance(case, Layer) and case.mode != "step" else [ours]

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
    assert {case.job for case in every if isinstance(case, Model)} == set(tables.JOBS)
    assert cases.select(every, None) == every
    assert cases.select(every, " lstm/forward/ , nothing,") == [c for c in every if c.name.startswith("lstm/forward/")]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_same_for_every_peer_and_every_time(case):
    for draw in (cases.parameters, cases.arrays):
        one, two = draw(case), draw(case)
        assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    first, second = (peers.runners(case, {}, 1)[0].answers() for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first | second)


# ---- limits ----


def test_limits_by_hand():
    def least(case, threads, exchange=0.0):
        return limits.limit(case, threads, MACHINE, exchange)

    # W has 4 * 1 * 2 elements, R 4. Input product: max(48 flop / 100, 32 B / 10); a step: max(8 / 100, 16 / 10).
    one = Layer("lstm", "forward", T=3, B=1, I=2, H=1)
    assert limits.flops(one) == 2 * 3 * 12 and limits.weight_bytes(one) == 32 + 3 * 16
    assert least(one, 1) == pytest.approx(3.2 + 3 * 1.6)
    assert least(one, 2, exchange=0.1) == pytest.approx(1.6 + 3 * 0.8 + 3 * 0.1)
    assert least(one, 2, exchange=9.0) == least(one, 1)  # the best number of threads is one
    # Many sequences: the multiply-adds alone, and each thread takes half of them; a backward pass is twice a forward.
    many = Layer("lstm", "forward", T=3, B=100, I=2, H=1)
    assert [least(many, n, exchange=9.0) for n in (1, 2)] == pytest.approx([72.0, 36.0])
    both = Layer("lstm", "forward+backward", T=3, B=100, I=2, H=1)
    assert limits.flops(both) == 3 * limits.flops(many) and least(both, 1) == pytest.approx(216.0)
    # Two directions: a thread each, no exchange. A second layer reads both directions of the first.
    wide = Layer("lstm", "forward", T=3, B=1, I=2, H=1, bidirectional=True)
    assert [least(wide, n, exchange=9.0) for n in (1, 2)] == pytest.approx([16.0, 8.0])
    deep = Layer("gru", "forward", T=3, B=1, I=5, H=1, layers=2, bidirectional=True)
    assert limits.flops(deep) == 2 * 3 * 2 * (3 * 5 + 3 + 3 * 2 + 3)
    # Ragged: work for the steps that are there.
    ragged = Layer("rnn", "forward", T=9, B=100, I=2, H=1, ragged=True)
    rows = cases.lengths(ragged).sum()
    assert 0 < rows < 900 and limits.flops(ragged) == 2 * rows * 3
    # A token of sampling reads R, and the second layer's W and R, and the output layer.
    sample = Model("sample", T=10, B=1, V=5, H=1)
    assert limits.weight_bytes(sample) == 10 * 4 * (4 + 4 + 4 + 5) and least(sample, 1) == pytest.approx(68.0)
    # A training step adds the output layer thrice, clipping and Adam.
    step = Model("step", T=2, B=500, V=5, H=1)
    flop = 2 * 1000 * (2 * 4 + 4 + 3 * 4 + 3 * 4 + 3 * 5)
    assert limits.flops(step) == flop - 2 * 1000 * 4 + 2 * 1000 * 4
    assert least(step, 1) == pytest.approx(limits.flops(step) / 100 + 5 * 4 * (4 + 8 + 5 + 20) / 10)


def test_a_machine_is_kept_and_bettered():
    other = Machine({1: 90.0, 2: 210.0}, {1: 7.0}, {1: {8192: 20.0, 2**28: 5.0}})
    best = MACHINE.best_of(other)
    assert best.float32 == {1: 100.0, 2: 210.0} and best.bfloat16 == {1: 7.0}
    assert best.bandwidth == {1: {8192: 20.0, 2**28: 10.0}, 2: MACHINE.bandwidth[2]}
    assert Machine.from_dict(json.loads(json.dumps(best.to_dict()))) == best
    assert other.read_rate(2 ** ((13 + 28) / 2), 1) == pytest.approx(12.5)
    assert other.read_rate(1, 1) == 20.0 and other.read_rate(2**30, 1) == 5.0 and MACHINE.read_rate(2**20, 2) == 10.0


@pytest.mark.isa
def test_this_machine():
    for threads in (1, 2):
        assert _core.peak_float32(threads, 0.002) > 1e8
        assert _core.read_bandwidth(8192, threads, 0.002) > 1e8
    assert _core.peak_bfloat16(1, 0.002) >= 0
    assert 1e-9 < _core.exchange_time(0.002) < 1 or _core.default_threads() == 1


# ---- timing ----


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
    timings = measure.interleaved(runs, measure.Effort(repeats=4, least=4, block=0.0, limit=0.0, settle=0.0))
    assert timings.keys() == {"a", "b"}
    assert all(len(t.seconds) == 4 and t.calls == 1 for t in timings.values())
    assert "".join(order)[-8:] == "abbaabba"
    few = measure.interleaved(runs, measure.Effort(repeats=50, least=3, block=0.0, limit=0.0, settle=0.0))
    assert len(few["a"].seconds) == len(few["b"].seconds) == 3


def test_timing_statistics():
    timing = measure.Timing((4.0, 2.0, 3.0, 8.0, 3.0), calls=7)
    assert (timing.median, timing.minimum, timing.spread) == (3.0, 2.0, pytest.approx(2 / 3))
    assert timing.to_dict() == {"median": 3.0, "min": 2.0, "spread": 0.6667, "repeats": 5, "calls": 7}


def fake_row(case, threads=1, **medians):
    timings = {name.replace("_", " "): measure.Timing((m, m, m), 1) for name, m in medians.items()}
    return report.row(case, threads, dict.fromkeys(timings.keys() - {"rnnfast"}, 0.0), timings, 5e-7 * (threads > 1))


def fake_document(rows, **peers):
    made = report.document(rows, peers, measure.Effort(), 0.1, MACHINE, 1_230_000)
    return json.loads(json.dumps(made))


def fake_rows():
    layer, ragged, stream, step, sample = SMALL[0], SMALL[12], SMALL[18], SMALL[-4], SMALL[-2]
    training = report.row(
        step, 1, {}, {k: measure.Timing((v,), 1) for k, v in (("rnnfast", 0.01), (peers.PART, 0.009))}, 0.0
    )
    return [
        fake_row(layer, rnnfast=2.0, torch=5.0, onnxruntime=4.0),
        fake_row(layer, 2, rnnfast=1.0, torch=10.0, jax=20.0),
        fake_row(ragged, rnnfast=1.8, torch=9.0),
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
    assert first["limit"] == pytest.approx(limits.limit(SMALL[0], 1, MACHINE, 0.0))
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
    assert f"| {1.8 / 2.0 / longest:.2f} " in tables.ragged_table(doc)
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
    doc = fake_document([report.row(SMALL[0], 2, {"torch": 0.0}, timings, 0.0)], torch="2.13.0")
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
    imports = {"worst": 0.0514, "info": fake_run()["info"], "date": "2026-01-02"}
    (results / "robustness.json").write_text(json.dumps({"imports": imports}))
    assert readme_table.main([*arguments, "--check"]) == 1
    assert readme_table.main(arguments) == readme_table.main([*arguments, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- bench:begin means -->\n") and text.endswith("-->\nafter\n")
    assert text.count("between\n") == len(names) - 1 and "old" not in text
    assert "2.00 s, 2.00 ×" in text and "| not reached |" in text and "| 2,048 MiB |" in text
    assert "| GRU, 2 layers | 4 MiB, 250 ms |" in text
    assert re.search(r"\| `import rnnfast`, beyond `import numpy` \| 51 ms +\|", text)
    assert re.search(r"\| fast: LSTM 1 × 256, 0.35 M parameters \| 11 s +\| 21 s +\| not reached", text)
    readme.write_text(text.replace("2.00 ×", "20.0 ×"))
    assert readme_table.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<!-- bench:begin layers -->\n",
        "<!-- bench:end layers -->\n",
        "<!-- bench:begin layers -->\n<!-- bench:end models -->\n",
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
