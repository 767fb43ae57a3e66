"""What docs/change-it.md and docs/after-dqn.md change does what they say, step by step."""

import itertools
import re
import shlex
import sys

import pytest
from conftest import ROOT

from experiments import sweep
from experiments.common import engines
from experiments.common.choice import announce, choose_engine
from support.checkpoints import read_checkpoint

SECTION = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = dict(SECTION.findall((ROOT / "docs" / "change-it.md").read_text()))
IMPROVEMENTS = {  # sections that show a change
    heading: text
    for heading, text in SECTION.findall((ROOT / "docs" / "after-dqn.md").read_text())
    if "python run.py" in text
}
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
SHORT = (
    "--seed 1 --train-start 100 --max-steps 400 --q-validation-size 100 --eval-every 200 "
    "--eval-steps 250"
).split()


def apply(diff, folder):
    """Changes files as a ```diff block says."""
    for part in re.split(r"^@@ ", diff, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        lines = [(line[:1], line[1:] + "\n") for line in body.splitlines()]
        old = "".join(line for sign, line in lines if sign != "+")
        new = "".join(line for sign, line in lines if sign != "-")
        source = (folder / name).read_text()
        assert source.count(old) == 1, old
        (folder / name).write_text(source.replace(old, new))


def copy_lesson(folder, monkeypatch):
    """Copies what the pages change into a folder, from which it is then imported."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "replay_buffer", raising=False)
    for file in ("run.py", "replay_buffer.py"):
        (folder / file).write_text((ROOT / file).read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "heading", [name for name in [*SECTIONS, *IMPROVEMENTS] if name != "A look inside"]
)
def test_the_steps_work_as_written(heading, command, tmp_path, monkeypatch, capsys):
    copy_lesson(tmp_path, monkeypatch)
    runs = []
    for language, block in BLOCKS.findall({**SECTIONS, **IMPROVEMENTS}[heading]):
        if language == "diff":
            apply(block, tmp_path)
        elif language == "python":
            name = re.match(r"# (\w+\.py)", block)[1]
            with open(tmp_path / name, "a") as file:
                file.write(block)
        else:
            for words in map(shlex.split, block.splitlines()):
                if words[:2] == ["python", "run.py"]:
                    status, _, errors = command(*words[2:], *SHORT, script=tmp_path / "run.py")
                    assert (status, errors) == (0, ""), errors
                    runs += [words[-1]] if "--name" in words else []
    assert runs or heading == "Is it better?"
    for name in runs:
        assert read_checkpoint(f"{name}-log")["run"]["step"] == 400


@pytest.mark.slow
def test_a_constant_of_ones_own_is_known_to_snapshot_and_run(command, tmp_path):
    (tmp_path / "run.py").write_text((ROOT / "run.py").read_text())
    heading = "A constant of your own"
    (diff,) = [block for language, block in BLOCKS.findall(SECTIONS[heading]) if language == "diff"]
    apply(diff, tmp_path)
    script = {"script": tmp_path / "run.py"}
    assert command(*SHORT, "--activation", "tanh", "--name", "x", **script)[::2] == (0, "")
    assert read_checkpoint("x-log")["run"]["settings"]["activation"] == "tanh"
    evaluate = ["--model", "x-log/x-400.h5", "--eval", "--eval-steps", 10]
    assert command(*evaluate, **script)[::2] == (0, "")
    status, _, errors = command(*evaluate, "--activation", "relu", **script)
    assert status == 2 and "was made with tanh" in errors
    status, _, errors = command(*evaluate)  # without the page's lines
    assert status == 2 and "constants that this program doesn't have: activation" in errors
    assert errors.endswith("let create_model build its network\n") and "dense tanh" in errors


@pytest.mark.slow
def test_state_of_ones_own_is_restored_when_the_run_is_resumed(command, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flags", raising=False)
    (tmp_path / "run.py").write_text((ROOT / "run.py").read_text())
    blocks = BLOCKS.findall(SECTIONS["State of your own"])
    apply(next(block for language, block in blocks if language == "diff"), tmp_path)
    (flags,) = [block for language, block in blocks if language == "python"]
    (tmp_path / "flags.py").write_text(flags.replace("count = 0", "count = 70"))
    script = {"script": tmp_path / "run.py"}
    status, output, _ = command(*SHORT, "--name", "x", **script)
    assert status == 0 and "can't be resumed" not in output
    (tmp_path / "flags.py").write_text(flags)
    monkeypatch.delitem(sys.modules, "flags")
    status, output, errors = command("--resume", "x", "--max-steps", 450, **script)
    assert (status, errors) == (0, "")
    assert "flags: 70\n" in output


@pytest.mark.slow
def test_looking_inside_shows_the_targets_of_eleven_updates(command, tmp_path):
    (tmp_path / "run.py").write_text((ROOT / "run.py").read_text())
    (language, diff), (_, line) = BLOCKS.findall(SECTIONS["A look inside"])
    assert language == "diff"
    apply(diff, tmp_path)
    status, output, _ = command(*shlex.split(line)[2:], script=tmp_path / "run.py")
    shown = [line for line in output.splitlines() if line.startswith("targets")]
    assert status == 0
    assert len(shown) == 11
    assert all(line.startswith("targets tf.Tensor([") for line in shown)


@pytest.mark.parametrize(
    "name, values", [("activation", ["relu", "tanh"]), ("double", [False, True])]
)
def test_the_comparisons_vary_the_constants_of_the_page_in_the_way_that_it_says(
    name, values, tmp_path, monkeypatch
):
    (tmp_path / "run.py").write_text((ROOT / "run.py").read_text())
    headings = ("A constant of your own", "Is it better?")
    blocks = [block for heading in headings for block in BLOCKS.findall(SECTIONS[heading])]
    command = f"python -m experiments.sweep --{name} "
    for language, block in itertools.takewhile(lambda pair: command not in pair[1], blocks):
        if language == "diff":
            apply(block, tmp_path)
    (line,) = [block for _, block in blocks if block.startswith(command)]
    monkeypatch.setattr(sweep, "LESSON", tmp_path / "run.py")
    monkeypatch.setattr(engines, "LESSON", tmp_path / "run.py")
    plan = sweep.parse_args(shlex.split(line)[3:]).plan
    assert len(plan.runs()) == 2 * 10
    assert [run.hyperparameters[name] for run in plan.first_runs()] == values
    assert announced(plan, "compiled") in " ".join(SECTIONS["Is it better?"].split())

    source = (tmp_path / "run.py").read_text()
    (tmp_path / "run.py").write_text(
        source.replace("next_observation, done)", "observation, done)")
    )
    assert announced(plan, "exact") in " ".join(SECTIONS["Is it better?"].split())


def announced(plan, engine):
    """What a sweep prints about the engine, which is checked, as code on the page."""
    choice = choose_engine(plan.first_runs())
    assert (choice.problem, choice.engine) == (None, engine)
    return f"`{announce(plan._replace(engine=engine), choice, plan.runs(), places=2)}`"


def test_what_came_after_is_shown_in_blocks_of_at_most_fifteen_lines():
    diffs = [
        block
        for text in IMPROVEMENTS.values()
        for language, block in BLOCKS.findall(text)
        if language == "diff"
    ]
    assert len(IMPROVEMENTS) == 10 and len(diffs) == 7
    assert max(len(re.findall(r"^\+.*\S", diff, re.MULTILINE)) for diff in diffs) <= 15
