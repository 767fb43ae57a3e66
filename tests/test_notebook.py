"""The cells of docs/using.md, in a notebook's own kernel; and what is different there."""

import base64
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import termios

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from PIL import Image, ImageSequence

import run
from support.checkpoints import read_checkpoint

PAGE = (ROOT / "docs" / "using.md").read_text()
SECTION = re.search(r"^## In a notebook\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
CELLS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
SHORT = {  # constants of the run that is stopped, and of the others
    "TRAIN_START": 100,
    "MAX_STEPS": 10**6,
    "EVAL_EVERY": 200,
    "EVAL_STEPS": 210,
    "Q_VALIDATION_SIZE": 200,
    "SNAPSHOT_EVERY": 300,
}
INSTEAD = [  # of lines that need a network or take long: pattern, what the test runs
    (r"!git clone URL (.*)", r"shutil.copytree(PROJECT, '\1')"),
    (r"%pip install -r (.*)", r"open('\1').close()"),
    (r"!python run.py --name first", r"press_stop_when_saved(); get_ipython().system('\g<0>'[1:])"),
    (r"!python run.py --resume first-log", "resume('first-log')"),
    (r"%tensorboard .*", "assert get_ipython().find_line_magic('tensorboard')"),
    (r"!python run.py (--model.*)", r"run_here('\1')"),
    (r"run.main\((.*) --max-steps 20000\"\)\)", r'run.main(\1 --max-steps 400"))'),
]
HELPERS = """
import os, shlex, shutil, signal, sys, threading, time
from pathlib import Path

PROJECT = Path("project").absolute()

def press_stop_when_saved():
    def wait_and_press():
        end = time.monotonic() + 100
        while not Path("first-log/first-300.h5").exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=wait_and_press).start()

def run_here(words):  # which saves the start of TensorFlow
    from support.options import load_lesson
    lesson = load_lesson("run.py", shlex.split(words))
    lesson.main(lesson.options)
    del sys.modules["run"]

def resume(logdir):
    from support.checkpoints import read_checkpoint
    step = read_checkpoint(logdir)["run"]["step"]
    run_here(f"--resume {logdir} --max-steps {step + 100}")
    print("stopped at", step)
"""


def as_run(cell):
    """A cell of the page, in which some lines are replaced by what the test runs."""
    for pattern, new in INSTEAD:
        cell = re.sub(f"^{pattern}$", new, cell, flags=re.MULTILINE)
    return cell


@pytest.fixture
def project(tmp_path, monkeypatch):
    """What `git clone` would bring, with constants that make runs short; in an empty directory."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*-log", "*-sweep", "docs", "findings")
    shutil.copytree(ROOT, tmp_path / "project", ignore=left_out)
    source = (tmp_path / "project" / "run.py").read_text()
    for constant, value in SHORT.items():
        source, found = re.subn(rf"^{constant} = \d+", f"{constant} = {value}", source, flags=re.M)
        assert found == 1
    (tmp_path / "project" / "run.py").write_text(source)
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def execute(cells, folder):
    """Executes cells in a kernel of their own; gives what each one prints, shows and raises."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, allow_errors=True, resources=resources).execute()
    results = []
    for cell in notebook.cells:
        outputs = cell.outputs
        printed = "".join(output.text for output in outputs if output.output_type == "stream")
        shown = [output.data for output in outputs if output.output_type == "execute_result"]
        errors = [output.traceback for output in outputs if output.output_type == "error"]
        results.append((printed, shown, errors))
    return results


@pytest.mark.slow
def test_the_cells_of_the_page_work_as_written(project):
    mistaken = 'run.main(run.options.read("--nmae rmsprop"))'
    results = execute([HELPERS, *map(as_run, CELLS), mistaken], project)
    _, clone, train, resume, curves, gif, optimizer, mistake = results
    folder = project / "deep-q-learning"

    for printed, _, errors in (clone, train, resume, curves, gif, optimizer):
        assert not errors, errors
        assert "XDG_RUNTIME_DIR" not in printed
    assert "Created first-log" in train[0] and " steps/s]" in train[0]
    assert "Best: " not in train[0]  # for it was stopped
    stopped = int(re.search(r"stopped at (\d+)", resume[0])[1])
    assert read_checkpoint(folder / "first-log")["run"]["step"] == stopped + 100 < 10**6
    (picture,) = gif[1]
    frames = Image.open(io.BytesIO(base64.b64decode(picture["image/gif"])))
    milliseconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(frames))
    steps = -float(re.search(r"episode_return_avg (\S+) over 1 episode\n", gif[0])[1])
    assert steps > 80  # each of them shown for a thirtieth of a second, alike ones in one frame
    assert milliseconds == pytest.approx(1000 / 30 * steps, abs=20)
    assert "Created rmsprop-log" in optimizer[0]
    trained = read_checkpoint(folder / "rmsprop-log")
    assert trained["run"]["step"] == 400
    assert len(trained["optimizer"]) < len(read_checkpoint(folder / "first-log")["optimizer"])
    told = "WrongInput: unrecognized arguments: --nmae rmsprop; did you mean --name?"
    assert mistake[2] == [[told]]


def test_an_update_in_a_cell_follows_the_constants_of_run():
    cell = {"run": run, "__name__": "__main__"}
    update = "@run.compiled\ndef halve(x):\n    return run.DISCOUNT_FACTOR_GAMMA * x"
    exec(update, cell)
    assert cell["halve"](np.float32(2)) == np.float32(0.99 * 2)
    run.DISCOUNT_FACTOR_GAMMA = 0.5
    assert cell["halve"](np.float32(2)) == 1


def test_a_program_pasted_into_a_cell_says_in_a_line_what_to_do_instead(capsys):
    with pytest.raises(SystemExit) as ended:
        exec((ROOT / "run.py").read_text(), {"__name__": "__main__"})
    _, errors = capsys.readouterr()
    assert ended.value.code == 2
    assert errors.endswith("don't paste it into a prompt: there, import run from its folder\n")


BARS = """
from tqdm import tqdm
from experiments.common.progress import Progress
from support.errors import plain_errors
with plain_errors():
    for _ in tqdm(range(3), disable=None, position=0, dynamic_ncols=True):
        pass
    progress = Progress([], {})
    progress.show([])
    progress.close()
"""


@pytest.mark.parametrize("rows, columns", [(0, 0), (0, 80)])
def test_a_terminal_that_does_not_know_its_size_shows_the_bars(rows, columns):
    ours, theirs = pty.openpty()  # as that of `!` in Google Colab
    termios.tcsetwinsize(theirs, (rows, columns))
    with subprocess.Popen([sys.executable, "-c", BARS], cwd=ROOT, stderr=theirs) as program:
        assert program.wait(60) == 0
    os.close(theirs)
    printed = os.read(ours, 10**5).decode()
    os.close(ours)
    assert "3/3" in printed
    assert "0 of 0 done, 0 running, 0 failed" in printed
