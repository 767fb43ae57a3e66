"""A constant is its option, and nothing else."""

import pytest
from conftest import ROOT

import run
from support.options import parse_args
from support.settings import check_recorded, read_settings


def lesson(folder, *lines):
    """Global names of run.py, begun with these lines."""
    source = "\n".join([*lines, (ROOT / "run.py").read_text()])
    (folder / "lesson.py").write_text(source)
    names = {"__file__": str(folder / "lesson.py"), "__name__": "lesson"}
    exec(compile("\n".join(lines), "lesson.py", "exec"), names)
    return {**vars(run), **names}


def refusal(names, argv, capsys):
    """The line with which a command line is refused."""
    before = dict(names)
    with pytest.raises(SystemExit) as exit_:
        parse_args(names, argv)
    errors = capsys.readouterr().err
    assert exit_.value.code == 2
    assert errors.count("\n") == 1
    assert names == before
    return errors


def test_constants_are_the_defaults_and_help_lists_them(capsys):
    parse_args(vars(run), [])
    settings = read_settings(vars(run))
    assert len(settings) == 16
    for setting in settings:
        assert getattr(run, setting.constant) == setting.default
    with pytest.raises(SystemExit):
        parse_args(vars(run), ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for setting in settings:
        assert len(setting.meaning) > 10
        assert f"{setting.option} " in text
        assert f"{setting.meaning} (default: {setting.default})" in text


def test_an_option_sets_the_constant_itself(monkeypatch):
    args = parse_args(vars(run), ["--batch-size", "8", "--eval-epsilon", "0.5"])
    assert (run.BATCH_SIZE, run.EVAL_EPSILON, run.MAX_STEPS) == (8, 0.5, 200000)
    assert args.settings["batch_size"] == 8
    assert not hasattr(args, "batch_size")


@pytest.mark.parametrize(
    "line, argv, value",
    [
        ("DECAY = 0.5  # what is left, in %", ["--decay", "-0.25"], -0.25),
        ("LAYERS=2  #", ["--layers", "3"], 3),
        ("SHIFT = 0", ["--shift=-1"], -1),
        ("SHIFT = -1", [], -1),
        ("LOSS = 'huber'", ["--loss", "mean_squared_error"], "mean_squared_error"),
        ("DOUBLE = True", ["--no-double"], False),
        ("DOUBLE = False", ["--double"], True),
        ("DOUBLE: bool = False", ["--double"], True),
        ("DECAY: float = 1", ["--decay", "0.5"], 0.5),
        ("DECAY: float = 0.1  # slower", [], 0.1),
        ("FIRST = SECOND = 1", ["--second", "2"], 2),
        ("STEP_SIZE = 0.1", ["--step-size", "0.2"], 0.2),
        ("LONG = (\n    1_000\n)  # lines", ["--long", "7"], 7),
        ('TEXT = "a # b"  # words', ["--text", "c"], "c"),
    ],
)
def test_a_constant_that_a_reader_adds_is_an_option(line, argv, value, tmp_path, capsys):
    names = lesson(tmp_path, line)
    constant = line.partition("=")[0].partition(":")[0].strip()
    constant = "SECOND" if "SECOND" in line else constant
    args = parse_args(names, argv)
    assert names[constant] == value and type(names[constant]) is type(value)
    assert args.settings[constant.lower()] == value
    with pytest.raises(SystemExit):
        parse_args(names, ["--help"])
    text = capsys.readouterr().out
    meaning = line.rpartition("  # ")[2] if "  # " in line else ""
    assert meaning in text


@pytest.mark.parametrize(
    "line, option, problem",
    [
        ("SIZE = 2 * 32", "--size", "2 * 32 is not a plain number, string, True or False"),
        ("LAYERS = (32, 32)", "--layers", "(32, 32) is not a plain number"),
        ("NOTHING = None", "--nothing", "None is not a plain number"),
        ("ONE, TWO = 1, 2", "--two", "(1, 2) is not a plain number"),
        ("HIDDEN = 64\nHIDDEN *= 2", "--hidden", "line 2 uses it before options are read"),
        ("HIDDEN = 64\nif True:\n    HIDDEN = 5", "--hidden", "line 3 uses it before options"),
        ("HIDDEN = 64\nLAYERS = [HIDDEN] * 2", "--hidden", "line 2 uses it before options are"),
        ("HIDDEN = 64\ndef f(units=HIDDEN): pass", "--hidden", "line 2 uses it before options"),
        ("HIDDEN = 64\nclass A:\n    units = HIDDEN", "--hidden", "line 3 uses it before options"),
        ("HIDDEN = 64\ndef f(): return [HIDDEN]\nX = f()", "--hidden", "line 2 uses it before"),
    ],
)
def test_the_option_of_a_constant_that_cannot_be_one_says_why(
    line, option, problem, tmp_path, capsys
):
    names = lesson(tmp_path, line)
    args = parse_args(names, [])  # without it, all is well
    value = names[option[2:].upper()]
    assert args.settings[option[2:]] == value or type(value) not in (int, float, str, bool)
    assert problem in refusal(names, [option, "3"], capsys)
    with pytest.raises(SystemExit):
        parse_args(names, ["--help"])
    assert "(can't be set here)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "line",
    [
        "HIDDEN = 64\ndef f(): return HIDDEN",
        "HIDDEN = 64\nf = lambda: HIDDEN",
        "HIDDEN = 64\ndef f(): return HIDDEN\nTABLE = {'f': f}",
        "HIDDEN = 64\nclass A:\n    def f(self): return HIDDEN",
    ],
)
def test_a_constant_used_inside_a_function_is_an_option(line, tmp_path):
    names = lesson(tmp_path, line)
    parse_args(names, ["--hidden", "8"])
    assert names["HIDDEN"] == 8


@pytest.mark.parametrize("line, word", [("TAU = 1", "0.5"), ("TAU = 1", "1e3")])
def test_an_integer_that_might_be_a_fraction_says_how(line, word, tmp_path, capsys):
    told = f"must be an integer, not '{word}'; where a fraction makes sense, write the constant as"
    assert told in refusal(lesson(tmp_path, line), ["--tau", word], capsys)


@pytest.mark.parametrize("line", ["X = 0xFFFFFFFFFFFFFFFFF", "X = 1e999", "X = float('nan')"])
def test_any_number_can_be_recorded_and_compared(line, tmp_path):
    names = lesson(tmp_path, line)
    settings = {setting.name: setting for setting in read_settings(names)}
    check_recorded(settings["x"], names["X"])


def test_a_bool_with_a_value_says_what_to_write(tmp_path, capsys):
    told = "instead of True and False, write --NAME and --no-NAME"
    assert told in refusal(lesson(tmp_path, "DOUBLE = True"), ["--double", "True"], capsys)


def test_a_string_that_is_not_text_is_refused(tmp_path, capsys):
    names = lesson(tmp_path, "LOSS = 'huber'")
    assert "must be text" in refusal(names, ["--loss", "a\udcff"], capsys)


@pytest.mark.parametrize("line", ["SEED = 1", "TEST = 3", "EAGER = False", "NO_OP = 1\nOP = True"])
def test_a_constant_named_as_another_option_is_refused(line, tmp_path, capsys):
    assert "can't be the name of a constant" in refusal(lesson(tmp_path, line), [], capsys)


@pytest.mark.parametrize(
    "line, problem",
    [
        ("BATCH_SIZE = 0", "BATCH_SIZE = 0 in lesson.py must be an integer between 1 and 10000000"),
        ("BATCH_SIZE = 64.0", "BATCH_SIZE = 64.0 in lesson.py must be an integer between 1 and "),
        ("BATCH_SIZE = '64'", "BATCH_SIZE = '64' in lesson.py must be an integer between 1 and "),
        ("BATCH_SIZE = True", "BATCH_SIZE = True in lesson.py must be an integer between 1 and "),
        ("BATCH_SIZE = 128 / 2", "BATCH_SIZE = 64.0 in lesson.py must be an integer between 1 a"),
        ("BATCH_SIZE = None", "BATCH_SIZE = None in lesson.py must be an integer between 1 and "),
        ("TRAIN_EPSILON = 2", "TRAIN_EPSILON = 2 in lesson.py must be a number between 0.0 and "),
        ("LEARNING_RATE = '0.1'", "LEARNING_RATE = '0.1' in lesson.py must be a number between "),
    ],
)
def test_a_constant_edited_to_what_cannot_be_is_refused(line, problem, tmp_path, capsys):
    names = lesson(tmp_path)
    constant, value = line.split(" = ")
    source = (ROOT / "run.py").read_text().splitlines()
    source = [line if row.startswith(f"{constant} = ") else row for row in source]
    (tmp_path / "lesson.py").write_text("\n".join(source))
    assert problem in refusal({**names, constant: eval(value)}, [], capsys)


def test_a_computed_constant_is_checked_and_recorded_by_its_value(tmp_path):
    names = lesson(tmp_path)
    source = (ROOT / "run.py").read_text().replace("MAX_STEPS = 200000", "MAX_STEPS = 3 * 10**5")
    (tmp_path / "lesson.py").write_text(source)
    args = parse_args({**names, "MAX_STEPS": 300000}, [])
    assert args.settings["max_steps"] == 300000
