"""Draws and saves figures and pictures."""

import io
import itertools
import os
import textwrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.common.statistics import (
    interquartile_mean,
    reward_threshold,
    typical_interval,
)
from support.files import write_file

matplotlib.rcParams["text.parse_math"] = False  # a $ in a name stays a $

OPTIMUM = {"MountainCar-v0": -97.7}  # best possible mean return, from experiments.optimum
MAX_FAINT = 4  # configurations in a plot that shows single runs, too


def plot_curves(results):
    """Draws return against steps: the typical run of each configuration with its 95% band.

    Args:
        results: as for `summarize`.

    Returns:
        Figure of matplotlib.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    looks = zip(
        itertools.cycle(matplotlib.color_sequences["petroff10"]),  # distinct to the colour-blind
        itertools.cycle("osD^vPX*"),  # distinct without colour
        itertools.cycle(["-", "--", "-.", ":"]),
    )
    finished = results[results["failed"].isna() & results["step"].notna()]
    few = finished["setting"].nunique() <= MAX_FAINT
    for (name, group), (colour, marker, line) in zip(
        finished.groupby("setting", sort=False), looks, strict=False
    ):
        curves = group.pivot(index="step", columns="seed", values="return")
        if few:
            axes.plot(curves, color=colour, linestyle=line, linewidth=0.8, alpha=0.25)
        typical = curves.apply(interquartile_mean, axis=1)
        low, high = np.transpose([typical_interval(returns) for returns in curves.to_numpy()])
        axes.fill_between(curves.index, low, high, color=colour, alpha=0.25, linewidth=0)
        label = textwrap.fill(f"{name} (n = {curves.shape[1]})".replace(",", ", "), 80)
        axes.plot(typical, color=colour, linestyle=line, marker=marker, linewidth=2, label=label)
    threshold = reward_threshold(results)
    optimum = OPTIMUM.get(results["env"].iloc[0])
    for what, value, line, side in (
        ("reward threshold", threshold, ":", "top"),
        ("optimum", optimum, "--", "bottom"),
    ):
        if value is not None:
            axes.axhline(value, color="black", linewidth=0.8, linestyle=line)
            place = {"xy": (0.005, value), "xycoords": ("axes fraction", "data"), "va": side}
            axes.annotate(f"{what} {value:g}", **place)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="training steps", ylabel="mean return of an evaluation")
    axes.set_title(
        f"Interquartile mean (IQM) with 95% band{'; single runs faint' * few}", fontsize="medium"
    )
    axes.grid(alpha=0.3)
    if not finished.empty:
        figure.legend(loc="outside lower center")
    return figure


def save_figure(figure, filename):
    """Writes a matplotlib figure as .png or .svg.

    Raises OSError if it can't be written.
    """
    extension = os.path.splitext(filename)[1]
    content = io.BytesIO()
    figure.savefig(content, format=extension[1:], dpi=120)
    if extension == ".png":
        return save_png(Image.open(content).convert("RGB"), filename)
    write_file(filename, content.getvalue())
    print(f"Saved {filename}")


def save_png(picture, filename):
    """Writes a Pillow picture with a palette of 256 colours, which makes it a third as large."""
    content = io.BytesIO()
    picture.quantize().save(content, "PNG", optimize=True)
    write_file(filename, content.getvalue())
    print(f"Saved {filename}")


def save_gif(pictures, durations, colours, filename):
    """Writes pictures, all with the colours of the last one, as an animated GIF.

    Args:
        pictures: list of RGB pictures of Pillow.
        durations: for how long each is shown, milliseconds.
        colours: how many, an int.
        filename: file to write.
    """
    palette = pictures[-1].quantize(colours, Image.Quantize.FASTOCTREE)
    first, *others = (
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    )
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others, loop=0, duration=durations)
    write_file(filename, content.getvalue())
    print(f"Saved {filename}")
