"""Other mountains: how well does a policy drive where it was not trained?

    python -m experiments.mountains */*-best.h5 --plot mountains.png --save mountains.csv
    python -m experiments.mountains mountains.csv --plot mountains.png

Plays trained policies in Mountain Car with more or less gravity, and with a stronger or weaker
engine, than in training. On every mountain, its episodes start where the first ones of `python
run.py --model POLICY --eval --seed 0` do. For comparison, a policy that has learned nothing, and
always pushes the way the car rolls, plays on the same mountains.
"""

import sys

if not __package__:
    print("mountains.py: start it with python -m experiments.mountains", file=sys.stderr)
    sys.exit(2)

from support.command_line import OneLineParser, new_file, number
from support.errors import WrongInput, plain_errors

MAX_EPISODES = 1000


def parse_args(argv=None):
    """Reads the command line: `argparse.Namespace`; raises `WrongInput`."""
    parser = OneLineParser(prog="mountains", description="Plays policies on other mountains.")
    add = parser.add_argument
    add("policies", nargs="+", metavar="X.h5", help="snapshots, or a .csv of --save")
    add("--episodes", type=number(1, MAX_EPISODES), default=20, help="per mountain (default: 20)")
    add(
        "--plot",
        metavar="FILE",
        type=new_file(".png", ".svg"),
        help="draw to a .png or .svg file",
    )
    add("--save", metavar="FILE", type=new_file(".csv"), help="write the returns to a .csv file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import itertools

import gymnasium as gym
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.common.dynamics import MountainCar
from experiments.common.plots import save_figure
from experiments.common.statistics import FEWEST, interquartile_mean, typical_interval
from experiments.common.trained_policies import load_policy, readable
from support.command_line import ENV
from support.files import write_file

FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)  # of gravity and of force
SEED = 0  # of the episodes' starts
AXES = ("gravity", "force")
COLUMNS = ("policy", *AXES, "episodes", "return")


def mean_returns(env, choose, episodes, gravity, force):
    """Mean returns of a policy on several mountains, floats of shape (m,).

    Args:
        env: Mountain Car, whose constants, time limit and starts are used.
        choose: function of observations, float32 (n, 2), to actions, ints (n,).
        episodes: how many are played on each mountain, int.
        gravity, force: factors, floats of shape (m,).
    """
    starts = []
    for seed in [SEED] + [None] * (episodes - 1):
        env.reset(seed=seed)
        starts.append(env.unwrapped.state)
    states = np.tile(starts, (len(gravity), 1))
    dynamics = MountainCar(env, np.repeat(gravity, episodes), np.repeat(force, episodes))
    returns = np.zeros(len(states))
    done = np.zeros(len(states), bool)
    for _ in range(env.spec.max_episode_steps):
        actions = choose(dynamics.observe(states).numpy())
        states, rewards, terminated = dynamics.step(states, actions)
        returns += np.where(done, 0, rewards)
        done |= terminated.numpy()
    return returns.reshape(-1, episodes).mean(axis=1)


def push_as_it_rolls(observations):
    """Actions of a policy that has learned nothing: it pushes the way the car rolls."""
    return np.where(observations[:, 1] < 0, 0, 2)


def measure(policy, episodes):
    """Mean returns of a `TrainedPolicy`: pandas.DataFrame of `COLUMNS` with a row per mountain.

    Raises `WrongInput` if it is for another environment.
    """
    if policy.env_id != ENV:
        raise WrongInput(f"{policy.filename} is for {policy.env_id}, and not for {ENV}")
    force, gravity = np.array(list(itertools.product(FACTORS, FACTORS))).T
    returns = mean_returns(
        policy.env,
        lambda seen: policy.q_values(seen).argmax(axis=1),
        episodes,
        gravity,
        force,
    )
    values = (readable(policy.filename), gravity, force, episodes, returns)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def read(filename):
    """Reads what --save has written; raises `WrongInput` if the file holds something else."""
    try:
        results = pd.read_csv(filename, dtype={"policy": str})
        results = results[[*COLUMNS]]
        if results.empty or not np.isfinite(results[[*COLUMNS[1:]]].to_numpy(float)).all():
            raise ValueError("numbers are missing")
        if not results["episodes"].isin(range(1, MAX_EPISODES + 1)).all():
            raise ValueError(f"episodes must be integers between 1 and {MAX_EPISODES}")
    except (OSError, ValueError, KeyError) as error:
        raise WrongInput(f"{filename} is not a .csv file of --save: {error}") from error
    return results


def check_complete(results):
    """Raises `WrongInput` unless all policies have been to the same mountains, once each."""
    twice = results.duplicated(["policy", *AXES])
    if twice.any():
        raise WrongInput(f"{results.loc[twice, 'policy'].iloc[0]} is given twice")
    counts = " and ".join(map(str, results["episodes"].unique()))
    if results["episodes"].nunique() > 1:
        raise WrongInput(f"not every policy has played as many episodes per mountain: {counts}")
    returns = results.pivot(index=["policy", "force"], columns="gravity", values="return")
    is_whole = len(returns) == results["policy"].nunique() * results["force"].nunique()
    has_home = 1.0 in results["force"].to_numpy() and 1.0 in returns
    if not is_whole or returns.isna().any(axis=None) or not has_home:
        raise WrongInput(
            "not every policy has been to the same mountains, that of training included"
        )


def along_axis(results, axis):
    """Returns along one axis, the other factor being 1: DataFrame of factors x policies."""
    (other,) = {*AXES} - {axis}
    line = results[results[other] == 1.0]
    return line.pivot(index=axis, columns="policy", values="return")


def over_policies(results):
    """Mean return over the policies: DataFrame of force factors x gravity factors."""
    return results.groupby(["force", "gravity"])["return"].mean().unstack()


def reference(env, results):
    """Mean returns of `push_as_it_rolls` on the same mountains, a table as of `over_policies`."""
    mean = over_policies(results)
    force, gravity = np.array(list(itertools.product(mean.index, mean.columns))).T
    returns = mean_returns(env, push_as_it_rolls, int(results["episodes"].max()), gravity, force)
    return pd.DataFrame(returns.reshape(mean.shape), mean.index, mean.columns)


def with_interval(sample):
    """The IQM of returns, floats of shape (policies,), and its interval: a string."""
    low, high = typical_interval(sample)
    bounds = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{interquartile_mean(sample):.1f}{bounds}"


def table(results, rolling):
    """The tables that are printed, a string; `rolling` is what `reference` returns."""
    grid = over_policies(results).iloc[::-1].rename_axis(index="force", columns="gravity x")
    policies, episodes = results["policy"].nunique(), results["episodes"].max()
    sections = [f"Mean return (policies: {policies}; episodes of each per mountain: {episodes})"]
    if policies < FEWEST:
        sections[0] += f"\nWith fewer than {FEWEST} policies, the IQM has no interval."
    sections.append(grid.to_string(float_format="{:.0f}".format))
    for axis, easy in zip(AXES, (rolling.loc[1.0], rolling[1.0]), strict=True):
        line = along_axis(results, axis)
        columns = {
            f"{axis} x": line.index,
            "IQM of the policies [95%]": [with_interval(sample) for sample in line.to_numpy()],
            "policies ever at the flag": [f"{share:.0%}" for share in (line > -200).mean(axis=1)],
            "pushing as it rolls": easy.map("{:.1f}".format),
        }
        sections.append(pd.DataFrame(columns).to_string(index=False))
    return "\n\n".join(sections)


def plot(results, rolling):
    """Draws the mean over the policies as a map, and the policies along its axes.

    Args:
        results: pandas.DataFrame of `COLUMNS`.
        rolling: what `reference` returns.

    Returns:
        Figure of matplotlib.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    chart, *panels = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    star = {
        "marker": "*",
        "color": "white",
        "markeredgecolor": "black",
        "markersize": 18,
        "linestyle": "none",
        "label": "mountain of training",
    }
    mean = over_policies(results)
    image = chart.pcolormesh(mean.columns, mean.index, mean, cmap="viridis", vmin=-200, vmax=-80)
    figure.colorbar(image, ax=chart, label="mean return", extend="max")
    chart.plot(1, 1, **star)
    chart.set(xlabel="gravity, times that of training", ylabel="force, times that of training")
    chart.set_title(f"Mean of the policies (n = {results['policy'].nunique()})")
    for panel, axis, easy in zip(panels, AXES, (rolling.loc[1.0], rolling[1.0]), strict=True):
        line = along_axis(results, axis)
        panel.plot(line, color="tab:blue", linewidth=0.8, alpha=0.3)[0].set_label("one policy")
        low, high = line.quantile(0.25, axis=1), line.quantile(0.75, axis=1)
        panel.fill_between(line.index, low, high, color="tab:blue", alpha=0.25, label="middle half")
        panel.plot(line.mean(axis=1), color="tab:blue", linewidth=2.5, label="mean of the policies")
        panel.plot(easy, "--", color="black", linewidth=1.5, label="pushing as it rolls")
        panel.plot(1, line.loc[1.0].mean(), **star)
        panel.set(xlabel=f"{axis}, times that of training", title=f"Only {axis} changed")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean return")
    panels[1].sharey(panels[0])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=5)
    return figure


def main(args):
    """Plays policies on other mountains, and prints, saves and draws what they return there.

    Args:
        args: what `parse_args` returned.

    Raises:
        WrongInput: a policy can't be played there, or a file isn't one of --save.
        OSError: a file can't be written.
    """
    env = gym.make(ENV)
    results = pd.concat(
        read(name) if name.endswith(".csv") else measure(load_policy(name), args.episodes)
        for name in tqdm(args.policies, disable=None, leave=False)
    )
    check_complete(results)
    rolling = reference(env, results)
    print(table(results, rolling))
    if args.save is not None:
        write_file(args.save, results.to_csv(index=False).encode())
        print(f"Saved {args.save}")
    if args.plot is not None:
        save_figure(plot(results, rolling), args.plot)


if __name__ == "__main__":
    with plain_errors():
        main(args)
