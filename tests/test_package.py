"""The package as it is built: the objects of each instruction set, the extension, the make targets, the wheel."""

import ctypes
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rnnfast
from rnnfast import _core, _openmp

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 5_000_000  # bytes of a wheel
TARGETS = ("check", "demo", "test", "test-all", "wheel", "bench", "lint", "develop")


def run(*command: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)


def isa_objects() -> list[Path]:
    """The objects of csrc/cpu/isa_*.cpp of the newest build: RNNFAST_BUILD_DIR, else the newest under build/."""
    folder = os.environ.get("RNNFAST_BUILD_DIR")
    folders = [Path(folder)] if folder else sorted(ROOT.glob("build/*"), key=lambda path: path.stat().st_mtime)
    for build in reversed(folders):
        objects = sorted(build.glob("CMakeFiles/rnnfast_core.dir/csrc/cpu/isa_*.o"))
        if objects:
            return objects
    return []


def demangled_weak_symbols(path: Path) -> list[str]:
    """Functions and variables that the linker would merge with another object's of the same name."""
    result = run("nm", "-C", "--defined-only", str(path))
    assert result.returncode == 0, result.stderr
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    return [line[2] for line in lines if len(line) == 3 and line[1] in "WVu"]


needs_objects = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("nm") is None or not isa_objects(),
    reason="needs Linux, nm and the build folder (RNNFAST_BUILD_DIR)",
)


@needs_objects
def test_isa_objects_share_no_code():
    # An inline function outside the namespace of its instruction set is merged by the linker, and an old processor may
    # be handed the copy that was compiled for a new one.
    for path in isa_objects():
        isa = path.name.removeprefix("isa_").split(".")[0]
        shared = [
            name
            for name in demangled_weak_symbols(path)
            if f"rnnfast::{isa}::" not in name and not name.startswith("DW.ref.")  # a pointer, no code
        ]
        assert not shared, f"{path.name} shares {len(shared)} symbols, first {shared[:3]}"


@needs_objects
def test_isa_objects_export_their_table_and_nothing_else():
    for path in isa_objects():
        isa = path.name.removeprefix("isa_").split(".")[0]
        result = run("nm", "-C", "--defined-only", "--extern-only", str(path))
        names = [line.split(maxsplit=2)[2] for line in result.stdout.splitlines() if line.count(" ") >= 2]
        outside = [name for name in names if f"rnnfast::{isa}" not in name and not name.startswith("DW.ref.")]
        assert names and not outside, f"{path.name}: {outside[:5]}"


def test_compiled_as_the_contract_says():
    if not isa_objects():
        pytest.skip("needs the build folder (RNNFAST_BUILD_DIR)")
    build = isa_objects()[0].parents[4]
    commands = {
        Path(entry["file"]).relative_to(ROOT).as_posix(): entry["command"].split()
        for entry in json.loads((build / "compile_commands.json").read_text())
        if Path(entry["file"]).is_relative_to(ROOT / "csrc")
    }
    assert any(name.startswith("csrc/cpu/isa_") for name in commands)
    for name, flags in commands.items():
        assert "-ffp-contract=off" in flags, name
        assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-march=native", "-flto"} & set(flags), name
        assert [flag for flag in flags if re.fullmatch("-O[0-9s]", flag)][-1:] != ["-O0"], name
        if not Path(name).name.startswith("isa_"):
            assert not [flag for flag in flags if flag.startswith(("-march", "-mavx", "-mfma"))], name
        if name != "csrc/cpu/parallel.cpp":
            assert "-fopenmp" not in flags, name


def test_extension_exports_only_its_entry():
    if shutil.which("nm") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs nm on Linux")
    result = run("nm", "-D", "--defined-only", _core.__file__)
    names = {line.split()[-1] for line in result.stdout.splitlines()}
    assert names == {"PyInit__core"}


def test_extension_names_no_folder_of_the_build():
    content = Path(_core.__file__).read_bytes()
    assert len(content) < LIMIT
    for folder in {str(ROOT), str(Path.home()) + "/"}:
        assert folder.encode() not in content, folder


def test_openmp_keeps_its_plain_name():
    if not sys.platform.startswith("linux") or shutil.which("readelf") is None:
        pytest.skip("needs readelf on Linux")
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", _core.__file__).stdout)
    assert [name for name in needed if "gomp" in name] in ([], ["libgomp.so.1"])
    assert not [name for name in needed if name.startswith(("libtorch", "libcu", "libpython"))]


def test_one_version():
    version = rnnfast.__version__
    assert version == rnnfast.info()["rnnfast"]
    assert version in (ROOT / "CHANGELOG.md").read_text()
    said = [path.name for path in (ROOT / "python").rglob("*.py") if f'"{version}"' in path.read_text()]
    assert said == ["_version.py"]
    try:
        installed = importlib.metadata.version("rnnfast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("rnnfast is on the path, but not installed")
    assert installed == version


class Loader:
    """Stands for ctypes.CDLL on a machine whose linker finds no libgomp."""

    def __init__(self):
        self.loaded = []

    def __call__(self, name, mode=ctypes.DEFAULT_MODE):
        if "/" not in name:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        self.loaded.append(name)


def test_the_copy_of_libgomp_is_the_last_resort(monkeypatch, tmp_path):
    loader = Loader()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", loader)
    monkeypatch.setattr(_openmp, "COPY", tmp_path / "libgomp.so.1")
    assert _openmp.ensure_libgomp() == "none"
    (tmp_path / "libgomp.so.1").touch()
    assert _openmp.ensure_libgomp() == "copy"
    assert loader.loaded == [str(tmp_path / "libgomp.so.1")]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    assert _openmp.ensure_libgomp() == "system"


def test_preflight_is_content_here():
    result = run("sh", "scripts/preflight.sh", sys.executable, cwd=ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("python", "compiler", "missing"),
    [
        ("no-such-python", None, ["Python >= 3.10"]),
        ("old-python", None, ["Python >= 3.10"]),
        ("bare-python", None, ["venv module", "headers"]),
        (sys.executable, "no-such-compiler", ["C++20 compiler"]),
        (sys.executable, "false", ["C++20 compiler"]),
        ("no-such-python", "no-such-compiler", ["Python >= 3.10", "C++20 compiler"]),
    ],
)
def test_preflight_names_what_is_missing(tmp_path, python, compiler, missing):
    fakes = {
        "old-python": 'case "$2" in *print*) echo 3.9 ;; *) exit 1 ;; esac',
        "bare-python": 'case "$2" in *print*) echo 3.11 ;; *version_info*) exit 0 ;; *) exit 1 ;; esac',
    }
    if python in fakes:
        path = tmp_path / python
        path.write_text(f"#!/bin/sh\n{fakes[python]}\n")
        path.chmod(0o755)
        python = str(path)
    environment = os.environ | ({"CXX": compiler} if compiler else {})
    result = run("sh", "scripts/preflight.sh", python, cwd=ROOT, env=environment)
    lines = result.stderr.splitlines()
    assert result.returncode == 1 and len(lines) == len(missing), result.stderr
    for line, thing in zip(lines, missing, strict=True):
        assert thing in line and all(f"{system}: " in line for system in ("Debian", "Fedora", "macOS")), line


def test_every_make_target_can_be_planned():
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for target in TARGETS:
        result = run("make", "-n", target, cwd=ROOT)
        assert result.returncode == 0 and result.stdout, f"{target}: {result.stderr}"


def test_scripts_are_for_any_shell():
    for script in sorted((ROOT / "scripts").glob("*.sh")):
        assert run("sh", "-n", str(script)).returncode == 0, script
        assert script.read_text().startswith("#!/bin/sh\n"), script


def test_wheels_made_here():
    wheels = sorted((ROOT / "dist").glob("rnnfast-*.whl"))
    if not wheels:
        pytest.skip("no wheel in dist/: make wheel")
    result = run(sys.executable, "scripts/check_wheel.py", *map(str, wheels), cwd=ROOT)
    assert result.returncode == 0, result.stderr
