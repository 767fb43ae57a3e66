"""What did it learn? Draws the whole Q-function, where an observation is two numbers:

    python -m experiments.landscape first-log/first-50000.h5 first-log/first-best.h5 --plot q.png

Each snapshot gets a column: its highest Q-value at the top and its greedy action below, for all
observations. Both panels show the path of the first episode of `python run.py --model SNAPSHOT
--view --seed 1`. Where no episode ever goes, the network has learned nothing, and the picture shows
its guesses. With --optimum, one more column shows what would be right.
"""

import sys

if not __package__:
    print("landscape.py: start it with python -m experiments.landscape", file=sys.stderr)
    sys.exit(2)

from support.command_line import ENV, SEED, OneLineParser, new_file
from support.errors import WrongInput, plain_errors

MAX_SHOWN = 8  # snapshots side by side


def parse_args(argv=None):
    """Reads the command line: `argparse.Namespace`; raises `WrongInput`."""
    parser = OneLineParser(prog="landscape", description="Draws what snapshots have learned.")
    add = parser.add_argument
    add(
        "snapshots",
        nargs="+",
        metavar="X.h5",
        help=f"snapshots, side by side; at most {MAX_SHOWN}",
    )
    add(
        "--plot",
        metavar="FILE",
        type=new_file(".png", ".svg"),
        help="draw to a .png or .svg file",
    )
    add("--seed", type=SEED, default=1, help="of the episode (default: 1)")
    add("--env", metavar="ID", help="environment (default: that of the snapshots)")
    add("--optimum", action="store_true", help=f"draw the optimum beside them, in {ENV} only")
    args = parser.parse_args(argv)
    if len(args.snapshots) > MAX_SHOWN:
        parser.error(
            f"{len(args.snapshots)} snapshots don't fit side by side; give at most {MAX_SHOWN}"
        )
    return args


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import itertools
import os
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.common.plots import save_figure
from experiments.common.trained_policies import load_policy, play_episode, readable
from experiments.common.value_iteration import POINTS as OPTIMUM_POINTS
from experiments.common.value_iteration import Solution, discounted

POINTS = 180  # along each axis, at which Q-values are computed
LARGEST_BOUND = 1e6  # one beyond it is ignored: the axis shows what the episodes visit
STEPS = (0, 10, 25, 50, 75, 100, 150, 200)  # labelled on the colour bar of Mountain Car
PUSHES = ("push left", "no push", "push right")
COLOURS = ("#2166ac", "#e0e0e0", "#f4a12f")  # of up to three actions, distinct to the colour-blind


class Column(NamedTuple):
    """What is drawn for one snapshot, or for the optimum.

    Attributes:
        title: its name.
        path: the observations of an episode, float array (steps + 1, 2).
        episode_return: the return of that episode, a float.
        gamma: discount factor with which the policy was trained.
        q_values: function from observations, float32 (n, 2), to Q-values (n, n actions).
    """

    title: str
    path: np.ndarray
    episode_return: float
    gamma: float
    q_values: Callable


def make_column(title, policy, env, seed):
    """Plays an episode of a policy, a `TrainedPolicy` or a `Solution`; returns its `Column`."""
    episode = list(play_episode(env, policy.act, seed))
    path = np.array([observation for observation, *_ in episode], float)
    _, episode_return, *_ = episode[-1]
    return Column(title, path, episode_return, policy.gamma, policy.q_values)


def can_show():
    """Whether matplotlib can open a window here."""
    try:
        plt.switch_backend(matplotlib.get_backend())
    except ImportError:  # the library for windows is missing, or there is no display
        return False
    without_windows = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)
    return matplotlib.get_backend().lower() not in without_windows


def check_together(policies, with_optimum):
    """Checks that some policies can be drawn together.

    Args:
        policies: list of `TrainedPolicy`s.
        with_optimum: whether the optimum is to be drawn beside them.

    Raises:
        WrongInput: they can't.
    """
    first = policies[0]
    (size,) = first.env.observation_space.shape
    if size != 2:
        numbers = "1 number" if size == 1 else f"{size} numbers"
        raise WrongInput(
            f"{first.filename}: the observations of {first.env_id} have {numbers}; only 2 can be "
            "drawn"
        )
    for policy in policies:
        if policy.env_id != first.env_id:
            raise WrongInput(
                f"{policy.filename} is for {policy.env_id}, and {first.filename} for "
                f"{first.env_id}; draw them separately"
            )
        if with_optimum and policy.gamma != first.gamma:
            raise WrongInput(
                f"{policy.filename} was trained with the discount factor {policy.gamma:g}, and "
                f"{first.filename} with {first.gamma:g}, whose optimal values differ; draw them "
                "separately"
            )
    if with_optimum and first.env_id != ENV:
        raise WrongInput(f"--optimum is known for {ENV} only, and not for {first.env_id}")


def find_bounds(space, paths):
    """The ends of both axes: bounds of the observations or, if those are huge, what is visited.

    Args:
        space: observation space.
        paths: list of float arrays (steps, 2).

    Returns:
        (low, high), float arrays of shape (2,).
    """
    low, high = (np.broadcast_to(getattr(space, end, np.inf), 2) for end in ("low", "high"))
    low, high = low.astype(float), high.astype(float)
    least, most = np.min(np.concatenate(paths), axis=0), np.max(np.concatenate(paths), axis=0)
    margin = np.where(most > least, 0.1 * (most - least), 1.0)
    is_bounded = (np.abs(low) < LARGEST_BOUND) & (np.abs(high) < LARGEST_BOUND)
    return np.where(is_bounded, low, least - margin), np.where(is_bounded, high, most + margin)


def plane(low, high):
    """The centres of `POINTS` by `POINTS` cells between bounds: observations, float32 (n, 2)."""
    centres = (np.arange(POINTS) + 0.5) / POINTS
    first_numbers = low[0] + (high[0] - low[0]) * centres
    second_numbers = low[1] + (high[1] - low[1]) * centres
    x, y = np.meshgrid(first_numbers, second_numbers)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def draw(figure, env, columns, low, high):
    """Draws the columns side by side, with one scale of colours.

    Args:
        figure: empty figure of matplotlib.
        env: environment of the snapshots.
        columns: list of `Column`s.
        low, high: what `find_bounds` returns.
    """
    is_car = env.spec.id.startswith("MountainCar-")
    n_actions = int(env.action_space.n)
    figure.set_size_inches(2.4 * len(columns) + 2.3, 5.4)
    axes = figure.subplots(2, len(columns), sharex=True, sharey=True, squeeze=False)
    observations = plane(low, high)
    q_values = [
        column.q_values(observations).reshape(POINTS, POINTS, n_actions) for column in columns
    ]
    values = np.array([q.max(axis=2) for q in q_values])
    bottom, top = np.percentile(values, [0.5, 99.5])  # corners that no episode visits may stand out
    if is_car:
        bottom, top = min(bottom, -1.0), 0.0  # 0 means nothing more to pay
    colours = COLOURS if n_actions <= len(COLOURS) else matplotlib.color_sequences["petroff10"]
    colours = list(itertools.islice(itertools.cycle(colours), n_actions))
    extent = (low[0], high[0], low[1], high[1])
    for column, value, q, (above, below) in zip(columns, values, q_values, axes.T, strict=True):
        name = textwrap.fill(readable(os.path.basename(column.title)), 24)
        above.set_title(f"{name}\nreturn {column.episode_return:g}")
        image = above.imshow(
            value,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="viridis",
            vmin=bottom,
            vmax=top,
            interpolation="bilinear",
        )
        below.imshow(
            q.argmax(axis=2),
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap=matplotlib.colors.ListedColormap(colours),
            vmin=-0.5,
            vmax=n_actions - 0.5,
            interpolation="nearest",
        )
        for panel in (above, below):
            draw_path(panel, column.path)
            if is_car:
                goal = env.unwrapped.goal_position
                panel.axvline(goal, color="black", linestyle="--", linewidth=1.5, label="flag")
        below.set_xlabel("position" if is_car else "observation[0]")
    for panel in axes[:, 0]:
        panel.set_ylabel("velocity (per step)" if is_car else "observation[1]")
    outside = {(True, True): "both", (True, False): "min", (False, True): "max"}
    extend = outside.get((values.min() < bottom, values.max() > top), "neither")
    bar = figure.colorbar(image, ax=axes[0], label="highest Q-value", extend=extend, pad=0.01)
    gammas = {column.gamma for column in columns}
    if is_car and len(gammas) == 1:
        label_steps(bar, bottom, top, *gammas)
    names = PUSHES if is_car else [f"action {action}" for action in range(n_actions)]
    patches = [
        matplotlib.patches.Patch(facecolor=colour, edgecolor="black", label=name)
        for name, colour in zip(names, colours, strict=True)
    ]
    lines, _ = axes[1, 0].get_legend_handles_labels()
    legend = axes[1, -1].legend(
        handles=[*patches, *lines],
        title="greedy action",
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
    )
    legend.set_in_layout(False)  # there is room, below the colour bar


def draw_path(panel, path):
    """Draws an episode into a panel: a line, a circle where it starts, a cross where it ends."""
    edge = [withStroke(linewidth=3, foreground="black")]
    panel.plot(*path.T, color="white", linewidth=1.5, path_effects=edge, label="one episode")
    marks = {"linestyle": "none", "markeredgecolor": "black", "zorder": 3}
    panel.plot(*path[0], "o", color="white", markersize=9, label="its start", **marks)
    panel.plot(*path[-1], "X", color="white", markersize=9, label="its end", **marks)


def label_steps(bar, bottom, top, gamma):
    """Labels the colour bar of Mountain Car with the steps to the flag that Q-values stand for.

    Each step costs 1, discounted: 100 steps to go are worth -(1 - gamma^100) / (1 - gamma).

    Args:
        bar: colour bar of matplotlib.
        bottom, top: its ends, floats.
        gamma: discount factor.
    """
    ticks, labels = [], []
    for steps in STEPS:
        value = discounted(steps, gamma) + 0.0  # which makes -0.0 positive
        if bottom <= value <= top:
            ticks.append(value)
            labels.append(f"{value:.0f} ({steps} steps)")
    bar.set_ticks(ticks, labels=labels)
    bar.set_label(f"highest Q-value: discounted rewards\n(steps to the flag, at gamma {gamma:g})")


def main(args):
    """Draws snapshots to a file, or into a window.

    Args:
        args: what `parse_args` returned.

    Raises:
        WrongInput: a snapshot can't be drawn, or no window can be opened.
        OSError: a file can't be written.
    """
    if args.plot is None and not can_show():
        raise WrongInput("no window can be opened here; draw to a file with --plot landscape.png")
    policies = [load_policy(filename, args.env) for filename in args.snapshots]
    check_together(policies, args.optimum)
    env = policies[0].env
    columns = [make_column(policy.filename, policy, env, args.seed) for policy in policies]
    if args.optimum:
        solution = Solution(OPTIMUM_POINTS, policies[0].gamma)
        columns.append(make_column("optimum", solution, env, args.seed))
    low, high = find_bounds(env.observation_space, [column.path for column in columns])
    for column in columns:
        steps = len(column.path) - 1
        print(f"{column.title} return {column.episode_return} in {steps} steps")
    make_figure = plt.figure if args.plot is None else Figure  # in a window, or without one
    figure = make_figure(layout="constrained")
    draw(figure, env, columns, low, high)
    if args.plot is None:
        plt.show()
    else:
        save_figure(figure, args.plot)


if __name__ == "__main__":
    with plain_errors():
        main(args)
