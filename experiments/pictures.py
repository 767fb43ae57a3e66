"""Draws the pictures of the project's pages into images/, out of data that is in the project:

    python -m experiments.pictures

The one of TensorBoard is taken with a browser; without Chromium, it stays as it is.
"""

import sys

if not __package__:
    print("pictures.py: start it with python -m experiments.pictures", file=sys.stderr)
    sys.exit(2)

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request

import gymnasium as gym
import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont
from tensorboard import program

import run
from experiments import landscape, mountains, report
from experiments.figures import save_figure, save_png
from experiments.optimum import discounted
from experiments.policies import load_policy, play
from support.command_line import OneLineParser
from support.errors import ROOT, plain_errors
from support.files import write_file
from support.options import ENV

matplotlib.use("Agg")  # to files, without a window

RESULTS = "experiments/results"
REPORTS = {  # pictures of experiments.report: data of each
    "article_reproduced": ("article", "author_2018"),
    "exercise": ("article", "better"),
    "exercise_fresh": ("fresh_article", "fresh_better"),
    "exercises": ("fresh_article", "exercises"),
}
AGENTS = {  # in the GIF: snapshot of each
    "random": None,
    "after 50,000 steps of training": "example-log/example-50000.h5",
    "the best, after 160,000": "example-log/example-best.h5",
}
WIDTH, HEIGHT = 300, 200  # pixels of an agent in the GIF
CAPTION = 44  # pixels of the text above it
STRIDE = 2  # steps between frames
LAST_FRAME = 3000  # milliseconds that the last one is shown
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = (  # a picture of a page without a screen, and without calling home
    "--headless --no-sandbox --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --disable-gpu --window-size=1500,760 "
    "--virtual-time-budget=20000"
).split()
CURVES = {  # of avg_max_q_value, medians: setting, then how it is drawn
    "fresh_article": ("tab:blue", "-", "as in run.py; single trainings faint"),
    "no_flag": ("tab:blue", ":", "the same, but the flag is never seen"),
    "endless": ("tab:orange", "-", "looking past the time limit"),
    "no_flag_endless": ("tab:orange", ":", "the same, but the flag is never seen"),
}
TRIES = 5  # at the screenshot
CARDS = ((320, 170, 766, 590), (782, 170, 1228, 590))  # pixels of the curves in the screenshot
CURVE = (66, 80, 102)  # colour of a curve in it
WATCHED = "avg"  # in the names of the curves in the screenshot
SETTINGS = {"scalarSmoothing": 0, "ignoreOutliers": False, "autoReload": True}  # of TensorBoard


def film(snapshot, seed):
    """One episode of Mountain Car, as it looks.

    Args:
        snapshot: .h5 file of the policy; None for random actions.
        seed: seed of the environment and of the actions.

    Returns:
        List of what there is before the first step and after each: the picture, an uint8 array;
        what is to be said of it, a string.
    """
    env = gym.make(ENV, render_mode="rgb_array")
    choose = load_policy(snapshot).act if snapshot else lambda _: env.action_space.sample()
    frames = []
    for _, episode_return, terminated, truncated in play(env, choose, seed):
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
            frame, told = frames[min(step, len(frames) - 1)]
            small = Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
            picture.paste(small, (n * WIDTH, CAPTION))
            draw.line([(n * WIDTH, 0), (n * WIDTH, picture.height)], "lightgray")
            draw.text((n * WIDTH + 10, 4), name, "black", font)
            draw.text((n * WIDTH + 10, 23), told, "dimgray", font)
        pictures.append(picture)
    colors = pictures[0].quantize(32, Image.Quantize.FASTOCTREE)
    first, *others = (p.quantize(palette=colors, dither=Image.Dither.NONE) for p in pictures)
    pace = [1000 * STRIDE // 30] * len(others) + [LAST_FRAME]  # the environment's 30 steps a second
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others, loop=0, duration=pace)
    write_file(filename, content.getvalue())
    print(f"Saved {filename}")


def draw_q_values(filename):
    """Draws avg_max_q_value of many trainings, beside what numbers of steps are worth."""
    files = ("fresh_article", "exercises", "no_flag")
    results = pd.concat(pd.read_csv(f"{RESULTS}/{file}.csv") for file in files)
    curves = results.pivot(index="step", columns=["setting", "seed"], values="avg_max_q_value")
    figure, axes = plt.subplots(figsize=(9, 4.8), layout="constrained")
    axes.plot(curves["fresh_article"], color="tab:blue", linewidth=0.8, alpha=0.25)
    for setting, (color, line, label) in CURVES.items():
        label = f"{label} (n = {curves[setting].shape[1]})"
        axes.plot(curves[setting].median(axis=1), line, color=color, linewidth=2.5, label=label)
    gamma = run.DISCOUNT_FACTOR_GAMMA
    copies = np.arange(1 + (run.MAX_STEPS - run.TRAIN_START) // run.TARGET_UPDATE_EVERY)
    axes.plot(
        run.TRAIN_START + copies * run.TARGET_UPDATE_EVERY,
        discounted(copies, gamma),
        "k--",
        linewidth=1.2,
        label="one more step per copy",
    )
    for count, name in ((100, "100 steps to go"), (200, "200 steps"), (np.inf, "no end")):
        value = discounted(count, gamma)
        axes.axhline(value, color="gray", linestyle="--", linewidth=0.8)
        place = {"xy": (0.005, value), "xycoords": ("axes fraction", "data"), "va": "bottom"}
        axes.annotate(f"{name}: {value:.1f}", **place)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="training steps", ylabel="avg_max_q_value (thick: medians)", ylim=(-105, 0))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center")
    save_figure(figure, filename)


class Server(program.WerkzeugServer):
    """TensorBoard with a page /set, which stores `SETTINGS` in the browser and shows the curves."""

    def __init__(self, app, flags):
        store = f"localStorage._tb_global_settings = JSON.stringify({json.dumps(SETTINGS)});"
        page = (
            f"<script>{store} location = '/?forceSVG=true&tagFilter={WATCHED}#timeseries';</script>"
        )

        def with_settings(environ, start_response):
            if environ["PATH_INFO"] != "/set":
                return app(environ, start_response)
            start_response("200 OK", [("Content-Type", "text/html")])
            return [page.encode()]

        super().__init__(with_settings, flags)


def photograph_tensorboard(filename):
    """Saves what a browser shows of example-log in TensorBoard."""
    browser = next(filter(shutil.which, BROWSERS), None)
    if browser is None:
        print(f"{filename} stays as it is: there is none of {', '.join(BROWSERS)}")
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("example-log", os.path.join(folder, "example-log"))
        tensorboard = program.TensorBoard(server_class=Server)
        tensorboard.configure(argv=["", f"--logdir={folder}", "--port=0"])
        url, screenshot = tensorboard.launch(), os.path.join(folder, "screenshot.png")
        end = time.monotonic() + 60
        while "example-log" not in json.load(urllib.request.urlopen(f"{url}data/runs")):
            if time.monotonic() > end:
                print(f"{filename} stays as it is: TensorBoard has found no curves")
                return
            time.sleep(0.1)  # it is still reading
        options = [*BROWSER_OPTIONS, f"--user-data-dir={folder}/browser"]
        command = [browser, *options, f"--screenshot={screenshot}", f"{url}set"]
        for _ in range(TRIES):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(command, check=True, capture_output=True, timeout=60)
                picture = Image.open(screenshot).convert("RGB")
                if all(is_drawn(picture.crop(card)) for card in CARDS):
                    save_png(picture, filename)
                    return
    print(f"{filename} stays as it is: {browser} doesn't show the curves")


def is_drawn(card):
    """Whether a part of the screenshot has a curve: the page may be caught before it has."""
    return sum(n for n, color in card.getcolors(2**24) if color == CURVE) > 300


def main(argv=None):
    OneLineParser(prog="pictures", description="Draws the pictures of the pages.").parse_args(argv)
    with contextlib.chdir(ROOT):
        draw_agents("images/agents.gif")
        photograph_tensorboard("images/tensorboard.png")
        draw_q_values("images/avg_max_q_value.png")
        stages = [f"example-log/example-{stage}.h5" for stage in (50000, 100000, 150000, "best")]
        landscape.main([*stages, "--plot", "images/landscape.png"])
        mountains.main([f"{RESULTS}/mountains.csv", "--plot", "images/mountains.png"])
        for picture, files in REPORTS.items():
            data = [f"{RESULTS}/{file}.csv" for file in files]
            report.main([*data, "--plot", f"images/{picture}.png"])


if __name__ == "__main__":
    with plain_errors():
        main()
