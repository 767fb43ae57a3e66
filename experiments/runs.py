"""The runs of a grid: listed when it starts, and read from grid.json when it is resumed."""

import itertools
import json

from support.command_line import SEED
from support.errors import WrongInput
from support.files import check_name
from support.options import fit_validation_size
from support.settings import check_recorded


def list_runs(grid, options, seeds, env_id):
    """Lists all runs of a grid in the order in which they start: the settings take turns.

    Args:
        grid: name of the grid, and of its setting if there is only one.
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
                "setting": ",".join(varied) or grid,
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
