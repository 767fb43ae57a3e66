"""A constant is its option, and nothing else."""

import importlib
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import run
from support.command_line import RANGES, check_value
from support.errors import WrongInput
from support.options import load_lesson

LOADED = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as error:
    names = ("support.options", "tensorflow", "keras")
    print(error.code, *[name for name in names if name in sys.modules])
"""


def write_lesson(folder, above, below="", name="lesson.py"):
    """Writes a small lesson with statements above and below the line that reads the options."""
    line = "options = read_options(globals())"
    source = f"from support.options import read_options\n\n{above}\n\n{line}\n\n{below}\n"
    (folder / name).write_text(source)
    return folder / name


def change_run(folder, old, new):
    """Writes a copy of run.py in which a text is replaced; returns its path."""
    source = (ROOT / "run.py").read_text()
    assert source.count(old) == 1
    (folder / "lesson.py").write_text(source.replace(old, new))
    return folder / "lesson.py"


def show_help(command, script):
    """What --help prints, with a space for all white space between words."""
    status, output, errors = command("--help", script=script)
    assert (status, errors) == (0, "")
    return " ".join(output.split())


def refusal(command, script, *arguments):
    """The line with which a lesson refuses a command line."""
    status, output, errors = command(*arguments, script=script)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    return errors


def test_constants_are_the_defaults_and_help_lists_them(command):
    settings = run.options.constants
    assert len(settings) == 19
    text = show_help(command, ROOT / "run.py")
    for setting in settings:
        assert getattr(run, setting.constant) == setting.default
        assert run.options.settings[setting.name] == setting.default
        assert len(setting.meaning) > 10
        assert f"{setting.option} " in text
        assert f"{setting.meaning} (default: {setting.default})" in text


def test_an_option_sets_the_constant_itself():
    lesson = load_lesson(ROOT / "run.py", ["--batch-size", "8", "--eval-epsilon", "0.5"])
    assert (lesson.BATCH_SIZE, lesson.EVAL_EPSILON, lesson.MAX_STEPS) == (8, 0.5, 200000)
    assert lesson.options.settings["batch_size"] == 8
    assert not hasattr(lesson.options, "batch_size")


BELOW = """
UPDATES = MAX_STEPS - TRAIN_START


def twice(number=2 * MAX_STEPS):
    return number


def read():
    return MAX_STEPS


class Schedule:
    last_step = MAX_STEPS


READ = read()
ALL = UPDATES, twice(), READ, Schedule.last_step
if __name__ == "__main__":
    print(*ALL)
"""


def test_what_stands_below_the_line_follows_the_option(command, tmp_path):
    above = "TRAIN_START = 100\nMAX_STEPS = 900"
    script = write_lesson(tmp_path, above, BELOW)
    options = ["--max-steps", "500"]
    assert command(*options, script=script) == (0, "400 1000 500 500\n", "")
    assert command(script=script) == (0, "800 1800 900 900\n", "")
    assert load_lesson(script, options).ALL == (400, 1000, 500, 500)
    assert load_lesson(script).ALL == (800, 1800, 900, 900)


def test_what_run_py_computes_below_the_line_follows_the_option(tmp_path):
    updates = "UPDATES = MAX_STEPS - TRAIN_START\n\n\ndef one_hot_encode("
    script = change_run(tmp_path, "def one_hot_encode(", updates)
    lesson = load_lesson(script, ["--max-steps", "5000"])
    assert lesson.UPDATES == 3000
    assert "updates" not in lesson.options.settings


def test_what_is_computed_above_the_line_is_an_option_of_its_own(tmp_path):
    script = write_lesson(tmp_path, "SIZE = 64\nTWICE = 2 * SIZE")
    for words, values in (["--size", "8"], (8, 128)), (["--twice", "8"], (64, 8)):
        lesson = load_lesson(script, words)
        assert (lesson.SIZE, lesson.TWICE) == values


def test_a_constant_below_the_line_is_no_option(command, tmp_path):
    script = write_lesson(tmp_path, "MAX_STEPS = 900", "UPDATES = MAX_STEPS - 100  # of weights")
    assert "unrecognized arguments: --updates 3" in refusal(command, script, "--updates", "3")
    assert "--updates" not in show_help(command, script)
    assert "updates" not in load_lesson(script).options.settings


def test_imported_constants_keep_their_values_whatever_the_command_line_says(tmp_path, monkeypatch):
    write_lesson(tmp_path, "MAX_STEPS = 900", "UPDATES = MAX_STEPS - 100", name="imported.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["other.py", "--max-steps", "500", "--nonsense"])
    imported = importlib.import_module("imported")
    assert (imported.MAX_STEPS, imported.UPDATES) == (900, 800)
    assert imported.options.settings["max_steps"] == 900
    assert imported.options.name is None
    assert not imported.options.play


def test_a_lesson_that_was_loaded_is_the_one_that_other_files_import(tmp_path):
    lesson = load_lesson(write_lesson(tmp_path, "MAX_STEPS = 900"), ["--max-steps", "500"])
    assert importlib.import_module("lesson") is lesson
    lesson = load_lesson(write_lesson(tmp_path, "MAX_STEPS = 900"))
    assert importlib.import_module("lesson") is lesson
    assert lesson.MAX_STEPS == 900


def test_other_files_find_the_constants_that_options_have_set(tmp_path):
    script = write_lesson(tmp_path, "MAX_STEPS = 900", "import other")
    (tmp_path / "other.py").write_text("import lesson\n\nprint(lesson.MAX_STEPS)\n")
    ended = subprocess.run(
        [sys.executable, script, "--max-steps", "500"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "500\n", "")


@pytest.mark.parametrize(
    "line, argv, value",
    [
        ("DECAY = 0.5  # what is left, in %", ["--decay", "-0.25"], -0.25),
        ("LAYERS=2  #", ["--layers", "3"], 3),
        ("SHIFT = 0", ["--shift=-1"], -1),
        ("SHIFT = -1", [], -1),
        ("LOSS = 'huber'", ["--loss", "mean_squared_error"], "mean_squared_error"),
        ("DOUBLE = True", ["--no-double"], False),
        ("NO_LAG = False", ["--no-lag"], True),
        ("NO_LAG = True", ["--no-no-lag"], False),
        ("DOUBLE = False", ["--double"], True),
        ("DOUBLE: bool = False  # or not", ["--double"], True),
        ("DECAY: float = 1  # slower", ["--decay", "0.5"], 0.5),
        ("DECAY: float = 1", [], 1.0),
        ("DECAY: float = 0.1  # slower", [], 0.1),
        ("FIRST = SECOND = 1", ["--second", "2"], 2),
        ("FIRST, SECOND = 1, 2", ["--second", "3"], 3),
        ("STEP_SIZE = 0.1", ["--step-size", "0.2"], 0.2),
        ("LONG = (\n    1_000\n)  # lines", ["--long", "7"], 7),
        ("LONG = (\n    1_000  # a thousand\n)  # lines", [], 1000),
        ('TEXT = "a # b"  # words', ["--text", "c"], "c"),
        ('TEXT = """a\n# b"""  # words', [], "a\n# b"),
        ("SIZE = 2 * 32  # computed", ["--size", "8"], 8),
        ("SIZE = 2 * 32", [], 64),
        ("SIZE = len('abc')", ["--size", "4"], 4),
        ("SIZE = 64\nSIZE *= 2  # twice", ["--size", "8"], 8),
        ("SIZE = 64  # neurons\nif True:\n    SIZE = 5  # fewer", [], 5),
    ],
)
def test_a_constant_that_a_reader_adds_is_an_option(line, argv, value, tmp_path):
    script = write_lesson(tmp_path, line)
    name = "second" if "SECOND" in line else line.partition("=")[0].partition(":")[0].strip()
    lesson = load_lesson(script, argv)
    found = getattr(lesson, name.upper())
    assert found == value and type(found) is type(value)
    assert lesson.options.settings[name.lower()] == value


@pytest.mark.parametrize(
    "line, meaning",
    [
        ("DECAY = 0.5  # what is left, in %", "--decay X what is left, in % (default: 0.5)"),
        ("LAYERS=2  #", "--layers N (default: 2)"),
        ("LAYERS = 2", "--layers N (default: 2)"),
        ("DOUBLE: bool = False  # or not", "--double, --no-double or not (default: False)"),
        ("DECAY: float = 1  # slower", "--decay X slower (default: 1.0)"),
        ("FIRST = SECOND = 1  # both", "--first N both (default: 1)"),
        ("LONG = (\n    1_000\n)  # lines", "--long N lines (default: 1000)"),
        ("LONG = (\n    1_000  # a thousand\n)", "--long N a thousand (default: 1000)"),
        ('TEXT = "a # b"  # words', "--text TEXT words (default: a # b)"),
        ('TEXT = "a # b"', "--text TEXT (default: a # b)"),
        ('TEXT = """a\n# b"""  # words', "--text TEXT words (default: a # b)"),
        ("SIZE = 2 * 32  # computed", "--size N computed (default: 64)"),
        ("SIZE = 64  # neurons\nif True:\n    SIZE = 5  # few", "--size N neurons (default: 5)"),
        ("SIZE = 64\n# a line of its own", "--size N (default: 64)"),
    ],
)
def test_the_comment_behind_a_constant_is_its_help(line, meaning, command, tmp_path):
    text = show_help(command, write_lesson(tmp_path, line))
    assert meaning in text


@pytest.mark.parametrize("value", ["(32, 32)", "None", "[]", "{'a': 1}", "1j", "b'bytes'"])
def test_what_is_no_number_string_or_bool_works_but_is_no_option(value, command, tmp_path):
    script = write_lesson(tmp_path, f"LAYERS = {value}  # neurons")
    assert eval(value) == load_lesson(script).LAYERS
    assert load_lesson(script).options.settings.keys() == {"env", "seed", "model"}
    assert "unrecognized arguments: --layers 3" in refusal(command, script, "--layers", "3")
    assert "--layers" not in show_help(command, script)


@pytest.mark.parametrize("line", ["_HIDDEN = 1", "Hidden = 1", "hidden = 1"])
def test_other_names_are_no_options(line, command, tmp_path):
    script = write_lesson(tmp_path, line)
    assert "unrecognized arguments: --hidden 3" in refusal(command, script, "--hidden", "3")


@pytest.mark.parametrize("line, word", [("TAU = 1", "0.5"), ("TAU = 1", "1e3")])
def test_an_integer_that_might_be_a_fraction_says_how(line, word, command, tmp_path):
    told = f"must be an integer, not '{word}'; where a fraction makes sense, write the constant as"
    assert told in refusal(command, write_lesson(tmp_path, line), "--tau", word)


def test_a_bool_with_a_value_says_what_to_write(command, tmp_path):
    told = "instead of True and False, write --NAME and --no-NAME"
    script = write_lesson(tmp_path, "DOUBLE = True")
    assert told in refusal(command, script, "--double", "True")


def test_a_string_that_is_not_text_is_refused(command, tmp_path):
    script = write_lesson(tmp_path, "LOSS = 'huber'")
    assert "must be text" in refusal(command, script, "--loss", "a\udcff")


@pytest.mark.parametrize("line", ["X = 0xFFFFFFFFFFFFFFFFF", "X = 1e999", "X = float('nan')"])
def test_any_number_can_be_recorded_and_compared(line, tmp_path):
    lesson = load_lesson(write_lesson(tmp_path, line))
    (setting,) = lesson.options.constants
    check_value("X", setting.parse, lesson.X)


@pytest.mark.parametrize(
    "default, value, problem",
    [
        ("0.5", "a lot", "can't be the text 'a lot'"),
        ("0.5", None, "must be a number"),
        ("1", 1.5, "must be an integer"),
        ("1", True, "must be an integer"),
        ("True", 1, "must be True or False"),
        ("'1'", 1, "must be text, not 1"),
        ("1", "1", "can't be the text '1'"),
    ],
)
def test_a_recorded_value_of_another_kind_is_refused(default, value, problem, tmp_path):
    lesson = load_lesson(write_lesson(tmp_path, f"X = {default}"))
    (setting,) = lesson.options.constants
    with pytest.raises(WrongInput, match=f"X {problem}"):
        check_value("X", setting.parse, value)


@pytest.mark.parametrize("line", ["SEED = 1", "TEST = 3", "EAGER = False", "NO_OP = 1\nOP = True"])
def test_a_constant_named_as_another_option_is_refused(line, command, tmp_path):
    script = write_lesson(tmp_path, line)
    assert "can't be the name of a constant" in refusal(command, script)


BOUNDS = {  # the smallest and the largest value of each constant, and what is beyond them
    "TRAIN_EPSILON": ("0", "1", "-0.001", "1.001"),
    "LEARNING_RATE": ("1e-12", "1e6", "0", "1.1e6"),
    "LEARNING_RATE_DECAY": ("0", "1", "-0.001", "1.001"),
    "BATCH_SIZE": ("1", "1000000000", "0", "1000000001"),
    "TARGET_UPDATE_EVERY": ("1", "1000000000", "0", "1000000001"),
    "DISCOUNT_FACTOR_GAMMA": ("0", "1", "-0.001", "1.001"),
    "N_STEPS": ("1", "1000000000", "0", "1000000001"),
    "TRAIN_START": ("1", "1000000000", "0", "1000000001"),
    "REPLAY_BUFFER_SIZE": ("1", "1000000000", "0", "1000000001"),
    "MAX_STEPS": ("1", "1000000000", "0", "1000000001"),
    "LOG_EVERY": ("1", "1000000000", "0", "1000000001"),
    "SNAPSHOT_EVERY": ("1", "1000000000", "0", "1000000001"),
    "CHECKPOINT_EVERY": ("1", "1000000000", "0", "1000000001"),
    "EVAL_EVERY": ("1", "1000000000", "0", "1000000001"),
    "EVAL_STEPS": ("1", "1000000000", "0", "1000000001"),
    "EVAL_EPSILON": ("0", "1", "-0.001", "1.001"),
    "Q_VALIDATION_SIZE": ("1", "1000000000", "0", "1000000001"),
    "HIDDEN_UNITS": ("1", "4096", "0", "4097"),
}


def test_every_constant_of_the_article_has_a_range():
    numbers = {
        setting.constant for setting in run.options.constants if type(setting.default) is not bool
    }
    assert numbers == set(RANGES) == set(BOUNDS)


@pytest.mark.parametrize("constant", BOUNDS)
def test_a_constant_of_the_article_takes_what_is_in_its_range(constant, command, tmp_path):
    smallest, largest, *beyond = BOUNDS[constant]
    script = write_lesson(tmp_path, f"{constant} = {smallest}")
    option = f"--{constant.lower().replace('_', '-')}"
    for word in (smallest, largest):
        lesson = load_lesson(script, [option, word])
        assert vars(lesson)[constant] == eval(word)
    for word in (*beyond, "nan", "inf", "many"):
        told = f"argument {option}: must be a"
        assert told in refusal(command, script, f"{option}={word}")


@pytest.mark.parametrize(
    "line, problem",
    [
        ("BATCH_SIZE = 0", "must be an integer between 1 and 1000000000, not '0'"),
        ("BATCH_SIZE = 64.0", "must be an integer between 1 and 1000000000, not '64.0'"),
        ("BATCH_SIZE = '64'", "can't be the text '64'"),
        ("BATCH_SIZE = True", "must be an integer between 1 and 1000000000, not 'True'"),
        ("BATCH_SIZE = 128 / 2", "must be an integer between 1 and 1000000000, not '64.0'"),
        ("BATCH_SIZE = None", "must be an integer between 1 and 1000000000, not 'None'"),
        ("TRAIN_EPSILON = 2", "must be a number between 0.0 and 1.0, not '2'"),
        ("LEARNING_RATE = '0.1'", "can't be the text '0.1'"),
        ("HIDDEN_UNITS = (32, 32)", "must be an integer between 1 and 4096, not '(32, 32)'"),
    ],
)
def test_a_constant_edited_to_what_cannot_be_is_refused(line, problem, command, tmp_path):
    constant = line.partition(" = ")[0]
    script = change_run(tmp_path, f"\n{constant} = {vars(run)[constant]} ", f"\n{line} ")
    assert f"{constant} in lesson.py {problem}" in refusal(command, script)
    with pytest.raises(WrongInput, match=constant):
        load_lesson(script)


def test_a_computed_constant_is_checked_and_recorded_by_its_value(command, tmp_path):
    script = change_run(tmp_path, "MAX_STEPS = 200000", "MAX_STEPS = 3 * 10**5")
    assert load_lesson(script).options.settings["max_steps"] == 300000
    assert load_lesson(script, ["--max-steps", "9000"]).MAX_STEPS == 9000
    assert "steps of one training run (default: 300000)" in show_help(command, script)


ANSWERS = {
    "--help": 0,
    "--veiw": 2,
    "--batch-size many": 2,
    "--train-start 200000": 2,
    "--eval --model missing.h5": 2,
    "--name taken": 2,
}


@pytest.mark.parametrize("words", ANSWERS)
def test_help_and_mistakes_are_answered_without_tensorflow(words, tmp_path):
    (tmp_path / "taken-log").mkdir()
    (tmp_path / "taken-log" / "taken-best.h5").touch()
    command = [sys.executable, "-c", LOADED, ROOT / "run.py", *words.split()]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == f"{ANSWERS[words]} support.options"
    assert ended.stderr.count("\n") == (ANSWERS[words] == 2)
