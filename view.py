"""Watching an agent: in a window, as numbered frames, as an animated GIF."""

import io
import itertools
import os
import sys

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
if sys.platform == "linux":  # SDL is to try only what is there: Wayland's library complains
    drivers = {"DISPLAY": "x11", "WAYLAND_DISPLAY": "wayland"}
    named = [driver for variable, driver in drivers.items() if os.environ.get(variable)]
    os.environ.setdefault("SDL_VIDEODRIVER", ",".join([*named, "offscreen"]))

import pygame
from PIL import Image

from checkpoints import write_file


def has_display():
    """Whether a window can be opened; if not, prints a line that says so."""
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
        reason = "there is no screen" if driver in ("dummy", "offscreen") else ""
        if driver == "x11":  # without OpenGL, which crashes where Mesa's LLVM meets TensorFlow's
            os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
    except pygame.error as error:
        reason = str(error)
    if reason:
        print(f"No display, so no window is opened ({reason}).")
    return not reason


def window_closed():
    """Whether the reader has closed the window that an environment draws in."""
    return pygame.display.get_init() and pygame.event.peek(pygame.QUIT)


class FrameSaver:
    """Saves what an environment draws.

    Args:
        env: environment whose base was made with render_mode "rgb_array".
        images: whether each frame is saved as EPISODE_STEP.png in the current directory.
        gif: file for the first episode as an animated GIF, or None.
    """

    def __init__(self, env, images=False, gif=None):
        self.env = env
        self.images = images
        self.gif = gif
        self.gif_frames = []

    def save(self, episode, step):
        """Saves the frame after step `step` of episode `episode`, both counted from 1."""
        if not self.images and (not self.gif or episode > 1):
            return
        frame = Image.fromarray(self.env.unwrapped.render())
        if self.images:
            frame.save(f"{episode}_{step:06d}.png")
        if self.gif and episode == 1:
            self.gif_frames.append(frame.quantize())

    def save_gif(self):
        """Writes the GIF, which plays at the environment's own pace."""
        if not self.gif_frames:
            return
        first, *others = self.gif_frames
        fps = self.env.metadata.get("render_fps", 30)
        ends = [round(100 * n / fps) for n in range(len(self.gif_frames) + 1)]
        durations = [10 * (end - start) for start, end in itertools.pairwise(ends)]  # of 10 ms each
        content = io.BytesIO()
        first.save(content, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
        write_file(self.gif, content.getvalue())
        print(f"Saved {self.gif}")
