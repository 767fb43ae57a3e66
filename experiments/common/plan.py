"""The plan of a sweep: its runs, from a command line or from the file that a sweep keeps."""

import itertools
import json
from typing import NamedTuple

from support.command_line import ENV, SEED, add_settings, as_option, check_value, number
from support.errors import WrongInput
from support.files import check_name
from support.options import fit_validation_size, read_constants, with_version

ENGINES = {  # and what their options say
    "compiled": "train in a compiled loop, even if that doesn't measure all that was changed",
    "exact": "do what run.py does, even if the compiled loop would measure the same",
}
MAX_SEEDS = 10**6


class Run(NamedTuple):
    """One training of a sweep.

    Attributes:
        configuration: what its tables call its hyperparameters, those that vary: `hidden_units=32`.
        name: of the run, `hidden_units=32,seed=0`.
        env: name of the environment.
        seed: an int.
        hyperparameters: dict of all constants of run.py, in lower case, to values.
    """

    configuration: str
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
    """What a sweep is to do: every combination of some values, with every seed.

    Attributes:
        name: of the sweep.
        env: name of the environment.
        first_seed: lowest seed.
        seeds: how many there are.
        values: dict of all constants of run.py, in lower case, to lists of values.
        engine: one of `ENGINES`; None before it is chosen.
        is_by_hand: whether the user has chosen it.
    """

    name: str
    env: str
    first_seed: int
    seeds: int
    values: dict
    engine: str | None
    is_by_hand: bool

    def combinations(self):
        """Hyperparameters of each configuration: list of dicts.

        Those that become equal when a Q_VALIDATION_SIZE that is too large is reduced count once.
        """
        found = []
        for chosen in itertools.product(*self.values.values()):
            hyperparameters = dict(zip(self.values, chosen, strict=True))
            fit_validation_size(hyperparameters)
            if hyperparameters not in found:
                found.append(hyperparameters)
        return found

    def runs(self):
        """All `Run`s, in the order in which they start: configurations take turns. A list."""
        combinations = self.combinations()
        varied = [
            name
            for name, values in self.values.items()
            if len(values) > 1 and len({chosen[name] for chosen in combinations}) > 1
        ]
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        runs = []
        for seed, chosen in itertools.product(seeds, combinations):
            assignments = [f"{name}={chosen[name]}" for name in varied]
            name = ",".join([*assignments, f"seed={seed}"])
            runs.append(Run(",".join(assignments) or self.name, name, self.env, seed, chosen))
        return runs

    def first_runs(self):
        """The `Run`s of the first seed, one of each configuration: list."""
        return self._replace(seeds=1).runs()


def add_plan_options(parser, constants):
    """Adds the options that say which runs there are to be.

    Args:
        parser: `argparse.ArgumentParser`.
        constants: list of the `Setting`s of run.py, each of which becomes an option with several
            values.
    """
    add = parser.add_argument
    add("--seeds", type=number(1, MAX_SEEDS), help="runs per configuration (default: 10)")
    add("--first-seed", type=number(0, 2**31), help="lowest seed (default: 0)")
    add("--env", metavar="ID", help=f"environment (default: {ENV})")
    engines = parser.add_mutually_exclusive_group()
    for name, meaning in ENGINES.items():
        engines.add_argument(
            f"--{name}", action="store_const", dest="engine", const=name, help=meaning
        )
    add_settings(parser, constants, several=True)


def make_plan(args, constants, filename):
    """The `Plan` that a command line asks for.

    Args:
        args: what a parser with `add_plan_options` and `--name` returned.
        constants: list of the `Setting`s of run.py.
        filename: of run.py.

    Raises:
        WrongInput: a configuration is impossible, or a run would have an impossible name.
    """
    plan = Plan(
        args.name,
        with_version(args.env) or ENV,
        args.first_seed or 0,
        args.seeds or 10,
        {
            setting.name: list(dict.fromkeys(getattr(args, setting.constant) or [setting.default]))
            for setting in constants
        },
        args.engine,
        args.engine is not None,
    )
    for run in plan.runs():
        check_name("a run would be named", run.name)
    for run in plan.first_runs():
        read_constants(filename, run.options())
    return plan


def read_plan(filename, constants):
    """Reads a `Plan` from a file, which may come from a stranger.

    Args:
        filename: path of the plan.json of a sweep.
        constants: list of the `Setting`s of run.py.

    Raises:
        WrongInput: the file holds something else, or run.py has other constants now.
    """
    try:
        plan = Plan(**json.loads(filename.read_text()))
        names = {constant.name for constant in constants}
        others = ", ".join(sorted(plan.values.keys() ^ names)).upper()
        if not others:
            check_plan(plan, constants)
    except Exception as error:  # of any kind, from other content
        raise WrongInput(f"{filename} is not the plan of a sweep: {error!r}") from error
    if others:
        raise WrongInput(
            f"{filename} was made with other constants in run.py: {others}; put them back as they "
            "were, or start another sweep"
        )
    return plan


def check_plan(plan, constants):
    """Raises an error if something read from a file is no `Plan`; `constants` as above."""
    check_name("its name", plan.name)
    if type(plan.env) is not str or plan.engine not in ENGINES or type(plan.is_by_hand) is not bool:
        raise ValueError(f"its engine is {plan.engine!r}, its environment {plan.env!r}")
    if SEED(str(plan.first_seed)) != plan.first_seed or type(plan.seeds) is not int:
        raise ValueError(f"its first of {plan.seeds!r} seeds is {plan.first_seed!r}")
    if not 1 <= plan.seeds <= MAX_SEEDS:
        raise ValueError(f"it has {plan.seeds} seeds")
    for constant in constants:
        values = plan.values[constant.name]
        if type(values) is not list or not values:
            raise ValueError(f"{constant.constant} has the values {values!r}")
        for value in values:
            check_value(constant.constant, constant.parse, value)
    for run in plan.runs():
        check_name("its run", run.name)
