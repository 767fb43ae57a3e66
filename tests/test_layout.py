"""The house: the lesson uses support, support never imports the lesson or experiments."""

import ast

import pytest
from conftest import ROOT

LESSON = {"run", "see", "replay_buffer", "loggers"}


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
    assert "support" in imported(ROOT / f"{name}.py") or name == "replay_buffer"


def test_the_top_level_is_the_lesson_alone():
    assert {file.stem for file in ROOT.glob("*.py")} == LESSON
