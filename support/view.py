"""Watching an agent: in a window, as numbered frames, as an animated GIF."""

import io
import itertools
import os
import signal
import sys

import gymnasium as gym
from PIL import Image
from tqdm import tqdm

from support.files import write_file


def load_pygame():
    """Imports pygame, which would print a greeting and try screens that aren't there."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux":  # where Wayland's library complains if there is no such screen
        drivers = {"DISPLAY": "x11", "WAYLAND_DISPLAY": "wayland"}
        named = [driver for variable, driver in drivers.items() if os.environ.get(variable)]
        os.environ.setdefault("SDL_VIDEODRIVER", ",".join([*named, "offscreen"]))
    import pygame

    return pygame


def has_display():
    """Whether a window can be opened; if not, prints a line that says so."""
    pygame = load_pygame()
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
        reason = "there is no screen" if driver in ("dummy", "offscreen") else ""
    except pygame.error as error:
        reason = str(error)
    if reason:
        print(
            f"No display, so no window is opened ({reason}). For a file instead: "
            "python run.py --model X.h5 --gif X.gif"
        )
    return not reason


def open_window(env_id, title):
    """Makes an environment and shows it in a window; without a display, says so and shows none.

    Args:
        env_id: its name, as in `MountainCar-v0`.
        title: text after the name in the title of the window.

    Returns:
        Gymnasium environment.
    """
    env = gym.make(env_id, render_mode="rgb_array")
    return Window(env, f"{env_id} - {title}") if has_display() else env


class Window(gym.wrappers.HumanRendering):
    """Shows an environment, made with render_mode "rgb_array".

    When it is closed, or after Ctrl-C, the next step raises KeyboardInterrupt. Raised by the signal
    itself, at any time, it can get lost in other libraries.
    """

    def __init__(self, env, title):
        super().__init__(env)
        self.pygame = load_pygame()
        self.pygame.display.set_caption(title)
        signal.signal(signal.SIGINT, self._close_window)

    def _close_window(self, number, frame):
        self.pygame.event.post(self.pygame.Event(self.pygame.QUIT))

    def step(self, action):
        result = super().step(action)
        if self.pygame.event.peek(self.pygame.QUIT):
            raise KeyboardInterrupt
        return result

    def close(self):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        super().close()


class Frames(gym.Wrapper):
    """Saves what an environment draws, and prints each episode's return.

    Args:
        env: environment that counts its episodes, made with render_mode "rgb_array".
        print_returns: whether to print each episode's return.
        images: whether to save each frame as EPISODE_STEP.png in the current directory.
        gif: file for the first episode as an animated GIF, written by `close`; or None.
    """

    def __init__(self, env, print_returns, images, gif):
        super().__init__(env)
        self.print_returns = print_returns
        self.images = images
        self.gif = gif
        self.gif_frames = []
        if images or gif:
            load_pygame()  # before the environment does, which would print what this keeps quiet
        self.episode = 1
        self.episode_step = 0

    def step(self, action):
        result = self.env.step(action)
        *_, info = result
        self.episode_step += 1
        if self.images or (self.gif and self.episode == 1):
            frame = Image.fromarray(self.unwrapped.render())
            if self.images:
                frame.save(f"{self.episode}_{self.episode_step:06d}.png")
            if self.gif and self.episode == 1:
                self.gif_frames.append(frame.quantize())
        if "episode" in info:
            if self.print_returns:
                tqdm.write(f"episode {self.episode} return {info['episode']['r']}")
            self.episode += 1
            self.episode_step = 0
        return result

    def close(self):
        """Writes the GIF, which plays at the environment's own pace; closes the environment."""
        if self.gif_frames:
            first, *others = self.gif_frames
            fps = self.metadata.get("render_fps", 30)
            # The times of a GIF are in 1/100 s. Rounding the ends of frames keeps the total right.
            ends = [round(100 * n / fps) for n in range(len(self.gif_frames) + 1)]
            milliseconds = [10 * (end - start) for start, end in itertools.pairwise(ends)]
            gif = io.BytesIO()
            first.save(
                gif, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0
            )
            write_file(self.gif, gif.getvalue())
            print(f"Saved {self.gif}")
            self.gif_frames = []
        super().close()
