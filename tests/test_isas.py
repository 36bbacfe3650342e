"""Every instruction set that this machine has passes the correctness and exactness tests, forced by RNNFAST_ISA.

The tests marked `isa` run once more, in a process of their own and with fewer random examples, for each set that the
present run does not use, but for large ones; of one that differs from the present in bf16 alone, those of bf16.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import rnnfast

HERE = Path(__file__).parent
OTHERS = [name for name in rnnfast.info()["isas"] if name != rnnfast.isa()]


def base(name):
    """The set whose kernels of floats and doubles it has: avx512_bf16 and avx512_amx are avx512 there."""
    return name.partition("_")[0]


@pytest.mark.isa
def test_a_forced_isa_is_used():
    forced = os.environ.get("RNNFAST_ISA")
    assert rnnfast.isa() in rnnfast.info()["isas"]
    assert not forced or rnnfast.isa() == forced


def test_the_best_isa_is_used_unless_one_is_forced():
    if "RNNFAST_ISA" not in os.environ:
        assert rnnfast.isa() == rnnfast.info()["isas"][0]
    assert len(set(rnnfast.info()["isas"])) == len(rnnfast.info()["isas"]) >= 1


def run_with(isa, marked, timeout, **environment):
    environment = {k: v for k, v in os.environ.items() if k != "RNNFAST_SLOW"} | {"RNNFAST_ISA": isa} | environment
    command = [sys.executable, "-m", "pytest", "-m", marked, "-q", "-x", "--tb=short", "-p", "no:cacheprovider"]
    if base(isa) == base(rnnfast.isa()):
        command += ["-k", "bf16 or bfloat16"]
    done = subprocess.run(
        [*command, str(HERE)], env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"RNNFAST_ISA={isa}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert " passed" in done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def runs(request):
    """Those of test_another_isa, as many at a time as there are processors, the set with the fewest lanes first."""
    names = [item.callspec.params["name"] for item in request.session.items if item.function is test_another_isa]
    pool = ThreadPoolExecutor(os.cpu_count())
    marked = {name: "isa" if base(name) == base(rnnfast.isa()) else "isa and not large" for name in names}
    yield {name: pool.submit(run_with, name, marked[name], 900, RNNFAST_TEST_EXAMPLES="8") for name in reversed(names)}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", OTHERS)
def test_another_isa(name, runs):
    runs[name].result()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OTHERS if base(name) != base(rnnfast.isa())])
def test_another_isa_at_length(name):
    """All 2**32 floats through exp, tanh and sigmoid, and the large cases."""
    run_with(name, "isa and (slow or large)", 7200, RNNFAST_SLOW="1")
