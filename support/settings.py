"""The constants at the top of the lesson are its settings: each is an option, and recorded."""

import argparse
import ast
import inspect
import os
import tokenize
import types
from collections.abc import Callable
from typing import NamedTuple

from support.command_line import boolean, describe_range, number
from support.errors import WrongInput

PLAIN = (bool, int, float, str)
COUNT = (1, 10**9)
PROBABILITY = (0.0, 1.0)
RANGES = {  # of the constants of run.py; those that a reader adds may have any value of their kind
    "TRAIN_EPSILON": PROBABILITY,
    "LEARNING_RATE": (1e-12, 1e6),
    "BATCH_SIZE": COUNT,
    "TARGET_UPDATE_EVERY": COUNT,
    "DISCOUNT_FACTOR_GAMMA": PROBABILITY,
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
    """A constant at the top of the lesson.

    Attributes:
        constant: its name, as in `BATCH_SIZE`.
        default: its value in the source: a bool, int, float or str.
        meaning: the comment behind it.
        parse: function from a string to a value; raises `argparse.ArgumentTypeError`.
        problem: why it can't be changed from outside; None if it can.
    """

    constant: str
    default: object
    meaning: str
    parse: Callable
    problem: str | None

    @property
    def name(self):
        """What it is called on the command line and in records, as in `batch_size`."""
        return self.constant.lower()

    @property
    def option(self):
        """Its option, as in `--batch-size`."""
        return f"--{self.name.replace('_', '-')}"


def read_settings(constants):
    """The constants at the top level of a module.

    From a line such as `BATCH_SIZE = 64  # transitions per update` come the name, the default and
    the meaning of an option.

    Args:
        constants: `globals()` of the module, or `vars(module)`.

    Returns:
        List of `Setting`s, in their order.

    Raises:
        WrongInput: a constant of the article has a value that can't be.
    """
    filename = constants["__file__"]
    with tokenize.open(filename) as file:
        lines = file.readlines()
    tokens = tokenize.generate_tokens(iter(lines).__next__)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    tree = ast.parse("".join(lines))
    early = used_early(tree)
    settings = {}
    for statement in tree.body:
        for constant in assigned(statement):
            value, problem = literal(statement)
            if constant in early and not problem:
                problem = (
                    f"line {early[constant]} uses it before options are read; use it in a function"
                )
            if problem:
                value = constants.get(constant)
            settings[constant] = Setting(
                constant,
                value if type(value) in PLAIN else ast.unparse(statement.value),
                comments.get(statement.end_lineno, ""),
                parser_of(constant, value, filename),
                problem and f"{constant} can't be set on the command line: {problem}",
            )
    return list(settings.values())


def assigned(statement):
    """Names of the constants that a statement assigns to, a list; empty if there is none."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        targets = []
    nodes = [node for target in targets for node in ast.walk(target)]
    return [node.id for node in nodes if is_constant(node) and isinstance(node.ctx, ast.Store)]


def is_constant(node):
    """Whether a node of syntax is the name of a constant."""
    return isinstance(node, ast.Name) and node.id.isupper() and not node.id.startswith("_")


def literal(statement):
    """(value, problem) of an assignment: its value, and why it can't be an option's, or None."""
    try:
        value = ast.literal_eval(statement.value)
    except ValueError:
        value = None
    if type(value) not in PLAIN:
        code = ast.unparse(statement.value)
        return value, f"{code} is not a plain number, string, True or False"
    annotation = getattr(statement, "annotation", None)
    if type(value) is int and annotation is not None and ast.unparse(annotation) == "float":
        value = float(value)
    return value, None


def parser_of(constant, value, filename):
    """Function from a string to a value of a constant; see `read_settings`."""
    if constant not in RANGES:
        return {bool: boolean, int: whole, float: fraction}.get(type(value), text)
    smallest, largest = RANGES[constant]
    is_right_kind = type(value) in (int, type(smallest))
    if not (is_right_kind and smallest <= value <= largest):
        where = os.path.basename(filename)
        expected = describe_range(smallest, largest)
        raise WrongInput(f"{constant} = {value!r} in {where} must be {expected}")
    return number(smallest, largest)


def whole(word):
    """Type of the option of a reader's constant that is an integer in the source."""
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be an integer, not {word!r}; where a fraction makes sense, write the constant "
            "as 1.0 instead of 1"
        ) from None


def fraction(word):
    """Type of the option of a reader's constant that is a float in the source."""
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {word!r}") from None


def text(word):
    """Type of the option of a reader's constant that is a string in the source."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"must be text, not {word!r}") from None
    return word


def used_early(tree):
    """Constants that are used while a module is imported, before options can change them.

    These are uses outside of functions (for another constant, say), in the defaults of a function's
    parameters, in functions that are called there, and in anything that changes the constant again.

    Returns:
        Dict of names to line numbers.
    """
    found = {}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}

    def visit(node):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            inside = [*defaults, *getattr(node, "decorator_list", [])]
        else:
            inside = ast.iter_child_nodes(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = functions.pop(node.func.id, None)
            inside = [*inside, *(called.body if called else [])]
        if is_constant(node):
            found.setdefault(node.id, node.lineno)
        for child in inside:
            if child is not None:
                visit(child)

    for statement in tree.body:
        if assigned(statement):
            visit(statement.value)
        elif not is_main_block(statement):
            visit(statement)
    return found


def is_main_block(statement):
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def add_settings(parser, settings, several=False):
    """Gives a parser an option for each `Setting`, None where it isn't given.

    Raises `WrongInput` where the name of a constant is that of another option.

    Args:
        parser: `OneLineParser`.
        settings: list of `Setting`s.
        several: whether an option takes several values.
    """
    group = parser.add_argument_group("constants of run.py")
    for setting in settings:
        keywords = {"dest": setting.constant, "default": None}
        default = f"(default: {setting.default})"
        if setting.problem:
            default = f"= {setting.default} (can't be set here)"
            keywords |= {"type": refuse(setting.problem), "nargs": "?", "const": ""}
        elif type(setting.default) is bool and not several:
            keywords |= {"action": argparse.BooleanOptionalAction}
        else:
            keywords |= {"type": setting.parse, "metavar": metavar(setting)}
            keywords |= {"nargs": "+"} if several else {}
        keywords["help"] = f"{setting.meaning} {default}".strip().replace("%", "%%")
        try:
            group.add_argument(setting.option, **keywords)
        except argparse.ArgumentError as error:
            raise WrongInput(
                f"{setting.constant} can't be the name of a constant, for {setting.option} is "
                "another option; rename the constant"
            ) from error


def refuse(problem):
    """Type of an option that takes no value, for a reason."""

    def parse(text):
        raise argparse.ArgumentTypeError(problem)

    return parse


def metavar(setting):
    """What stands for a value in --help."""
    smallest, _ = RANGES.get(setting.constant, (setting.default, None))
    return {bool: "True/False", int: "N", float: "X", str: "TEXT"}[type(smallest)]


def shaping(settings, constants):
    """The settings that shape the network: those whose constants `create_model` uses.

    Args:
        settings: list of `Setting`s.
        constants: `globals()` of the lesson, or `vars(module)`.

    Returns:
        List of `Setting`s.
    """
    create_model = inspect.unwrap(constants["create_model"])
    used = names_in(create_model.__code__)
    return [setting for setting in settings if setting.constant in used]


def names_in(code):
    """The names that are used in a function's code, and in that of functions in it: a set."""
    inner = [value for value in code.co_consts if isinstance(value, types.CodeType)]
    return set(code.co_names).union(*map(names_in, inner))


def as_option(name, value):
    """What gives a setting a value on the command line, as in `--batch-size=64`: a string."""
    option = name.replace("_", "-")
    if type(value) is bool:
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option}={value}"


def check_recorded(setting, value):
    """Raises `WrongInput` where a recorded value is impossible, or can't be put into effect."""
    if setting.problem:
        if repr(value) != repr(setting.default):
            raise WrongInput(f"{setting.problem}; the run was made with {value!r}")
    else:
        parse_recorded(setting.constant, setting.parse, value)


def parse_recorded(name, parse, value):
    """Raises `WrongInput` where a value is not one that `parse` gives for its text."""
    try:
        found = parse(str(value))
    except argparse.ArgumentTypeError as error:
        raise WrongInput(f"{name} {error}") from error
    is_same = found == value or repr(found) == repr(value) == "nan"
    if not is_same or isinstance(found, str) != isinstance(value, str):
        raise WrongInput(f"{name} can't be {value!r}")
