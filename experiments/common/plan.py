"""The plan of a sweep: its runs, from a command line or from the file that a sweep keeps."""

import itertools
import json
from typing import NamedTuple

from support.command_line import SEED, number
from support.errors import WrongInput
from support.files import check_name
from support.options import ENV, fit_validation_size, read_constants, with_version
from support.settings import add_settings, as_option, check_recorded

ENGINES = ("compiled", "exact")


class Run(NamedTuple):
    """One training of a sweep.

    Attributes:
        setting: what its tables call its hyperparameters, those that vary: `hidden_units=32`.
        name: of the run, `hidden_units=32,seed=0`.
        env: name of the environment.
        seed: an int.
        hyperparameters: dict of all constants of run.py, in lower case, to values.
    """

    setting: str
    name: str
    env: str
    seed: int
    hyperparameters: dict

    def options(self):
        """Its environment and hyperparameters as options of run.py: list of strings."""
        return [as_option("env", self.env)] + [
            as_option(name, value) for name, value in self.hyperparameters.items()
        ]

    @property
    def max_steps(self):
        """Its last training step, an int."""
        return self.hyperparameters["max_steps"]

    def evaluated_steps(self):
        """The training steps at which it is evaluated: list of ints."""
        every = self.hyperparameters["eval_every"]
        return sorted({*range(every, self.max_steps + 1, every), self.max_steps})


class Plan(NamedTuple):
    """What a sweep is to do.

    Attributes:
        runs: list of `Run`s, in the order in which they start.
        engine: one of `ENGINES`; None before it is chosen.
        is_by_hand: whether the user has chosen it.
        varied: names of the hyperparameters that were given on the command line.
    """

    runs: list
    engine: str | None
    is_by_hand: bool
    varied: list

    def settings(self):
        """The first `Run` of each setting: list."""
        return list({run.setting: run for run in reversed(self.runs)}.values())[::-1]


def add_plan_options(parser, settings):
    """Adds the options that say which runs there are to be.

    Args:
        parser: `argparse.ArgumentParser`.
        settings: list of the `Setting`s of run.py, each of which becomes an option with several
            values.
    """
    add = parser.add_argument
    add("--seeds", type=number(1, 10**6), help="runs per setting (default: 10)")
    add("--first-seed", type=number(0, 2**31), help="lowest seed (default: 0)")
    add("--env", metavar="ID", help=f"environment (default: {ENV})")
    engine = parser.add_mutually_exclusive_group()
    for name, meaning in (
        ("compiled", "train in a compiled loop, even if that doesn't measure all that is changed"),
        ("exact", "do what run.py does, even if a compiled loop would measure the same"),
    ):
        engine.add_argument(
            f"--{name}", action="store_const", dest="engine", const=name, help=meaning
        )
    add_settings(parser, settings, several=True)


def make_plan(args, settings, filename):
    """The `Plan` that a command line asks for.

    Args:
        args: what a parser with `add_plan_options` and `--name` returned.
        settings: list of the `Setting`s of run.py.
        filename: of run.py.

    Raises:
        WrongInput: a setting is impossible, or a run would have an impossible name.
    """
    given = {setting.name: getattr(args, setting.constant) for setting in settings}
    values = {setting.name: given[setting.name] or [setting.default] for setting in settings}
    first = args.first_seed or 0
    seeds = range(first, first + (args.seeds or 10))
    runs = list_runs(args.name, values, seeds, with_version(args.env) or ENV)
    for run in runs:
        check_name("a run would be named", run.name)
    varied = [name for name, values in given.items() if values]
    plan = Plan(runs, args.engine, args.engine is not None, varied)
    for run in plan.settings():
        read_constants(filename, run.options())
    return plan


def list_runs(name, values, seeds, env_id):
    """Lists all runs in the order in which they start: the settings take turns.

    Args:
        name: of the sweep, and of its setting if there is only one.
        values: dict of all hyperparameters to lists of values.
        seeds: the seeds, ints.
        env_id: name of the environment.

    Returns:
        List of `Run`s. Of settings that come to the same, as a Q_VALIDATION_SIZE that is too large
        is reduced, there is one.
    """
    combinations = []
    for chosen in itertools.product(*values.values()):
        hyperparameters = dict(zip(values, chosen, strict=True))
        fit_validation_size(hyperparameters)
        if hyperparameters not in combinations:
            combinations.append(hyperparameters)
    varied = [
        name
        for name in values
        if len(values[name]) > 1 and len({chosen[name] for chosen in combinations}) > 1
    ]
    runs = []
    for seed, hyperparameters in itertools.product(seeds, combinations):
        parts = [f"{name}={hyperparameters[name]}" for name in varied]
        setting = ",".join(parts) or name
        runs.append(Run(setting, ",".join([*parts, f"seed={seed}"]), env_id, seed, hyperparameters))
    return runs


def as_json(plan):
    """A `Plan` as it is kept, bytes."""
    return json.dumps(
        {**plan._asdict(), "runs": [run._asdict() for run in plan.runs]}, indent=1
    ).encode()


def read_plan(filename, settings):
    """Reads a `Plan` from a file, which may come from a stranger.

    Args:
        filename: path of what `as_json` returned.
        settings: list of the `Setting`s of run.py.

    Raises:
        WrongInput: the file holds something else.
    """
    try:
        plan = Plan(**json.loads(filename.read_text()))
        plan = plan._replace(runs=[Run(**run) for run in plan.runs])
        for run in plan.runs:
            check_run(settings, run)
        for keys in (("name",), ("setting", "seed")):
            if len({tuple(getattr(run, key) for key in keys) for run in plan.runs}) < len(
                plan.runs
            ):
                raise ValueError(f"two runs have the same {' and '.join(keys)}")
        env_ids = {run.env for run in plan.runs}
        if len(env_ids) != 1:
            raise ValueError(f"its runs are in {len(env_ids)} environments instead of 1")
        names = {setting.name for setting in settings}
        if plan.engine not in ENGINES or type(plan.is_by_hand) is not bool:
            raise ValueError(f"its engine is {plan.engine!r}")
        if not names.issuperset(plan.varied):
            raise ValueError(f"{plan.varied!r} are not constants of run.py")
    except Exception as error:  # whatever other content leads to
        raise WrongInput(
            f"{filename} is not the plan of a sweep of this program: {error!r}"
        ) from error
    return plan


def check_run(settings, run):
    """Raises an error if something read from a file is no `Run`."""
    check_name("its setting", run.setting)
    check_name("its run", run.name)
    if type(run.env) is not str or SEED(str(run.seed)) != run.seed:
        raise ValueError(f"{run.name} has the environment {run.env!r} and the seed {run.seed!r}")
    if run.hyperparameters.keys() != {setting.name for setting in settings}:
        raise ValueError(f"{run.name} has other hyperparameters")
    for setting in settings:
        check_recorded(setting.constant, setting.parse, run.hyperparameters[setting.name])
