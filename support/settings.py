"""The constants at the top of the lesson are its settings: each is an option, and recorded."""

import argparse
import os
import tokenize
from typing import NamedTuple

from support.command_line import describe_range, number
from support.errors import WrongInput

PROBABILITY = (0.0, 1.0)
COUNT = (1, 10**9)
RANGES = {  # of the constants of run.py; those that a reader adds may have any value of their kind
    "TRAIN_EPSILON": PROBABILITY,
    "LEARNING_RATE": (1e-12, 1e6),
    "LEARNING_RATE_DECAY": PROBABILITY,
    "BATCH_SIZE": COUNT,
    "TARGET_UPDATE_EVERY": COUNT,
    "DISCOUNT_FACTOR_GAMMA": PROBABILITY,
    "N_STEPS": COUNT,
    "TRAIN_START": COUNT,
    "REPLAY_BUFFER_SIZE": COUNT,
    "MAX_STEPS": COUNT,
    "LOG_EVERY": COUNT,
    "SNAPSHOT_EVERY": COUNT,
    "CHECKPOINT_EVERY": COUNT,
    "EVAL_EVERY": COUNT,
    "EVAL_STEPS": COUNT,
    "EVAL_EPSILON": PROBABILITY,
    "Q_VALIDATION_SIZE": COUNT,
    "HIDDEN_UNITS": (1, 4096),
}


class Setting(NamedTuple):
    """A constant that is an option.

    Attributes:
        constant: its name, as in `BATCH_SIZE`.
        default: its value in the source: a bool, int, float or str.
        meaning: the comment behind it.
    """

    constant: str
    default: object
    meaning: str

    @property
    def name(self):
        """What it is called on the command line and in records, as in `batch_size`."""
        return self.constant.lower()

    @property
    def option(self):
        """Its option, as in `--batch-size`."""
        return f"--{self.name.replace('_', '-')}"

    def parse(self, text):
        """The value that a text gives; raises `argparse.ArgumentTypeError` if it gives none."""
        if self.constant in RANGES:
            return number(*RANGES[self.constant])(text)
        return PARSERS[type(self.default)](text)


def boolean(text):
    """Type of the option of a constant that is a bool in the source."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return text.lower() == "true"


def whole_number(text):
    """Type of the option of a reader's constant that is an int in the source."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be an integer, not {text!r}; where a fraction makes sense, write the constant "
            "as 1.0 instead of 1"
        ) from None


def any_number(text):
    """Type of the option of a reader's constant that is a float in the source."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def any_text(text):
    """Type of the option of a constant that is a string in the source."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"must be text, not {text!r}") from None
    return text


PARSERS = {bool: boolean, int: whole_number, float: any_number, str: any_text}
METAVARS = {bool: "True/False", int: "N", float: "X", str: "TEXT"}


def read_settings(constants):
    """The constants that a module has so far: numbers, strings, True and False.

    From a line such as `BATCH_SIZE = 64  # transitions per update` come the name, the default and
    the meaning of an option.

    Args:
        constants: `globals()` of the module. A constant that is annotated as a float becomes one.

    Returns:
        List of `Setting`s, in their order.

    Raises:
        WrongInput: a constant of the article has a value that can't be.
    """
    comments = comments_behind_statements(constants["__file__"])
    annotations = constants.get("__annotations__", {})
    settings = []
    for constant, value in list(constants.items()):
        is_constant = constant.isupper() and not constant.startswith("_")
        if is_constant and (type(value) in PARSERS or constant in RANGES):
            if annotations.get(constant) is float and type(value) is int:
                value = constants[constant] = float(value)
            if constant in RANGES:
                check_range(constant, value, os.path.basename(constants["__file__"]))
            settings.append(Setting(constant, value, comments.get(constant, "")))
    return settings


def check_range(constant, value, filename):
    """Raises `WrongInput` where a constant of the article has a value that can't be."""
    smallest, largest = RANGES[constant]
    is_right_kind = type(value) in (int, type(smallest))
    if not (is_right_kind and smallest <= value <= largest):
        expected = describe_range(smallest, largest)
        raise WrongInput(f"{constant} = {value!r} in {filename} must be {expected}")


def comments_behind_statements(filename):
    """The comments behind statements at the top level of a file.

    Returns:
        Dict from the first word of a statement, the name of a constant for example, to the text.
    """
    comments = {}
    first_word = None
    with tokenize.open(filename) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NEWLINE:
                first_word = None
            elif token.type == tokenize.COMMENT and first_word:
                comments[first_word] = token.string.lstrip("# ")
            elif token.type == tokenize.NAME and first_word is None:
                is_at_top_level = token.start[1] == 0
                first_word = token.string if is_at_top_level else ""
    return comments


def add_settings(parser, settings, several=False):
    """Gives a parser an option for each `Setting`, None where it isn't given.

    Args:
        parser: `OneLineParser`.
        settings: list of `Setting`s.
        several: whether an option takes several values.

    Raises:
        WrongInput: the name of a constant is that of another option.
    """
    group = parser.add_argument_group(
        "constants of run.py",
        "Numbers, strings, True and False above the line there that reads the options.",
    )
    for setting in settings:
        keywords = {"dest": setting.constant, "default": None}
        if type(setting.default) is bool and not several:
            keywords |= {"action": argparse.BooleanOptionalAction}
        else:
            smallest, _ = RANGES.get(setting.constant, (setting.default, None))
            keywords |= {"type": setting.parse, "metavar": METAVARS[type(smallest)]}
            keywords |= {"nargs": "+"} if several else {}
        meaning = f"{setting.meaning} (default: {setting.default})"
        keywords["help"] = meaning.strip().replace("%", "%%")
        try:
            group.add_argument(setting.option, **keywords)
        except argparse.ArgumentError as error:
            raise WrongInput(
                f"{setting.constant} can't be the name of a constant, for {setting.option} is "
                "another option; rename the constant"
            ) from error


def as_option(name, value):
    """What gives a setting a value on the command line, as in `--batch-size=64`: a string."""
    option = name.replace("_", "-")
    if type(value) is bool:
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option}={value}"


def check_recorded(name, parse, value):
    """Raises `WrongInput` where a recorded value is not one that `parse` gives for its text."""
    try:
        parsed = parse(str(value))
    except argparse.ArgumentTypeError as error:
        raise WrongInput(f"{name} {error}") from error
    is_same = parsed == value or repr(parsed) == repr(value) == "nan"
    if not is_same or isinstance(parsed, str) != isinstance(value, str):
        raise WrongInput(f"{name} can't be {value!r}")
