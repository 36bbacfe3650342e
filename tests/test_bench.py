"""`rnnfast bench`: runs, cases, limits, timing. No test looks at how long anything took."""

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from bench_cases import MACHINE, SMALL
from rnnfast import _core, bench, cli
from rnnfast.bench import cases, limits, measure, peers, report, tables
from rnnfast.bench.cases import CELLS, Layer, Model
from rnnfast.bench.limits import Machine

HASTE = measure.Effort(repeats=2, least=1, block=1e-6, limit=0.0, settle=0.0)


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
        beside = {peers.PART} if training else {peers.PADDED} if r["config"].get("ragged") else set()
        assert r["seconds"].keys() == expected | beside
        assert r["ratios"].keys() == r["differences"].keys() == expected - {"rnnfast"}
        assert isinstance(r["noisy"], bool) and r["threads"] == 1 and r["kind"] in ("layer", "model")
        assert r["limit"] > 0 and r["fraction"] >= 0 and r["peak"] > 0
        assert ("rest" in r) == training and ("of_padded" in r) == (peers.PADDED in beside)
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
    for foreign in ("[]", "{}", "xx"):
        out.write_text(foreign)
        assert cli.main(["bench", *command, "--resume"]) == 1
        assert f"{out} must be what an earlier run wrote" in capsys.readouterr().err
        assert out.read_text() == foreign


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
    assert {case.dtype for case in every} == ({"float32"} if quick else {"float32", "bfloat16"})
    assert quick or {case.dtype for case in every if isinstance(case, Model)} == {"float32", "bfloat16"}
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

    # W has 4 * 1 * 2 elements, R 4. Input product: max(48 flop / 100, 32 B / 10); a step: max(8 / 100, 16 / 10), and
    # none for the first, which begins from zeros.
    one = Layer("lstm", "forward", T=3, B=1, I=2, H=1)
    assert limits.flops(one) == 2 * (3 * 8 + 2 * 4) and limits.weight_bytes(one) == 32 + 2 * 16
    assert least(one, 1) == pytest.approx(3.2 + 2 * 1.6)
    assert least(one, 2, exchange=0.1) == pytest.approx(1.6 + 2 * 0.8 + 3 * 0.1)
    assert limits.weight_bytes(dataclasses.replace(one, T=1)) == 32
    stream = Layer("lstm", "step", T=1, B=1, I=2, H=1)
    assert limits.weight_bytes(stream) == 32 + 16
    assert least(one, 2, exchange=9.0) == least(one, 1)  # the best number of threads is one
    # Many sequences: the multiply-adds alone, and each thread takes half of them; a backward pass is twice a forward.
    many = Layer("lstm", "forward", T=3, B=100, I=2, H=1)
    assert [least(many, n, exchange=9.0) for n in (1, 2)] == pytest.approx([64.0, 32.0])
    assert limits.limit(many, 2, MACHINE, 9.0, MACHINE.peak(2, "float32") / 2) == pytest.approx(64.0)
    both = Layer("lstm", "forward+backward", T=3, B=100, I=2, H=1)
    assert limits.flops(both) == 3 * limits.flops(many) and least(both, 1) == pytest.approx(192.0)
    # Two directions: a thread each, no exchange. A second layer reads both directions of the first.
    wide = Layer("lstm", "forward", T=3, B=1, I=2, H=1, bidirectional=True)
    assert [least(wide, n, exchange=9.0) for n in (1, 2)] == pytest.approx([12.8, 6.4])
    deep = Layer("gru", "forward", T=3, B=1, I=5, H=1, layers=2, bidirectional=True)
    assert limits.flops(deep) == 2 * 2 * (3 * (3 * 5 + 3 * 2) + 2 * (3 + 3))
    # Ragged: work for the steps that are there.
    ragged = Layer("rnn", "forward", T=9, B=100, I=2, H=1, ragged=True)
    rows = cases.lengths(ragged).sum()
    assert 0 < rows < 900 and limits.flops(ragged) == 2 * (2 * rows + rows - 100)
    # A token of sampling reads R, and the second layer's W and R, and the output layer.
    sample = Model("sample", T=10, B=1, V=5, H=1)
    assert limits.weight_bytes(sample) == 10 * 4 * (4 + 4 + 4 + 5) and least(sample, 1) == pytest.approx(68.0)
    # A training step adds the output layer thrice, clipping and Adam.
    step = Model("step", T=2, B=500, V=5, H=1)
    assert limits.flops(step) == 2 * 1000 * (2 * 4 + 4 + 3 * 4 + 3 * 4 + 3 * 5) - 2 * 500 * (4 + 4)
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


def test_a_rest_lasts_until_no_thread_runs(monkeypatch):
    used, slept = iter([0.0, 9.0, 9.0, 18.0, 18.0, 18.5]), []  # CPU seconds, before and after each sleep
    monkeypatch.setattr(measure.time, "process_time", lambda: next(used))
    monkeypatch.setattr(measure.time, "sleep", slept.append)
    measure._rest(10.0)
    assert slept == [10.0] * 3


def test_timing_statistics():
    timing = measure.Timing((4.0, 2.0, 3.0, 8.0, 3.0), calls=7)
    assert (timing.median, timing.minimum, timing.spread) == (3.0, 2.0, pytest.approx(2 / 3))
    assert timing.to_dict() == {"median": 3.0, "min": 2.0, "spread": 0.6667, "repeats": 5, "calls": 7}
