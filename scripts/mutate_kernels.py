"""Leave out each barrier, fence and ordered flag of the GPU kernels in turn and see that a test fails.

The emulated device does it: with RNNFAST_EMULATE_WITHOUT=<file>:<line> it runs the kernels as if that line had no
barrier, fence or wait for copies, or as if its flag were relaxed. So nothing is built again; a build with
RNNFAST_CUDA=EMULATE must be importable. Prints what was left out and what found it; exits with 1 if one was missed.

    python scripts/mutate_kernels.py [--only kernel_tensor] [--results FILE] [--seconds N] [arguments of pytest]

All of it takes long. With --results each line goes to a file too, and what is there already for the very same sources
is not run again; --seconds begins nothing new after so long, and exits with 2 if something is left. Arguments of pytest
are tests/test_cuda*.py unless others are given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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


class Results:
    """What is known of each site, in a file of a line each; nothing of other sources than today's."""

    def __init__(self, path: Path | None) -> None:
        digest = hashlib.sha256()
        for source in sorted(KERNELS.rglob("*.*")):
            digest.update(source.read_bytes())
        self._path, self._sources, self.rows = path, digest.hexdigest(), {}
        if path is not None and path.exists():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            self.rows: dict[str, dict[str, Any]] = {r["site"]: r for r in rows if r["sources"] == self._sources}

    def add(self, site: str, **row: Any) -> dict[str, Any]:
        self.rows[site] = {"site": site, "sources": self._sources, **row}
        if self._path is not None:
            with self._path.open("a") as f:
                f.write(json.dumps(self.rows[site]) + "\n")
        return self.rows[site]


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression that <file>:<line> must contain")
    parser.add_argument("--results", type=Path, help="lines of JSON, read and added to")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options, tests = parser.parse_known_args()
    return options, tests or [str(p.relative_to(ROOT)) for p in sorted((ROOT / "tests").glob("test_cuda*.py"))]


def try_site(site: str, word: str, good: list[str], tests: list[str]) -> dict[str, Any]:
    """Tests that found something are tried first, because they find most."""
    begin = time.monotonic()
    result = run(good, site) if good else run(tests, site)
    if result.returncode == 0 and good:
        result = run(tests, site)
    caught = result.returncode == 1  # some test failed; other codes are pytest's own troubles
    what = reason(result.stdout) if caught else f"NOT CAUGHT (pytest exited with {result.returncode})"
    finder = failed_test(result.stdout) if caught else None
    return {"word": word, "caught": caught, "what": what, "finder": finder, "seconds": time.monotonic() - begin}


def main() -> int:
    options, tests = arguments()
    begin, results = time.monotonic(), Results(options.results)
    wanted = [(site, word) for site, word in sites() if re.search(options.only, site)]
    if "as it is" not in results.rows:
        clean = run(tests, None)
        if clean.returncode != 0 or " passed" not in clean.stdout:
            print(clean.stdout[-3000:], "The tests must pass as they are, on an emulated device.", sep="\n")
            return 1
        results.add("as it is", finder=None)
    for site, word in wanted:
        if site in results.rows:
            continue
        if time.monotonic() - begin > options.seconds:
            return 2
        good = list(dict.fromkeys(row["finder"] for row in results.rows.values() if row["finder"]))
        row = results.add(site, **try_site(site, word, good, tests))
        print(line(row), flush=True)
    found = [results.rows[site] for site, _ in wanted]
    print(*["", *map(line, found)] if options.results else [], sep="\n")
    caught = sum(row["caught"] for row in found)
    print(f"{caught} of {len(found)} caught")
    return caught < len(found)


def line(row: dict[str, Any]) -> str:
    return f"{row['site']:28} {row['word']:14} {row['seconds']:5.1f} s  {row['what']}"


if __name__ == "__main__":
    sys.exit(main())
