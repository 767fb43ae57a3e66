"""The command line: each constant of the lesson is an option; wrong input ends in a plain line."""

import argparse
import contextlib
import difflib
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.checkpoints import find_run, read_checkpoint, versions
from support.errors import WrongInput, one_line
from support.files import check_name, lock

ENV = "MountainCar-v0"
RANGES = {  # of the constants that are not whole numbers from 1
    "discount_factor_gamma": (0.0, 1.0),
    "learning_rate": (1e-12, 1e6),
    "eval_epsilon": (0.0, 1.0),
    "train_epsilon": (0.0, 1.0),
}
CONSTANT = re.compile(r"^([A-Z][A-Z0-9_]*) *=(?!=)[^#\n]*(?:# *(.*))?$", re.MULTILINE)
RESERVED = ("lock", "on_checkpoint", "play", "settings", "state")  # what `parse_args` adds


def number(smallest, largest):
    """Type of an option: a number in a closed interval, a whole one if `smallest` is an int."""

    def parse(text):
        with contextlib.suppress(ValueError):
            value = type(smallest)(text)
            if smallest <= value <= largest:
                return value
        kind = "whole number" if isinstance(smallest, int) else "number"
        raise argparse.ArgumentTypeError(f"{text!r} is no {kind} from {smallest} to {largest}")

    return parse


def new_file(*extensions):
    """Type of an option: a file with one of some extensions, in a directory to write to."""

    def parse(text):
        folder = os.path.dirname(text) or "."
        writable = os.path.isdir(folder) and os.access(folder, os.W_OK) and not os.path.isdir(text)
        if writable and os.path.splitext(text)[1] in extensions:
            return text
        names = " or ".join(extensions)
        raise argparse.ArgumentTypeError(f"{text!r} is no {names} file in a directory to write to")

    return parse


class OneLineParser(argparse.ArgumentParser):
    """Reports wrong input in one line, with what may have been meant; the exit status is 2."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message):
        sys.exit(one_line(message, status=2))

    def parse_args(self, argv=None):
        args, unknown = self.parse_known_args(argv)
        if unknown:
            options = list(self._option_string_actions)
            meant = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1)
            if unknown[0].endswith(".h5") and "--model" in options:
                meant = [f"--model {unknown[0]}"]
            hint = f"; did you mean {meant[0]}?" if meant else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return args


class Setting(NamedTuple):
    """A number that a run is started with; `parse` reads it from a string."""

    name: str
    default: object
    meaning: str
    parse: object


def read_settings(namespace):
    """The constants at the top of the lesson: a list of `Setting`s.

    `namespace` is what `globals()` gives there. From a line of its source such as `BATCH_SIZE = 64
    # transitions per update` come name, default and meaning of an option.
    """
    settings = []
    lines = dict(CONSTANT.findall(Path(namespace["__file__"]).read_text(encoding="utf-8")))
    for constant, meaning in lines.items():
        name, value = constant.lower(), namespace.get(constant)
        if type(value) in (int, float):
            others = (1, 10**9) if type(value) is int else (-1e300, 1e300)
            settings.append(Setting(name, value, meaning, number(*RANGES.get(name, others))))
    return settings


def add_hyperparameters(parser, settings, **keywords):
    """Gives a parser an option for each `Setting`, None where it isn't given.

    `keywords` are further arguments of `add_argument`, for all of them.
    """
    group = parser.add_argument_group("hyperparameters")
    for name, default, meaning, parse in settings:
        if f"--{name}" in parser._option_string_actions or name in RESERVED:
            parser.error(
                f"{name.upper()} can't be a constant, --{name} is another option; rename it"
            )
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=parse,
            metavar="X" if name in RANGES or type(default) is float else "N",
            help=f"{meaning.replace('%', '%%')} (default: {default})",
            **keywords,
        )


def parse_args(namespace, argv=None):
    """Reads and checks the command line; exits with status 2 if it is wrong.

    Args:
        namespace: `globals()` of the lesson, whose constants become options.
        argv: list of options and values; None for the program's own.

    Returns:
        `argparse.Namespace` with an attribute per option, and: `settings`, a dict of those that
        are recorded; `play`, whether a model is to be watched instead of trained; for a run that
        is resumed its `state` and the `lock` on its directory, else None; `on_checkpoint`, None
        or a function to be called with the step whenever a checkpoint has been written.
    """
    parser = OneLineParser(
        description="Trains a DQN agent, or with --view, --eval, --images or --gif watches one."
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
    add("--resume", metavar="NAME-log", help="go on with the run in this directory")
    add("--seed", type=number(0, 2**32 - 1), help="repeats a run (default: a fresh one, printed)")
    add("--env", metavar="ID", help=f"environment (default: {ENV})")
    add("--test", action="store_true", help="check the installation in a few seconds")
    settings = read_settings(namespace)
    add_hyperparameters(parser, settings)
    args = parser.parse_args(argv)
    args.play = args.view or args.eval or args.images or args.gif is not None
    args.lock = args.state = args.on_checkpoint = None
    settings.append(Setting("env", ENV, "", str))
    settings.append(Setting("seed", secrets.randbelow(2**32), "", number(0, 2**32 - 1)))
    try:
        complete(args, settings, {} if args.resume is None else read_run(args))
        check_args(args)
    except WrongInput as error:
        if args.lock:
            args.lock.release()
        parser.error(error)
    return args


def read_run(args):
    """Locks and reads the run to resume, into `args`; returns its settings, a dict."""
    for option in ("model", "name", "seed", "test", "view", "eval", "images", "gif"):
        if getattr(args, option) not in (None, False):
            raise WrongInput(f"--resume goes on with a run as it was started; leave out --{option}")
    find_run(args.resume)
    args.lock = lock(args.resume)
    args.state = read_checkpoint(args.resume)
    settings, others = args.state["run"]["settings"], args.state["file"]["versions"]
    if ":" in str(settings.get("env")) and args.env != settings["env"]:
        raise WrongInput(
            f"{args.resume} would import a module for its environment; if you trust it, repeat "
            f"--env {settings['env']}"
        )
    now = {name: version for name, version in versions().items() if others.get(name) != version}
    if now:
        changed = ", ".join(f"{name} {others.get(name)}, now {now[name]}" for name in now)
        warning = f"warning: {args.resume} was made with {changed}; it may not end as it would have"
        one_line(warning, status=0)
    return settings


def complete(args, settings, recorded):
    """Gives `args` each of the `Setting`s that isn't given, and all of them as `args.settings`.

    Raises `WrongInput` where one is impossible or contradicts `recorded`, those of a run to resume.
    """
    names = {setting.name for setting in settings} | {"model"}
    if recorded and recorded.keys() != names:
        others = ", ".join(sorted(recorded.keys() ^ names))
        raise WrongInput(f"{args.resume} was made by a program with other constants: {others}")
    for name, default, _, parse in settings:
        try:
            value = parse(str(recorded.get(name, default)))
        except argparse.ArgumentTypeError as error:
            raise WrongInput(f"{name.upper()}: {error}") from error
        given = getattr(args, name)
        if recorded and name != "max_steps" and given not in (None, value):
            raise WrongInput(
                f"--{name.replace('_', '-')} {given} contradicts {args.resume}, "
                f"which runs with {value}; leave it out"
            )
        setattr(args, name, value if given is None else given)
    args.settings = {setting.name: getattr(args, setting.name) for setting in settings}
    model = os.fsencode(args.model or "none").decode(errors="replace")  # as others can read it
    args.settings["model"] = str(recorded.get("model", model)).encode(errors="replace").decode()


def check_args(args):
    """Raises `WrongInput` where options contradict each other or name what can't be."""
    watching = "--view, --eval, --images and --gif"
    if args.name is not None:
        check_name("--name", args.name)
    if args.q_validation_size > args.eval_every:
        raise WrongInput(
            f"Q_VALIDATION_SIZE {args.q_validation_size} has to be at most EVAL_EVERY "
            f"{args.eval_every}: lower --q-validation-size or raise --eval-every"
        )
    if args.max_steps <= args.train_start and not args.play:
        raise WrongInput(
            f"MAX_STEPS {args.max_steps} has to be more than TRAIN_START {args.train_start}, the "
            "first step that learns: raise --max-steps or lower --train-start"
        )
    if args.state and args.max_steps <= args.state["run"]["step"]:
        raise WrongInput(
            f"{args.resume} has done {args.state['run']['step']} steps, and --max-steps is "
            f"{args.max_steps}; with more, it goes on"
        )
    if args.model == "":
        raise WrongInput("--model '' is no file")
    if args.play and not args.model:
        raise WrongInput(f"{watching} need a trained --model X.h5")
    if args.play and args.name is not None:
        raise WrongInput(f"--name names a training, and {watching} only play")
    if args.images and not os.access(".", os.W_OK):
        raise WrongInput("--images can't write to the current directory")


def self_test(main, namespace, env_id):
    """Trains for a few hundred steps in a temporary directory, then loads and evaluates that.

    `main` does what `parse_args` returns. Raises OSError where the two don't agree.
    """
    same = ["--env", env_id, "--seed", "1", "--eval-steps", "1000"]
    short = "--name test --train-start 100 --q-validation-size 200 --eval-every 400 --max-steps 400"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        trained = main(parse_args(namespace, [*same, *short.split()]))
        loaded = main(parse_args(namespace, [*same, "--model", "test-log/test-400.h5", "--eval"]))
    if not np.array_equal(trained, loaded, equal_nan=True):
        raise OSError(f"the trained network returns {trained}, but once loaded {loaded}")
    print("The installation works: the network was trained, saved and loaded.")
