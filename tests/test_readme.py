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
from test_statistics import POPULATIONS

import run
from experiments import mountains, sweep
from experiments.common.choice import choose_engine
from experiments.common.plots import OPTIMUM
from experiments.common.statistics import (
    interquartile_mean,
    measure_runs,
    runs_to_detect,
    share_interval,
    typical_interval,
)
from experiments.optimum import discounted
from support.snapshots import read_snapshot

DOCS = ROOT / "docs"
LESSON = DOCS / "lesson.md"
PAGES = [  # but docs/change-it.md, whose commands need its changes: test_change_it.py
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("lesson", "curves", "exercises", "using", "after-dqn")),
    ROOT / "experiments" / "README.md",
]
DATA = ROOT / "experiments" / "results" / "README.md"
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
COMMAND = r"(?:python3?|tensorboard|pip|ray|source|export|\.venv/bin/\w+) [^`]+"
# What is printed with an interval: a figure, and a share.
FIGURE = r"-?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]"
INTERVAL = re.compile(rf"{FIGURE}|\d+ of \d+ \[\d+%, \d+%\]")
P_PRINTED = re.compile(r"(?:\d\.\d\d|-) +(\d\.\d{3})\b")  # after P(better)
P_ON_PAGE = re.compile(rf"\bp = (\d\.\d{{3}})|{FIGURE} \| (\d\.\d{{3}}) \|")
EXCERPTS = [code for language, code in BLOCKS.findall(LESSON.read_text()) if language == "python"]
INSTALL = r"(python3 -m venv .venv && )?(.venv/bin/)?pip install -r (?P<file>\S+)( && )?"
SHORT = (
    "--max-steps 400 --train-start 100 --q-validation-size 100 --eval-every 200 --eval-steps 250"
)
INSTEAD = [  # of commands that take long, don't end, or need other computers: pattern, what to run
    (r"(python3? -m venv \S+|(source|export|ray) .*)", "true"),  # test_sweep.py has such a cluster
    (r".*python run.py --name first", "true"),  # which `run_command` has done
    (INSTALL, "true"),
    (r".*pytest.*", r"\g<0> -n 0 --collect-only tests/test_layout.py"),
    (r"python -m experiments\.\w+", r"\g<0> --help"),
    (
        r"(.*)one-sweep other-sweep",
        r"\1experiments/results/grid_article.csv experiments/results/grid_best.csv",
    ),
    (r"(.*)theirs\.h5 (.*)", r"\1example-log/example-best.h5 \2 --eval-steps 500"),
    (r".*experiments\.sweep --resume.*", "true"),  # test_sweep.py does
    (r".*run\.py.* --model.*", r"\g<0> --eval-steps 500"),
    (r".*run\.py.* --(test|help)", r"\g<0>"),
    (r".*run\.py --name first", rf"\g<0> {SHORT}"),
    (r".*run\.py --resume first-log", r"\g<0> --max-steps 420"),
    (r".*run\.py --resume first-log --max-steps.*", r"\g<0> --max-steps 440"),
    (r"python -m experiments\.sweep (.*)", r"python -m sweep_options \1"),
    (r".*run\.py.* --eager.*", rf"\g<0> {SHORT} --eval-steps 10 --max-steps 110"),
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
DIFFERENT = {re.sub(r" --name \S+", "", command): command for command in COMMANDS}.values()


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
                keras.backend.clear_session(free_memory=False)
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
@pytest.mark.parametrize("command", [name for name in DIFFERENT if "tensorboard" not in name])
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
def test_every_interval_and_p_on_the_pages_is_printed_by_a_command_there(run_command):
    commands = [*COMMANDS, *find_commands(DATA)]
    pattern = re.compile(r".*experiments\.(report|mountains) experiments/results.*")
    outputs = [run_command(name) for name in commands if pattern.match(name)]
    programs = [code for language, code in BLOCKS.findall(DATA.read_text()) if language == "python"]
    assert len(programs) == 2
    for code in programs:
        output = io.StringIO()
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(output):
            exec(code, {})
        outputs.append(output.getvalue())
    printed = "\n".join(outputs)
    intervals, p_values = {*INTERVAL.findall(printed)}, {*P_PRINTED.findall(printed)}
    for page in [*PAGES, DATA]:
        text = " ".join(page.read_text().split())
        assert {*INTERVAL.findall(text)} <= intervals
        assert {p for found in P_ON_PAGE.findall(text) for p in found if p} <= p_values
    assert len(intervals) > 30 and len(p_values) > 10


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
        text = BLOCKS.sub("", page.read_text())
        links = re.findall(r"(!?)\[([^][]*)\]\(([^)#:]+)[)#]", text)
        assert links
        for picture, words, link in links:
            assert (page.parent / link).exists(), link
            assert words and (not picture or len(words) > 20)
            shown |= {(page.parent / link).resolve()} if picture else set()
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            target = (page.parent / link) if link else page
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
            assert anchor in [*anchors, *re.findall(r'<a id="([^"]+)"', target.read_text())]
    pictures = {*(ROOT / "images").iterdir()}
    assert pictures == shown
    assert sum(picture.stat().st_size for picture in pictures) < 3_000_000


@pytest.mark.slow
def test_what_ships_of_two_runs_is_small_and_can_be_watched(command):
    bests = [ROOT / f"{name}-log" / f"{name}-best.h5" for name in ("example", "example-changed")]
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
    recorded = read_snapshot("gamma-half-log/gamma-half-400.h5").settings
    assert recorded["discount_factor_gamma"] == 0.5
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


def above_solved(setting):
    """How many runs have an evaluation above -110."""
    return np.count_nonzero(curves(setting).max() > -110)


def pooled(width):
    """The returns of all runs with so many neurons: DataFrame of steps x runs."""
    frames = []
    for file, setting in {**POPULATIONS[f"{width} neurons"], **MORE_RUNS[width]}.items():
        results = pd.read_csv(ROOT / "experiments" / "results" / f"{file}.csv")
        results = results[results["setting"] == setting]
        frames.append(results.pivot(index="step", columns="seed", values="return"))
    return pd.concat(frames, axis=1)


def pooled_counts(width):
    """Of these: how many; how many end at -110 or better, are above it, and fall below -150."""
    returns = pooled(width)
    fell_again = ((returns.cummax().shift() > -110) & (returns <= -150)).any()
    counts = [returns.iloc[-1] >= -110, returns.max() > -110, fell_again]
    return [returns.shape[1], *(int(np.count_nonzero(condition)) for condition in counts)]


def typical_tens():
    """The runs with the constants of run.py, by ten: (highest and lowest IQM, most at -110)."""
    ends = pooled("32").iloc[-1].to_numpy().reshape(-1, 10)
    typical = [interquartile_mean(ten) for ten in ends]
    return max(typical), min(typical), WORDS[max(np.count_nonzero(ten >= -110) for ten in ends)]


def falls(setting):
    """By how much the runs that end below -110, and were above it, fell: in ascending order."""
    ends, best = curves(setting).iloc[-1], curves(setting).max()
    return sorted((best - ends)[(ends < -110) & (best > -110)])


def ends_near(steps, returns):
    """How many of some runs, a DataFrame, end within so many steps of the optimum."""
    return np.count_nonzero(returns.iloc[-1] > OPTIMUM["MountainCar-v0"] - steps)


def thousand(number):
    """A measure of the goals for a thousand seeds: from all starts, and of the second half."""
    values = pd.read_csv(ROOT / "experiments" / "results" / "values_thousand_c.csv")["return"]
    near = np.count_nonzero(values >= OPTIMUM["MountainCar-v0"] - 2)
    halves = curves("c").loc[100000:].mean()
    return [values.min(), near, *map(interquartile_mean, (values, halves))][number : number + 1]


def last_networks(figure):
    """Medians of a figure of `experiments.optimum` over the last snapshots of three settings."""
    values = pd.read_csv(ROOT / "experiments" / "results" / "values.csv")
    thousand = pd.read_csv(ROOT / "experiments" / "results" / "values_thousand_c.csv")
    grids = values["snapshot"].str.partition("-grid")[0]
    return [*values.groupby(grids)[figure].median()[[*THIRTY]], thousand[figure].median()]


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
    """Of the four: the IQM of the last evaluations, the worst, how many are solved, in a cell."""
    cells = []
    for frame in parts(width, copies):
        if frame.empty:
            cells.append("")
            continue
        ends = frame.iloc[-1].to_numpy()
        count_solved = np.count_nonzero(ends >= -110)
        cells.append(f"{interquartile_mean(ends):.1f}; {ends.min():.1f}; {count_solved}")
    return cells


def second_halves(width, copies):
    """Of the four: the IQM of the second half, in a cell."""
    halves = [frame.loc[100000:].mean().to_numpy() for frame in parts(width, copies)]
    return [f"{interquartile_mean(half):.1f}" if half.size else "" for half in halves]


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


@functools.cache
def improved(changes, value="return"):
    """A value of the runs with improvements of DQN: DataFrame of steps x seeds."""
    exact = ("after_article_exact", "after_prioritized")
    files = ("after_article", "after_alone", "after_pairs", *exact)
    folder = ROOT / "experiments" / "results"
    results = pd.concat(pd.read_csv(folder / f"{file}.csv") for file in files)
    either = (changes, ", ".join(reversed(changes.split(", "))))
    results = results[results["setting"].isin(either)]
    return results.pivot(index="step", columns="seed", values=value)


def improvement(change):
    """Its row: first step at which half have been at -110, share at the end, typical end."""
    returns = improved(change)
    are_half = (returns >= -110).cummax().mean(axis=1) >= 0.5
    first = f"{are_half.idxmax():,}" if are_half.any() else "later"
    ends = returns.iloc[-1].to_numpy()
    solved = np.count_nonzero(ends >= -110)
    share = share_interval(solved, len(ends))
    return [first, solved, *share, interquartile_mean(ends), *typical_interval(ends)]


def typical_end(changes):
    """The IQM of the last evaluations, and how many are at -110 or better, in a cell."""
    ends = improved(changes).iloc[-1].to_numpy()
    return f"{interquartile_mean(ends):.1f}; {np.count_nonzero(ends >= -110)}"


def pairs_with(change):
    """The row of a change in the table of pairs, without those that need no runs."""
    others = PAIRED[PAIRED.index(change) + 1 :]
    pairs = (f"{change}, {other}" for other in others)
    cells = [typical_end(pair) for pair in pairs if improved(pair).size]
    return [f"**{typical_end(change)}**", *cells]


def steps_of_targets():
    """Typical ends with normalization for each number of steps."""
    more = [typical_end(f"{n} steps, normalization") for n in (2, 3, 5, 10, 20)]
    return [typical_end("normalization"), *more]


def errors_over_time(changes):
    """How far values are off after more and more steps: medians."""
    values = pd.read_csv(ROOT / "experiments" / "results" / "values_after.csv")
    runs = values[values["setting"] == changes]
    return list(runs.groupby("step")["absolute error"].median())


def never_there(setting):
    """In how many runs no evaluation gets to the flag, in words."""
    return count(curves(setting).max() == -200)


def fell(setting, from_, to):
    """Which runs have an evaluation at most `to` after one above `from_`."""
    returns = curves(setting)
    return ((returns.cummax().shift() > from_) & (returns <= to)).any()


def medians(setting):
    """avg_max_q_value in the median over the seeds: Series over steps."""
    return q_values(setting).median(axis=1)


@functools.cache
def rolling():
    """What a car that is pushed the way it rolls returns on all mountains."""
    results = mountains.read(ROOT / "experiments" / "results" / "mountains.csv")
    return mountains.reference(gym.make("MountainCar-v0"), results)


def worth(*steps):
    """What numbers of steps are worth, discounted by 0.99."""
    return [discounted(count, 0.99) for count in steps]


def seeds_needed(difference):
    """How many seeds of each setting find a difference: in the last evaluation, second half."""
    results = pd.read_csv(ROOT / "experiments" / "results" / "grid_article.csv")
    measures = ("last evaluation", "second half")
    samples = [measure_runs(results, measure)["grid_article"] for measure in measures]
    return [runs_to_detect(sample, difference, 1) for sample in samples]


MORE_RUNS = {  # than test_statistics.py has: files, and configurations there
    "32": {"after_article": "article", "after_article_exact": "article, exact"},
    "128": {f"engine_{engine}": f"engine_{engine}" for engine in ("compiled", "exact")},
}
WORDS = (
    "none one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty twenty-one twenty-two twenty-three "
    "twenty-four twenty-five twenty-six twenty-seven twenty-eight twenty-nine thirty"
).split()
THIRTY = ("grid_article", "grid_best")
IMPROVEMENTS = {  # rows of the table: setting in the data
    "the article": "article",
    **{f"N_STEPS {n}": f"{n} steps" for n in (2, 3, 5, 10, 20)},
    "layer normalization": "normalization",
    "a learning rate that falls": "falling rate",
    "TARGET_UPDATE_EVERY 500": "copies every 500",
    "double Q-learning": "double",
    "dueling networks": "dueling",
    "distributional Q-learning": "distributional",
    "noisy networks": "noisy",
    "soft copies": "soft copies",
    "no target network": "no target network",
    "the article, exact": "article, exact",
    "prioritized replay": "prioritized",
}
PAIRED = [
    *("3 steps", "normalization", "falling rate", "copies every 500", "double"),
    "no target network",
]
SHOWN = ("shown_article", "shown_best")
CARTPOLE = ("cartpole_plain", "cartpole_shown")
FILES = {  # of settings, in experiments/results
    "grid_article": "grid_article",
    **dict.fromkeys(("article", "no_lag", "short_sighted", "tiny_buffer", "no_flag"), "exercises"),
    **{name: name for name in ("endless", "endless_wide", "no_flag_endless", "longer")},
    **{name: name for name in ("cartpole", "cartpole_changes", *CARTPOLE)},
    **{name: name for name in (*SHOWN, "grid_best", "c_exact")},
    **{name: name for name in ("engine_exact", "engine_compiled")},
    "c": "thousand_c",
    "the four changes": "after_cartpole",
    **{f"hidden_units={width}": "parts_half" for width in (128, 256)},
    **{f"target_update_every=1,clip_norm={norm}": "clip" for norm in (1.0, 1000.0)},
}
PHRASES = [  # of the pages, and functions that give the numbers in them
    # README.md
    (
        "end anywhere between {:.0f} and {:.0f} (blue in the picture)",
        lambda: [pooled("32").iloc[-1].max().round(-1), pooled("32").iloc[-1].min()],
    ),
    ("Of {} runs, {} end at -110 or better, which", lambda: pooled_counts("32")[:2]),
    (
        "of {} runs with 128 neurons (`--hidden-units 128`), {} end there",
        lambda: pooled_counts("128")[:2],
    ),
    # docs/lesson.md
    ("| -1 | {:.1f} | {:.1f} | {:.1f} | {:.1f} | -100 |", lambda: worth(10, 50, 100, 200)),
    ("about 100 steps, which are worth {:.0f}.", lambda: worth(100)),
    # docs/curves.md
    ("after 18 copies, it is at {:.1f}, the value of 18 steps.", lambda: worth(18)),
    ("down to about {:.0f} after 140,000 steps", lambda: [medians("grid_article").loc[140000]]),
    ("(dotted), goes down to {:.0f}.", lambda: [medians("no_flag").min()]),
    (
        "follow the dashed line to the end, at {:.0f}.",
        lambda: [medians("no_flag_endless").iloc[-1]],
    ),
    ("The others turn, at {:.0f} in the median", lambda: [medians("endless").min()]),
    # docs/after-dqn.md
    *(
        (
            f"| {row} | {{}} | {{}} of 30 [{{:.0%}}, {{:.0%}}] | {{:.1f}} [{{:.1f}}, {{:.1f}}] |",
            functools.partial(improvement, change),
        )
        for row, change in IMPROVEMENTS.items()
    ),
    *(
        (
            f"| {change} |{' |' * number} {' | '.join(['{}'] * filled)} |",
            functools.partial(pairs_with, change),
        )
        for number, (change, filled) in enumerate(zip(PAIRED, (6, 5, 4, 2, 1, 1), strict=True))
    ),
    (f"| with normalization |{' {} |' * 6}", steps_of_targets),
    *(
        (f"| {row} |{' {:.1f} |' * 7}", functools.partial(errors_over_time, change))
        for row, change in {
            "the article": "article",
            **{name: name for name in ("3 steps", "normalization", "3 steps, normalization")},
        }.items()
    ),
    (
        f"| what 18 n steps are worth |{' {:.1f} |' * 6}",
        lambda: worth(*(18 * n for n in (1, 2, 3, 5, 10, 20))),
    ),
    (
        f"| avg_max_q_value, median |{' {:.1f} |' * 6}",
        lambda: [
            improved(change, "avg_max_q_value").loc[20000].median()
            for change in ("article", *(f"{n} steps" for n in (2, 3, 5, 10, 20)))
        ],
    ),
    (
        "at the end, avg_max_q_value is {:.1f} in the median, instead of {:.1f}.",
        lambda: [
            improved(change, "avg_max_q_value").loc[200000].median()
            for change in ("prioritized", "article, exact")
        ],
    ),
    (
        "ten have been at the flag in an evaluation by step 60,000, and {} never are; with N_STEPS "
        "3, {} have, and all by step 100,000.",
        lambda: [
            count(improved("20 steps").max() == -200),
            count(improved("3 steps").loc[:60000].max() > -200),
        ],
    ),
    (
        "{} of thirty runs with the article's constants have been at the flag in an evaluation, "
        "and {} with normalization",
        lambda: [
            count(improved(change).loc[:40000].max() > -200)
            for change in ("article", "normalization")
        ],
    ),
    # docs/exercises.md
    (
        "is below -90 in {} of thirty runs, instead of at {:.0f}, since nothing waits for copies; "
        "and after 40,000 steps {} cars get to the flag, instead of {}.",
        lambda: [
            count(q_values("no_lag").loc[20000] < -90),
            medians("article").loc[20000],
            *(count(curves(name).loc[40000] > -200) for name in ("no_lag", "article")),
        ],
    ),
    (
        "and {} end at -200 instead of {}.",
        lambda: [count(curves(name).iloc[-1] == -200) for name in ("no_lag", "article")],
    ),
    (
        "{} of thirty get to the flag in some evaluation",
        lambda: [count(curves("short_sighted").max() > -200).capitalize()],
    ),
    (
        "and {} end at -200. $0.9^",
        lambda: [count(curves("short_sighted").iloc[-1] == -200)],
    ),
    ("avg_max_q_value goes to {:.1f}", lambda: [q_values("short_sighted")[3:].stack().median()]),
    (
        "{} of the thirty get to the flag at 40,000 steps already, where {} do",
        lambda: [
            count(curves("tiny_buffer").loc[40000] > -200).capitalize(),
            count(curves("article").loc[40000] > -200),
        ],
    ),
    (
        "in {} runs of thirty, the network gets there in at least one",
        lambda: [count(curves("no_flag").max() > -200)],
    ),
    (
        "{} with 32 neurons and {} with 128 never get to the flag",
        lambda: [never_there("endless"), never_there("endless_wide")],
    ),
    ("All {} solve it", lambda: [count(curves("cartpole").max() == 500)]),
    ("{} fall below 500 again", lambda: [count(fell("cartpole", 499.99, 499.99))]),
    (
        "{} end at 475 or better, where it counts",
        lambda: [count(curves("cartpole").iloc[-1] >= 475)],
    ),
    (
        "counts +1, to between {:.0f} and {:.0f}.",
        lambda: [q_values("cartpole").iloc[-1].min(), q_values("cartpole").iloc[-1].max()],
    ),
    (
        "{} of the thirty fall below 500 at some time after they were there",
        lambda: [count(fell("the four changes", 499.99, 499.99))],
    ),
    (
        "a typical run ends anywhere between {:.1f} and {:.1f}, and from none to {} of the ten get",
        typical_tens,
    ),
    *(
        (f"| {difference} | {{}} | {{}} |", functools.partial(seeds_needed, difference))
        for difference in (40, 20, 10, 5)
    ),
    *(
        (
            phrase,
            lambda number=number: [pooled_counts(width)[number] for width in ("32", "128")],
        )
        for number, phrase in enumerate(
            [
                "| of all runs that we have trained | 32 neurons, {} runs | 128 neurons, {} runs |",
                "| end at -110 or better | {} | {} |",
                "| are above -110 in some evaluation | {} | {} |",
                "| of these, fall below -150 again | {} | {} |",
            ]
        )
    ),
    *(
        (f"| {measure} | {goal} | {{:{form}}} |", functools.partial(thousand, number))
        for number, (measure, goal, form) in enumerate(
            [
                ("the worst", -103, ".1f"),
                ("within two steps of the optimum", 990, "d"),
                ("a typical one", -98.7, ".1f"),
                ("second half of a typical run", -100.5, ".1f"),
            ]
        )
    ),
    (
        "values are at {1:.0f} after 20,000 steps, on average, instead of {0:.0f} (`clip.csv`).",
        lambda: [
            q_values(f"target_update_every=1,clip_norm={norm}").loc[20000].mean()
            for norm in (1.0, 1000.0)
        ],
    ),
    # experiments/README.md, is it better
    (
        "(They seem to be of the same kind: [of {} of each]"
        "(results/README.md#are-the-two-engines-the-same-a-plan-written-before-its-runs), "
        "{} end below -110.)",
        lambda: [curves("engine_exact").shape[1], 200 - solved("engine_exact")],
    ),
    (
        "Of the {} exact ones, {} end below -110, and {} of the {} compiled ones",
        lambda: [
            curves("engine_exact").shape[1],
            *(200 - solved(f"engine_{engine}") for engine in ("exact", "compiled")),
            curves("engine_compiled").shape[1],
        ],
    ),
    # experiments/README.md, what each change is worth
    *(
        (
            f"| {width} neurons, every {copies:,} | {{}} | {{}} | {{}} | {{}} |",
            functools.partial(function, width, copies),
        )
        for function in (ends_of_parts, second_halves, errors_of_parts)
        for width, every in {32: (1000, 500), 128: (1000, 500, 250, 100), 256: (1000, 500)}.items()
        for copies in every
    ),
    # experiments/README.md, what holds
    (
        "| worst | {:.1f} | {:.1f} | {:.1f} |",
        lambda: [worst(name) for name in (*THIRTY, "c_exact")],
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
        "and {} of 30 at -110 or better; 256 neurons, at -100.0 [-100.9, -99.1], and {}.",
        lambda: [solved(f"hidden_units={width}") for width in (128, 256)],
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
        (f"{last} | {{:.1f}} |", lambda factors=factors: [rolling().loc[factors]])
        for last, factors in {  # interval in the row: factors of force and gravity
            "-96.9 [-97.0, -96.8]": (1.0, 1.0),
            "-90.6 [-90.8, -90.3]": (1.1, 1.0),
            "-120.4 [-122.0, -118.8]": (1.0, 1.1),
            "-134.0 [-136.3, -131.7]": (0.9, 1.0),
            "-163.4 [-166.9, -159.9]": (0.8, 1.0),
            "-101.8 [-102.4, -101.2]": (1.0, 0.5),
        }.items()
    ),
]


@pytest.mark.parametrize("phrase, values", PHRASES, ids=[phrase for phrase, _ in PHRASES])
def test_the_numbers_of_the_pages_are_those_of_the_data(phrase, values):
    pages = [*PAGES, DOCS / "change-it.md", DATA]
    text = " ".join(word for page in pages for word in page.read_text().split())
    assert " ".join(phrase.format(*values()).split()) in text
