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
from support.environments import make_env
from support.errors import WrongInput
from support.options import ENV, OneLineParser, new_file, number
from support.options import parse_args as parse_run_args
from support.snapshots import load_weights

POINTS = 180  # along each axis, at which the network is asked
HUGE = 1e6  # where a bound is beyond this, an axis shows what the episodes visit
MOST = 8  # snapshots side by side
STEPS = (0, 10, 25, 50, 75, 100, 150, 200)  # for which Mountain Car's Q-values are told
PUSHES = ("push left", "no push", "push right")
COLORS = ("#2166ac", "#e0e0e0", "#f4a12f")  # of up to three actions, told apart by all eyes


class Column(NamedTuple):
    """What is drawn of one snapshot: `path` (steps + 1, 2) and `q_values` (y, x, n actions)."""

    filename: str
    path: np.ndarray
    episode_return: float
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
    env = make_env(parse_run_args(vars(run), [f"--env={env_id}"]))
    (size,) = env.observation_space.shape
    if size != 2:
        numbers = "1 number" if size == 1 else f"{size} numbers"
        raise WrongInput(f"--env {env_id}: its observations have {numbers}, only 2 can be drawn")
    return env


def play(env, model, seed):
    """Plays one greedy episode, that of `run.evaluate` with the same seed.

    Args:
        env: environment of `make_plane`.
        model: Q-network.
        seed: seed of the environment.

    Returns:
        (path, episode_return): the observations, float array (steps + 1, 2), and a float.
    """
    observation, _ = env.reset(seed=seed)
    path, episode_return = [observation], 0.0
    for _ in range(run.EVAL_STEPS):  # an episode need not end
        action = run.greedy_action(env, model, observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        path.append(observation)
        episode_return += float(reward)
        if terminated or truncated:
            break
    return np.array(path, float), episode_return


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


def ask(env, model, low, high):
    """Q-values, float32 (POINTS, POINTS, n actions), in the middle of each cell between bounds.

    The first index is that of the observation's second number, which is drawn upwards.
    """
    middles = (np.arange(POINTS) + 0.5) / POINTS
    x, y = np.meshgrid(*(low + (high - low) * middles[:, np.newaxis]).T)
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
    car, n_actions = env.spec.id.startswith("MountainCar-"), int(env.action_space.n)
    size = 2.4 * len(columns) + 2.3, 5.4
    figure, axes = plt.subplots(
        2, len(columns), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    values = np.array([column.q_values.max(axis=2) for column in columns])
    bottom, top = np.percentile(values, [0.5, 99.5])  # corners that no episode sees may stand out
    if car:
        bottom, top = min(bottom, -1.0), 0.0  # 0 is nothing more to pay: what is above can't be
    colors = COLORS if n_actions <= len(COLORS) else matplotlib.color_sequences["petroff10"]
    colors = list(itertools.islice(itertools.cycle(colors), n_actions))
    look = {"origin": "lower", "aspect": "auto", "extent": np.ravel([low, high], order="F")}
    shades = {**look, "cmap": "viridis", "vmin": bottom, "vmax": top, "interpolation": "bilinear"}
    areas = {**look, "cmap": matplotlib.colors.ListedColormap(colors), "interpolation": "nearest"}
    for column, value, (above, below) in zip(columns, values, axes.T, strict=True):
        name = textwrap.fill(readable(os.path.basename(column.filename)), 24)
        above.set_title(f"{name}\nreturn {column.episode_return:g}")
        image = above.imshow(value, **shades)
        below.imshow(column.q_values.argmax(axis=2), vmin=-0.5, vmax=n_actions - 0.5, **areas)
        for panel in (above, below):
            draw_path(panel, column.path)
            if car:
                goal = env.unwrapped.goal_position
                panel.axvline(goal, color="black", linestyle="--", linewidth=1.5, label="flag")
        below.set_xlabel("position" if car else "observation[0]")
    for panel in axes[:, 0]:
        panel.set_ylabel("velocity (per step)" if car else "observation[1]")
    outside = {(True, True): "both", (True, False): "min", (False, True): "max"}
    extend = outside.get((values.min() < bottom, values.max() > top), "neither")
    bar = figure.colorbar(image, ax=axes[0], label="highest Q-value", extend=extend, pad=0.01)
    if car:
        tell_steps(bar, bottom, top)
    names = PUSHES if car else [f"action {action}" for action in range(n_actions)]
    patches = [
        matplotlib.patches.Patch(facecolor=color, edgecolor="black", label=name)
        for name, color in zip(names, colors, strict=True)
    ]
    lines, _ = axes[1, 0].get_legend_handles_labels()
    place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False}
    legend = axes[1, -1].legend(handles=[*patches, *lines], title="greedy action", **place)
    legend.set_in_layout(False)  # there is room, below the colour bar
    return figure


def draw_path(panel, path):
    """Draws an episode into a panel: a line, a circle where it starts, a cross where it ends."""
    edge = [withStroke(linewidth=3, foreground="black")]
    panel.plot(*path.T, color="white", linewidth=1.5, path_effects=edge, label="one episode")
    marks = {"linestyle": "none", "markeredgecolor": "black", "zorder": 3}
    panel.plot(*path[0], "o", color="white", markersize=9, label="its start", **marks)
    panel.plot(*path[-1], "X", color="white", markersize=9, label="its end", **marks)


def tell_steps(bar, bottom, top):
    """Tells at a colour bar of Mountain Car how many steps to the flag a Q-value stands for.

    Each costs 1, and is discounted: 100 steps to go are worth -(1 - gamma^100) / (1 - gamma).
    """
    gamma = run.DISCOUNT_FACTOR_GAMMA
    ticks = {-sum(gamma**n for n in range(steps)): steps for steps in STEPS}
    shown = {value: steps for value, steps in ticks.items() if bottom <= value <= top}
    bar.set_ticks(list(shown), labels=[f"{v:.0f} ({n} steps)" for v, n in shown.items()])
    bar.set_label(f"highest Q-value: return to come\n(steps to the flag, at gamma {gamma:g})")


def main(argv=None):
    parser = OneLineParser(prog="landscape", description="Draws what snapshots have learned.")
    add = parser.add_argument
    add("snapshots", nargs="+", metavar="X.h5", help=f"snapshots, side by side; at most {MOST}")
    add("--plot", metavar="FILE", type=new_file(*PLOTS), help="draw to a .png or .svg file")
    add("--seed", type=number(0, 2**32 - 1), default=1, help="of the episode (default: 1)")
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
    paths, returns = zip(*(play(env, model, args.seed) for model in models), strict=True)
    low, high = find_bounds(env.observation_space, paths)
    q_values = [ask(env, model, low, high) for model in models]
    columns = [*map(Column, args.snapshots, paths, returns, q_values)]
    for filename, path, episode_return, _ in columns:
        print(f"{filename} return {episode_return} in {len(path) - 1} steps")
    figure = draw(env, columns, low, high)
    if args.plot is not None:
        save_figure(figure, args.plot)
    else:
        plt.show()


if __name__ == "__main__":
    main()
