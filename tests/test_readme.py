"""The pages say what the program does: their excerpts, commands, figures and links."""

import doctest
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md"]
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
COMMAND = r"(?:python3?|tensorboard|pip|ray|source|export|\.venv/bin/\w+) [^`]+"
INTERVAL = re.compile(r"-?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]")
EXCERPTS = [code for language, code in BLOCKS.findall(PAGES[0].read_text()) if language == "python"]
INSTALL = r"(python3 -m venv .venv && )?(.venv/bin/)?pip install -r (?P<file>\S+)( && )?"
SHORT = (
    "--max-steps 700 --train-start 200 --q-validation-size 300 --eval-every 300 --eval-steps 300"
)
INSTEAD = [  # of commands that take long, don't end, or need other computers: pattern, what to run
    (r"(source|export|ray) .*|.*--address.*", "true"),  # test_grid.py has such a cluster
    (r"python run.py --name first", "true"),  # which `run_command` has done
    (rf"{INSTALL}", "true"),
    (r".*pytest.*", r"\g<0> --collect-only"),
    (r".*experiments\.pictures", r"\g<0>"),
    (r"python -m experiments\.\w+|.* --resume explore", r"\g<0> --help"),
    (r".*experiments\.speed", r"\g<0> --help"),
    (r".*run\.py.* --(model|test|help).*", r"\g<0>"),
    (r".*run\.py --name first", r"\g<0> --max-steps 50000"),  # it makes first-50000.h5
    (r".*run\.py --resume first-log", r"\g<0> --max-steps 50100"),
    (r".*run\.py --resume first-log --max-steps.*", r"\g<0> --max-steps 50200"),
    (r".*experiments\.grid .*", rf"\g<0> --seeds 1 {SHORT}"),
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
    """What the test runs in a command's place, as long as it is quick and needs no network."""
    installed = re.match(INSTALL, command)
    if installed:
        assert (ROOT / installed["file"]).is_file()
        command = command[installed.end() :] or command
    matches = ((re.fullmatch(pattern, command), new) for pattern, new in INSTEAD)
    return next((match.expand(new) for match, new in matches if match), command)


@pytest.fixture(scope="module")
def run_command(tmp_path_factory):
    """Runs a command of a page in a copy of the project: gives what it prints."""
    clone = tmp_path_factory.mktemp("clone") / "project"
    left = shutil.ignore_patterns(".*", "__pycache__", "*-grid", "[!e]*-log")
    shutil.copytree(ROOT, clone, ignore=left)
    (clone / ".venv").symlink_to(sys.prefix)
    bin_ = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "RAY_worker_niceness": "0"}
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "PYTEST_ADDOPTS"):
        env.pop(variable, None)

    @functools.cache
    def run_(command):
        ended = subprocess.run(
            shortened(command), shell=True, cwd=clone, env=env, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    run_(COMMANDS[0])  # the training that others watch
    return run_


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
            while "example-log" not in runs:
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
        code for language, code in BLOCKS.findall(PAGES[0].read_text()) if language == "pycon"
    ]
    example = doctest.DocTestParser().get_doctest("\n".join(sessions), {}, "README.md", None, 0)
    assert len(example.examples) > 15
    doctest.DocTestRunner(verbose=False).run(example)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("excerpt", EXCERPTS, ids=lambda excerpt: excerpt.split("\n")[0].strip())
def test_the_excerpts_of_the_lesson_are_lines_of_run(excerpt):
    assert excerpt.strip()
    assert excerpt in (ROOT / "run.py").read_text()


def test_the_table_of_formulas_gives_lines_of_run():
    table = PAGES[0].read_text().split("| in a formula | in `run.py` |")[1].split("\n\n")[0]
    cells = [row.rsplit(" | ", 1)[1] for row in table.strip().splitlines()[1:]]
    assert len(cells) > 8
    for cell in cells:
        assert cell.startswith("`") and all(
            code in (ROOT / "run.py").read_text() for code in re.findall("`(.*?)`", cell)
        )


def test_links_lead_somewhere_and_pictures_have_alternative_texts():
    assert len(EXCERPTS) >= 9
    shown = set()
    for page in PAGES:
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


def test_what_ships_of_a_run_is_small_and_can_be_watched(command):
    example = ROOT / "example-log"
    assert sum(file.stat().st_size for file in example.iterdir()) < 200_000
    status, output, _ = command("--model", example / "example-best.h5", "--eval", "--seed", 1)
    assert status == 0
    assert -101 < float(output.split()[-1]) < -98
