"""Every program of experiments/ answers a mistake in its command line at once, and in one line."""

import subprocess
import sys

import pytest
from conftest import ROOT, exit_status

PROGRAMS = sorted(file.stem for file in (ROOT / "experiments").glob("[a-z]*.py"))
NEEDED = {  # words that a program can't do without
    "explore": ["x-log", "-o", "x.html"],
    "landscape": ["x.h5"],
    "mountains": ["x.h5"],
    "report": ["x.csv"],
}
WRONG = {  # words with a value that can't be, and what is said of it
    "explore": (["-o", "x.txt"], "must be a .html file in"),
    "landscape": (["--seed", "-1"], "must be an integer between 0 and 4294967295"),
    "mountains": (["--episodes", "0"], "must be an integer between 1 and 1000"),
    "optimum": (["--gamma", "2"], "must be a number between 0.0 and 1.0"),
    "redraw": (["landscape"], "unrecognized arguments: landscape"),
    "report": (["--measure", "luck"], "invalid choice: 'luck'"),
    "speed": (["--rounds", "0"], "must be an integer between 1 and 1000"),
    "sweep": (["--name", "x", "--seeds", "0"], "must be an integer between 1 and"),
}
SLOW = ("keras", "ray", "tensorflow", "torch")  # take seconds to import
START = f"""
import runpy, sys
program = sys.argv.pop(1)
try:
    runpy.run_module(f"experiments.{{program}}", run_name="__main__", alter_sys=True)
finally:
    print("loaded:", *[name for name in {SLOW} if name in sys.modules])
"""


def exit_status_of(program, *words):
    """The exit status of `python -m experiments.PROGRAM WORDS`, which runs in this process.

    Args:
        program: module of the program.
        words: of its command line; they become strings.
    """
    return exit_status(lambda argv: program.main(program.parse_args(argv)), *words)


def ask(program, *words):
    """(exit status, output, errors, slow libraries that were loaded) of a program."""
    ended = subprocess.run(
        [sys.executable, "-c", START, program, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    output, _, loaded = ended.stdout.rpartition("loaded:")
    return ended.returncode, output, ended.stderr, loaded.split()


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_comes_before_what_is_slow_is_loaded(program):
    status, output, errors, loaded = ask(program, "--help")
    assert (status, errors, loaded) == (0, "", [])
    assert output.startswith(f"usage: {program} ")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_mistyped_option_is_told_before_what_is_slow_is_loaded(program):
    status, output, errors, loaded = ask(program, *NEEDED.get(program, []), "--hepl")
    assert (status, output, loaded) == (2, "", [])
    assert errors.count("\n") == 1 and "--hepl" in errors


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_value_is_told_before_what_is_slow_is_loaded(program):
    words, problem = WRONG[program]
    status, output, errors, loaded = ask(program, *NEEDED.get(program, []), *words)
    assert (status, output, loaded) == (2, "", [])
    assert errors.count("\n") == 1 and problem in errors


@pytest.mark.parametrize("program", PROGRAMS)
def test_started_as_a_file_a_program_says_how_to_start_it(program):
    file = ROOT / "experiments" / f"{program}.py"
    ended = subprocess.run([sys.executable, file], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"{program}.py: start it with python -m experiments.{program}\n"


@pytest.mark.parametrize("program", sorted({*PROGRAMS} - {"redraw"}))
def test_programs_do_not_import_each_other(program):
    source = (ROOT / "experiments" / f"{program}.py").read_text()
    lines = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    for other in PROGRAMS:
        assert not [line for line in lines if line.split()[1] == f"experiments.{other}"]
    assert not [line for line in lines if line.startswith("from experiments import")]
