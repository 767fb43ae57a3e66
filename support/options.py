"""The options of run.py, its constants among them, and what it does around `main`.

They are read before TensorFlow is loaded, which takes seconds; so no module imported here needs it.
"""

import argparse
import contextlib
import importlib.util
import os
import secrets
import shlex
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import find_highest_version, parse_env_id

from support.checkpoints import open_run
from support.command_line import SEED, OneLineParser, new_file
from support.errors import WrongInput, plain_errors, print_error
from support.files import check_name
from support.settings import add_settings, any_text, as_option, check_recorded, read_settings
from support.snapshots import read_snapshot

ENV = "MountainCar-v0"


class Options(argparse.Namespace):
    """The options of a lesson: an attribute for each that is not a constant, and these.

    Attributes:
        lesson: `globals()` of the lesson.
        constants: list of `Setting`s, with the values that they have in the source.
        play: whether a model is to be watched or evaluated instead of trained.
        snapshot: the `Snapshot` of `--model`; None without one.
        stopped_run: the `StoppedRun` of `--resume`; None without one.
        filename: the lesson's.
    """

    @property
    def settings(self):
        """What is recorded with a run: the constants as they are now, `env`, `seed` and `model`.

        In a Python prompt, a constant may have been changed since the options were read. So what
        can't be raises `WrongInput` here, too.

        Returns:
            Dict of names, those of the constants in lower case, to values.
        """
        settings = current_values(self.lesson, self.constants)
        settings |= {"env": self.env, "seed": self.seed, "model": as_text(self.model or "none")}
        if self.stopped_run:  # it began with another model
            settings["model"] = self.stopped_run.state["run"]["settings"]["model"]
        check_values(settings, self.constants)
        self.put(settings)
        return settings

    def put(self, settings):
        """Puts settings into the constants; raises `WrongInput` where no run can have them."""
        if not self.play:
            check_steps(self, settings)
        for setting in self.constants:
            self.lesson[setting.constant] = settings[setting.name]

    def read(self, words=""):
        """The options of another command line, for a Python prompt.

        What they don't set stays as it is: `run.main(run.options.read("--name second --seed 1"))`
        trains as `python run.py --name second --seed 1` does, with all that was changed in `run`.

        Args:
            words: of the command line, a string.

        Returns:
            `Options`.

        Raises:
            WrongInput: they are wrong.
        """
        words = shlex.split(words)
        if "--help" in words or "-h" in words:  # which would end the prompt
            raise WrongInput("--help is for the command line: python run.py --help")
        options = parse_options(self.lesson, self.constants, words)
        if options.test or options.eager:
            raise WrongInput(
                "--test is for the command line, and in place of --eager, a prompt has "
                "run.tf.config.run_functions_eagerly(True)"
            )
        return options


def read_options(constants):
    """Reads the command line, and puts the values of options into the constants above the call.

    It does so where the lesson is the program that was started, or was loaded by `load_lesson`. In
    a lesson that is imported otherwise, all options have their defaults. Wrong input ends a program
    in one line, with the exit status 2.

    Args:
        constants: `globals()` of the lesson.

    Returns:
        `Options`.

    Raises:
        WrongInput: the input is wrong, and the lesson is not the program.
    """
    if constants["__name__"] != "__main__":
        arguments = constants.get("__arguments__", [])
        options = parse_options(constants, read_settings(constants), arguments)
        if constants.get("__is_for_options__"):
            raise OptionsRead(options)
        return options
    with plain_errors():
        if "__file__" not in constants:
            raise WrongInput("don't paste it into a prompt: there, import run from its folder")
        program = sys.modules["__main__"]
        if vars(program) is constants:  # where another file imports the lesson, it is this one
            sys.modules.setdefault(Path(constants["__file__"]).stem, program)
        return parse_options(constants, read_settings(constants), sys.argv[1:])


def load_lesson(filename, arguments=()):
    """Loads a lesson with options, as `python FILENAME ARGUMENTS` does, but doesn't start it.

    Args:
        filename: of its source.
        arguments: the words of a command line, strings.

    Returns:
        The module, which whatever imports it from now on finds, too. Its `options` are what
        `read_options` returned.

    Raises:
        WrongInput: the arguments are wrong.
    """
    name = Path(filename).stem
    spec = importlib.util.spec_from_file_location(name, filename)
    lesson = importlib.util.module_from_spec(spec)
    lesson.__arguments__ = list(arguments)
    sys.modules[name] = lesson
    try:
        spec.loader.exec_module(lesson)
    except BaseException:
        del sys.modules[name]  # as an import does, for it is half loaded
        raise
    return lesson


class OptionsRead(Exception):
    """Ends the execution of a lesson of which only the options are wanted."""


def read_constants(filename, arguments=()):
    """The constants of a lesson: it is executed up to the line that reads the options.

    So nothing is imported that takes seconds.

    Args:
        filename: of its source.
        arguments: the words of a command line, strings, which are checked.

    Returns:
        List of `Setting`s.

    Raises:
        WrongInput: a constant has a value that can't be, or the arguments are wrong.
    """
    spec = importlib.util.spec_from_file_location(Path(filename).stem, filename)
    lesson = importlib.util.module_from_spec(spec)
    lesson.__arguments__ = list(arguments)
    lesson.__is_for_options__ = True
    try:
        spec.loader.exec_module(lesson)
    except OptionsRead as stop:
        (options,) = stop.args
        return options.constants
    return lesson.options.constants


def parse_options(lesson, settings, arguments):
    """Parses a command line, and puts the values of options into the constants.

    Args:
        lesson: `globals()` of the lesson.
        settings: list of its `Setting`s.
        arguments: the words of the command line, strings.

    Returns:
        `Options`.

    Raises:
        WrongInput: the arguments are wrong.
    """
    options = Options(**vars(make_parser(settings).parse_args(arguments)))
    options.play = options.view or options.eval or options.images or options.gif is not None
    check_options(options)
    options.lesson = lesson
    options.constants = settings
    options.filename = os.path.abspath(lesson["__file__"])
    options.snapshot = read_snapshot(options.model) if options.model else None
    options.stopped_run = None
    if options.resume is not None:
        options.stopped_run = open_run(options.resume)
        options.resume = options.stopped_run.logdir
    try:
        resolved = resolve_settings(options)
        options.put(resolved)
    except WrongInput:
        if options.stopped_run:
            options.stopped_run.lock.release()
        raise
    options.env, options.seed = resolved["env"], resolved["seed"]
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


def check_options(options):
    """Raises `WrongInput` where options contradict each other or name what can't be."""
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


def current_values(lesson, settings):
    """The values that the constants of a lesson have now.

    Args:
        lesson: its `globals()`.
        settings: list of `Setting`s.

    Returns:
        Dict of their names to values, those of NumPy as Python's.
    """
    values = {setting.name: lesson[setting.constant] for setting in settings}
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in values.items()
    }


def check_values(values, settings):
    """Raises `WrongInput` where a value, by its name, is not of the kind of its `Setting`."""
    for setting in settings:
        check_recorded(setting.constant, setting.parse, values[setting.name])


def as_text(filename):
    """A file's name without bytes that are not text, which neither JSON nor TensorBoard takes."""
    return os.fsencode(filename).decode(errors="replace")


def resolve_settings(options):
    """The value of each setting: as recorded where that holds, else as given or in the source.

    Args:
        options: what the parser returned, with `snapshot` and `stopped_run`.

    Returns:
        Dict of the names of the constants, `env`, `seed` and `model` to values.

    Raises:
        WrongInput: what is given contradicts what is recorded, or that is impossible.
    """
    defaults = current_values(options.lesson, options.constants)
    defaults |= {"env": ENV, "seed": secrets.randbelow(2**32), "model": "none"}
    if options.play:  # what the snapshot's network tells, where nothing is recorded
        told = options.snapshot.told
        defaults |= {name: told[name] for name in told.keys() & defaults.keys()}
    given = {setting.name: getattr(options, setting.constant) for setting in options.constants}
    given |= {"env": with_version(options.env), "seed": options.seed, "model": options.model}
    given = {name: value for name, value in given.items() if value is not None}
    recorded = recorded_settings(options, defaults.keys(), given)
    source = options.resume or options.model
    for name in given.keys() & recorded.keys():
        if given[name] != recorded[name]:
            raise WrongInput(
                f"{as_option(name, given[name])} contradicts {source}, which was made with "
                f"{recorded[name]}; leave it out"
            )
    settings = {**defaults, **given, **recorded}
    settings["model"] = as_text(settings["model"])
    try:
        check_recorded("env", any_text, settings["env"])
        check_recorded("seed", SEED, settings["seed"])
        check_values(settings, options.constants)
    except WrongInput as error:
        raise WrongInput(f"{source}: {error}" if source else error) from error
    return settings


def recorded_settings(options, names, given):
    """The recorded settings that hold.

    A run is resumed with all of its own but a new `--max-steps`. A snapshot is played with all that
    it was trained with but how it is evaluated, and another environment. A new run has none.

    Args:
        options: what the parser returned, with `snapshot` and `stopped_run`.
        names: of all settings of this program.
        given: dict of the names of settings to what is given.

    Returns:
        Dict of names to values.

    Raises:
        WrongInput: they are not those of this program, or their environment would import a module.
    """
    if options.stopped_run:
        recorded = dict(options.stopped_run.state["run"]["settings"])
        if recorded.keys() != names:
            others = ", ".join(sorted(recorded.keys() ^ names))
            raise WrongInput(
                f"{options.resume} was made by a program with other constants: {others}"
            )
        check_environment(options.resume, recorded["env"], given.get("env"))
        if "max_steps" in given:
            del recorded["max_steps"]
        return recorded

    if not options.snapshot:
        return {}
    recorded = {"env": ENV, **options.snapshot.settings}
    if "env" in given:
        del recorded["env"]
    else:
        check_environment(options.model, recorded["env"])
    if not options.play:
        if recorded.get("env", ENV) != ENV:
            raise WrongInput(
                f"{options.model} was trained in {recorded['env']}, and not in {ENV}; to train it "
                f"further, give --env {recorded['env']}"
            )
        return {}
    unknown = recorded.keys() - names
    missed = sorted(name for name in unknown if recorded[name] is not False)  # that was switched on
    if missed:
        print_error(
            f"warning: {options.model} was made with constants that this program doesn't have: "
            f"{', '.join(missed)}; its network may be another one"
        )
    is_free = {name for name in recorded if name in ("seed", "model") or name.startswith("eval_")}
    return {name: recorded[name] for name in recorded.keys() - unknown - is_free}


def with_version(env_id):
    """The name of an environment with its newest version, `MountainCar-v0` for `MountainCar`."""
    if env_id is None:
        return None
    with contextlib.suppress(gym.error.Error):
        namespace, name, version = parse_env_id(env_id)
        newest = find_highest_version(namespace, name)
        if version is None and newest is not None:
            return f"{env_id}-v{newest}"
    return env_id


def check_environment(source, recorded, given=None):
    """Raises `WrongInput` where a recorded environment would import a module and isn't given."""
    if isinstance(recorded, str) and ":" in recorded and given != recorded:
        raise WrongInput(
            f"{source} would import a module for its environment; if you trust it, give "
            f"--env {recorded}"
        )


def check_steps(options, settings):
    """Raises `WrongInput` where no step is to be trained; fits Q_VALIDATION_SIZE to the run."""
    max_steps, train_start = (settings.get(name) for name in ("max_steps", "train_start"))
    if max_steps and train_start and max_steps <= train_start:
        raise WrongInput(
            f"MAX_STEPS {max_steps} must be greater than TRAIN_START {train_start}, the first step "
            "that learns: raise --max-steps or lower --train-start"
        )
    n_steps = settings.get("n_steps", 1)
    for name in ("train_start", "replay_buffer_size"):
        if n_steps > settings.get(name, n_steps):
            raise WrongInput(
                f"N_STEPS {n_steps} must not be greater than {name.upper()} {settings[name]}: "
                f"lower --n-steps or raise --{name.replace('_', '-')}"
            )
    done = options.stopped_run.state["run"]["step"] if options.stopped_run else 0
    if max_steps and max_steps <= done:
        raise WrongInput(
            f"{options.resume} has done {done} steps, and --max-steps is {max_steps}; raise it to "
            "continue"
        )
    if fit_validation_size(settings):
        size = settings["q_validation_size"]
        print(f"Q_VALIDATION_SIZE is reduced to {size}, the step of the first evaluation")


def fit_validation_size(settings):
    """Reduces Q_VALIDATION_SIZE where it is greater than the step of the first evaluation.

    The observations over which that takes avg_max_q_value are drawn at the step of that number.

    Args:
        settings: dict of names to values, which is changed.

    Returns:
        Whether it was, a bool.
    """
    size, every, max_steps = map(settings.get, ("q_validation_size", "eval_every", "max_steps"))
    is_too_late = bool(size and every and max_steps and size > min(every, max_steps))
    if is_too_late:
        settings["q_validation_size"] = min(every, max_steps)
    return is_too_late


def start(main, options):
    """Does what the command line asks for; mistakes in it end in one line.

    Args:
        main: function of the options.
        options: what `read_options` returned.
    """
    with plain_errors():
        if options.eager:
            from support.fast_tensorflow import run_eagerly  # here, where TensorFlow is loaded

            run_eagerly()
        if options.test:
            check_installation(options.filename)
        else:
            main(options)


def check_installation(filename):
    """Trains for a few hundred steps in a temporary directory, then loads and evaluates that.

    It does so in CartPole-v1, where returns differ from network to network.

    Args:
        filename: of the lesson.

    Raises:
        OSError: the two don't agree.
    """
    same = "--env CartPole-v1 --seed 1 --eval-steps 1000"
    short = "--name test --train-start 100 --q-validation-size 200 --eval-every 400 --max-steps 400"
    returns = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for words in (f"{same} {short}", f"{same} --model test-log/test-400.h5 --eval"):
            lesson = load_lesson(filename, words.split())
            returns.append(lesson.main(lesson.options))
    trained, loaded = returns
    if not np.array_equal(trained, loaded, equal_nan=True):
        raise OSError(f"the trained network returns {trained}, but once loaded {loaded}")
    print("The installation works: the network was trained, saved and loaded.")
