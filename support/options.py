"""The settings of a run, from what is given, recorded and in the source; and what starts `main`.

All is read before TensorFlow is loaded, which takes seconds; so no module imported here needs it.
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

from support.checkpoints import holds_a_run, open_run
from support.command_line import ENV, as_option, check_values, read_command_line, read_settings
from support.errors import WrongInput, plain_errors, print_message
from support.snapshots import read_snapshot


class Options(argparse.Namespace):
    """The options of a lesson: an attribute for each that is not a constant, and these.

    Attributes:
        lesson: `globals()` of the lesson.
        constants: list of `Setting`s, with the values that they have in the source.
        play: whether a model is to be watched or evaluated instead of trained.
        snapshot: the `Snapshot` of `--model`; None without one.
        stopped_run: the `StoppedRun` of `--resume`; None without one.
    """

    @property
    def settings(self):
        """What is recorded with a run: the constants as they are now, `env`, `seed` and `model`.

        In a Python prompt, a constant may have been changed since the options were read. So all are
        checked again, and put back; an impossible value raises `WrongInput`.

        Returns:
            Dict of names, those of the constants in lower case, to values.
        """
        settings = self.current_values()
        # Neither JSON nor TensorBoard takes a name with bytes that are not text.
        model = os.fsencode(self.model or "none").decode(errors="replace")
        if self.stopped_run:  # it began with another model
            model = self.stopped_run.state["run"]["settings"]["model"]
        settings |= {"env": self.env, "seed": self.seed, "model": model}
        check_values(self.constants, settings)
        self.put(settings)
        return settings

    def current_values(self):
        """The values that the constants have now, those of NumPy as Python's: dict of names."""
        values = {}
        for setting in self.constants:
            value = self.lesson[setting.constant]
            values[setting.name] = value.item() if isinstance(value, np.generic) else value
        return values

    def put(self, settings):
        """Puts settings into the constants; raises `WrongInput` where no run can have them."""
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
            raise OptionsRead(options.constants)
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
        The module, which any later import finds, too. Its `options` are what
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
    """Ends the execution of a lesson of which only the constants are wanted."""


def read_constants(filename, arguments=()):
    """The constants of a lesson: it is executed up to the line that reads the options.

    So nothing is imported that takes seconds.

    Args:
        filename: of its source.
        arguments: the words of a command line, strings, which are checked.

    Returns:
        List of `Setting`s.

    Raises:
        WrongInput: a constant has an impossible value, or the arguments are wrong.
    """
    spec = importlib.util.spec_from_file_location(Path(filename).stem, filename)
    lesson = importlib.util.module_from_spec(spec)
    lesson.__arguments__ = list(arguments)
    lesson.__is_for_options__ = True
    try:
        spec.loader.exec_module(lesson)
    except OptionsRead as stop:
        return stop.args[0]


def parse_options(lesson, settings, arguments):
    """Reads a command line, and puts the values of options into the constants.

    Args:
        lesson: `globals()` of the lesson.
        settings: list of its `Setting`s.
        arguments: the words of the command line, strings.

    Returns:
        `Options`; raises `WrongInput` where the arguments are wrong.
    """
    options = Options(**vars(read_command_line(settings, arguments)))
    options.lesson = lesson
    options.constants = settings
    options.snapshot = read_snapshot(options.model) if options.model else None
    options.stopped_run = None
    name, logdir = options.name, f"{options.name}-log"
    if name is not None and os.path.isdir(logdir) and holds_a_run(logdir):
        raise WrongInput(f"--name {name}: {logdir} exists; choose another name, or --resume {name}")
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


def resolve_settings(options):
    """The value of each setting: as recorded where that holds, else as given or in the source.

    Args:
        options: `Options` of which `env` and `seed` are as given.

    Returns:
        Dict of the names of the constants, `env`, `seed` and `model` to values.

    Raises:
        WrongInput: what is given contradicts what is recorded, or that is impossible.
    """
    defaults = options.current_values()
    defaults |= {"env": ENV, "seed": secrets.randbelow(2**32), "model": "none"}
    if options.play:  # where nothing is recorded, what the snapshot's network shows
        inferred = options.snapshot.inferred
        defaults |= {name: inferred[name] for name in inferred.keys() & defaults.keys()}
    given = {setting.name: getattr(options, setting.constant) for setting in options.constants}
    given |= {"env": with_version(options.env), "seed": options.seed}
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
    try:
        check_values(options.constants, settings)
    except WrongInput as error:
        raise WrongInput(f"{source}: {error}" if source else error) from error
    return settings


def recorded_settings(options, names, given):
    """The recorded settings that apply.

    A run is resumed with all of its own but a new `--max-steps`. A snapshot is played with all that
    it was trained with but how it is evaluated, and another environment. A new run has none.

    Args:
        options: as above.
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
    lost = sorted(name for name in unknown if recorded[name] is not False)  # what was switched on
    if lost:
        print_message(
            f"warning: {options.model} was made with constants that this program doesn't have: "
            f"{', '.join(lost)}; its network may be another one"
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
    is_reduced = fit_validation_size(settings)
    n_steps = settings.get("n_steps", 1)
    for name in ("train_start", "replay_buffer_size", "q_validation_size"):
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
    if is_reduced and not options.play:
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
            check_installation(os.path.abspath(options.lesson["__file__"]))
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
        raise OSError(f"the trained network returned {trained}, and {loaded} after loading")
    print("The installation works: the network was trained, saved and loaded.")
