"""The pages say what the program does: their excerpts, commands, figures and links."""

import contextlib
import doctest
import functools
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import keras
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT

from experiments import grid

DOCS = ROOT / "docs"
LESSON = DOCS / "lesson.md"
PAGES = [  # but docs/change-it.md, whose commands need its changes: test_change_it.py
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("lesson", "curves", "exercises", "using")),
    ROOT / "experiments" / "README.md",
]
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
COMMAND = r"(?:python3?|tensorboard|pip|ray|source|export|\.venv/bin/\w+) [^`]+"
INTERVAL = re.compile(r"-?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]")
EXCERPTS = [code for language, code in BLOCKS.findall(LESSON.read_text()) if language == "python"]
INSTALL = r"(python3 -m venv .venv && )?(.venv/bin/)?pip install -r (?P<file>\S+)( && )?"
SHORT = (
    "--max-steps 700 --train-start 200 --q-validation-size 300 --eval-every 300 --eval-steps 300"
)
INSTEAD = [  # of commands that take long, don't end, or need other computers: pattern, what to run
    (r"(source|export|ray) .*", "true"),  # test_grid.py has such a cluster
    (r".*--address.*", "python -m experiments.grid --help"),
    (r"python run.py --name first", "true"),  # which `run_command` has done
    (INSTALL, "true"),
    (r".*pytest -m.*", "true"),  # the quick part of what the next one begins
    (r".*pytest.*", r"\g<0> -n 0 --collect-only tests/test_layout.py"),
    (r".*experiments\.pictures", r"\g<0>"),
    (r"python -m experiments\.\w+", r"\g<0> --help"),
    (r".*experiments\.grid --resume.*", "true"),  # test_grid.py does
    (r".*run\.py.* --model.*", r"\g<0> --eval-steps 500"),
    (r".*run\.py.* --(test|help)", r"\g<0>"),
    (r".*run\.py --name first", rf"\g<0> {SHORT}"),
    (r".*run\.py --resume first-log", r"\g<0> --max-steps 720"),
    (r".*run\.py --resume first-log --max-steps.*", r"\g<0> --max-steps 740"),
    (r"python -m experiments\.grid (.*)", r"python -m grid_options \1"),
    (r".*run\.py.* --eager.*", rf"\g<0> {SHORT} --eval-steps 10 --max-steps 210"),
    (r".*run\.py.*", rf"\g<0> {SHORT}"),
]


def find_commands(page):
    """The commands on a page, in their order, each once: lines of blocks, and in the text."""
    commands = []
    for language, block, span in re.findall(
        rf"```(\w*)\n(.*?)```|`({COMMAND})`", page.read_text(), re.DOTALL
    ):
        lines = block.splitlines() if not language else []
        commands += [line.partition("  #")[0].strip() for line in lines] + [" ".join(span.split())]
    return [command for command in dict.fromkeys(commands) if command]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in find_commands(page)))


def shortened(command):
    """What the test runs in a command's place, which is quick and needs no network."""
    installed = re.match(INSTALL, command)
    if installed:
        assert (ROOT / installed["file"]).is_file()
        command = command[installed.end() :] or command
    matches = ((re.fullmatch(pattern, command), new) for pattern, new in INSTEAD)
    return next((match.expand(new) for match, new in matches if match), command)


@pytest.fixture(scope="module")
def run_command(tmp_path_factory):
    """Runs a command of a page in a copy of the project: gives what it prints.

    Those that begin with `python` run in this process, which saves them the start of TensorFlow;
    others through a shell.
    """
    clone = tmp_path_factory.mktemp("clone") / "project"
    left = shutil.ignore_patterns(".*", "__pycache__", "*-grid", "[!e]*-log")
    shutil.copytree(ROOT, clone, ignore=left)
    (clone / ".venv").symlink_to(sys.prefix)
    bin_ = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "PYTEST_ADDOPTS"):
        env.pop(variable, None)

    @functools.cache
    def run_(command):
        command = shortened(command)
        words = shlex.split(command)
        own_process = "pytest" in command or "pictures" in command  # which write to their ROOT
        if words[0] in ("python", ".venv/bin/python") and not own_process:
            output = io.StringIO()
            with contextlib.chdir(clone), contextlib.redirect_stdout(output):
                status = run_python(words[1:])
            assert status == 0, output.getvalue()
            return output.getvalue()
        ended = subprocess.run(
            command, shell=True, cwd=clone, env=env, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    run_(COMMANDS[0])  # the training that others watch
    shutil.copy(clone / "example-log" / "example-50000.h5", clone / "first-log" / "first-50000.h5")
    return run_


def run_python(words):
    """Runs `python WORDS` in this process; gives its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DISPLAY", raising=False)
        patch.delenv("WAYLAND_DISPLAY", raising=False)
        try:
            if words[:2] == ["-m", "grid_options"]:  # a grid: only whether it would begin
                grid.parse_args(words[2:])
            elif words[0] == "-m":
                patch.setattr(sys, "argv", words[1:])
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                patch.setattr(sys, "argv", words)
                keras.backend.clear_session()
                runpy.run_path(os.path.abspath(words[0]), run_name="__main__")
        except SystemExit as error:
            return error.code or 0
        finally:
            tf.config.run_functions_eagerly(False)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in COMMANDS if "tensorboard" not in name])
def test_the_commands_of_the_pages_work(command, run_command):
    run_command(command)


@pytest.mark.slow
def test_tensorboard_shows_the_example():
    (command,) = {name.removeprefix(".venv/bin/") for name in COMMANDS if "tensorboard" in name}
    words = [Path(sys.executable).parent / "tensorboard", *command.split()[1:], "--port=0"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as tensorboard:
        try:
            url = next(
                re.search(r"http://\S+", line) for line in tensorboard.stderr if "http://" in line
            )
            runs = []
            end = time.monotonic() + 60
            while "example-log" not in runs:
                assert time.monotonic() < end
                runs = json.load(urllib.request.urlopen(f"{url[0]}data/runs"))
            curves = json.load(urllib.request.urlopen(f"{url[0]}data/plugin/scalars/tags"))
        finally:
            tensorboard.terminate()
    assert len(curves["example-log"]) == 8


@pytest.mark.slow
def test_every_interval_on_the_pages_is_printed_by_a_command_there(run_command):
    reports = [
        command for command in COMMANDS if "experiments.report experiments/results" in command
    ]
    printed = {interval for report in reports for interval in INTERVAL.findall(run_command(report))}
    for page in PAGES:
        assert {*INTERVAL.findall(" ".join(page.read_text().split()))} <= printed
    assert len(printed) > 30


def test_the_worked_example_computes_what_it_says(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    sessions = [
        code for language, code in BLOCKS.findall(LESSON.read_text()) if language == "pycon"
    ]
    example = doctest.DocTestParser().get_doctest("\n".join(sessions), {}, "lesson.md", None, 0)
    assert len(example.examples) > 15
    doctest.DocTestRunner(verbose=False).run(example)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("excerpt", EXCERPTS, ids=lambda excerpt: excerpt.split("\n")[0].strip())
def test_the_excerpts_of_the_lesson_are_lines_of_run(excerpt):
    assert excerpt.strip()
    assert excerpt in (ROOT / "run.py").read_text()


def test_the_table_of_formulas_gives_lines_of_run():
    table = LESSON.read_text().split("| in a formula | in `run.py` |")[1].split("\n\n")[0]
    cells = [row.rsplit(" | ", 1)[1] for row in table.strip().splitlines()[1:]]
    assert len(cells) > 8
    for cell in cells:
        assert cell.startswith("`") and all(
            code in (ROOT / "run.py").read_text() for code in re.findall("`(.*?)`", cell)
        )


def test_links_lead_somewhere_and_pictures_have_alternative_texts():
    assert len(EXCERPTS) >= 9
    shown = set()
    for page in [*PAGES, DOCS / "change-it.md"]:
        links = re.findall(r"(!?)\[([^\]]*)\]\(([^)#:]+)[)#]", page.read_text())
        assert links
        for picture, text, link in links:
            assert (page.parent / link).exists(), link
            assert text and (not picture or len(text) > 20)
            shown |= {(page.parent / link).resolve()} if picture else set()
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            target = (page.parent / link) if link else page
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
    pictures = {*(ROOT / "images").iterdir()}
    assert pictures == shown
    assert sum(picture.stat().st_size for picture in pictures) < 3_000_000


@pytest.mark.slow
def test_what_ships_of_a_run_is_small_and_can_be_watched(command):
    example = ROOT / "example-log"
    assert sum(file.stat().st_size for file in example.iterdir()) < 200_000
    status, output, _ = command("--model", example / "example-best.h5", "--eval", "--seed", 1)
    assert status == 0
    assert -101 < float(output.split()[-1]) < -98


def read_curves(name, setting, value):
    """A value of a setting's evaluations in experiments/results: DataFrame of steps x seeds."""
    results = pd.read_csv(ROOT / "experiments" / "results" / f"{name}.csv")
    results = results[results["setting"] == setting]
    return results.pivot(index="step", columns="seed", values=value)


def test_the_numbers_of_the_pages_are_those_of_the_data():
    text = " ".join(word for page in PAGES for word in page.read_text().split())
    returns = {"fresh_article": read_curves("fresh_article", "fresh_article", "return")}
    q_values = {"fresh_article": read_curves("fresh_article", "fresh_article", "avg_max_q_value")}
    for setting in ("no_lag", "short_sighted", "tiny_buffer", "endless"):
        returns[setting] = read_curves("exercises", setting, "return")
        q_values[setting] = read_curves("exercises", setting, "avg_max_q_value")
    for setting in ("no_flag", "no_flag_endless"):
        q_values[setting] = read_curves("no_flag", setting, "avg_max_q_value")
    never = {setting: (curves.max() == -200).sum() for setting, curves in returns.items()}

    # What to expect
    fresh = returns["fresh_article"]
    fell = (fresh.cummax().shift() > -150) & (fresh == -200)
    assert f"{(fresh.max() > -110).sum()} were above -110" in text
    assert f"{fell.any().sum()} fell back to -200 after they had been above -150" in text

    # avg_max_q_value
    for steps in (100, 200, 18, 38, 58, 198):
        assert f"{-(1 - 0.99**steps) / 0.01:.1f}" in text
    blue = q_values["fresh_article"].median(axis=1)
    assert (
        "({:.1f}, {:.1f} and {:.1f} after 20,000, ".format(*blue.loc[[20000, 40000, 60000]]) in text
    )
    assert blue.idxmin() == 140000 and round(blue.min()) == -60
    for setting, value in (("no_flag", -60), ("endless", -67), ("no_flag_endless", -86)):
        assert round(q_values[setting].median(axis=1).min()) == value
        assert f"at {value}" in text
    last = q_values["fresh_article"].loc[200000].sort_values()
    highest = last.index[-4:]
    assert "at {:.0f}, {:.0f}, {:.0f} and {:.0f}, ".format(*last[highest]) in text
    assert {*highest} == {*fresh.columns[fresh.loc[200000] == -200]}

    # Exercises
    early = (q_values["no_lag"].loc[20000] < -90).sum()
    assert early == 9 and "below -90 at step 20,000 in nine of ten" in text
    assert (returns["no_lag"].loc[200000] == -200).sum() == 4 and "four end at -200" in text
    assert never["no_lag"] == 2 and "two don't get to the flag in any evaluation" in text
    above = q_values["no_lag"].max().sort_values()
    assert "once jumps to +{:.0f} and once to +{:.0f}".format(*above[above > 0]) in text
    assert never["short_sighted"] == 2
    assert "and two of ten don't get to the flag in any evaluation" in text
    assert round(q_values["short_sighted"].iloc[3:].stack().median(), 1) == -9.5
    assert (returns["tiny_buffer"].loc[40000] > -200).sum() == 5
    assert "Half of the ten get to the flag at 40,000 steps" in text
    assert f"explode at the end, to +{q_values['endless'].loc[200000].max():.0f}" in text
    curious = (read_curves("no_flag", "no_flag", "return").max() > -200).sum()
    assert (
        curious == 8 and "in eight trainings of ten, the network gets there in at least one" in text
    )
    cart, values = (
        read_curves("cartpole", "cartpole", name) for name in ("return", "avg_max_q_value")
    )
    assert (cart.max() == 500).all()
    held = [cart[seed].loc[(cart[seed] == 500).idxmax() :] for seed in cart]
    early = [curve for curve in held if len(curve) > 1]
    assert len(early) == 9 and all(curve.min() < 500 for curve in early)
    assert "{:.0f} at step 20,000, {:.0f} at 40,000".format(*values.mean(axis=1)[:2]) in text
    assert f"up to {values.iloc[-1].min():.0f} to {values.iloc[-1].max():.0f} at the end" in text
