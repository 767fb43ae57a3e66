"""Saves figures and pictures."""

import io
import os

import matplotlib
from matplotlib import pyplot as plt
from PIL import Image

from support.files import write_file

matplotlib.rcParams["text.parse_math"] = False  # a $ in a name stays a $

PLOTS = (".png", ".svg")
OPTIMUM = {"MountainCar-v0": -97.7}  # best possible mean return, from experiments.optimum


def save_figure(figure, filename):
    """Writes a matplotlib figure as .png or .svg, and closes it.

    Raises OSError if it can't be written.
    """
    extension = os.path.splitext(filename)[1]
    content = io.BytesIO()
    figure.savefig(content, format=extension[1:], dpi=120)
    plt.close(figure)
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
