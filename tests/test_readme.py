"""The pages say what the program does: their excerpts, commands, figures and links."""

import contextlib
import doctest
import functools
import io
import itertools
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

import gymnasium as gym
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT

import run
from experiments import mountains, sweep
from experiments.common.choice import choose_engine
from experiments.common.plots import OPTIMUM
from experiments.optimum import discounted

DOCS = ROOT / "docs"
LESSON = DOCS / "lesson.md"
PAGES = [  # but docs/change-it.md, whose commands need its changes: test_change_it.py
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("lesson", "curves", "exercises", "using")),
    ROOT / "experiments" / "README.md",
]
DATA = ROOT / "experiments" / "results" / "README.md"
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
COMMAND = r"(?:python3?|tensorboard|pip|ray|source|export|\.venv/bin/\w+) [^`]+"
INTERVAL = re.compile(r"-?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]")
EXCERPTS = [code for language, code in BLOCKS.findall(LESSON.read_text()) if language == "python"]
INSTALL = r"(python3 -m venv .venv && )?(.venv/bin/)?pip install -r (?P<file>\S+)( && )?"
SHORT = (
    "--max-steps 700 --train-start 200 --q-validation-size 300 --eval-every 300 --eval-steps 300"
)
INSTEAD = [  # of commands that take long, don't end, or need other computers: pattern, what to run
    (r"(python3? -m venv \S+|(source|export|ray) .*)", "true"),  # test_sweep.py has such a cluster
    (r".*python run.py --name first", "true"),  # which `run_command` has done
    (INSTALL, "true"),
    (r".*pytest -m.*", "true"),  # the quick part of what the next one begins
    (r".*pytest.*", r"\g<0> -n 0 --collect-only tests/test_layout.py"),
    (r"python -m experiments\.\w+", r"\g<0> --help"),
    (r".*experiments\.sweep --resume.*", "true"),  # test_sweep.py does
    (r".*run\.py.* --model.*", r"\g<0> --eval-steps 500"),
    (r".*run\.py.* --(test|help)", r"\g<0>"),
    (r".*run\.py --name first", rf"\g<0> {SHORT}"),
    (r".*run\.py --resume first-log", r"\g<0> --max-steps 720"),
    (r".*run\.py --resume first-log --max-steps.*", r"\g<0> --max-steps 740"),
    (r"python -m experiments\.sweep (.*)", r"python -m sweep_options \1"),
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

    Commands that begin with `python` run in this process, which saves the start of TensorFlow;
    the others run in a shell.
    """
    clone = tmp_path_factory.mktemp("clone") / "project"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*-sweep", "[!e]*-log")
    shutil.copytree(ROOT, clone, ignore=left_out)
    (clone / ".venv").symlink_to(sys.prefix)
    bin_ = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "PYTEST_ADDOPTS"):
        env.pop(variable, None)

    @functools.cache
    def run_(command):
        command = shortened(command)
        words = shlex.split(command)
        own_process = "pytest" in command
        if words[0] == "python" and not own_process:
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

    run_("python run.py --name first --seed 1")  # which others watch
    shutil.copy(clone / "example-log" / "example-50000.h5", clone / "first-log" / "first-50000.h5")
    return run_


def run_python(words):
    """Runs `python WORDS` in this process; gives its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DISPLAY", raising=False)
        patch.delenv("WAYLAND_DISPLAY", raising=False)
        try:
            if words[:2] == ["-m", "sweep_options"]:
                check_sweep(words[2:])
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


def check_sweep(words):
    """Only whether a sweep would begin: compiled, if the page doesn't say --exact."""
    plan = sweep.parse_args(words).plan
    choice = choose_engine(plan.first_runs(), plan.engine)
    assert (choice.problem, choice.engine) == (None, plan.engine or "compiled")


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in COMMANDS if "tensorboard" not in name])
def test_the_commands_of_the_pages_work(command, run_command):
    run_command(command)


@pytest.mark.slow
def test_tensorboard_shows_the_example():
    (command,) = (name for name in COMMANDS if "tensorboard" in name)
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
    commands = [*COMMANDS, *find_commands(DATA)]
    reports = [name for name in commands if "experiments.report experiments/results" in name]
    printed = {interval for report in reports for interval in INTERVAL.findall(run_command(report))}
    programs = [code for language, code in BLOCKS.findall(DATA.read_text()) if language == "python"]
    assert len(programs) == 2
    for code in programs:
        output = io.StringIO()
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(output):
            exec(code, {})
        printed |= {*INTERVAL.findall(output.getvalue())}
    for page in [*PAGES, DATA]:
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
        links = re.findall(r"(!?)\[([^][]*)\]\(([^)#:]+)[)#]", page.read_text())
        assert links
        for picture, text, link in links:
            assert (page.parent / link).exists(), link
            assert text and (not picture or len(text) > 20)
            shown |= {(page.parent / link).resolve()} if picture else set()
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            target = (page.parent / link) if link else page
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
            assert anchor in [*anchors, *re.findall(r'<a id="([^"]+)"', target.read_text())]
    pictures = {*(ROOT / "images").iterdir()}
    assert pictures == shown
    assert sum(picture.stat().st_size for picture in pictures) < 3_000_000


@pytest.mark.slow
def test_what_ships_of_two_runs_is_small_and_can_be_watched(command):
    bests = [ROOT / f"{name}-log" / f"{name}-best.h5" for name in ("example", "example-wide")]
    size = sum(file.stat().st_size for best in bests for file in best.parent.iterdir())
    assert size < 520_000
    for best, (low, high) in zip(bests, [(-101, -98), (-99, -97)], strict=True):
        status, output, _ = command("--model", best, "--eval", "--seed", 1)
        assert status == 0
        average = re.search(r"episode_return_avg (\S+) over \d+ episodes$", output.strip())
        assert low < float(average[1]) < high


def test_the_lines_for_a_python_prompt_train(tmp_path, monkeypatch, capsys):
    lines, *_ = [
        code
        for language, code in BLOCKS.findall((DOCS / "using.md").read_text())
        if language == "python"
    ]
    monkeypatch.chdir(tmp_path)
    run.TRAIN_START, run.Q_VALIDATION_SIZE, run.EVAL_STEPS = 200, 300, 250
    exec(lines.replace("20000", "400"), {})
    assert (tmp_path / "prompt-log" / "prompt-400.h5").exists()
    assert "step 400 episode_return_avg -200.000" in capsys.readouterr().out


@functools.cache
def curves(setting, value="return"):
    """A value of a setting's evaluations in experiments/results: DataFrame of steps x seeds."""
    results = pd.read_csv(ROOT / "experiments" / "results" / f"{FILES[setting]}.csv")
    results = results[results["setting"] == setting]
    return results.pivot(index="step", columns="seed", values=value)


def q_values(setting):
    """avg_max_q_value of a setting's evaluations: DataFrame of steps x seeds."""
    return curves(setting, "avg_max_q_value")


def count(condition):
    """How many runs meet a condition, in words."""
    return WORDS[int(np.count_nonzero(condition))]


def worst(setting):
    """The lowest return of a last evaluation."""
    return curves(setting).iloc[-1].min()


def solved(setting):
    """How many runs end at -110 or better."""
    return int(np.count_nonzero(curves(setting).iloc[-1] >= -110))


def failing(setting):
    """How many runs end below -110, in words; the best and the worst of them."""
    ends = curves(setting).iloc[-1]
    below = ends[ends < -110]
    return [count(ends < -110), below.max(), below.min()]


def above_solved(setting):
    """How many runs have an evaluation above -110."""
    return np.count_nonzero(curves(setting).max() > -110)


def falls(setting):
    """By how much the runs that end below -110, and were above it, fell: in ascending order."""
    ends, best = curves(setting).iloc[-1], curves(setting).max()
    return sorted((best - ends)[(ends < -110) & (best > -110)])


def ends_near(steps, returns):
    """How many of some runs, a DataFrame, end within so many steps of the optimum."""
    return np.count_nonzero(returns.iloc[-1] > OPTIMUM["MountainCar-v0"] - steps)


def optimal(number):
    """A measure of the goals of the two settings of the third plan."""
    figures = []
    for name in ("optimal_half", "optimal_wide"):
        returns = curves(name)
        ends = returns.iloc[-1]
        last_quarter = returns[returns.index > 0.75 * returns.index[-1]]
        figures.append((ends.mean(), ends.min(), last_quarter.min().min())[number])
    return figures


def last_networks(figure):
    """Medians of a figure of `experiments.optimum` over the last snapshots of three settings."""
    values = pd.read_csv(ROOT / "experiments" / "results" / "values.csv")
    grids = values["snapshot"].str.partition("-grid")[0]
    return list(values.groupby(grids)[figure].median()[[*THIRTY, "optimal_wide"]])


def settings_of_parts(copies):
    """The four settings of a row of the tables of what each change is worth."""
    return [
        f"learning_rate_decay={decay},target_update_every={copies},scale_observations={is_scaled}"
        for decay, is_scaled in itertools.product((1.0, 0.01), (False, True))
    ]


def parts(width, copies):
    """Of the four: their evaluations, DataFrames of steps x seeds; empty where not run."""
    results = pd.read_csv(ROOT / "experiments" / "results" / f"parts_{width}.csv")
    frames = []
    for setting in settings_of_parts(copies):
        frame = results[results["setting"] == setting].pivot(
            index="step", columns="seed", values="return"
        )
        assert frame.shape[1] in (0, 30)
        frames.append(frame)
    return frames


def ends_of_parts(width, copies):
    """Of the four: the worst last evaluation, and how many are at -110 or better, in a cell."""
    ends = [frame.iloc[-1] if frame.size else None for frame in parts(width, copies)]
    return [
        "" if end is None else f"{end.min():.1f}; {np.count_nonzero(end >= -110)}" for end in ends
    ]


def mean_ends(width, copies):
    """Of the four: the mean of the last evaluations."""
    return [frame.iloc[-1].mean() for frame in parts(width, copies) if frame.size]


def second_halves(width, copies):
    """Of the four: the mean of the second half."""
    return [frame.loc[100000:].to_numpy().mean() for frame in parts(width, copies) if frame.size]


def errors_of_parts(width, copies):
    """Of the four: the median error of the values of the last networks."""
    values = pd.read_csv(ROOT / "experiments" / "results" / "values_parts.csv")
    medians = []
    for setting in settings_of_parts(copies):
        prefix = f"parts_{width}-screen/{setting},"
        errors = values["absolute error"][values["snapshot"].str.startswith(prefix)]
        assert len(errors) in (0, 30)
        medians.append(f"{errors.median():.2f}" if len(errors) else "")
    return medians


def never_there(setting):
    """In how many runs no evaluation gets to the flag, in words."""
    return count(curves(setting).max() == -200)


def fell(setting, from_, to):
    """Which runs have an evaluation at most `to` after one above `from_`."""
    returns = curves(setting)
    return ((returns.cummax().shift() > from_) & (returns <= to)).any()


def above_zero(setting):
    """Highest avg_max_q_value of each run in which it is above 0, in ascending order."""
    highest = q_values(setting).max().sort_values()
    return list(highest[highest > 0])


def fell_from_500(setting):
    """How many runs were at 500 before the last evaluation, in words; all of them fell."""
    returns = curves(setting)
    were_there = (returns.iloc[:-1] == 500).any()
    assert (fell(setting, 499, 499.99) >= were_there).all()
    return count(were_there)


def medians(setting):
    """avg_max_q_value in the median over the seeds: Series over steps."""
    return q_values(setting).median(axis=1)


def elsewhere(gravity, force):
    """Mean returns on a mountain: of `BESTS`, and of pushing as the car rolls."""
    files = [ROOT / "experiments" / "results" / f"{name}.csv" for name in BESTS]
    results = [mountains.read(file) for file in files]
    means = [mountains.over_policies(frame).loc[force, gravity] for frame in results]
    return [*means, rolling().loc[force, gravity]]


@functools.cache
def rolling():
    """What a car that is pushed the way it rolls returns on all mountains."""
    results = mountains.read(ROOT / "experiments" / "results" / f"{BESTS[0]}.csv")
    return mountains.reference(gym.make("MountainCar-v0"), results)


def worth(*steps):
    """What numbers of steps are worth, discounted by 0.99."""
    return [discounted(count, 0.99) for count in steps]


def deviations():
    """Standard deviations over seeds of the constants: of the second half, last evaluation."""
    returns = curves("grid_article")
    return [returns.loc[100000:].mean().std(), returns.iloc[-1].std()]


def smallest_differences(seeds):
    """Half the width of a 95% interval of a difference between two settings, of both measures."""
    return [1.96 * deviation * (2 / seeds) ** 0.5 for deviation in deviations()]


WORDS = (
    "none one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty twenty-one twenty-two twenty-three "
    "twenty-four twenty-five twenty-six twenty-seven twenty-eight twenty-nine thirty"
).split()
THIRTY = ("grid_article", "grid_best")
SHOWN = ("shown_article", "shown_best")
CARTPOLE = ("cartpole_plain", "cartpole_shown")
BESTS = ("mountains", "mountains_wide", "mountains_optimal")  # best snapshots, elsewhere
FILES = {  # of settings, in experiments/results
    "grid_article": "grid_article",
    **dict.fromkeys(("no_lag", "short_sighted", "tiny_buffer", "endless"), "exercises"),
    **dict.fromkeys(("no_flag", "no_flag_endless"), "no_flag"),
    "cartpole": "cartpole",
    "cartpole_wide": "cartpole_wide",
    "cartpole_plain": "cartpole_plain",
    "cartpole_shown": "cartpole_shown",
    **{name: name for name in (*SHOWN, "grid_best", "optimal_half", "optimal_wide")},
    "endless_wide": "endless_wide",
    "longer": "longer",
    **{f"hidden_units={width}": "parts_half" for width in (128, 256)},
    **{f"target_update_every=1,clip_norm={norm}": "clip" for norm in (1.0, 1000.0)},
}
PHRASES = [  # of the pages, and functions that give the numbers in them
    # README.md
    (
        "end anywhere between {:.0f} and {:.0f} (blue in the picture)",
        lambda: [curves("grid_article").iloc[-1].max(), worst("grid_article")],
    ),
    (
        "{} of the thirty end at -110 or better",
        lambda: [WORDS[solved("grid_article")].capitalize()],
    ),
    ("(`--hidden-units 128`), {} do (orange)", lambda: [WORDS[solved("grid_best")]]),
    (
        "all {} end within two steps of the optimum (red)",
        lambda: [WORDS[ends_near(2, curves("optimal_wide"))]],
    ),
    (
        "Of thirty more, trained later, {} do the same, and one ends at {:.0f}.",
        lambda: [ends_near(2, parts(256, 500)[3]), parts(256, 500)[3].iloc[-1].min()],
    ),
    # docs/curves.md
    ("100 steps are worth {:.1f}, 200 steps {:.1f},", lambda: worth(100, 200)),
    ("it can have learned about 18 steps, which makes {:.1f}; by 40,000 of 38", lambda: worth(18)),
    ("38 steps, {:.1f}; by 60,000 of 58, {:.1f}; and", lambda: worth(38, 58)),
    ("in the end of 198, {:.1f}.", lambda: worth(198)),
    (
        "({:.1f}, {:.1f}, {:.1f} and {:.1f}; up to 4 below it in between), and so is that",
        lambda: [*medians("grid_article")[:3], medians("grid_article").min()],
    ),
    (
        "{:.1f}, {:.1f} and {:.1f} after 20,000, 40,000 and 60,000 steps, and {:.1f} after 140,000",
        lambda: [discounted(count, 0.99 * 199 / 200) for count in (18, 38, 58, 138)],
    ),
    ("down to about {:.0f} after 140,000 steps", lambda: [medians("no_flag").loc[140000]]),
    ("The others turn, at {:.0f} in the median", lambda: [medians("endless").min()]),
    ("follow it to the end, at {:.0f}]", lambda: [medians("no_flag_endless").iloc[-1]]),
    # docs/change-it.md
    (
        "of {} runs that did, with the article's constants, [{} fell below -150",
        lambda: [
            WORDS[above_solved("grid_article")],
            count(fell("grid_article", -110, -150)),
        ],
    ),
    # docs/exercises.md
    (
        "below -90 at step 20,000 in {} of ten",
        lambda: [count(q_values("no_lag").loc[20000] < -90)],
    ),
    ("{} end at -200", lambda: [count(curves("no_lag").iloc[-1] == -200)]),
    ("{} don't get to the flag in any evaluation", lambda: [never_there("no_lag")]),
    ("once jumps to +{:.0f} and once to +{:.0f}", lambda: above_zero("no_lag")),
    (
        "{} of ten get to the flag in some evaluation",
        lambda: [count(curves("short_sighted").max() > -200).capitalize()],
    ),
    (
        "and {} end at -200. $0.9^",
        lambda: [count(curves("short_sighted").iloc[-1] == -200)],
    ),
    ("avg_max_q_value goes to {:.1f}", lambda: [q_values("short_sighted")[3:].stack().median()]),
    (
        "{} of the ten get to the flag at 40,000 steps",
        lambda: [count(curves("tiny_buffer").loc[40000] > -200).capitalize()],
    ),
    (
        "in {} runs of ten, the network gets there in at least one",
        lambda: [count(curves("no_flag").max() > -200)],
    ),
    ("explode at the end, to +{:.0f}", lambda: [q_values("endless").iloc[-1].max()]),
    ("All {} solve it", lambda: [count(curves("cartpole").max() == 500)]),
    ("{} were at 500 before the end, and all of these fell", lambda: [fell_from_500("cartpole")]),
    (
        "{:.0f} at step 20,000, {:.0f} at 40,000",
        lambda: list(q_values("cartpole").mean(axis=1)[:2]),
    ),
    (
        "and {:.0f} to {:.0f} at the end",
        lambda: [q_values("cartpole").iloc[-1].min(), q_values("cartpole").iloc[-1].max()],
    ),
    (
        "the thirty runs end at {:.1f} on average, and {} of them at -200",
        lambda: [
            curves("grid_article").iloc[-1].mean(),
            count(curves("grid_article").iloc[-1] == -200),
        ],
    ),
    ("All {} runs were at 500 before the end, and", lambda: [fell_from_500("cartpole_wide")]),
    (
        "{} end at 500 instead of {}, and on average",
        lambda: [count(curves(name).iloc[-1] == 500) for name in ("cartpole_wide", "cartpole")],
    ),
    (
        "| get to 475, where it counts as solved | {} | {} |",
        lambda: [np.count_nonzero(curves(name).max() >= 475) for name in CARTPOLE],
    ),
    (
        "| of these, fall below 400 again | {} | {} |",
        lambda: [np.count_nonzero(fell(name, 474.99, 399.99)) for name in CARTPOLE],
    ),
    ("| end at -110 or better | {} | {} |", lambda: [solved(name) for name in THIRTY]),
    (
        "| are above -110 in some evaluation | {} | {} |",
        lambda: [above_solved(name) for name in THIRTY],
    ),
    (
        "| of these, fall below -150 again | {} | {} |",
        lambda: [np.count_nonzero(fell(name, -110, -150)) for name in THIRTY],
    ),
    (
        "They ended at {:.1f}, and {} of them below -110;",
        lambda: [curves("shown_best").iloc[-1].mean(), failing("shown_best")[0]],
    ),
    ("of the thirty in the table, {} did.", lambda: [failing("grid_best")[0]]),
    *(
        (f"| {measure} | {goal} | {{:.1f}} | {{:.1f}} |", functools.partial(optimal, number))
        for number, (measure, goal) in enumerate(
            [
                ("mean of the last evaluations", -99.5),
                ("worst of them", -106),
                ("worst evaluation in the last quarter", -110),
            ]
        )
    ),
    (
        "By 60,000 steps, {1} of the thirty have got there in an evaluation, instead of {0}, and "
        "{2} never do",
        lambda: [
            *(
                count(curves(name).loc[:60000].max() > -200)
                for name in ("grid_best", "endless_wide")
            ),
            never_there("endless_wide"),
        ],
    ),
    (
        "values are at {1:.0f} after 20,000 steps, on average, instead of {0:.0f}.",
        lambda: [
            q_values(f"target_update_every=1,clip_norm={norm}").loc[20000].mean()
            for norm in (1.0, 1000.0)
        ],
    ),
    (
        "128 neurons end at {:.1f} on average, 256 at {:.1f}. But {} and {} of the thirty seeds "
        "end below -110, one of them at {:.0f}.",
        lambda: [
            *(mean_ends(width, 1000)[0] for width in (128, 256)),
            *(count(parts(width, 1000)[0].iloc[-1] < -110) for width in (128, 256)),
            parts(256, 1000)[0].iloc[-1].min(),
        ],
    ),
    (
        "the second half rises from {:.1f} to {:.1f}. Every 100",
        lambda: [second_halves(128, copies)[0] for copies in (1000, 500)],
    ),
    (
        "the last evaluation falls from {:.1f} to {:.1f}. Values",
        lambda: [mean_ends(128, copies)[0] for copies in (1000, 100)],
    ),
    (
        "**Scaled observations** harm 128 neurons alone, too ({:.1f})",
        lambda: [mean_ends(128, 1000)[1]],
    ),
    (
        "the second half is {1:.1f} instead of {0:.1f}, and all thirty seeds end at -104 or",
        lambda: second_halves(128, 500)[2:],
    ),
    # experiments/README.md, what each change is worth
    *(
        (
            f"| {width} neurons, every {copies:,} | {{}} | {{}} | {{}} | {{}} |",
            functools.partial(function, width, copies),
        )
        for function in (ends_of_parts, errors_of_parts)
        for width, every in {32: (1000, 500), 128: (1000, 500, 250, 100), 256: (1000, 500)}.items()
        for copies in every
    ),
    # experiments/README.md, what holds
    (
        "| end at -110 or better | {} of 30 | {} of 30 | {} of 30 |",
        lambda: [solved(name) for name in (*THIRTY, "optimal_wide")],
    ),
    (
        "| worst | {:.1f} | {:.1f} | {:.1f} |",
        lambda: [worst(name) for name in (*THIRTY, "optimal_wide")],
    ),
    (
        "| how far values are off | {:.1f} | {:.1f} | {:.2f} |",
        lambda: last_networks("absolute error"),
    ),
    (
        "| what separates the best action from the worst | {:.1f} | {:.1f} | {:.1f} |",
        lambda: last_networks("right spread"),
    ),
    (
        "| what the greedy action loses at each step | {:.3f} | {:.3f} | {:.3f} |",
        lambda: last_networks("lost"),
    ),
    (
        "128 neurons end at -103.8 [-107.1, -101.1], and {} of 30 at -110 or better; 256 neurons, "
        "at -100.9 [-102.1, -100.0], and {}.",
        lambda: [solved(f"hidden_units={width}") for width in (128, 256)],
    ),
    (
        "one of them ends at {:.1f}, and one evaluation in the last quarter is below -110, at "
        "{:.1f}.",
        lambda: [
            parts(256, 500)[3].iloc[-1].min(),
            parts(256, 500)[3].loc[150000:].to_numpy().min(),
        ],
    ),
    # experiments/results/README.md, the screen's runs gone on with, and the second plan
    (
        "it is {}, {}, {} and {} at the next four evaluations.",
        lambda: list((curves("longer").loc[220000:] < -110).sum(axis=1)),
    ),
    (
        "average -103 or better | {1:.1f} | no | {0:.1f} |",
        lambda: [curves(name).iloc[-1].mean() for name in SHOWN],
    ),
    (
        "were, and fell by {:.0f}, {:.0f} and {:.0f} from their best",
        lambda: falls("shown_best"),
    ),
    (
        "{1} of the {3} fell below -110 itself again, and {0} of the {2}",
        lambda: [
            *(np.count_nonzero(fell(name, -110, -110.001)) for name in SHOWN),
            *(above_solved(name) for name in SHOWN),
        ],
    ),
    (
        "{} of 30; the others {:.1f}, {:.1f}, {:.1f} and {:.1f} | no | {} of 30",
        lambda: [
            solved("shown_best"),
            *curves("shown_best").iloc[-1].sort_values()[3::-1],
            solved("shown_article"),
        ],
    ),
    # experiments/README.md, other mountains
    *(
        (f"| {mountain}{4 * ' | {:.1f}'} |", functools.partial(elsewhere, *factors))
        for mountain, factors in {
            "as in training": (1.0, 1.0),
            "10% more gravity": (1.1, 1.0),
            "20% more gravity": (1.2, 1.0),
            "10% less force": (1.0, 0.9),
            "20% less force": (1.0, 0.8),
            "half the gravity": (0.5, 1.0),
            "10% less gravity": (0.9, 1.0),
            "10% more force": (1.0, 1.1),
            "40% more gravity, 30% more force": (1.4, 1.3),
            "half the gravity, 20% more force": (0.5, 1.2),
            "50% more force": (1.0, 1.5),
        }.items()
    ),
    # How many runs do I need?
    (
        "a standard deviation of {:.0f}, the last evaluation with one of {:.0f}",
        lambda: deviations(),
    ),
    ("| 1 | {:.0f} | {:.0f} |", lambda: smallest_differences(1)),
    ("| 3 | {:.0f} | {:.0f} |", lambda: smallest_differences(3)),
    ("| 10 | {:.0f} | {:.0f} |", lambda: smallest_differences(10)),
    ("| 30 | {:.0f} | {:.0f} |", lambda: smallest_differences(30)),
]


@pytest.mark.parametrize("phrase, values", PHRASES, ids=[phrase for phrase, _ in PHRASES])
def test_the_numbers_of_the_pages_are_those_of_the_data(phrase, values):
    pages = [*PAGES, DOCS / "change-it.md", DATA]
    text = " ".join(word for page in pages for word in page.read_text().split())
    assert " ".join(phrase.format(*values()).split()) in text
