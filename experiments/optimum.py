"""How good can it get? Computes the best possible return in Mountain Car, by value iteration:

    python -m experiments.optimum
    python -m experiments.optimum first-log/first-best.h5

The second line says how far the values that a network has learned are from the right ones.

Value iteration is explained in experiments/common/value_iteration.py. It computes the values of
points on a grid, which is refined until the return of the resulting policy hardly changes.
"""

import sys

if not __package__:
    print("optimum.py: start it with python -m experiments.optimum", file=sys.stderr)
    sys.exit(2)

from support.command_line import OneLineParser, new_file, number
from support.errors import WrongInput, plain_errors


def parse_args(argv=None):
    """Reads the command line: `argparse.Namespace`; raises `WrongInput`."""
    parser = OneLineParser(prog="optimum", description="Computes the best return in Mountain Car.")
    add = parser.add_argument
    add("snapshots", nargs="*", metavar="X.h5", help="compare the values of these with the optimum")
    add(
        "--gamma",
        type=number(0.0, 1.0),
        metavar="X",
        help="discount factor for the optimum (default: that of run.py)",
    )
    add("--save", metavar="FILE", type=new_file(".csv"), help="write the figures to a .csv file")
    args = parser.parse_args(argv)
    if args.snapshots and args.gamma is not None:
        parser.error(
            "--gamma is for the optimum alone; leave it out, for a snapshot is compared with the "
            "optimum for its own discount factor"
        )
    if args.save is not None and not args.snapshots:
        parser.error("--save is for the figures of snapshots; name some")
    return args


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import functools

import numpy as np
import pandas as pd

import run
from experiments.common.trained_policies import load_policy, play_episode, readable
from experiments.common.value_iteration import (
    POINTS,
    STARTS,
    Solution,
    discounted,
    play,
    refine,
)
from support.command_line import ENV
from support.files import write_file

EPISODES = 20  # that each network plays
SEED = 0  # of the first of these episodes


def compare(policy, solution):
    """How far the Q-values of a policy are from the right ones, in the states that it visits.

    Args:
        policy: `TrainedPolicy` in Mountain Car.
        solution: `Solution` with the discount factor with which the policy was trained.

    Returns:
        Dict of figures. `return`: the mean over `STARTS` starts, evenly spread, in which chance has
        no part. Over the states of `EPISODES` episodes with random starts: `error`, the mean
        difference of the highest Q-value from the right one, and `absolute error`, that of its
        absolute value; `spread`, the mean difference between the highest and the lowest Q-value of
        a state, and `right spread`, that of the right ones; `lost`, by how much the greedy action
        is worse than the best one, according to the right Q-values.
    """
    observations = []
    for episode in range(EPISODES):
        seed = SEED if episode == 0 else None
        *states, _ = play_episode(policy.env, policy.act, seed)
        observations += [observation for observation, *_ in states]
    learned = policy.q_values(np.array(observations))
    right = solution.q_values(observations)
    errors = learned.max(axis=1) - right.max(axis=1)
    chosen = np.take_along_axis(right, learned.argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]
    steps = play(policy.q_values, policy.env.spec.max_episode_steps)
    return {
        "return": -steps.mean(),
        "error": errors.mean(),
        "absolute error": np.abs(errors).mean(),
        "spread": np.ptp(learned, axis=1).mean(),
        "right spread": np.ptp(right, axis=1).mean(),
        "lost": (right.max(axis=1) - chosen).mean(),
    }


def compare_all(policies):
    """What `compare` returns for some policies: pandas.DataFrame with a row for each.

    Args:
        policies: list of `TrainedPolicy`s.

    Raises:
        WrongInput: one is for another environment.
    """
    for policy in policies:
        if policy.env_id != ENV:
            raise WrongInput(f"{policy.filename} is for {policy.env_id}, and not for {ENV}")
    solve = functools.cache(lambda gamma: Solution(POINTS, gamma))
    names = [readable(policy.filename) for policy in policies]
    return pd.DataFrame([compare(policy, solve(policy.gamma)) for policy in policies], names)


def print_optimum(gamma):
    """Computes the optimum and prints it for each grid, also discounted by `gamma`, a float."""
    print(f"grid         mean return    discounted by {gamma:g}")
    for points, steps in refine():
        value = discounted(steps, gamma).mean()
        print(f"{f'{points} x {points}':12} {-steps.mean():11.2f}    {value:.2f}", flush=True)
    print(
        f"The optimum is {-steps.mean():.1f}: the mean over {STARTS} starts, of which the best "
        f"returns {-steps.min()} and the worst {-steps.max()}."
    )


def main(args):
    """Prints the optimum, or compares snapshots with it.

    Args:
        args: what `parse_args` returned.

    Raises:
        WrongInput: a snapshot can't be compared.
        OSError: a file can't be written.
    """
    if not args.snapshots:
        print_optimum(run.DISCOUNT_FACTOR_GAMMA if args.gamma is None else args.gamma)
        return
    figures = compare_all([load_policy(filename) for filename in args.snapshots])
    mean = pd.DataFrame([figures.mean()], ["mean"])
    shown = pd.concat([figures, mean]) if len(figures) > 1 else figures
    print(shown.to_string(float_format="{:.2f}".format))
    if args.save is not None:
        write_file(args.save, figures.to_csv(index_label="snapshot").encode())
        print(f"Saved {args.save}")


if __name__ == "__main__":
    with plain_errors():
        main(args)
