"""Draws the pictures of the project's pages into images/, from data in the project:

    python -m experiments.redraw

Those of docs/explore.html and of TensorBoard are taken with a browser; without Chromium, they stay
as they are.
"""

import sys

if not __package__:
    print("redraw.py: start it with python -m experiments.redraw", file=sys.stderr)
    sys.exit(2)

from support.command_line import OneLineParser
from support.errors import ROOT, check_installed, plain_errors


def parse_args(argv=None):
    """Reads the command line, which has no options; raises `WrongInput`."""
    parser = OneLineParser(prog="redraw", description="Draws the pictures of the pages.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds
        check_installed("experiments/requirements.txt", "tests/requirements.txt")

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import io
import json
import os
import shutil
import tempfile

import gymnasium as gym
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from playwright import sync_api
from tensorboard import program

import run
from experiments import explore, landscape, mountains, report
from experiments.common.plots import OPTIMUM, plot_curves, save_figure, save_gif
from experiments.common.statistics import interquartile_mean, typical_interval
from experiments.common.trained_policies import load_policy, play_episode
from experiments.common.value_iteration import discounted
from support.files import write_file
from support.options import ENV

RESULTS = "experiments/results"
AGENTS = {  # in the GIF: snapshot of each
    "pushes at random": None,
    "after training": "example-changed-log/example-changed-best.h5",
}
BESTS = ("example-log/example-best.h5", "example-changed-log/example-changed-best.h5")
WIDTH, HEIGHT = 300, 200  # pixels of an agent in the GIF
CAPTION = 44  # pixels of the text above it
STRIDE = 2  # steps between frames
LAST_FRAME = 3000  # milliseconds that the last one is shown
STEPS_AWAY = 120  # from the flag, at which the colours in the GIF of snapshots end
PACE = 300  # milliseconds for each snapshot in it
MARGINS = {"left": 0.18, "right": 0.96, "bottom": 0.15, "top": 0.91}  # fixed, which is quick
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
# Of avg_max_q_value: title; settings of runs that may see the flag, and of runs that never do.
PANELS = {
    "the time limit is an end, as in run.py": ("grid_article", "no_flag"),
    "looking past the time limit": ("endless", "no_flag_endless"),
}
COMPARED = {  # on the front page: names
    "grid_article": "32 neurons in each layer (the article)",
    "grid_best": "128 neurons",
    "c_exact": "32 neurons with the four changes",
}
ARTICLE = ("grid_article", "shown_article", "screen_article")  # data of runs, all alike
EXPERIMENTS, SEEDS = 100, 10  # in the picture of intervals: how many, and of how many runs each
IMPROVEMENTS = {"after_alone": "alone", "after_pairs": "two together"}  # data: its title
STEPS_DRIVEN = 55  # by the car in the picture of docs/explore.html
EXAMPLES = ("example-log", "example-changed-log")  # in the picture of TensorBoard
WATCHED = "avg"  # in the names of the curves there
SETTINGS = {"scalarSmoothing": 0, "ignoreOutliers": False, "autoReload": True}  # of TensorBoard


def film(snapshot, seed):
    """Films one episode of Mountain Car.

    Args:
        snapshot: .h5 file of the policy; None for random actions.
        seed: seed of the environment and of the actions.

    Returns:
        List with a pair for the start and for each step: the picture, a uint8 array; its caption, a
        string.
    """
    env = gym.make(ENV, render_mode="rgb_array")
    choose = load_policy(snapshot).act if snapshot else lambda _: env.action_space.sample()
    frames = []
    for _, episode_return, terminated, truncated in play_episode(env, choose, seed):
        end = ", at the flag" if terminated else ", out of time" if truncated else ""
        frames.append((env.render(), f"return {episode_return:.0f}{end}"))
    return frames


def draw_agents(filename):
    """Draws `AGENTS` side by side, from the same start, as an animated GIF."""
    episodes = {name: film(snapshot, seed=1) for name, snapshot in AGENTS.items()}
    font = ImageFont.load_default(15)
    pictures = []
    for step in range(0, max(map(len, episodes.values())), STRIDE):
        picture = Image.new("RGB", (WIDTH * len(episodes), HEIGHT + CAPTION), "white")
        draw = ImageDraw.Draw(picture)
        for n, (name, frames) in enumerate(episodes.items()):
            frame, caption = frames[min(step, len(frames) - 1)]
            small = Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
            picture.paste(small, (n * WIDTH, CAPTION))
            draw.line([(n * WIDTH, 0), (n * WIDTH, picture.height)], "lightgray")
            draw.text((n * WIDTH + 10, 4), name, "black", font)
            draw.text((n * WIDTH + 10, 23), caption, "dimgray", font)
        pictures.append(picture)
    pace = 1000 * STRIDE // 30  # the environment's 30 steps a second
    save_gif(pictures, [pace] * (len(pictures) - 1) + [LAST_FRAME], 32, filename)


def draw_q_values(filename):
    """Draws avg_max_q_value of many runs, beside what numbers of steps are worth."""
    files = ("grid_article", "exercises", "endless", "no_flag_endless")
    results = pd.concat(pd.read_csv(f"{RESULTS}/{file}.csv") for file in files)
    curves = results.pivot(index="step", columns=["setting", "seed"], values="avg_max_q_value")
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, (trained, blind)) in zip(panels, PANELS.items(), strict=True):
        axes.plot(curves[trained], color="tab:blue", linewidth=0.8, alpha=0.25)
        for setting, line, label in (
            (trained, "-", "runs, and their median"),
            (blind, ":", "median without a flag"),
        ):
            label = f"{label} (n = {curves[setting].shape[1]})"
            median = curves[setting].median(axis=1)
            axes.plot(median, line, color="tab:blue", linewidth=2.5, label=label)
        draw_worth(axes, with_limit=blind == "no_flag")
        axes.set(title=title, xlabel="training steps", ylim=(-105, 0))
        axes.set_xticks(range(0, run.MAX_STEPS + 1, run.SNAPSHOT_EVERY))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("avg_max_q_value")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save_figure(figure, filename)


def draw_worth(axes, with_limit):
    """Draws what numbers of steps are worth, and how many the network can have learned about.

    It learns about one more with each copy to the target network.

    Args:
        axes: axes of matplotlib.
        with_limit: whether to draw that also for a time limit that may end an episode at each step.
    """
    gamma = run.DISCOUNT_FACTOR_GAMMA
    time_limit = gym.spec(ENV).max_episode_steps
    copies = np.arange(1 + (run.MAX_STEPS - run.TRAIN_START) // run.TARGET_UPDATE_EVERY)
    steps = run.TRAIN_START + copies * run.TARGET_UPDATE_EVERY
    axes.plot(steps, discounted(copies, gamma), "k--", label="one more step per copy")
    if with_limit:
        goes_on = 1 - 1 / time_limit
        label = f"the same, if 1 step in {time_limit} is the last"
        axes.plot(steps, discounted(copies, gamma * goes_on), "k-.", label=label)
    for count, name in ((100, "100 steps to go"), (200, "200 steps"), (np.inf, "no end")):
        value = discounted(count, gamma)
        axes.axhline(value, color="gray", linestyle="--", linewidth=0.8)
        place = {"xy": (0.005, value), "xycoords": ("axes fraction", "data"), "va": "bottom"}
        axes.annotate(f"{name}: {value:.1f}", **place)


def read_widths():
    """The runs in which nothing but the width of the network differs: pandas.DataFrame."""
    results = pd.concat(pd.read_csv(f"{RESULTS}/{file}.csv") for file in ("combinations", "widths"))
    is_scaled = results["scale_observations"].astype(bool)
    is_falling = results["final_learning_rate"] < results["learning_rate"]
    return results[~is_scaled & ~is_falling]


def draw_held(filename):
    """Draws the runs of `COMPARED`, all seeds faint."""
    results = pd.concat(pd.read_csv(f"{RESULTS}/{file}.csv") for file in COMPARED)
    results["setting"] = results["setting"].map(COMPARED)
    save_figure(plot_curves(results), filename)


def draw_widths(filename):
    """Draws the last evaluations of runs against the width of their network."""
    results = read_widths()
    last = results[results["step"] == run.MAX_STEPS]
    widths = {width: group["return"].to_numpy() for width, group in last.groupby("hidden_units")}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(widths))
    for place, returns in zip(places, widths.values(), strict=True):
        spots = np.full(len(returns), place)
        axes.plot(spots, returns, "o", color="tab:blue", alpha=0.4, markeredgewidth=0)
    typical = np.array([interquartile_mean(returns) for returns in widths.values()])
    bounds = np.array([typical_interval(returns) for returns in widths.values()]).T
    look = {"color": "black", "capsize": 6, "marker": "D", "linewidth": 1.5}
    bars = np.abs(bounds - typical)
    axes.errorbar(places, typical, bars, label="IQM of ten seeds, with its 95% interval", **look)
    axes.plot([], [], "o", color="tab:blue", alpha=0.4, markeredgewidth=0, label="one run")
    axes.axhline(OPTIMUM[ENV], color="black", linestyle="--", linewidth=0.8)
    axes.annotate(f"optimum {OPTIMUM[ENV]}", (-0.4, OPTIMUM[ENV]), va="bottom")
    axes.set_xticks(places, widths)
    axes.set(xlim=(-0.5, len(widths) - 0.5), ylim=(-206, -88))
    axes.set(xlabel="neurons in each hidden layer", ylabel="mean return of the last evaluation")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(loc="lower right")
    save_figure(figure, filename)


def draw_improvements(filename):
    """Draws the last evaluations with improvements of DQN, alone and in pairs."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(1, len(IMPROVEMENTS), sharex=True)
    for axes, (file, title) in zip(panels, IMPROVEMENTS.items(), strict=True):
        results = pd.concat(
            pd.read_csv(f"{RESULTS}/{name}.csv") for name in ("after_article", file)
        )
        last = results[results["step"] == run.MAX_STEPS]
        returns = dict(list(last.groupby("setting", sort=False)["return"]))
        for place, (name, ends) in enumerate(returns.items()):
            look = {"color": "black" if name == "article" else "tab:blue", "capsize": 4}
            bounds = np.reshape(typical_interval(ends.to_numpy()), (2, 1))
            typical = interquartile_mean(ends.to_numpy())
            axes.errorbar(typical, place, xerr=np.abs(bounds - typical), fmt="o", **look)
        axes.set_yticks(range(len(returns)), returns)
        axes.invert_yaxis()
        axes.axvline(OPTIMUM[ENV], color="black", linestyle="--", linewidth=0.8)
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3, axis="x")
    figure.supxlabel(
        f"return of the last evaluation, IQM [95%] of 30 runs (dashed: the optimum, {OPTIMUM[ENV]})"
    )
    save_figure(figure, filename)


def draw_intervals(filename):
    """Draws the intervals of a hundred experiments of ten runs, all of the article's constants."""
    results = pd.concat(pd.read_csv(f"{RESULTS}/{file}.csv") for file in ARTICLE)
    returns = results.loc[results["step"] == run.MAX_STEPS, "return"].to_numpy()
    truth = interquartile_mean(returns)
    samples = np.random.default_rng(0).choice(returns, (EXPERIMENTS, SEEDS))
    lows, highs = np.transpose([typical_interval(sample) for sample in samples])
    misses = (truth < lows) | (truth > highs)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(1, EXPERIMENTS + 1)
    for chosen, colour, label in (
        (~misses, "tab:blue", f"{np.count_nonzero(~misses)} intervals hold the true value"),
        (misses, "tab:orange", f"{np.count_nonzero(misses)} don't"),
    ):
        axes.vlines(places[chosen], lows[chosen], highs[chosen], colour, linewidth=2.5, label=label)
    axes.axhline(truth, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlim=(0, EXPERIMENTS + 1), xlabel=f"experiment, of {SEEDS} runs")
    axes.set(ylabel="return of the last evaluation")
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, filename)


def draw_spreading(filename):
    """Draws the highest Q-values at each snapshot of a run, as an animated GIF.

    The snapshots are those of the first run in docs/explore.html.
    """
    shown, *_ = json.loads(explore.read_page("docs/explore.html"))["runs"]
    space = gym.make(ENV).observation_space
    states = landscape.plane(space.low, space.high)
    lowest = discounted(STEPS_AWAY, shown["gamma"])
    pictures = []
    for snapshot in shown["snapshots"]:
        network = explore.decode(snapshot["weights"]), shown["sizes"], shown["normalized"]
        values = explore.q_values(states, *network).max(axis=1)
        path = drive(lambda state, network=network: explore.q_values(state, *network).argmax())
        figure = Figure(figsize=(5, 3.4))
        axes = figure.subplots(gridspec_kw=MARGINS)
        image = axes.imshow(
            values.reshape(landscape.POINTS, landscape.POINTS),
            origin="lower",
            aspect="auto",
            extent=(space.low[0], space.high[0], space.low[1], space.high[1]),
            vmin=lowest,
            vmax=0,
        )
        landscape.draw_path(axes, path)
        axes.axvline(gym.make(ENV).unwrapped.goal_position, color="black", linestyle="--")
        title = f"after {snapshot['step']:,} steps: return {1 - len(path)}"
        axes.set(title=title, xlabel="position (dashed: the flag)", ylabel="velocity")
        figure.colorbar(image, label="highest Q-value")
        content = io.BytesIO()
        figure.savefig(content, dpi=100)
        pictures.append(Image.open(content).convert("RGB"))
    save_gif(pictures, [PACE] * (len(pictures) - 1) + [LAST_FRAME], 64, filename)


def drive(choose):
    """The states of an episode of Mountain Car, float array (steps + 1, 2)."""
    episode = play_episode(
        gym.make(ENV), lambda observation: int(choose(observation[np.newaxis])), seed=1
    )
    return np.array([observation for observation, *_ in episode])


@contextlib.contextmanager
def open_page(width, height):
    """Opens an empty page of `BROWSER`, a `Page` of Playwright; closes it at the end.

    Args:
        width, height: of the page, pixels.
    """
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)
        size = {"width": width, "height": height}
        yield browser.new_page(viewport=size, reduced_motion="reduce")
        browser.close()


def save_screenshot(page, filename):
    """Writes what a page shows as a .png file."""
    write_file(filename, page.screenshot())
    print(f"Saved {filename}")


def photograph_explore(filename):
    """Saves what a browser shows of docs/explore.html, with the car on its way."""
    with open_page(1280, 790) as page:
        page.goto((ROOT / "docs" / "explore.html").as_uri())
        for _ in range(STEPS_DRIVEN):
            page.locator("#step-car").dispatch_event("click")
        page.locator("#plane[data-cells='120']").wait_for()  # drawn finely
        save_screenshot(page, filename)


def photograph_tensorboard(filename):
    """Saves what a browser shows of `EXAMPLES` in TensorBoard."""
    with tempfile.TemporaryDirectory() as folder, open_page(1500, 760) as page:
        for example in EXAMPLES:
            shutil.copytree(example, os.path.join(folder, example))
        tensorboard = program.TensorBoard()
        tensorboard.configure(argv=["", f"--logdir={folder}", "--port=0"])
        url = tensorboard.launch()
        settings = json.dumps(SETTINGS)
        page.add_init_script(f"localStorage._tb_global_settings = JSON.stringify({settings})")
        page.goto(f"{url}?forceSVG=true&tagFilter={WATCHED}#timeseries")
        curves = page.locator("scalar-card .series-view path")
        # If it is still reading, the curves come when the page reloads its data, every 30 seconds.
        sync_api.expect(curves).to_have_count(2 * len(EXAMPLES), timeout=90_000)
        save_screenshot(page, filename)


def start(program, *words):
    """Does what `python -m experiments.PROGRAM WORDS` does, in this process."""
    program.main(program.parse_args(words))


def main(args):
    """Draws all pictures.

    Args:
        args: what `parse_args` returned.
    """
    with contextlib.chdir(ROOT):
        draw_agents("images/agents.gif")
        if BROWSER:
            photograph_explore("images/explore.png")
            photograph_tensorboard("images/tensorboard.png")
        else:
            names = ", ".join(BROWSERS)
            print(f"explore.png and tensorboard.png stay as they are: there is none of {names}")
        draw_q_values("images/avg_max_q_value.png")
        draw_held("images/held.png")
        draw_widths("images/widths.png")
        draw_improvements("images/improvements.png")
        draw_intervals("images/intervals.png")
        draw_spreading("images/spreading.gif")
        stages = [f"example-log/example-{stage}.h5" for stage in (50000, 100000, 150000, "best")]
        start(landscape, *stages, "--plot", "images/landscape.png")
        start(landscape, *BESTS, "--optimum", "--plot", "images/optimum.png")
        start(mountains, f"{RESULTS}/mountains.csv", "--plot", "images/mountains.png")
        both = [f"{RESULTS}/{name}.csv" for name in ("grid_article", "author_2018")]
        start(report, *both, "--plot", "images/article_reproduced.png")


if __name__ == "__main__":
    with plain_errors():
        main(args)
