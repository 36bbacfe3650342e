"""The checkpoint file: round trip, atomic writes, and one clear error for every way it can be wrong."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from rnnfast import checkpoint
from rnnfast.checkpoint import CheckpointError
from rnnfast.lm import evaluate_text, fit, load

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def example():
    rng = np.random.default_rng(7)
    arrays = {f"a.{d}": rng.integers(0, 2, (3, 5)).astype(d) for d in DTYPES}
    arrays |= {
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.float32),
        "name with “quotes”": np.arange(7, dtype=np.float32),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324]),
        "fortran": np.asfortranarray(rng.standard_normal((4, 3))),
        "strided": np.arange(20, dtype=np.int32)[::3],
        "big endian": np.arange(5, dtype=">f8"),
    }
    return arrays, {"text": 'ünïcödé \n "quoted"', "n": 3, "x": 0.1, "list": [1, None, True], "sha256": "no"}


@pytest.fixture
def saved(tmp_path):
    arrays, meta = example()
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, arrays, meta)
    return path


def test_round_trip(saved):
    arrays, meta = example()
    got, got_meta = checkpoint.load(saved)
    assert got_meta == meta
    assert got.keys() == arrays.keys()
    for name, a in arrays.items():
        assert got[name].shape == a.shape and got[name].dtype == a.dtype.newbyteorder("<"), name
        assert got[name].tobytes() == np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes(), name
        assert got[name].flags.writeable and got[name].flags.owndata
    assert checkpoint.read_header(saved) == meta


def test_any_safetensors_reader_opens_it(saved):
    arrays, _ = example()
    got = safetensors.numpy.load_file(saved)
    assert got.keys() == arrays.keys()
    for name, a in arrays.items():
        np.testing.assert_array_equal(got[name], a)


def test_same_state_same_file(tmp_path):
    arrays, meta = example()
    checkpoint.save(tmp_path / "a", arrays, meta)
    checkpoint.save(tmp_path / "b", dict(reversed(arrays.items())), meta)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_arrays(tmp_path):
    checkpoint.save(tmp_path / "c", {}, {})
    assert checkpoint.load(tmp_path / "c") == ({}, {})


def test_no_pickle():
    source = Path(checkpoint.__file__).read_text(encoding="utf-8")
    assert "pickle" not in source and "eval(" not in source


@pytest.mark.parametrize(
    ("arrays", "meta", "error"),
    [
        ({"a": np.array([None])}, {}, "dtype object cannot be saved"),
        ({"a": np.array(["x"])}, {}, "cannot be saved"),
        ({"a": np.zeros(2, complex)}, {}, "complex128 cannot be saved"),
        ({"__metadata__": np.zeros(2)}, {}, "__metadata__"),
        ({}, {"x": float("nan")}, "JSON compliant"),
        ({}, {"x": object()}, "not JSON serializable"),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_file(saved, arrays, meta, error):
    before = saved.read_bytes()
    with pytest.raises((TypeError, ValueError), match=error):
        checkpoint.save(saved, arrays, meta)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


# ---- damage ----


def small(path):
    checkpoint.save(path, {"w": np.arange(6, dtype=np.float32)}, {"k": "v"})
    return path.read_bytes()


def test_a_flipped_bit_in_any_byte_is_noticed(tmp_path):
    path = tmp_path / "c"
    content = small(path)
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ (1 << i % 8)]) + content[i + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "c"
    content = small(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


def rewritten(content, **strings):
    """The same file with other strings in its header, and a checksum that fits."""
    (length,) = struct.unpack_from("<Q", content)
    table = json.loads(content[8 : 8 + length])
    table["__metadata__"] |= {"sha256": "0" * 64, **strings}

    def header():
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    data = content[8 + length :]
    table["__metadata__"]["sha256"] = hashlib.sha256(header() + data).hexdigest()
    return header() + data


def plain(path):
    safetensors.numpy.save_file({"w": np.zeros(3)}, path)
    return path.read_bytes()


DAMAGE = [
    ("empty", lambda c, p: b"", "is empty"),
    ("seven bytes", lambda c, p: c[:7], "truncated"),
    ("half a header", lambda c, p: c[:60], "truncated: its header"),
    ("half the data", lambda c, p: c[:-5], "does not match its checksum"),
    ("a flipped bit of data", lambda c, p: c[:-5] + bytes([c[-5] ^ 4]) + c[-4:], "does not match its checksum"),
    ("text", lambda c, p: b"To be, or not to be, that is the question", "not a checkpoint"),
    ("zip", lambda c, p: b"PK\x03\x04" + bytes(100), "not a checkpoint"),
    ("safetensors of others", plain, "not one that rnnfast wrote"),
    ("newer format", lambda c, p: rewritten(c, version="2"), "format version 2, newer than .* upgrade"),
    ("strange version", lambda c, p: rewritten(c, version="x"), "damaged, or of a newer format"),
    ("other format", lambda c, p: rewritten(c, format="other"), "its format is 'other'"),
    ("description no JSON", lambda c, p: rewritten(c, json="{"), "description is not JSON"),
    ("description no object", lambda c, p: rewritten(c, json="[1]"), "not a JSON object"),
]


@pytest.mark.parametrize(("damage", "error"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_damage_has_one_clear_error(tmp_path, damage, error):
    path = tmp_path / "c.safetensors"
    content = small(path)
    changed = damage(path) if damage is plain else damage(content, path)
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=error) as e:
        checkpoint.load(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none")


# ---- writing that fails, or is killed ----


def test_failed_writes_say_where(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "c", tmp_path / "file" / "c"):
        with pytest.raises(OSError, match="cannot write the checkpoint"):
            checkpoint.save(path, {}, {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    real = os.open
    monkeypatch.setattr(os, "open", lambda p, *a, **k: real("/dev/full" if str(p).endswith(".tmp") else p, *a, **k))
    with pytest.raises(OSError, match="No space left") as e:
        checkpoint.save(saved, {"w": np.zeros(100_000)}, {})
    assert e.value.filename == str(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_stale_temporary_files_are_removed(saved):
    leftover = saved.with_name(f".{saved.name}.12345.tmp")
    leftover.write_bytes(b"half a checkpoint")
    checkpoint.remove_stale(saved)
    assert os.listdir(saved.parent) == [saved.name]


KILLER = r"""
import importlib.util, os, random, signal, sys, time
import numpy as np
spec = importlib.util.spec_from_file_location("checkpoint", sys.argv[1])
checkpoint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checkpoint)
path, kills, rng = sys.argv[2], int(sys.argv[3]), random.Random(1)
last, changed = -1, 0

def save_for_ever(n, done):
    while True:
        checkpoint.save(path, {"w": np.full(40_000, n, np.float64), "v": np.full(5, n)}, {"n": n})
        os.write(done, b"%d\n" % n)  # this state is promised
        n += 1

start = time.monotonic()
for n in range(5):
    checkpoint.save(path, {"w": np.full(40_000, -1.0), "v": np.full(5, -1)}, {"n": -1})
one_save = (time.monotonic() - start) / 5
beginning, begun = os.pipe()
for k in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(begun, b"!")
        save_for_ever(last + 1, writer)
    os.close(writer)
    os.read(beginning, 1)  # beside other work a child begins late
    time.sleep(rng.uniform(0, 3 * one_save))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader) as f:
        promised = int(f.read().split("\n")[-2:][0] or last)
    arrays, meta = checkpoint.load(path)
    n = meta["n"]
    assert n in (promised, promised + 1), (n, promised)
    assert (arrays["w"] == n).all() and (arrays["v"] == n).all()
    changed += n != last
    last = n
print(changed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_200_kills_while_saving(tmp_path):
    """The file always loads, and is the last state that was promised or the one that was being written."""
    path = tmp_path / "c.safetensors"
    command = [sys.executable, "-c", KILLER, checkpoint.__file__, str(path), "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40  # most children did save something before they were killed
    checkpoint.remove_stale(path)
    assert os.listdir(tmp_path) == [path.name]


# ---- golden files: what an earlier version wrote loads for ever ----

GOLDEN = sorted((Path(__file__).parent / "golden").glob("checkpoint_v*.safetensors"))


def test_there_is_a_golden_file_of_each_version():
    assert [p.stem for p in GOLDEN] == [f"checkpoint_v{v + 1}" for v in range(checkpoint.FORMAT_VERSION)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_file(path, tmp_path):
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    arrays, meta = checkpoint.load(path)
    found = {n: [a.dtype.str, list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()] for n, a in arrays.items()}
    assert found == expected["arrays"]
    assert meta["trainer"] == expected["trainer"]
    model = load(path)
    assert expected["config"].items() <= model.config.items()
    loss = evaluate_text(model, model.tokenizer.encode(expected["text"]))
    assert loss == pytest.approx(expected["loss"], rel=1e-5)
    for name in ("last", "best"):
        shutil.copy(path, tmp_path / f"{name}.safetensors")
    fit(expected["text"], out=tmp_path, resume=True, max_steps=40, quiet=True)
    assert checkpoint.read_header(tmp_path / "last.safetensors")["trainer"]["step"] == 40
