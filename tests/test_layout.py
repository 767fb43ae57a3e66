"""The house: the lesson uses support, support never imports the lesson or experiments."""

import ast
import os
import subprocess
import sys

import pytest
from conftest import ROOT

LESSON = {"run", "see", "replay_buffer", "loggers"}
IMPORT_ALL = """
import importlib, os, pkgutil, signal, sys
def look():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stdout = sys.stdout.line_buffering, sys.stdout.errors
    return sys.excepthook, stdout, handlers, os.getcwd(), sys.argv, dict(os.environ)
import support.fast_tensorflow
before = look()
for module in pkgutil.iter_modules(support.__path__):
    importlib.import_module(f"support.{module.name}")
assert look() == before
assert sys.excepthook is sys.__excepthook__
"""


def imported(file):
    """First names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", sorted(ROOT.glob("support/*.py")), ids=lambda file: file.name)
def test_support_never_imports_the_lesson_or_the_experiments(file):
    assert not imported(file) & (LESSON | {"experiments"})


@pytest.mark.parametrize("name", sorted(LESSON))
def test_the_lesson_uses_support_and_no_experiments(name):
    assert "experiments" not in imported(ROOT / f"{name}.py")
    assert "support" in imported(ROOT / f"{name}.py")


def test_the_top_level_is_the_lesson_alone():
    assert {file.stem for file in ROOT.glob("*.py")} == LESSON


@pytest.mark.slow
def test_importing_support_changes_nothing_in_the_process():
    command = [sys.executable, "-c", IMPORT_ALL]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_tensorflow_says_is_shown_if_it_cannot_be_imported(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'the C++ part complains\\n')\nraise ImportError('no good')\n"
    )
    result = subprocess.run(
        [sys.executable, ROOT / "run.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "the C++ part complains" in result.stderr
    assert "no good" in result.stderr
