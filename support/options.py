"""The command line: every constant of the lesson is an option; wrong input ends in one plain line."""

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

from support.checkpoints import read_checkpoint, versions
from support.errors import WrongInput, one_line
from support.files import check_name, lock, unlock

ENV = "MountainCar-v0"
RANGES = {  # of constants that are no whole numbers from 1
    "discount_factor_gamma": (0.0, 1.0),
    "learning_rate": (1e-12, 1e6),
    "eval_epsilon": (0.0, 1.0),
    "train_epsilon": (0.0, 1.0),
}
CONSTANT = re.compile(r"^([A-Z][A-Z0-9_]*) = [^#\n]*(?:# *(.*))?$", re.MULTILINE)


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


class OneLineParser(argparse.ArgumentParser):
    """Reports wrong input in one line on standard error, and exits with status 2."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message):
        sys.exit(one_line(message, status=2))

    def parse_args(self, argv=None):
        """As that of `ArgumentParser`, and says what a word that it doesn't know may have meant."""
        args, unknown = self.parse_known_args(argv)
        for word in unknown:
            options = list(self._option_string_actions)
            meant = difflib.get_close_matches(word.split("=")[0], options, n=1)
            if word.endswith(".h5") and "--model" in options:
                meant = [f"--model {word}"]
            hint = f"; did you mean {meant[0]}?" if meant else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return args


class Setting(NamedTuple):
    """What a run is started with and what is recorded of it; `parse` reads it from a string."""

    name: str
    default: object
    meaning: str
    parse: object


def read_settings(namespace):
    """The settings of a run: the constants at the top of the lesson, environment, seed and model.

    Args:
        namespace: dict of the lesson's global names, such as `globals()` gives. From a line
            `BATCH_SIZE = 64  # transitions per update` of its source come an option's name,
            default and meaning.

    Returns:
        List of `Setting`s.
    """
    settings = []
    for constant, meaning in CONSTANT.findall(Path(namespace["__file__"]).read_text()):
        name, value = constant.lower(), namespace[constant]
        if type(value) in (int, float):
            anything = (-1e300, 1e300) if isinstance(value, float) else (1, 10**9)
            parse = number(*RANGES.get(name, anything))
            settings.append(Setting(name, value, meaning, parse))
    return settings


def add_hyperparameters(parser, settings, **keywords):
    """Gives a parser an option for each setting, None where it isn't given.

    Args:
        parser: `argparse.ArgumentParser`.
        settings: list of `Setting`s.
        keywords: further arguments of `add_argument`, for all of them.
    """
    group = parser.add_argument_group("hyperparameters")
    for name, default, meaning, parse in settings:
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=parse,
            metavar="X" if name in RANGES or isinstance(default, float) else "N",
            help=f"{meaning.replace('%', '%%')} (default: {default})",
            **keywords,
        )


def parse_args(namespace, argv=None):
    """Reads and checks the command line; exits with status 2 if it is wrong.

    Args:
        namespace: dict of the lesson's global names, of which the constants become options.
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
    add("--gif", metavar="FILE.gif", help="save the model's first episode as an animated GIF")
    add("--name", help="name of the run, for its directory NAME-log (default: the local time)")
    add("--resume", metavar="NAME-log", help="go on with the run in this directory")
    add("--seed", type=number(0, 2**32 - 1), help="repeats a run (default: a fresh one, printed)")
    add("--env", metavar="ID", help=f"environment (default: {ENV})")
    add("--test", action="store_true", help="check the installation in a few seconds")
    hyperparameters = read_settings(namespace)
    add_hyperparameters(parser, hyperparameters)
    args = parser.parse_args(argv)
    args.play = args.view or args.eval or args.images or args.gif is not None
    args.lock = args.state = args.on_checkpoint = None
    seed = Setting("seed", secrets.randbelow(2**32), "", number(0, 2**32 - 1))
    try:
        recorded = {} if args.resume is None else read_run(args)
        complete(args, [*hyperparameters, Setting("env", ENV, "", str), seed], recorded)
        check_args(args)
    except BaseException as error:
        unlock(args.lock)
        if isinstance(error, WrongInput):
            parser.error(error)
        raise
    return args


def read_run(args):
    """Locks and reads the run to resume, into `args`; returns its settings, a dict."""
    for option in ("model", "name", "seed", "test", "view", "eval", "images", "gif"):
        if getattr(args, option) not in (None, False):
            raise WrongInput(f"--resume goes on with a run as it was started; leave out --{option}")
    if os.path.isdir(args.resume):
        args.lock = lock(args.resume)
    args.state = read_checkpoint(args.resume)
    own, others = versions(), args.state["file"]["versions"]
    changed = [f"{name} {others.get(name)}, now {own[name]}" for name in own]
    changed = [
        text for text, name in zip(changed, own, strict=True) if own[name] != others.get(name)
    ]
    if changed:
        one_line(
            f"warning: {args.resume} was made with {', '.join(changed)}; "
            "it goes on, but may not end as it would have",
            status=0,
        )
    return args.state["run"]["settings"]


def complete(args, settings, recorded):
    """Gives `args` every setting that isn't given, and all of them as `args.settings`.

    Args:
        args: what was parsed.
        settings: list of `Setting`s.
        recorded: dict of the settings of the run to resume; else empty.

    Raises:
        WrongInput: a constant is impossible, or contradicts the run to resume.
    """
    model = os.fsencode(args.model or "none").decode(errors="replace")  # as any program can read it
    other = {setting.name for setting in settings} | {"model"}
    if recorded and recorded.keys() != other:
        names = ", ".join(sorted(recorded.keys() ^ other))
        raise WrongInput(f"{args.resume} was made by a program with other constants: {names}")
    if ":" in recorded.get("env", "") and args.env != recorded["env"]:
        raise WrongInput(
            f"{args.resume} would import a module for its environment; "
            f"if you trust it, repeat --env {recorded['env']}"
        )
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
        if given is None:
            setattr(args, name, value)
    args.settings = {setting.name: getattr(args, setting.name) for setting in settings}
    args.settings["model"] = recorded.get("model", model)


def check_args(args):
    """Raises `WrongInput` where options contradict each other or name what can't be."""
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
    if args.name is not None:
        check_name("--name", args.name)
    if args.model == "":
        raise WrongInput("--model '' is no file")
    if args.gif is not None:
        folder = os.path.dirname(args.gif) or "."
        writable = os.path.isdir(folder) and os.access(folder, os.W_OK)
        if not (args.gif.endswith(".gif") and writable) or os.path.isdir(args.gif):
            raise WrongInput(f"--gif {args.gif!r} is no .gif file in a directory to write to")
    if args.images and not os.access(".", os.W_OK):
        raise WrongInput(f"--images can't write to the current directory, {os.getcwd()}")
    if args.play and not args.model:
        raise WrongInput("--view, --eval, --images and --gif need a trained --model X.h5")
    if args.play and args.name is not None:
        raise WrongInput(
            "--name names a training, and --view, --eval, --images and --gif only play"
        )


def self_test(main, namespace, env_id):
    """Trains for a few hundred steps in a temporary directory, then loads and evaluates that.

    Args:
        main: function that does what `parse_args` returns.
        namespace: as for `parse_args`.
        env_id: name of the environment.

    Raises:
        OSError: the loaded network isn't the trained one.
    """
    same = ["--env", env_id, "--seed", "1", "--eval-steps", "1000"]
    short = "--name test --train-start 100 --q-validation-size 200 --eval-every 400 --max-steps 400"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        trained = main(parse_args(namespace, [*same, *short.split()]))
        loaded = main(parse_args(namespace, [*same, "--model", "test-log/test-400.h5", "--eval"]))
    if not np.array_equal(trained, loaded, equal_nan=True):
        raise OSError(f"the trained network returns {trained}, but once loaded {loaded}")
    print("The installation works: the network was trained, saved and loaded.")
