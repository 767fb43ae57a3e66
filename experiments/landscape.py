"""What did it learn? Draws the whole Q-function, where an observation is two numbers:

    python -m experiments.landscape first-log/first-50000.h5 first-log/first-best.h5 --plot q.png

Each snapshot gets a column: on top its highest Q-value, below its greedy action, for all
observations; on both the first episode of `python run.py --model SNAPSHOT --view --seed 1`. Where
no episode ever gets, the network has learned nothing, and the picture shows its guesses.
"""

import sys

if not __package__:
    print("landscape.py: start it with python -m experiments.landscape", file=sys.stderr)
    sys.exit(2)

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import itertools
import os
import textwrap
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.patheffects import withStroke

import run
from experiments.figures import PLOTS, save_figure
from support.checkpoints import CHECKPOINT, read_checkpoint
from support.command_line import SEED, OneLineParser, new_file
from support.environments import make_env
from support.errors import WrongInput, plain_errors
from support.options import ENV
from support.snapshots import load_weights

POINTS = 180  # along each axis, at which the network is asked
HUGE = 1e6  # where a bound is beyond this, an axis shows what the episodes visit
MOST = 8  # snapshots side by side
STEPS = (0, 10, 25, 50, 75, 100, 150, 200)  # for which Mountain Car's Q-values are told
PUSHES = ("push left", "no push", "push right")
COLORS = ("#2166ac", "#e0e0e0", "#f4a12f")  # of up to three actions, told apart by all eyes


class Column(NamedTuple):
    """What is drawn of one snapshot.

    Attributes:
        filename: its file.
        path: the observations of an episode, float array (steps + 1, 2).
        episode_return: what that returned, a float.
        gamma: discount factor with which it was trained.
        q_values: float32 array (POINTS, POINTS, n actions), of `predict_plane`.
    """

    filename: str
    path: np.ndarray
    episode_return: float
    gamma: float
    q_values: np.ndarray


def readable(filename):
    """A file's name without bytes that are no text, which can neither be drawn nor tabulated."""
    return os.fsencode(filename).decode(errors="replace")


def can_show():
    """Whether matplotlib can open a window here."""
    try:
        plt.switch_backend(matplotlib.get_backend())
    except ImportError:  # of the library for windows, or for want of a display
        return False
    without = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)
    return matplotlib.get_backend().lower() not in without


def make_plane(env_id):
    """Makes an environment; raises `WrongInput` where its observations aren't two numbers."""
    env = make_env(env_id)
    (size,) = env.observation_space.shape
    if size != 2:
        numbers = "1 number" if size == 1 else f"{size} numbers"
        raise WrongInput(f"--env {env_id}: its observations have {numbers}, only 2 can be drawn")
    return env


def play(env, model, seed, epsilon=0.0):
    """Plays one episode, at epsilon 0 the first of `run.evaluate` with the same seed.

    Args:
        env: environment.
        model: Q-network.
        seed: seed of the environment and of the random actions.
        epsilon: probability of a random action.

    Yields:
        At the reset and after each step: the observation; the return so far, a float; whether the
        episode is terminated; whether it is truncated.
    """
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    episode_return = 0.0
    yield observation, episode_return, False, False
    for _ in range(run.EVAL_STEPS):  # an episode need not end
        action = run.epsilon_greedy_action(env, model, observation, epsilon)
        observation, reward, terminated, truncated, _ = env.step(action)
        episode_return += float(reward)
        yield observation, episode_return, terminated, truncated
        if terminated or truncated:
            break


def gamma_of(snapshot):
    """The discount factor with which a snapshot was trained, a float.

    It is that of the run in whose directory the snapshot is; elsewhere, that of run.py.
    """
    logdir = os.path.dirname(snapshot)
    if not os.path.isfile(os.path.join(logdir, CHECKPOINT)):
        return run.DISCOUNT_FACTOR_GAMMA
    settings = read_checkpoint(logdir)["run"]["settings"]
    return settings.get("discount_factor_gamma", run.DISCOUNT_FACTOR_GAMMA)


def find_bounds(space, paths):
    """Ends of both axes: the observation space's, or what is visited where those are far away.

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
    near = (np.abs(low) < HUGE) & (np.abs(high) < HUGE)
    return np.where(near, low, least - margin), np.where(near, high, most + margin)


def predict_plane(env, model, low, high):
    """Q-values, float32 (POINTS, POINTS, n actions), in the middle of each cell between bounds.

    The first index is that of the observation's second number, which is drawn upwards.
    """
    middles = (np.arange(POINTS) + 0.5) / POINTS
    first_numbers = low[0] + (high[0] - low[0]) * middles
    second_numbers = low[1] + (high[1] - low[1]) * middles
    x, y = np.meshgrid(first_numbers, second_numbers)
    observations = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    return run.predict(env, model, observations).reshape(POINTS, POINTS, -1)


def draw(env, columns, low, high):
    """Draws the columns side by side, with one scale of colours.

    Args:
        env: environment of `make_plane`.
        columns: list of `Column`s.
        low, high: what `find_bounds` returns.

    Returns:
        Figure of pyplot.
    """
    is_car = env.spec.id.startswith("MountainCar-")
    n_actions = int(env.action_space.n)
    figure, axes = plt.subplots(
        2,
        len(columns),
        figsize=(2.4 * len(columns) + 2.3, 5.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    values = np.array([column.q_values.max(axis=2) for column in columns])
    bottom, top = np.percentile(values, [0.5, 99.5])  # corners that no episode sees may stand out
    if is_car:
        bottom, top = min(bottom, -1.0), 0.0  # 0 is nothing more to pay: what is above can't be
    colors = COLORS if n_actions <= len(COLORS) else matplotlib.color_sequences["petroff10"]
    colors = list(itertools.islice(itertools.cycle(colors), n_actions))
    extent = (low[0], high[0], low[1], high[1])
    for column, value, (above, below) in zip(columns, values, axes.T, strict=True):
        name = textwrap.fill(readable(os.path.basename(column.filename)), 24)
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
            column.q_values.argmax(axis=2),
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap=matplotlib.colors.ListedColormap(colors),
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
        matplotlib.patches.Patch(facecolor=color, edgecolor="black", label=name)
        for name, color in zip(names, colors, strict=True)
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
    return figure


def draw_path(panel, path):
    """Draws an episode into a panel: a line, a circle where it starts, a cross where it ends."""
    edge = [withStroke(linewidth=3, foreground="black")]
    panel.plot(*path.T, color="white", linewidth=1.5, path_effects=edge, label="one episode")
    marks = {"linestyle": "none", "markeredgecolor": "black", "zorder": 3}
    panel.plot(*path[0], "o", color="white", markersize=9, label="its start", **marks)
    panel.plot(*path[-1], "X", color="white", markersize=9, label="its end", **marks)


def label_steps(bar, bottom, top, gamma):
    """Says at a colour bar of Mountain Car how many steps to the flag a Q-value stands for.

    Each costs 1, and is discounted: 100 steps to go are worth -(1 - gamma^100) / (1 - gamma).

    Args:
        bar: colour bar of matplotlib.
        bottom, top: its ends, floats.
        gamma: discount factor.
    """
    ticks, labels = [], []
    for steps in STEPS:
        value = -sum(gamma**n for n in range(steps))
        if bottom <= value <= top:
            ticks.append(value)
            labels.append(f"{value:.0f} ({steps} steps)")
    bar.set_ticks(ticks, labels=labels)
    bar.set_label(f"highest Q-value: return to come\n(steps to the flag, at gamma {gamma:g})")


def main(argv=None):
    parser = OneLineParser(prog="landscape", description="Draws what snapshots have learned.")
    add = parser.add_argument
    add("snapshots", nargs="+", metavar="X.h5", help=f"snapshots, side by side; at most {MOST}")
    add("--plot", metavar="FILE", type=new_file(*PLOTS), help="draw to a .png or .svg file")
    add("--seed", type=SEED, default=1, help="of the episode (default: 1)")
    add("--env", metavar="ID", default=ENV, help=f"environment (default: {ENV})")
    args = parser.parse_args(argv)
    if len(args.snapshots) > MOST:
        parser.error(f"{len(args.snapshots)} snapshots don't fit side by side; give at most {MOST}")
    if args.plot is not None:
        matplotlib.use("Agg")  # to files, without a window
    elif not can_show():
        parser.error("no window can be opened here; draw to a file with --plot landscape.png")
    env = make_plane(args.env)
    models = [run.create_model(env) for _ in args.snapshots]
    for filename, model in zip(args.snapshots, models, strict=True):
        load_weights(model, filename)
    paths, returns = [], []
    for model in models:
        episode = list(play(env, model, args.seed))
        paths.append(np.array([observation for observation, *_ in episode], float))
        _, episode_return, *_ = episode[-1]
        returns.append(episode_return)
    low, high = find_bounds(env.observation_space, paths)
    columns = [
        Column(filename, path, episode_return, gamma, predict_plane(env, model, low, high))
        for filename, path, episode_return, gamma, model in zip(
            args.snapshots, paths, returns, map(gamma_of, args.snapshots), models, strict=True
        )
    ]
    for column in columns:
        steps = len(column.path) - 1
        print(f"{column.filename} return {column.episode_return} in {steps} steps")
    figure = draw(env, columns, low, high)
    if args.plot is not None:
        save_figure(figure, args.plot)
    else:
        plt.show()


if __name__ == "__main__":
    with plain_errors():
        main()
