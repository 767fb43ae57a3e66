"""The options of run.py: its constants, and what to do with a run or a snapshot."""

import contextlib
import os
import secrets
import sys
import tempfile

import numpy as np

from support.checkpoints import CHECKPOINT, find_run, read_checkpoint, versions
from support.command_line import SEED, OneLineParser, new_file
from support.errors import WrongInput, plain_errors, print_error
from support.fast_tensorflow import run_eagerly
from support.files import check_name, lock
from support.settings import (
    add_settings,
    as_option,
    check_recorded,
    parse_recorded,
    read_settings,
    shaping,
)
from support.snapshots import read_snapshot

ENV = "MountainCar-v0"


def from_command_line(main, constants):
    """Does what the command line asks for; mistakes in it end in one line.

    Args:
        main: function of what `parse_args` returns.
        constants: `globals()` of the lesson.
    """
    program = sys.modules["__main__"]
    if vars(program) is constants:  # where another file imports the lesson, it is this one
        name = os.path.splitext(os.path.basename(constants["__file__"]))[0]
        sys.modules.setdefault(name, program)
    with plain_errors():
        args = parse_args(constants)
        if args.eager:
            run_eagerly()
        if args.test:
            self_test(main, constants)
        else:
            main(args)


def parse_args(constants, argv=None):
    """Reads and checks the command line, and puts the values of options into the constants.

    Args:
        constants: `globals()` of the lesson, or `vars(module)`, whose constants are options.
        argv: list of options and values; None for the program's own.

    Returns:
        `argparse.Namespace` with an attribute for each of the other options, and:

        - `settings`: dict of the names of the constants, `env`, `seed` and `model` to their
          values, which is recorded with a run;
        - `play`: whether a model is to be watched or evaluated instead of trained;
        - `state`, `lock`: of a run that is resumed, what its checkpoint holds and the lock on its
          directory; otherwise None;
        - `on_checkpoint`: None, or a function to be called with the step after each checkpoint but
          the first, of step 0.

    Raises:
        SystemExit: wrong input; one line has been printed, and the status is 2.
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
    add("--resume", metavar="NAME-log", help="continue the run in this directory")
    add("--seed", type=SEED, help="repeats a run (default: a fresh one, which is printed)")
    add("--env", metavar="ID", help=f"Gymnasium environment (default: {ENV})")
    add("--eager", action="store_true", help="run everything line by line, to look inside; slow")
    add("--test", action="store_true", help="check the installation in a few seconds")
    try:
        settings = read_settings(constants)
        add_settings(parser, settings)
        args = parser.parse_args(argv)
        prepare(args, settings, shaping(settings, constants))
    except WrongInput as error:
        parser.error(error)
    for setting in settings:
        if not setting.problem:
            constants[setting.constant] = args.settings[setting.name]
    return args


def prepare(args, settings, network):
    """Gives `args` what `parse_args` promises; raises `WrongInput` where that can't be.

    Args:
        args: what the parser returned.
        settings: list of `Setting`s.
        network: those of them that shape the network.
    """
    args.play = args.view or args.eval or args.images or args.gif is not None
    args.lock = args.state = args.on_checkpoint = None
    recorded = {} if args.resume is None else open_run(args)
    try:
        check_args(args)
        args.settings = settle(args, settings, network, recorded)
        check_steps(args)
    except WrongInput:
        if args.lock:
            args.lock.release()
        raise


def open_run(args):
    """Locks and reads the run to resume, into `args`; returns what it recorded: a dict.

    Raises `WrongInput` where there is no such run, or it can't be resumed with these options.
    """
    for option in ("model", "name", "seed", "test", "view", "eval", "images", "gif"):
        if getattr(args, option) is not None and getattr(args, option) is not False:
            raise WrongInput(
                f"--resume continues a run with its own settings; leave out --{option}"
            )
    if os.path.isfile(os.path.join(f"{args.resume}-log", CHECKPOINT)):
        args.resume = f"{args.resume}-log"
    find_run(args.resume)
    args.lock = lock(args.resume)
    try:
        args.state = read_checkpoint(args.resume)
        check_run(args)
    except WrongInput:
        args.lock.release()
        raise
    return args.state["run"]["settings"]


def check_run(args):
    """Raises `WrongInput` where the run that has been read can't be resumed."""
    settings, about = args.state["run"]["settings"], args.state["file"]
    if about["missing"]:
        raise WrongInput(f"{args.resume} can't be resumed: {'; '.join(about['missing'].values())}")
    env_id = str(settings.get("env"))
    if ":" in env_id and args.env != env_id:
        raise WrongInput(
            f"{args.resume} would import a module for its environment; if you trust it, repeat "
            f"--env {env_id}"
        )
    changed = [
        f"{name} {about['versions'].get(name)}, now {version}"
        for name, version in versions().items()
        if about["versions"].get(name) != version
    ]
    if changed:
        made_with = ", ".join(changed)
        print_error(
            f"warning: {args.resume} was made with {made_with}; results may differ", status=0
        )


def settle(args, settings, network, recorded):
    """Settles each setting: as given, else as recorded, else as in the source.

    Args:
        args: what the parser returned; its `env` and `seed` are settled, too.
        settings: list of `Setting`s.
        network: those of them that shape the network.
        recorded: dict of names to values of a run to resume; otherwise empty.

    Returns:
        Dict of the names of the settings, `env`, `seed` and `model` to values.

    Raises:
        WrongInput: what is given contradicts what is recorded, or that is impossible.
    """
    names = {setting.name for setting in settings} | {"env", "seed", "model"}
    if recorded and recorded.keys() != names:
        others = ", ".join(sorted(recorded.keys() ^ names))
        raise WrongInput(f"{args.resume} was made by a program with other constants: {others}")
    values = {}
    for setting in settings:
        name, given = setting.name, getattr(args, setting.constant)
        value = setting.default
        if recorded:
            value = recorded[name]
            check_recorded(setting, value)
            if name != "max_steps":
                check_given(args, setting.option, given, value)
        values[name] = value if given is None else given
    if recorded:
        parse_recorded("seed", SEED, recorded["seed"])
        check_given(args, "--env", args.env, recorded["env"])
        args.env, args.seed = str(recorded["env"]), recorded["seed"]
    if args.model is not None:
        fit_snapshot(args, values, network)
    if args.env is None:
        args.env = ENV
    if args.seed is None:
        args.seed = secrets.randbelow(2**32)
    model = recorded.get("model", args.model or "none")
    # Names of files may have bytes that are not text, which neither JSON nor TensorBoard takes.
    readable = os.fsencode(str(model)).decode(errors="replace")
    return values | {"env": args.env, "seed": args.seed, "model": readable}


def check_given(args, option, given, recorded):
    """Raises `WrongInput` where an option contradicts what a run or a snapshot has recorded."""
    if given not in (None, recorded):
        raise WrongInput(
            f"{option} {given} contradicts {args.resume or args.model}, which was started with "
            f"{recorded}; leave it out"
        )


def fit_snapshot(args, values, network):
    """Makes environment and network those of the snapshot, to play it; to train it, checks them.

    Args:
        args: what the parser returned; its `env` is set.
        values: dict of the names of all settings to values; those of the network are set.
        network: list of the `Setting`s that shape the network.

    Raises:
        WrongInput: the snapshot can't be read, or what it tells contradicts other options.
    """
    snapshot = read_snapshot(args.model)
    given, args.env = args.env, environment_of(snapshot, args.env)
    if given is None and args.env != ENV and not args.play:
        raise WrongInput(
            f"{args.model} was trained in {args.env}, and not in {ENV}; to train it further, give "
            f"--env {args.env}"
        )
    others = []
    for setting in network:
        value = network_value(snapshot, setting, values[setting.name])
        if args.play:
            check_given(args, setting.option, getattr(args, setting.constant), value)
            values[setting.name] = value
        elif value != values[setting.name]:
            others.append(as_option(setting.name, value))
    if others:
        raise WrongInput(
            f"{args.model} is of a network with other constants; to train it further, give "
            f"{' '.join(others)}"
        )
    unknown = snapshot.settings.keys() - values.keys() - {"env", "seed", "model"}
    if unknown:
        print_error(
            f"warning: {args.model} was trained with constants that this program doesn't have: "
            f"{', '.join(sorted(unknown))}; its network may be another one",
            status=0,
        )


def environment_of(snapshot, given):
    """The environment that a `Snapshot` is for.

    Args:
        snapshot: what `read_snapshot` returned.
        given: name of an environment instead; or None.

    Returns:
        Its name.

    Raises:
        WrongInput: it would import a module.
    """
    told = snapshot.settings.get("env", ENV)
    if given is None and ":" in told:
        raise WrongInput(
            f"{snapshot.filename} would import a module for its environment; if you trust it, give "
            f"--env {told}"
        )
    return given or told


def network_value(snapshot, setting, default):
    """The value of a `Setting` with which the network of a `Snapshot` was made.

    It is `default` if the file doesn't tell. Raises `WrongInput` where it is impossible.
    """
    value = snapshot.settings.get(setting.name, default)
    try:
        check_recorded(setting, value)
    except WrongInput as error:
        raise WrongInput(f"{snapshot.filename}: {error}") from error
    return value


def check_args(args):
    """Raises `WrongInput` where options contradict each other or name what can't be."""
    watching = "--view, --eval, --images and --gif"
    if args.name is not None:
        check_name("--name", args.name)
    if args.model == "":
        raise WrongInput("--model needs the name of a file")
    if args.play and not args.model:
        raise WrongInput(f"{watching} need a trained --model X.h5")
    if args.play and args.name is not None:
        raise WrongInput(f"--name names a training, and {watching} only play")
    if args.images and not os.access(".", os.W_OK):
        raise WrongInput("--images can't write to the current directory")


def check_steps(args):
    """Raises `WrongInput` where there is no step to be trained."""
    max_steps, train_start = (args.settings.get(name) for name in ("max_steps", "train_start"))
    if max_steps and train_start and max_steps <= train_start and not args.play:
        raise WrongInput(
            f"MAX_STEPS {max_steps} must be greater than TRAIN_START {train_start}, the first step "
            "that learns: raise --max-steps or lower --train-start"
        )
    if args.state and max_steps and max_steps <= args.state["run"]["step"]:
        raise WrongInput(
            f"{args.resume} has done {args.state['run']['step']} steps, and --max-steps is "
            f"{max_steps}; raise it to continue"
        )


def self_test(main, constants):
    """Trains for a few hundred steps in a temporary directory, then loads and evaluates that.

    It does so in CartPole-v1, where returns differ from network to network. `main` does what
    `parse_args` returns. Raises OSError where the two don't agree.
    """
    same = ["--env", "CartPole-v1", "--seed", "1", "--eval-steps", "1000"]
    short = "--name test --train-start 100 --q-validation-size 200 --eval-every 400 --max-steps 400"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        trained = main(parse_args(constants, [*same, *short.split()]))
        loaded = main(parse_args(constants, [*same, "--model", "test-log/test-400.h5", "--eval"]))
    if not np.array_equal(trained, loaded, equal_nan=True):
        raise OSError(f"the trained network returns {trained}, but once loaded {loaded}")
    print("The installation works: the network was trained, saved and loaded.")
