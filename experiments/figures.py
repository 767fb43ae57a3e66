"""Figures of matplotlib, as files; and options that name files to write."""

import argparse
import io
import os

import matplotlib
from matplotlib import pyplot as plt
from PIL import Image

from support.files import write_file

matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is one

PLOTS = (".png", ".svg")


def new_file(*extensions):
    """Type of an option: a file with one of some extensions, in a directory to write to."""

    def parse(text):
        writable = os.access(os.path.dirname(text) or ".", os.W_OK) and not os.path.isdir(text)
        if writable and os.path.splitext(text)[1] in extensions:
            return text
        names = " or ".join(extensions)
        raise argparse.ArgumentTypeError(f"{text!r} is no {names} file in a directory to write to")

    return parse


def save_figure(figure, filename):
    """Writes a matplotlib figure as .png or .svg, and closes it.

    Raises OSError where that can't be done.
    """
    extension = os.path.splitext(filename)[1]
    figure.savefig(content := io.BytesIO(), format=extension[1:], dpi=120)
    plt.close(figure)
    if extension == ".png":
        return save_png(Image.open(content).convert("RGB"), filename)
    write_file(filename, content.getvalue())
    print(f"Saved {filename}")


def save_png(picture, filename):
    """Writes a Pillow picture with a palette of 256 colours, which makes it a third as large."""
    picture.quantize().save(content := io.BytesIO(), "PNG", optimize=True)
    write_file(filename, content.getvalue())
    print(f"Saved {filename}")
