"""The runs of a grid or a screen: planned from a command line, or read from a grid's file."""

import itertools
import json
import os
import re
import textwrap
from pathlib import Path

from support.command_line import SEED, number
from support.errors import ROOT, WrongInput, own_frames
from support.files import check_name
from support.options import ENV, fit_validation_size, with_version
from support.settings import add_settings, as_option, check_recorded

MAX_MESSAGE = 200  # characters of a mistake's message that are told


def add_run_options(parser, settings):
    """Adds the options that say which runs there are to be, and how to train them.

    Args:
        parser: `argparse.ArgumentParser`.
        settings: list of the `Setting`s of run.py, each of which becomes an option with several
            values.
    """
    add = parser.add_argument
    add("--seeds", type=number(1, 10**6), help="runs per setting (default: 10)")
    add("--first-seed", type=number(0, 2**31), help="lowest seed (default: 0)")
    add("--env", metavar="ID", help=f"environment (default: {ENV})")
    add("--cores", type=number(1, 10**6), metavar="N", help="cores to use (default: all)")
    add("--format", choices=["png", "svg"], help="file format of the plot (default: png)")
    add_settings(parser, settings, several=True)


def plan_runs(args, settings):
    """The runs that a command line asks for.

    Args:
        args: what a parser with `add_run_options` and `--name` returned.
        settings: list of the `Setting`s of run.py.

    Returns:
        What `list_runs` returns.

    Raises:
        WrongInput: a run would have an impossible name.
    """
    options = {}
    for setting in settings:
        options[setting.name] = getattr(args, setting.constant) or [setting.default]
    first = args.first_seed or 0
    seeds = range(first, first + (args.seeds or 10))
    runs = list_runs(args.name, options, seeds, with_version(args.env) or ENV)
    for planned in runs:
        check_name("a run would be named", planned["name"])
    return runs


def list_runs(name, options, seeds, env_id):
    """Lists all runs in the order in which they start: the settings take turns.

    Args:
        name: of the grid or screen, and of its setting if there is only one.
        options: dict of all hyperparameters to lists of values.
        seeds: the seeds, ints.
        env_id: name of the environment.

    Returns:
        List of dicts: `setting`, a string; `name` of the run; `env`; `seed`; and
        `hyperparameters`, a dict of all of them to values.
    """
    options = {option: list(dict.fromkeys(values)) for option, values in options.items()}
    runs = []
    for seed, values in itertools.product(seeds, itertools.product(*options.values())):
        chosen = dict(zip(options, values, strict=True))
        fit_validation_size(chosen)
        varied = [f"{option}={chosen[option]}" for option in options if len(options[option]) > 1]
        runs.append(
            {
                "setting": ",".join(varied) or name,
                "name": ",".join([*varied, f"seed={seed}"]),
                "env": env_id,
                "seed": seed,
                "hyperparameters": chosen,
            }
        )
    return runs


def read_runs(filename, settings):
    """Reads, from a file that may come from a stranger, what `list_runs` returned.

    Args:
        filename: path of a grid.json.
        settings: list of `Setting`s.

    Raises:
        WrongInput: the file holds something else.
    """
    try:
        runs = json.loads(filename.read_text())
        for planned in runs:
            check_run(settings, **planned)
        for keys in (("name",), ("setting", "seed")):
            if len({tuple(planned[key] for key in keys) for planned in runs}) < len(runs):
                raise ValueError(f"two runs have the same {' and '.join(keys)}")
        env_ids = {planned["env"] for planned in runs}
        if len(env_ids) != 1:
            raise ValueError(f"its runs are in {len(env_ids)} environments instead of 1")
    except Exception as error:  # whatever other content leads to
        raise WrongInput(f"{filename} is not a grid of this program: {error!r}") from error
    return runs


def check_run(settings, setting, name, env, seed, hyperparameters):
    """Raises an error if the arguments are not those of a run of `list_runs`."""
    check_name("its setting", setting)
    check_name("its run", name)
    if type(env) is not str or SEED(str(seed)) != seed:
        raise ValueError(f"{name} has the environment {env!r} and the seed {seed!r}")
    if hyperparameters.keys() != {setting.name for setting in settings}:
        raise ValueError(f"{name} has other hyperparameters")
    for setting in settings:
        check_recorded(setting.constant, setting.parse, hyperparameters[setting.name])


def as_options(planned):
    """A run's environment and hyperparameters as options of run.py: list of strings."""
    return [as_option("env", planned["env"])] + [
        as_option(name, value) for name, value in planned["hyperparameters"].items()
    ]


def describe_mistake(error):
    """An exception in one line, with the last line of the reader's own code that led to it."""
    folders = {ROOT / "support", ROOT / "experiments"}
    frames = own_frames(error.__traceback__)
    frames = [frame for frame in frames if Path(frame.filename).parent not in folders]
    message = re.sub(r"\{\{.*?\}\} ?", "", str(error))  # with which TensorFlow names its nodes
    message = f"{type(error).__name__}: {message}".removesuffix(": ")
    message = textwrap.shorten(message, MAX_MESSAGE, placeholder=" ...")
    if frames:
        file = os.path.basename(frames[-1].filename)
        message += f" ({file}, line {frames[-1].lineno}: {frames[-1].line})"
    return "; ".join([message, *getattr(error, "__notes__", ())])
