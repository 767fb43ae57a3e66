"""The command line: makes options of constants, and reads them.

A mistake is reported in one line, with what may have been meant.
"""

import argparse
import contextlib
import difflib
import os
import tokenize
from typing import NamedTuple

from support.errors import WrongInput
from support.files import check_name

ENV = "MountainCar-v0"
UNIT_INTERVAL = (0.0, 1.0)
COUNT = (1, 10**9)
RANGES = {  # of the constants of run.py; those that a reader adds may have any value of their kind
    "TRAIN_EPSILON": UNIT_INTERVAL,
    "LEARNING_RATE": (1e-12, 1e6),
    "LEARNING_RATE_DECAY": UNIT_INTERVAL,
    "BATCH_SIZE": COUNT,
    "TARGET_UPDATE_EVERY": COUNT,
    "DISCOUNT_FACTOR_GAMMA": UNIT_INTERVAL,
    "N_STEPS": COUNT,
    "TRAIN_START": COUNT,
    "REPLAY_BUFFER_SIZE": COUNT,
    "MAX_STEPS": COUNT,
    "LOG_EVERY": COUNT,
    "SNAPSHOT_EVERY": COUNT,
    "CHECKPOINT_EVERY": COUNT,
    "EVAL_EVERY": COUNT,
    "EVAL_STEPS": COUNT,
    "EVAL_EPSILON": UNIT_INTERVAL,
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

    @property
    def parse(self):
        """What gives its value for a text, or raises `argparse.ArgumentTypeError`: a function."""
        if self.constant in RANGES:
            return number(*RANGES[self.constant])
        return PARSERS[type(self.default)]


def read_settings(constants):
    """The constants that a module has so far: numbers, strings, True and False.

    From a line such as `BATCH_SIZE = 64  # transitions per update` come the name, the default and
    the meaning of an option.

    Args:
        constants: `globals()` of the module. A constant that is annotated as a float becomes one.

    Returns:
        List of `Setting`s, in their order.

    Raises:
        WrongInput: a constant of the article has an impossible value.
    """
    filename = constants["__file__"]
    comments = comments_behind_statements(filename)
    annotations = constants.get("__annotations__", {})
    settings = []
    for constant, value in list(constants.items()):
        is_constant = constant.isupper() and not constant.startswith("_")
        if is_constant and (type(value) in PARSERS or constant in RANGES):
            if annotations.get(constant) is float and type(value) is int:
                value = constants[constant] = float(value)
            setting = Setting(constant, value, comments.get(constant, ""))
            if constant in RANGES:
                check_value(f"{constant} in {os.path.basename(filename)}", setting.parse, value)
            settings.append(setting)
    return settings


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


def read_command_line(settings, arguments):
    """Reads a command line of the lesson, a list of strings; raises `WrongInput` where it is wrong.

    Returns:
        `argparse.Namespace`, in which constants, the `Setting`s, are in upper case, and None where
        they are not given; `play` is whether a model is to be watched or evaluated, not trained.
    """
    options = make_parser(settings).parse_args(arguments)
    options.play = options.view or options.eval or options.images or options.gif is not None
    check_options(options)
    return options


def make_parser(settings):
    """The parser of the command line, for a list of `Setting`s."""
    parser = OneLineParser(
        prog="run.py",
        description="Trains a DQN agent, or with --view, --eval, --images or --gif watches one.",
    )
    add = parser.add_argument
    add("--model", metavar="X.h5", help="start from the weights of this snapshot")
    add("--view", action="store_true", help="show the model's policy in a window")
    add("--eval", action="store_true", help="evaluate the model")
    add("--images", action="store_true", help="save the model's frames as EPISODE_STEP.png")
    add(
        "--gif",
        metavar="FILE.gif",
        type=new_file(".gif"),
        help="save the model's first episode as an animated GIF",
    )
    add("--name", help="name of the run, for its directory NAME-log (default: the local time)")
    add("--resume", metavar="NAME-log", help="continue the run in this directory")
    add("--seed", type=SEED, help="repeats a run (default: a fresh one, which is printed)")
    add("--env", metavar="ID", help=f"Gymnasium environment (default: {ENV})")
    add("--eager", action="store_true", help="run everything line by line, to look inside; slow")
    add("--test", action="store_true", help="check the installation in a few seconds")
    add_settings(parser, settings)
    return parser


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
            keywords |= {"action": OnOrOff}
        else:
            smallest, _ = RANGES.get(setting.constant, (setting.default, None))
            keywords |= {"type": setting.parse, "metavar": METAVARS[type(smallest)]}
            keywords |= {"nargs": "+" if several else None}
        meaning = f"{setting.meaning} (default: {setting.default})"
        keywords["help"] = meaning.strip().replace("%", "%%")
        try:
            group.add_argument(setting.option, **keywords)
        except argparse.ArgumentError as error:
            raise WrongInput(
                f"{setting.constant} can't be the name of a constant, for {setting.option} is "
                "another option; rename the constant"
            ) from error


class OnOrOff(argparse.BooleanOptionalAction):
    """--dropout sets True, --no-dropout False; and for NO_DROPOUT, --no-dropout sets True."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def check_options(options):
    """Raises `WrongInput` where options contradict each other, or an impossible value is given."""
    watching = "--view, --eval, --images and --gif"
    if options.resume is not None:
        goes_with_it = ("resume", "env", "MAX_STEPS", "eager")
        for name, value in vars(options).items():
            is_given = value is not None and (value is not False or name.isupper())
            if is_given and name not in goes_with_it:
                option = name.lower().replace("_", "-")
                raise WrongInput(
                    f"--resume continues a run with its own settings; leave out --{option}"
                )
    if options.name is not None:
        check_name("--name", options.name)
    if options.model == "":
        raise WrongInput("--model needs the name of a file")
    if options.play and not options.model:
        raise WrongInput(f"{watching} need a trained --model X.h5")
    if options.play and options.name is not None:
        raise WrongInput(f"--name names a run, and {watching} only play")
    if options.images and not os.access(".", os.W_OK):
        raise WrongInput("--images can't write to the current directory")


def as_option(name, value):
    """What gives a setting a value on the command line, as in `--batch-size=64`: a string."""
    option = name.replace("_", "-")
    if type(value) is bool:
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option}={value}"


def check_value(name, parse, value):
    """Raises `WrongInput` where a value of the source or a file is not of the type of an option.

    Args:
        name: what the value is called in the message.
        parse: type of the option, a function of a text.
        value: the value.
    """
    is_text = parse is any_text
    if isinstance(value, str) and not is_text:
        raise WrongInput(f"{name} can't be the text {value!r}")
    try:
        parse(value if is_text else str(value))
    except argparse.ArgumentTypeError as error:
        raise WrongInput(f"{name} {error}") from error


def check_values(settings, values):
    """Raises `WrongInput` where a run can't have the values of its `Setting`s, `env` and `seed`."""
    check_value("env", any_text, values["env"])
    check_value("seed", SEED, values["seed"])
    for setting in settings:
        check_value(setting.constant, setting.parse, values[setting.name])


class OneLineParser(argparse.ArgumentParser):
    """Raises `WrongInput` where the input is wrong, with what may have been meant."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message):
        raise WrongInput(message)

    def parse_args(self, argv=None):
        args, unknown = self.parse_known_args(argv)
        if unknown:
            options = list(self._option_string_actions)
            meant = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1)
            if unknown[0].endswith(".h5") and "--model" in options:
                meant = [f"--model {unknown[0]}"]
            hint = f"; did you mean {meant[0]}?" if meant else ""
            if unknown[0].lower() in ("true", "false"):
                hint = "; instead of True and False, write --NAME and --no-NAME"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return args


def number(smallest, largest):
    """Type of an option: a number in a closed interval, an integer if `smallest` is an int."""

    def parse(text):
        with contextlib.suppress(ValueError):
            value = type(smallest)(text)
            if smallest <= value <= largest:
                return value
        kind = "an integer" if isinstance(smallest, int) else "a number"
        raise argparse.ArgumentTypeError(
            f"must be {kind} between {smallest} and {largest}, not {text!r}"
        )

    return parse


def new_file(*extensions):
    """Type of an option: a file with one of some extensions, in a directory to write to."""

    def parse(text):
        folder = os.path.dirname(text) or "."
        is_writable = os.path.isdir(folder) and os.access(folder, os.W_OK)
        if os.path.splitext(text)[1] in extensions and is_writable and not os.path.isdir(text):
            return text
        names = " or ".join(extensions)
        raise argparse.ArgumentTypeError(
            f"must be a {names} file in a directory that can be written to, not {text!r}"
        )

    return parse


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
    except (AttributeError, UnicodeEncodeError):  # the first, of a recorded number
        raise argparse.ArgumentTypeError(f"must be text, not {text!r}") from None
    return text


SEED = number(0, 2**32 - 1)
PARSERS = {bool: boolean, int: whole_number, float: any_number, str: any_text}
METAVARS = {bool: "True/False", int: "N", float: "X", str: "TEXT"}
