"""Leave out each barrier, fence and ordered flag of the GPU kernels in turn and see that a test fails.

The emulated device does it: with RNNFAST_EMULATE_WITHOUT=<file>:<line> it runs the kernels as if that line had no
barrier, fence or wait for copies, or as if its flag were relaxed. So nothing is built again; a build with
RNNFAST_CUDA=EMULATE must be importable. Prints what was left out and what found it; exits with 1 if one was missed.

    python scripts/mutate_kernels.py [arguments of pytest, by default tests/test_cuda*.py]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc" / "cuda"
NOT_KERNELS = {"device.h", "device_math.h", "runtime.h"}
ORDER = re.compile(
    r"\b(block_barrier|warp_sync|device_fence|store_release|add_release|load_acquire|wait_acquire|async_wait)\s*[(<]"
    r"|\b\w*(?:barrier|grid)\.(sync|arrive|wait)\(\)",
    re.IGNORECASE,
)


def sites() -> list[tuple[str, str]]:
    """(file:line, the word that is left out) of all kernel sources."""
    found = []
    for path in sorted([*KERNELS.glob("*.h"), *KERNELS.glob("*.cu")]):
        if path.name in NOT_KERNELS:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = [match.group(1) or match.group(2) for match in ORDER.finditer(line.split("//")[0])]
            if len(words) > 1:
                sys.exit(f"{path.name}:{number} has {len(words)} of them; give each a line of its own")
            found += [(f"{path.name}:{number}", word) for word in words]
    return found


def run(arguments: list[str], without: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"RNNFAST_EMULATE_WITHOUT": without} if without else {})}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def failed_test(output: str) -> str | None:
    found = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", output, re.MULTILINE)
    return found.group(1) if found else None


def reason(output: str) -> str:
    kinds = ("race on \\w+ memory", "divergent \\w+", "deadlock", "out of bounds", "misaligned")
    kind = re.search("|".join(kinds), output)
    test = failed_test(output) or "no test by name"
    return f"{kind.group(0) if kind else 'wrong numbers'}, in {test.split('::')[-1]}"


def main() -> int:
    arguments = sys.argv[1:] or [str(p.relative_to(ROOT)) for p in sorted((ROOT / "tests").glob("test_cuda*.py"))]
    clean = run(arguments, None)
    if clean.returncode != 0 or " passed" not in clean.stdout:
        print(clean.stdout[-3000:], "The tests must pass as they are, on an emulated device.", sep="\n")
        return 1
    missed = 0
    good: list[str] = []  # tests that found something: tried first, because they find most
    all_sites = sites()
    for site, word in all_sites:
        begin = time.monotonic()
        result = run(good, site) if good else run(arguments, site)
        if result.returncode == 0 and good:
            result = run(arguments, site)
        caught = result.returncode == 1  # some test failed; other codes are pytest's own troubles
        finder = failed_test(result.stdout)
        if caught and finder and finder not in good:
            good.append(finder)
        missed += not caught
        what = reason(result.stdout) if caught else f"NOT CAUGHT (pytest exited with {result.returncode})"
        print(f"{site:28} {word:14} {time.monotonic() - begin:5.1f} s  {what}", flush=True)
    print(f"{len(all_sites) - missed} of {len(all_sites)} caught")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
