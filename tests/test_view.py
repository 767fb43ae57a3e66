"""Watching an agent: in a window (on a virtual screen), without a display, in saved pictures."""

import contextlib
import ctypes
import ctypes.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, main, read_until, wait_until
from PIL import Image, ImageSequence

import run
from support.snapshots import write_snapshot

FLAG = 204, 204, 0  # its colour in Mountain Car's picture
VIEW = "run.py --model {} --seed 1 --view"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
NO_DISPLAY = "No display, so no window is opened"


def untrained(env_id, filename):
    """Writes a snapshot of an untrained network for an environment; returns its name."""
    env = gym.make(env_id)
    run.set_seed(env, 1)
    write_snapshot(filename, run.create_model(env), {"env": env_id})
    return filename


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return untrained("MountainCar-v0", tmp_path_factory.mktemp("model") / "untrained-0.h5")


@pytest.fixture
def start(tmp_path):
    """Starts a program in `tmp_path`; of the variables that name a display, only those given."""
    displays = {"DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"}
    env = {k: v for k, v in os.environ.items() if k not in displays and not k.startswith("SDL_")}
    with contextlib.ExitStack() as at_the_end:

        def call(command, **variables):
            script, *options = command.split()
            command = [sys.executable, ROOT / script, *options]
            program = subprocess.Popen(command, cwd=tmp_path, env=env | variables, **PIPES)
            at_the_end.enter_context(program)
            at_the_end.callback(program.kill)
            return program

        yield call


class Screen:
    """A virtual X11 screen."""

    def __init__(self, folder):
        command = ["Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24", "-fbdir", folder]
        self.xvfb = subprocess.Popen(command, **PIPES)
        self.display = f":{int(self.xvfb.stdout.readline())}"
        self.file = folder / "Xvfb_screen0"

    def pixels(self):
        """What it shows now, shape (600, 800, 3), from a file in the format of `xwd`."""
        dump = self.file.read_bytes()
        header_bytes, n_colors = np.frombuffer(dump, ">u4", 25)[[0, 19]]
        values = np.frombuffer(dump, np.uint8, 600 * 800 * 4, header_bytes + 12 * n_colors)
        return values.reshape(600, 800, 4)[:, :, 2::-1]

    def close_windows(self):
        """Sends each window the message that a click on its close button sends; returns titles."""
        x11, ulong = ctypes.CDLL(ctypes.util.find_library("X11")), ctypes.c_ulong
        x11.XOpenDisplay.restype = ctypes.c_void_p
        x11.XDefaultRootWindow.restype = x11.XInternAtom.restype = ulong
        display = ctypes.c_void_p(x11.XOpenDisplay(self.display.encode()))
        root, parent, windows, n = ulong(), ulong(), ctypes.POINTER(ulong)(), ctypes.c_uint()
        found = map(ctypes.byref, (root, parent, windows, n))
        x11.XQueryTree(display, ulong(x11.XDefaultRootWindow(display)), *found)
        protocols = x11.XInternAtom(display, b"WM_PROTOCOLS", 0)
        delete = x11.XInternAtom(display, b"WM_DELETE_WINDOW", 0)
        titles, title = [], (ctypes.c_char_p * 4)()  # XTextProperty, of which the text is first
        for window in windows[: n.value]:
            x11.XGetWMName(display, ulong(window), ctypes.byref(title))
            titles.append(title[0].decode())
            client_message = (ulong * 24)(33, 0, 0, 0, window, protocols, 32, delete)
            x11.XSendEvent(display, ulong(window), 0, ctypes.c_long(0), client_message)
        x11.XCloseDisplay(display)
        return titles


@pytest.fixture
def screen(tmp_path_factory):
    if not shutil.which("Xvfb") or not ctypes.util.find_library("X11"):
        pytest.skip("a virtual screen needs Xvfb and libX11")
    screen = Screen(tmp_path_factory.mktemp("screen"))
    yield screen
    screen.xvfb.terminate()
    screen.xvfb.communicate()


def check_pictures(folder):
    """The images are numbered and the car moves; the GIF is the same film. Returns its length."""
    names = sorted(file.name for file in folder.glob("1_*.png"))
    assert names == [f"1_{step:06d}.png" for step in range(1, len(names) + 1)]
    images = [np.asarray(Image.open(folder / name)) for name in names]
    assert all(image.shape == (400, 600, 3) for image in images)
    with Image.open(folder / "car.gif") as gif:
        assert gif.info["loop"] == 0  # for ever
        frames, milliseconds = [], 0
        for frame in ImageSequence.Iterator(gif):
            frames.append(np.asarray(frame.convert("RGB")))
            milliseconds += frame.info["duration"]
    # Pillow merges a frame that equals the one before it, and shows it for longer.
    moves = images[:1] + [b for a, b in itertools.pairwise(images) if (a != b).any()]
    assert len(frames) == len(moves) > 1
    for frame, move in zip(frames, moves, strict=True):  # GIF has 256 colours, the picture 261
        assert np.abs(np.subtract(frame, move, dtype=np.int16)).max() <= 1
    assert milliseconds == pytest.approx(len(images) * 1000 / 30, abs=5)
    return len(images)


@pytest.mark.parametrize(
    "command", ["see.py", pytest.param(f"{VIEW} --gif car.gif --images", marks=pytest.mark.slow)]
)
def test_a_window_shows_the_car_moving_until_it_is_closed(
    command, start, screen, model_file, tmp_path
):
    program = start(command.format(model_file), DISPLAY=screen.display)
    wait_until(lambda: (screen.pixels() == FLAG).all(axis=2).any(), program, 60)
    for _ in range(10):
        picture = screen.pixels()
        wait_until(lambda old=picture: (screen.pixels() != old).any(), program, 60)
    (title,) = screen.close_windows()
    output, errors = program.communicate(timeout=10)
    assert (program.returncode, errors) == (0, "")
    assert NO_DISPLAY not in output
    if "--gif" in command:
        assert title == f"MountainCar-v0 - {model_file}"
        check_pictures(tmp_path)
    else:
        assert title == "MountainCar-v0 - random agent"


@pytest.mark.slow
def test_ctrl_c_ends_watching_with_the_average_so_far(start, screen, tmp_path):
    model_file = untrained("CartPole-v1", tmp_path / "x-0.h5")  # whose pole falls at once
    program = start(VIEW.format(model_file), DISPLAY=screen.display)
    wait_until(lambda: screen.pixels().any(), program, 60)
    lines = [read_until(f"episode {episode} return ", program) for episode in (1, 2, 3)]
    program.send_signal(signal.SIGINT)
    output, errors = program.communicate(timeout=10)
    *more, last = output.splitlines()
    returns = [float(line.split()[-1]) for line in [*lines, *more]]
    assert (program.returncode, errors) == (0, "")
    assert last.startswith(f"episode_return_avg {np.mean(returns):.3f} over ")


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, {"DISPLAY": ":987"}], ids=["unset", "unserved"])
def test_without_a_display_the_programs_say_so_and_go_on(variables, start, tmp_path):
    model_file = untrained("CartPole-v1", tmp_path / "x-0.h5")  # whose pole falls at once
    command = f"{VIEW} --images --eval-steps 50".format(model_file)
    view, see = start(command, **variables), start("see.py", **variables)
    for program in (see, view):
        output, errors = program.communicate(timeout=60)
        lines = output.splitlines()
        episodes = [line for line in lines if re.match(r"episode \d+ return ", line)]
        assert (program.returncode, errors) == (0, "")
        (told,) = (line for line in lines if line.startswith(NO_DISPLAY))
        assert " --gif " in told
        if program is see:
            assert episodes == [f"episode {number} return -200.0" for number in range(1, 6)]
        else:
            returns = [float(line.split()[-1]) for line in episodes]
            assert lines[-1].startswith(f"episode_return_avg {np.mean(returns):.3f} over ")
    assert len(list(tmp_path.glob("*_*.png"))) == 50


@pytest.mark.slow
def test_the_gif_is_the_first_episode_and_the_images_are_all_steps(
    model_file, tmp_path, monkeypatch
):
    car = gym.spec("MountainCar-v0").entry_point
    short = gym.envs.registration.EnvSpec("ShortCar-v0", car, max_episode_steps=40)
    monkeypatch.setitem(gym.registry, "ShortCar-v0", short)
    options = f"--model {model_file} --env ShortCar-v0 --seed 1 --eval-steps 43"
    with contextlib.chdir(tmp_path):
        drawn = main(f"{options} --gif car.gif --images")
    assert drawn == main(f"{options} --eval")
    assert check_pictures(tmp_path) == 40
    others = sorted(file.name for file in tmp_path.glob("2_*.png"))
    assert others == ["2_000001.png", "2_000002.png", "2_000003.png"]
